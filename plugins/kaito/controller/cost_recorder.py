"""The ledger of a Workspace, brought up to date by a task: `status.cost` from what the cluster shows at this moment.

The reconciler does the same at each of its looks; a task does it where it alone knows the moment (machines that have
just gone, a pod before it is cleaned up), and so the ledger is whole where no reconciler runs. A ledger that cannot be
written is a warning in the log, never the failure of the work that it is about.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from include.catalog import load_catalog
from include.ledger import budget, records
from include.ledger.machines import machines
from include.pools.observed import UnregisteredCapacity, machines_of
from include.workspace.api import names
from include.workspace.api.annotations import budget_of
from kaito.hooks.api import NODE, POD, ClusterError, Kind
from kaito.hooks.kubernetes import KaitoClusterHook, StaleWorkspace
from kaito.providers.registry import readers, watched

log = logging.getLogger(__name__)


def price_of(machine: str) -> float | None:
    """Return the list price of a machine type in US dollars an hour, None when it is not known."""
    try:
        return load_catalog().machine(machine).usd_per_hour
    except KeyError:
        return None


def over_budget(live: Mapping[str, Any], what: str, estimate: float | None) -> str:
    """Return a sentence when what was spent and an estimate are more than a Workspace's budget, "" when not.

    :param live: the Workspace with its status.
    :param estimate: US dollars, None when it is not known.
    """
    cost = (live.get("status") or {}).get("cost")
    limit = budget_of(live["metadata"].get("annotations") or {})
    retrained = float(((live.get("status") or {}).get("retrain") or {}).get("usd") or 0.0)
    return budget.over_budget(
        limit, records.spent(cost, datetime.now(UTC)) + retrained, estimate or 0.0, what
    )


def record_cost(
    cluster: KaitoClusterHook,
    name: str,
    namespace: str,
    uid: str,
    outcome: tuple[str, str] | None = None,
    unregistered: Sequence[UnregisteredCapacity] | None = None,
) -> dict[str, Any]:
    """Bring ``status.cost`` of a Workspace up to date and return it, {} when it could not be.

    :param outcome: (label of a run that is over, ``success`` or ``failed``).
    :param unregistered: pools whose machines may not all have joined, None where nobody asked.
    """
    written: dict[str, Any] = {}

    def next_status(live: dict[str, Any]) -> dict[str, Any] | None:
        written.clear()
        status = live.get("status") or {}
        # Looked at after the Workspace was read, so that a record that somebody ended is not begun again.
        cost = _looked(cluster, name, namespace, status.get("cost"), outcome, unregistered)
        limit = budget_of(live["metadata"].get("annotations") or {})
        if cost and limit is not None:
            cost["budgetUsd"] = limit
        written.update(cost)
        return {**status, "cost": cost} if cost else None

    try:
        # The ledger is kept for whatever generation, and for a Workspace that is going, too.
        cluster.patch_status(
            name, namespace, next_status, uid=uid, generation=sys.maxsize, even_deleting=True
        )
    except (ClusterError, StaleWorkspace) as error:
        log.warning("The ledger of Workspace %s could not be written: %s", name, error)
    return written


def _looked(
    cluster: KaitoClusterHook,
    name: str,
    namespace: str,
    cost: Mapping[str, Any] | None,
    outcome: tuple[str, str] | None,
    unregistered: Sequence[UnregisteredCapacity] | None,
) -> dict[str, Any]:
    labels = {names.WORKSPACE: name, names.WORKSPACE_NAMESPACE: namespace}
    pods = cluster.list(POD, namespace, {names.WORKSPACE: name})
    nodes = _listed(cluster, NODE, labels)
    objects = {kind.plural: _listed(cluster, kind, labels) for kind in watched()}
    pools = [pool for reader in readers() for pool in reader.read(objects, nodes)]
    seen = machines(machines_of(pools, nodes), pods)
    now = datetime.now(UTC).replace(microsecond=0)
    result = records.account(cost, seen, now, price_of, unregistered)
    if result and outcome:
        result = records.summed(records.with_outcome(result, *outcome), now, result.get("earlier"))
    return result


def _listed(cluster: KaitoClusterHook, kind: Kind, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        return cluster.list(kind, labels=labels)
    except ClusterError as error:
        if error.status != 404:  # a cluster need not know what some provider makes
            raise
        return []
