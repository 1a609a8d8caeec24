"""What a Workspace that is being deleted still has in the cluster, and the one write that lets it go.

Whose an object is, when a release is given up and what is said then are the reconciler's own judgements
(`include.reconcile`), so that the two cannot disagree. A user's volumes, Secrets, ConfigMaps and images are never in
here, and neither is what somebody else controls.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from include.ledger.unregistered import UnregisteredCapacity
from include.pools.aks import LEAVING_STATES, belongs, state
from include.pools.aks import unregistered_capacity as charged
from include.reconcile import release
from include.reconcile.case import Case, controller, deleting
from include.reconcile.decision import Observed, ReconcileConfig
from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    NODE,
    NODE_CLAIM,
    POD,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    WORKSPACE,
    ClusterError,
    Kind,
    Request,
)
from kaito.hooks.cluster_calls import ClusterCalls
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.registry import PoolSettings, ProviderName, pool_settings
from kaito.providers.selection import azure_subscribed, azure_subscribed_async

if TYPE_CHECKING:
    from kaito.hooks.aks import AksHook

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

#: In the order in which they are told to go: who makes others before the others, machines after what works on them.
KINDS = (STATEFUL_SET, SERVICE, POD, CONFIG_MAP, NODE_POOL, NODE_CLAIM, VOLUME_CLAIM, NODE)
CONFLICTS = 8


@dataclass(frozen=True)
class Left:
    """Something of the Workspace that is still there."""

    kind: Kind
    obj: Object

    @property
    def name(self) -> str:
        return str(self.obj["metadata"]["name"])

    def __str__(self) -> str:
        held = ", ".join(self.obj["metadata"].get("finalizers") or ())
        return f"{self.kind.name} {self.name}" + (f" (finalizers: {held})" if held else "")


@dataclass(frozen=True)
class Remains:
    """One look at a Workspace that is going.

    :param forced: why it is let go whatever is left, "" while there is time.
    """

    left: tuple[Left, ...]
    forced: str = ""

    def __str__(self) -> str:
        return "; ".join(str(one) for one in self.left) or "nothing"


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _selection(live: Object) -> dict[str, str]:
    return {
        names.WORKSPACE: str(live["metadata"]["name"]),
        names.WORKSPACE_NAMESPACE: names.namespace(live),
    }


def judge(
    live: Object, found: Mapping[str, Sequence[Object]], deadline: float, now: datetime | None = None
) -> Remains:
    """Say what of the objects that carry the Workspace's labels is its own.

    :param found: objects by the plural of their kind.
    :param deadline: seconds after its deletion at which a Workspace is let go whatever is left.
    """

    def nothing(*_: Any) -> Any:
        return ""

    observed = Observed(
        pods=found[POD.plural],
        stateful_sets=found[STATEFUL_SET.plural],
        services=found[SERVICE.plural],
        volume_claims=found[VOLUME_CLAIM.plural],
        node_claims=found[NODE_CLAIM.plural],
    )
    config = ReconcileConfig(nothing, nothing, nothing, nothing, release_deadline=deadline)
    case = Case(live, observed, now or datetime.now(UTC), config)
    own: dict[str, Sequence[Object]] = {
        STATEFUL_SET.plural: case.sets,
        SERVICE.plural: case.services,
        POD.plural: [*case.run_pods, *case.serving_pods],
        CONFIG_MAP.plural: [
            c for c in found[CONFIG_MAP.plural] if (controller(c) or {}).get("uid") == case.uid
        ],
        NODE_POOL.plural: [p for p in found[NODE_POOL.plural] if names.POOL in _labels(p)],
        NODE_CLAIM.plural: case.node_claims,
        VOLUME_CLAIM.plural: case.volume_claims,
        # A Node goes with its machine; whoever brought a node of their own did not give it our pool's label.
        NODE.plural: [n for n in found[NODE.plural] if names.POOL in _labels(n)],
    }
    forced = ""
    if case.annotations.get(names.FORCE_RELEASE) == "true":
        forced = f"{names.FORCE_RELEASE} asks for it"
    elif release.deadline(case) <= 0:
        forced = f"the deadline of {deadline:.0f} s has passed"
    return Remains(tuple(Left(kind, obj) for kind in KINDS for obj in own[kind.plural]), forced)


async def look(cluster: ClusterCalls, live: Object, deadline: float) -> Remains:
    """Look once at what is left of a Workspace."""

    async def left_of(kind: Kind) -> Sequence[Object]:
        try:
            return await cluster.list(kind, _scope(kind, live), _selection(live))
        except ClusterError as error:
            return _without(error)

    answers = await cluster.together(*(left_of(kind) for kind in KINDS))
    return judge(live, {kind.plural: found for kind, found in zip(KINDS, answers, strict=True)}, deadline)


def _scope(kind: Kind, live: Object) -> str | None:
    return names.namespace(live) if kind.namespaced else None


def _without(error: ClusterError) -> Sequence[Object]:
    """A kind that this cluster does not have, such as NodeClaims where machines come by other ways, leaves nothing."""
    if error.status != 404:
        raise error
    return ()


def request_deletion(cluster: KaitoClusterHook, remains: Remains) -> list[str]:
    """Ask for the deletion of what is left, guarded by uid, and return what was asked now.

    Nodes are left to whoever takes their machines away.
    """
    asked = []
    for one in remains.left:
        metadata = one.obj["metadata"]
        if one.kind is NODE or deleting(one.obj):
            continue
        if cluster.delete(one.kind, one.name, metadata.get("namespace"), uid=metadata["uid"]):
            asked.append(str(one))
    return asked


def _provider(settings: PoolSettings, live: Object) -> str:
    return str((live["metadata"].get("annotations") or {}).get(names.POOL_PROVIDER) or settings.provider)


def _azure(settings: PoolSettings, live: Object) -> bool:
    """Whether a Workspace's machines may be agent pools. `auto` may have chosen them when the cluster was another."""
    if (given := _provider(settings, live)) == ProviderName.AUTO:
        return azure_subscribed(settings.azure_conn_id)
    return given == ProviderName.AKS


