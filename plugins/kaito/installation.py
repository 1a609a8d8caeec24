"""What decisions about Workspaces need to know of this installation: its catalog, prices, policy, and what there is.

Shared by the reconciler's task and by the wait that writes the initial status, so that both judge alike. It decides
nothing and writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from include.catalog import load_catalog
from include.reconcile import ReconcileConfig
from include.workspace import Fault, Policy
from include.workspace.api import names
from include.workspace.api.dialect import as_written
from include.workspace.api.parse import examine_update
from kaito import settings
from kaito.controller import references
from kaito.controller.cost_recorder import price_of
from kaito.controller.read_cache import ReadingOnce
from kaito.controller.reconciler import Installation
from kaito.lookup import Lookup, look_up


@dataclass(frozen=True)
class _Grounds:
    """What a judgement about a Workspace stands on, besides the Workspace."""

    document: dict[str, Any]
    found: references.Found
    lookup: Lookup


async def _look_up(
    admitted: Callable[[], Policy], cluster: ReadingOnce, workspace: Mapping[str, Any]
) -> _Grounds:
    """Look up what a Workspace names: in the cluster, and on the hub where it names a model of the hub."""
    document = as_written(workspace)
    namespace = names.namespace(workspace)
    found = await references.look_up(cluster, document, namespace, admitted())
    token = await references.hub_token(cluster, document, namespace)
    lookup = await asyncio.to_thread(look_up, document, lambda: token)
    if lookup.transient:
        raise RuntimeError(str(lookup.fault))
    return _Grounds(document, found, lookup)


def _faults(
    admitted: Callable[[], Policy],
    workspace: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    grounds: _Grounds,
) -> list[Fault]:
    catalog = grounds.lookup.catalog
    read, told = examine_update(grounds.document, before, catalog, admitted())
    missing = references.faults(grounds.document, grounds.found, read, catalog, admitted())
    return [*grounds.lookup.with_doubt(told), *missing]


def _machine_of(workspace: Mapping[str, Any]) -> str:
    wanted = str((workspace.get("resource") or {}).get("instanceType") or "")
    try:
        return load_catalog().machine(wanted).name if wanted else ""
    except KeyError:
        return ""


def installation() -> Installation:
    """Return what decisions need to know of this installation; its settings are read once for all of them."""
    base, admitted = settings.base_url(), cache(settings.policy)
    config = ReconcileConfig(
        faults=partial(_faults, admitted),
        machine_of=_machine_of,
        versions=lambda _workspace, grounds: references.versions(grounds.document, grounds.found),
        price_of=price_of,
        run_url=lambda dag_id, run_id: f"{base}/dags/{dag_id}/runs/{run_id}",
        release_deadline=settings.release_deadline(),
    )
    return Installation(config, partial(_look_up, admitted))
