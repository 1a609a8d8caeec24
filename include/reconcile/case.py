"""One Workspace and what was seen of it, in the words that the decisions use.

It answers questions of the moment and decides nothing. What belongs to somebody else never shows in it, except by
`strangers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from include.contracts.purpose import Purpose
from include.pools.observed import PURPOSES, ObservedPool, live
from include.reconcile.decision import Object, Observed, ReconcileConfig
from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status.conditions import ENDED_BADLY, ConditionType, condition
from include.workspace.status.runs import RunState

TUNE, SERVE, RELEASE, RETRAIN = "kaito_tune", "kaito_serve", "kaito_release", "kaito_retrain"
TUNING, SERVING = Purpose.TUNING, Purpose.SERVING
#: Components of the pods that a run makes itself; serving pods belong to the StatefulSet.
RUN_COMPONENTS = frozenset({"dataset", "tuning", "evaluation", "adapter"})


def deleting(obj: Object) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def label(obj: Object, key: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(key) or "")


def controller(obj: Object) -> Mapping[str, Any] | None:
    """The owner reference of whoever controls an object."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "")


def ended(pod: Object) -> bool:
    """Whether a pod's containers will never run again."""
    return phase(pod) in ("Succeeded", "Failed")


@dataclass(frozen=True)
class Case:
    """A Workspace, what was seen, the moment, and the installation."""

    workspace: Object
    observed: Observed
    now: datetime
    config: ReconcileConfig

    @cached_property
    def meta(self) -> Mapping[str, Any]:
        result: Mapping[str, Any] = self.workspace["metadata"]
        return result

    @cached_property
    def annotations(self) -> Mapping[str, str]:
        return self.meta.get("annotations") or {}

    @property
    def name(self) -> str:
        return str(self.meta["name"])

    @property
    def namespace(self) -> str:
        return names.namespace(self.workspace)

    @property
    def uid(self) -> str:
        return str(self.meta.get("uid") or "")

    @cached_property
    def generation(self) -> int:
        return names.generation(self.workspace)

    @property
    def status(self) -> Mapping[str, Any]:
        return self.workspace.get("status") or {}

    @property
    def tunes(self) -> bool:
        return self.workspace.get("tuning") is not None

    @cached_property
    def serves(self) -> bool:
        return serves(self.workspace)

    @property
    def home_dag(self) -> str:
        """The DAG that does what the Workspace asks for."""
        return TUNE if self.tunes else SERVE

    @property
    def finalizer(self) -> bool:
        return names.FINALIZER in (self.meta.get("finalizers") or ())

    @property
    def candidate(self) -> bool:
        """Whether this Workspace trains a version of another one: its run alone works on it, whatever it comes to."""
        return names.RETRAIN_OF in (self.meta.get("labels") or {})

    @property
    def paused(self) -> bool:
        return self.annotations.get(names.PAUSED) == "true"

    @property
    def rerun(self) -> str:
        return self.annotations.get(names.RERUN) or ""

    @cached_property
    def machine(self) -> str:
        """The canonical machine type, "" when nodes are BYO (bring your own) or the type is unknown."""
        return str(self.config.machine_of(self.workspace) or "")

    @property
    def watches_machines(self) -> bool:
        """Whether this Workspace's machines show at every look, so that a missing one is news."""
        return bool(self.machine) and self.observed.pools.watched

    @property
    def counts_machines(self) -> bool:
        """Whether it can be told what is missing of this Workspace's machines."""
        return bool(self.machine) and self.observed.pools.complete and self.observed.pools.makes_machines

    def mine(self, obj: Object) -> bool:
        """Whether an object of our name is ours: this very Workspace controls it.

        Labels alone do not make it ours: who copies an object copies them too.
        """
        return (controller(obj) or {}).get("uid") == self.uid

    @cached_property
    def stateful_set(self) -> Object | None:
        """The service's StatefulSet, unless it is going or somebody else's."""
        return next(
            (
                s
                for s in self.observed.stateful_sets
                if s["metadata"]["name"] == self.name and self.mine(s) and not deleting(s)
            ),
            None,
        )

    @cached_property
    def service_stands(self) -> bool:
        """Whether serving machines may be in use: by a StatefulSet, or by pods that outlive theirs."""
        return self.stateful_set is not None or not all(ended(pod) for pod in self.serving_pods)

    @cached_property
    def sets(self) -> list[Object]:
        return [s for s in self.observed.stateful_sets if self.mine(s)]

    @cached_property
    def services(self) -> list[Object]:
        return [s for s in self.observed.services if self.mine(s)]

    @cached_property
    def volume_claims(self) -> list[Object]:
        """The work volume; the volumes that a user brought carry other names and stay."""
        own = names.work_volume(self.workspace)
        return [v for v in self.observed.volume_claims if v["metadata"]["name"] == own and self.mine(v)]

    @cached_property
    def run_pods(self) -> list[Object]:
        """The dataset, tuning and adapter pods of any run of this Workspace, earlier ones of its name included."""
        return [
            p for p in self.observed.pods if label(p, names.COMPONENT) in RUN_COMPONENTS and self._ours(p)
        ]

    @cached_property
    def serving_pods(self) -> list[Object]:
        return [p for p in self.observed.pods if label(p, names.COMPONENT) == SERVING and self._ours(p)]

    def _ours(self, pod: Object) -> bool:
        if label(pod, names.WORKSPACE) != self.name:
            return False
        owner = controller(pod)
        if owner is None or (owner.get("kind") == names.KIND and owner.get("name") == self.name):
            return True
        # Our label says component; a pod may outlive its StatefulSet for a while.
        theirs = {s["metadata"].get("uid") for s in self.observed.stateful_sets if not self.mine(s)}
        return (
            owner.get("kind") == "StatefulSet"
            and owner.get("name") == self.name
            and owner.get("uid") not in theirs
        )

    @cached_property
    def pools(self) -> list[ObservedPool]:
        """This Workspace's pools, those that are going included, whoever makes its machines now."""
        own = (self.namespace, self.name)
        return [p for p in self.observed.pools.pools if p.workspace == own and p.purpose in PURPOSES]

    def live_pools(self, purpose: Purpose | None = None) -> list[ObservedPool]:
        """Our pools of who makes the machines now, for a purpose or any."""
        made_by = self.observed.pools.provider
        return [pool for pool in live(self.pools, purpose) if pool.provider == made_by]

    def single_machines(self, purpose: Purpose | None = None) -> list[ObservedPool]:
        """Those of them that are one machine each, which are handed over, replaced and deleted by themselves."""
        return [pool for pool in self.live_pools(purpose) if pool.single]

    def strangers(self) -> Iterator[tuple[str, str, str]]:
        """(kind, name, owner) of objects that stand where ours must and belong to somebody else."""
        own = names.work_volume(self.workspace)
        needed: list[tuple[str, Sequence[Object], tuple[str, ...]]] = []
        if self.serves:
            both = (names.service(self.workspace), names.headless_service(self.workspace))
            needed += [("StatefulSet", self.observed.stateful_sets, (self.name,))]
            needed += [("Service", self.observed.services, both)]
        if self.tunes:
            needed += [("PersistentVolumeClaim", self.observed.volume_claims, (own,))]
        for kind, objects, wanted in needed:
            for obj in objects:
                if obj["metadata"]["name"] in wanted and not self.mine(obj):
                    owner = controller(obj) or {}
                    who = f"{owner.get('kind')} {owner.get('name')}" if owner else "nobody that we know"
                    yield kind, str(obj["metadata"]["name"]), who

    def verdict(self, status: Mapping[str, Any]) -> str:
        """What the conditions say of this generation: SUCCESS, FAILED, or "" while it is open.

        WorkspaceReady is read, since every end writes it, and a repair too, which leaves WorkspaceSucceeded alone.
        """
        workspace_ready = condition(status, ConditionType.WORKSPACE_READY)
        if workspace_ready is None or workspace_ready.get("observedGeneration") != self.generation:
            return ""
        if workspace_ready.get("status") == "True":
            return RunState.SUCCESS
        return RunState.FAILED if workspace_ready.get("reason") in ENDED_BADLY else ""