async def _azure_async(settings: PoolSettings, live: Object) -> bool:
    if (given := _provider(settings, live)) == ProviderName.AUTO:
        return await azure_subscribed_async(settings.azure_conn_id)
    return given == ProviderName.AKS


def agent_pools(live: Object, settings: PoolSettings | None = None) -> list[str]:
    """Tell a Workspace's AKS agent pools to go, where machines come as such; returns the names of those still there."""
    chosen = settings or pool_settings()
    if not _azure(chosen, live):
        return []
    aks, left = _agent_pools(chosen, live)
    for pool in left:
        if state(pool) not in LEAVING_STATES:
            aks.begin_delete(str(pool["name"]))
    return [_named(pool) for pool in left]


def _agent_pools(chosen: PoolSettings, live: Object) -> tuple[AksHook, list[dict[str, Any]]]:
    from kaito.hooks.aks import AksHook

    aks = AksHook(chosen.azure_conn_id)
    return aks, [pool for pool in aks.list_pools() if belongs(pool, _selection(live))]


def unregistered_capacity(
    live: Object, settings: PoolSettings | None = None
) -> list[UnregisteredCapacity] | None:
    """The agent pools of a Workspace whose machines may not all have joined, None where Azure has not told."""
    chosen = settings or pool_settings()
    if not _azure(chosen, live):
        return None
    try:
        return charged(_agent_pools(chosen, live)[1])
    except Exception as error:  # the release matters more
        log.warning("What Azure charges for could not be seen: %s", error)
        return None


async def agent_pools_left(live: Object, settings: PoolSettings | None = None) -> list[str]:
    """The agent pools of a Workspace that are still there, for triggers; tells none of them to go.

    :raises AksError: Azure did not let us look.
    """
    chosen = settings or pool_settings()
    if not await _azure_async(chosen, live):
        return []
    from kaito.hooks.aks import AksHook

    async with AksHook(chosen.azure_conn_id) as aks:
        pools = await aks.async_list_pools()
    return [_named(pool) for pool in pools if belongs(pool, _selection(live))]


def _named(pool: Object) -> str:
    return f"AgentPool {pool['name']} ({state(pool)})"


def _finalizers(live: Object, wanted: Sequence[str]) -> Request:
    metadata = live["metadata"]
    change = {"resourceVersion": metadata["resourceVersion"], "finalizers": list(wanted)}
    return api.merge_patch(WORKSPACE, metadata["name"], names.namespace(live), {"metadata": change})


def add_finalizer(cluster: KaitoClusterHook, live: Object) -> None:
    """Put our finalizer on a Workspace that is about to be deleted, so that its machines do not outlive it."""
    finalizers = live["metadata"].get("finalizers") or []
    if names.FINALIZER not in finalizers:
        cluster.send(_finalizers(live, [*finalizers, names.FINALIZER]))


def remove_finalizer(cluster: KaitoClusterHook, name: str, namespace: str, uid: str) -> bool:
    """Take our finalizer, and no other, off a Workspace; returns False when there was nothing to take off.

    :raises ClusterError: somebody else writes the Workspace all the time.
    """
    for _ in range(CONFLICTS):
        live = cluster.find(WORKSPACE, name, namespace)
        if live is None or live["metadata"].get("uid") != uid or not deleting(live):
            return False
        finalizers = live["metadata"].get("finalizers") or []
        if names.FINALIZER not in finalizers:
            return False
        try:
            cluster.send(_finalizers(live, [other for other in finalizers if other != names.FINALIZER]))
        except ClusterError as error:
            if error.status == 404:
                return False
            if error.status != 409:
                raise
        else:
            return True
    raise ClusterError(409, "Conflict", f"Workspace {name}: somebody else keeps writing it.")
