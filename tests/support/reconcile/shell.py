"""The reconciler's shell in the model: it observes, decides and carries out, and may die after any of its acts.

It is also the judge: it refuses to carry out what the reconciler must never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from include.pools.observed import WorkspacePools
from include.reconcile import (
    Activity,
    AddFinalizer,
    Annotate,
    ApplyObject,
    Decision,
    DeleteObject,
    DeletePool,
    HandOver,
    Observed,
    ReconcileConfig,
    RemoveFinalizer,
    ScaleToZero,
    ServeAdapter,
    StartRun,
    decide,
    runs_to_ask,
)
from include.reconcile.due import asks_for_metrics
from include.workspace import Fault
from include.workspace.api import names
from include.workspace.status.conditions import condition
from tests.support.pools import workspace_pools
from tests.support.reconcile.airflow import Airflow, is_ours
from tests.support.reconcile.cluster import MACHINE, Cluster, Obj, going, is_ready, label

DEADLINE = 1800.0


@dataclass(frozen=True)
class Look:
    """What was seen at a moment."""

    workspace: Obj
    observed: Observed
    now: datetime
    faults: tuple[Fault, ...]


@dataclass
class Shell:
    """One reconciler over one cluster and one Airflow."""

    cluster: Cluster
    airflow: Airflow
    config: str = "digest-0"
    secret: bool = True
    upstream: str = ""
    price: float | None = 3.6
    deadline: float = DEADLINE
    activity: Activity | None = None

    def look(self) -> Look | None:
        workspace = self.cluster.workspace
        if workspace is None:
            return None
        runs: dict[str, str | None] = {}
        for _, run_id in runs_to_ask(workspace, self.cluster.all("Pod"), self._pools().pools):
            run = self.airflow.runs.get(run_id)
            runs[run_id] = run.state if run else None
        observed = Observed(
            pods=self.cluster.all("Pod"),
            stateful_sets=self.cluster.all("StatefulSet"),
            services=self.cluster.all("Service"),
            volume_claims=self.cluster.all("PersistentVolumeClaim"),
            nodes=self.cluster.all("Node"),
            revisions=self.cluster.all("ControllerRevision"),
            config_maps={"cfg": self.config},
            runs=runs,
            upstream=self.upstream,
            activity=self._activity() if asks_for_metrics(workspace, self.cluster.now) else None,
            pools=self._pools(),
        )
        return Look(workspace, observed, self.cluster.now, tuple(self._faults(workspace)))

    def _activity(self) -> Activity | None:
        return replace(self.activity, canaries=dict(self.cluster.canaries)) if self.activity else None

    def _pools(self) -> WorkspacePools:
        return workspace_pools(
            node_claims=self.cluster.all("NodeClaim"), nodes=self.cluster.all("Node"), now=self.cluster.now
        )

    def _faults(self, workspace: Obj) -> list[Fault]:
        found = []
        if not self.secret:
            found.append(Fault("tuning.output.imagePushSecret", "push", "P4", "there is no such Secret"))
        if (workspace.get("tuning") or workspace.get("inference") or {}).get("preset") == "bad":
            found.append(Fault("preset.name", "bad", "T2", "there is no such preset"))
        return found

    def decide(self, look: Look) -> Decision:
        config = ReconcileConfig(
            faults=lambda _workspace, _old: list(look.faults),
            machine_of=lambda _workspace: MACHINE,
            price_of=lambda _machine: self.price,
            run_url=lambda dag, run: f"http://airflow/{dag}/{run}",
            release_deadline=self.deadline,
        )
        return decide(look.workspace, look.observed, look.now, config)

    def carry_out(self, look: Look, decision: Decision, acts: int = 1000) -> bool:
        """Do at most so many acts; False when the Workspace was not the one any more that was seen."""
        self._judge(look, decision)
        version = look.workspace["metadata"]["resourceVersion"]
        adding = [a for a in decision.actions if isinstance(a, AddFinalizer)]
        rest = [a for a in decision.actions if not isinstance(a, AddFinalizer)]
        for act in [*adding, decision.status, *rest]:
            if act is None:
                continue
            if acts <= 0:
                return True
            acts -= 1
            workspace = self.cluster.workspace
            if version is not None:
                if workspace is None or workspace["metadata"]["resourceVersion"] != version:
                    return False
                # Proven by the first act: what follows is fenced by what it names.
                version = None
            if isinstance(act, Mapping):
                if workspace is not None:
                    self.cluster.put("Workspace", {**workspace, "status": dict(act)})
            else:
                self._act(act)
        return True

    def _act(self, act: Any) -> None:
        workspace = self.cluster.workspace
        if workspace is None:
            return
        meta = workspace["metadata"]
        if isinstance(act, AddFinalizer):
            self.cluster.change(
                "Workspace", workspace, finalizers=[*meta.get("finalizers", []), act.finalizer]
            )
        elif isinstance(act, RemoveFinalizer):
            self._judge_drop(workspace)
            rest = [f for f in meta.get("finalizers", []) if f != act.finalizer]
            self.cluster.change("Workspace", workspace, finalizers=rest)
        elif isinstance(act, Annotate):
            annotations = {**(meta.get("annotations") or {}), **act.annotations}
            self.cluster.change("Workspace", workspace, annotations=annotations)
        elif isinstance(act, StartRun):
            self.airflow.start(act.dag_id, act.run_id, act.conf)
        elif isinstance(act, DeleteObject):
            self._judge_delete(act.kind, act.name, act.uid)
            self.cluster.delete(act.kind, act.name, act.uid)
        elif isinstance(act, DeletePool):
            self._judge_delete(act.pool.kind, act.pool.name, act.pool.uid)
            self.cluster.delete(act.pool.kind, act.pool.name, act.pool.uid)
        else:
            self._change(act)

    def _change(self, act: Any) -> None:
        if isinstance(act, HandOver):
            claim = self.cluster.find(act.pool.kind, act.pool.name)
            if claim and claim["metadata"]["uid"] == act.pool.uid and not going(claim):
                labels = {**claim["metadata"]["labels"], names.RUN_ID: act.run_label}
                self.cluster.change("NodeClaim", claim, labels=labels)
        elif isinstance(act, ScaleToZero):
            found = self.cluster.find("StatefulSet", act.name)
            if found and found["metadata"]["uid"] == act.uid:
                generation = found["metadata"]["generation"] + 1
                shrunk = {**found, "spec": {**found["spec"], "replicas": 0}}
                self.cluster.change("StatefulSet", shrunk, generation=generation)
        elif isinstance(act, ServeAdapter):
            digest = act.canary.partition("@")[2]
            self.cluster.canaries = {digest: act.percent} if digest else {}
        elif isinstance(act, ApplyObject):
            self.cluster.create("ControllerRevision", act.manifest)

    # -- what must never happen -------------------------------------------------------------------------------------

    def _judge(self, look: Look, decision: Decision) -> None:
        meta = look.workspace["metadata"]
        annotations = meta.get("annotations") or {}
        if self_paused(annotations) and not meta.get("deletionTimestamp"):
            assert decision.actions == (), "a paused Workspace gets no actions"
        foreign = look.observed.upstream and annotations.get(names.MANAGED_BY) != "airflow"
        if foreign:
            assert decision.actions == ()
            assert decision.status is None
        for start in decision.actions:
            if isinstance(start, StartRun) and start.dag_id != "kaito_release":
                judge_start(look, start)
        before, after = (
            ((s or {}).get("idle") or {}) for s in (look.workspace.get("status"), decision.status)
        )
        if after.get("scaledToZero") and not before.get("scaledToZero"):
            judge_sleep(look, annotations)
        if decision.status is not None:
            judge_claims(look, decision.status)

    def _judge_drop(self, workspace: Obj) -> None:
        forced = (workspace["metadata"].get("annotations") or {}).get(names.FORCE_RELEASE) == "true"
        since = datetime.fromisoformat(workspace["metadata"]["deletionTimestamp"])
        late = (self.cluster.now - since).total_seconds() >= self.deadline
        left = [
            (kind, obj["metadata"]["name"])
            for kind in ("Pod", "StatefulSet", "Service", "PersistentVolumeClaim")
            for obj in self.cluster.all(kind)
            if is_ours(obj, workspace, self.cluster)
        ]
        left += [("NodeClaim", c["metadata"]["name"]) for c in self.cluster.all("NodeClaim")]
        assert forced or late or not left, f"the finalizer was dropped while {left} was left"

    def _judge_delete(self, kind: str, name: str, uid: str) -> None:
        """No pool in use, and nothing of somebody else."""
        found = self.cluster.find(kind, name)
        if found is None or found["metadata"]["uid"] != uid or going(found):
            return
        owners = found["metadata"].get("ownerReferences") or ()
        assert not any(owner["kind"] == "Other" for owner in owners), f"{kind} {name} is somebody else's"
        workspace = self.cluster.workspace
        if kind != "NodeClaim" or (workspace and going(workspace)):
            return
        node = self.cluster.find("Node", (found.get("status") or {}).get("nodeName") or "")
        for pod in self.cluster.all("Pod"):
            on_it = node is not None and pod["spec"].get("nodeName") == node["metadata"]["name"]
            if on_it and is_ready(node or {}):
                raise AssertionError(f"{kind} {name}: pod {pod['metadata']['name']} is on it")


def self_paused(annotations: Mapping[str, str]) -> bool:
    return annotations.get(names.PAUSED) == "true"


def judge_sleep(look: Look, annotations: Mapping[str, str]) -> None:
    """A service goes to sleep when that was asked for, and only when it is known that nobody uses it."""
    assert names.SCALE_TO_ZERO in annotations
    told, wanted = look.observed.activity, float(annotations[names.SCALE_TO_ZERO]) * 60
    assert told is not None, "put to sleep, though its use is not known"
    assert not told.in_flight, "put to sleep while it answers"
    assert look.now.timestamp() - (told.last or 0) >= wanted, "put to sleep too early"
    ready = condition(look.workspace["status"], "InferenceReady") or {}
    since = datetime.fromisoformat(ready["lastTransitionTime"])
    assert ready["status"] == "True", "put to sleep before it was ready"
    assert (look.now - since).total_seconds() >= wanted, "put to sleep before it was ready for so long"


def judge_start(look: Look, start: StartRun) -> None:
    """A run starts only when no pod of another one is left."""
    own = ("", names.run_id_label(start.run_id))
    for pod in look.observed.pods:
        if label(pod, names.COMPONENT) in ("dataset", "tuning", "adapter"):
            assert label(pod, names.RUN_ID) in own, f"{pod['metadata']['name']} is still there"


def judge_claims(look: Look, status: Mapping[str, Any]) -> None:
    """A status that the reconciler writes claims nothing that is not so in what it saw."""
    sets = [s for s in look.observed.stateful_sets if label(s, names.COMPONENT) == "serving" and not going(s)]
    ready = any(s["status"].get("readyReplicas") for s in sets)
    claims = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    if claims.get("InferenceReady") == "True":
        assert ready, "InferenceReady without a ready replica"
    if status.get("state") == "Ready":
        assert ready, "state Ready without a ready replica"
    if look.workspace.get("tuning"):
        if claims.get("WorkspaceSucceeded") == "True":
            published = condition(status, "AdapterPublished") or {}
            assert published.get("status") == "True", "succeeded without an adapter"
        if claims.get("WorkspaceReady") == "True" and claims.get("InferenceReady") is not None:
            assert ready, "WorkspaceReady without a ready replica"
    elif claims.get("WorkspaceSucceeded") == "True":
        assert ready, "succeeded without a ready replica"
