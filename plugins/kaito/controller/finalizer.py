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
from typing import Any

from include.pools.observed import ObservedPool, UnregisteredCapacity, WorkspacePools
from include.reconcile import release
from include.reconcile.case import Case, controller, deleting
from include.reconcile.decision import Observed, ReconcileConfig
from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    NODE,
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
from kaito.providers.base import labels_of
from kaito.providers.registry import owners, owners_in_a_task

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

#: In the order in which they are told to go: who makes others before the others. Machines go after what works on them,
#: before the volumes.
KINDS = (STATEFUL_SET, SERVICE, POD, CONFIG_MAP, VOLUME_CLAIM, NODE)
AFTER_MACHINES = frozenset({VOLUME_CLAIM.plural, NODE.plural})
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

    left: tuple[Left | ObservedPool, ...]
    forced: str = ""

    def __str__(self) -> str:
        return "; ".join(str(one) for one in self.left) or "nothing"


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def judge(
    live: Object,
    found: Mapping[str, Sequence[Object]],
    pools: Sequence[ObservedPool],
    deadline: float,
    now: datetime | None = None,
) -> Remains:
    """Say what of the objects that carry the Workspace's labels is its own.

    :param found: objects by the plural of their kind.
    :param pools: its machines, whoever makes them.
    :param deadline: seconds after its deletion at which a Workspace is let go whatever is left.
    """

    def nothing(*_: Any) -> Any:
        return ""

    observed = Observed(
        pods=found[POD.plural],
        stateful_sets=found[STATEFUL_SET.plural],
        services=found[SERVICE.plural],
        volume_claims=found[VOLUME_CLAIM.plural],
        pools=WorkspacePools(pools=tuple(pools)),
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
        VOLUME_CLAIM.plural: case.volume_claims,
        # A Node goes with its machine; whoever brought a node of their own did not give it our pool's label.
        NODE.plural: [n for n in found[NODE.plural] if names.POOL in _labels(n)],
    }
    forced = ""
    if case.annotations.get(names.FORCE_RELEASE) == "true":
        forced = f"{names.FORCE_RELEASE} asks for it"
    elif release.deadline(case) <= 0:
        forced = f"the deadline of {deadline:.0f} s has passed"
    left = [Left(kind, obj) for kind in KINDS for obj in own[kind.plural]]
    before = [one for one in left if one.kind.plural not in AFTER_MACHINES]
    after = [one for one in left if one.kind.plural in AFTER_MACHINES]
    return Remains((*before, *case.pools, *after), forced)


async def look(
    cluster: ClusterCalls, live: Object, deadline: float, *, remote: bool | None = None
) -> Remains:
    """Look once at what is left of a Workspace.

    :param remote: look only at what clouds have, or only at what the cluster has; None for both.
    :raises CloudError: a cloud did not let us look.
    """

    async def left_of(kind: Kind) -> Sequence[Object]:
        try:
            return await cluster.list(kind, _scope(kind, live), labels_of(live))
        except ClusterError as error:
            return _without(error)

    kinds = () if remote else KINDS
    answers = await cluster.together(*(left_of(kind) for kind in kinds))
    result: dict[str, Sequence[Object]] = {kind.plural: () for kind in KINDS}
    result |= {kind.plural: told for kind, told in zip(kinds, answers, strict=True)}
    async with owners(cluster, live) as makers:
        asked = [maker for maker in makers if remote is None or maker.remote is remote]
        listed = [await maker.list_owned(labels_of(live)) for maker in asked]
    return judge(live, result, [pool for pools in listed for pool in pools], deadline)


def _scope(kind: Kind, live: Object) -> str | None:
    return names.namespace(live) if kind.namespaced else None


def _without(error: ClusterError) -> Sequence[Object]:
    """A kind that this cluster does not have leaves nothing."""
    if error.status != 404:
        raise error
    return ()


def request_deletion(cluster: KaitoClusterHook, live: Object, remains: Remains) -> list[str]:
    """Ask for the deletion of what is left, guarded by uid, and return what was asked now.

    Nodes are left to whoever takes their machines away.
    """
    makers = {owner.name: owner for owner in owners_in_a_task(cluster, live)}
    asked = []
    for one in remains.left:
        if isinstance(one, ObservedPool):
            if not one.deleting and makers[one.provider].delete_observed(one):
                asked.append(str(one))
            continue
        metadata = one.obj["metadata"]
        if one.kind is NODE or deleting(one.obj):
            continue
        if cluster.delete(one.kind, one.name, metadata.get("namespace"), uid=metadata["uid"]):
            asked.append(str(one))
    return asked


def unregistered_capacity(cluster: KaitoClusterHook, live: Object) -> list[UnregisteredCapacity] | None:
    """The pools of a Workspace whose machines may not all have joined, None where no cloud has told."""
    try:
        told = [owner.unregistered_capacity(labels_of(live)) for owner in owners_in_a_task(cluster, live)]
    except Exception as error:  # the release matters more
        log.warning("What a cloud charges for could not be seen: %s", error)
        return None
    known = [one for one in told if one is not None]
    return [capacity for one in known for capacity in one] if known else None


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
