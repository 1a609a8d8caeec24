"""The DAG runs of the model: the steps that kaito_tune, kaito_serve and kaito_release take, with fence and teardown.

A step looks and acts at once. A run that is fenced tells nothing and goes to its teardown; so does one that fails,
after telling why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.pools.nodeclaim import node_claim_name
from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status import retraining
from include.workspace.status.conditions import Phase, StaleGeneration, progress
from tests.support.reconcile.cluster import MACHINE, NAME, NAMESPACE, Cluster, Obj, going, label

OVER = ("success", "failed")
SLOW = frozenset({"dataset", "tuning_pool", "tune", "serving_pool", "roll_out"})
PATIENCE = 15  # looks at a thing that does not come
SERVE_STEPS = ("serving_pool", "serving_nodes", "roll_out", "service_ready", "ask")
STEPS: Mapping[str, tuple[str, ...]] = {
    "kaito_tune": (
        *("preflight", "dataset", "dataset_done", "tuning_pool", "tuning_nodes", "tune", "tune_done"),
        *("release_tuning", "publish", "publish_done", *SERVE_STEPS),
    ),
    "kaito_serve": ("preflight", *SERVE_STEPS),
    "kaito_release": ("clear", "cleared"),
    "kaito_retrain": ("retrain",),
}


class Fail(Exception):
    """A step failed, and which phase tells of it."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(phase)
        self.phase = phase


@dataclass
class Run:
    """One DAG run."""

    id: str
    dag: str
    uid: str
    generation: int
    state: str = "queued"
    step: int = 0
    teardown: list[str] | None = None
    answered: bool = False
    doomed: str = ""  # the step that will fail
    reason: str = ""  # the reason that it tells then
    waits: int = 0
    cleared: bool = False

    @property
    def label(self) -> str:
        return names.run_id_label(self.id)


@dataclass
class Airflow:
    """Runs by id; `reset` loses them all, as a new database does.

    `hands_over`: a tuning that is served next gives its machines to serving in place of letting them go.
    """

    cluster: Cluster
    runs: dict[str, Run] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    hands_over: bool = False

    def start(self, dag: str, run_id: str, conf: Mapping[str, Any]) -> None:
        workspace = self.cluster.find("Workspace", conf["workspace"]["metadata"]["name"])
        if run_id in self.runs or workspace is None:
            return
        served = names.served_by(run_id)
        generation = served[1] if served else names.generation(workspace)
        self.runs[run_id] = Run(run_id, dag, workspace["metadata"]["uid"], generation)
        self.started.append(run_id)

    def advance(self, run: Run) -> None:
        """One step of one run."""
        if run.state in OVER:
            return
        run.state = "running"
        if run.dag == "kaito_retrain":
            return self._retrain(run)
        if run.teardown is not None:
            return self._tear_down(run)
        steps = STEPS[run.dag]
        name = steps[run.step]
        if not self._through_the_fence(run, name):
            return None
        step: Callable[[Run], bool] = getattr(self, f"_{name}")
        try:
            if run.doomed == name:
                raise Fail(PHASES.get(name, Phase.FAILED))
            done = step(run)
        except Fail as failure:
            self._fail(run, failure.phase)
            return None
        run.waits = 0 if done else run.waits + 1
        if run.waits > PATIENCE and run.dag != "kaito_release":
            self._fail(run, PHASES.get(name, Phase.FAILED))
        elif done:
            run.step += 1
            last = len(steps) if run.dag != "kaito_tune" or self._serves() else steps.index("serving_pool")
            if run.step >= last:
                run.state = "success"
        return None

    def _retrain(self, run: Run) -> None:
        """A retraining works on a Workspace of its own; what it asks for, a test writes."""
        run.state = "failed" if run.doomed == "retrain" else "success" if run.answered else run.state

    def _through_the_fence(self, run: Run, name: str) -> bool:
        """Whether the step may act now; slow ones look first and act later, when the Workspace may have moved on."""
        if run.dag != "kaito_release" and not run.cleared:
            if not self._current(run):
                run.teardown = ["tuning", "serving"]
                return False
            run.cleared = name in SLOW
            return not run.cleared
        run.cleared = False
        return True

    def _fail(self, run: Run, phase: Phase) -> None:
        for pod in self._own_pods(run):
            self.cluster.delete("Pod", pod["metadata"]["name"])
        self._tell(run, phase, **({"reason": run.reason} if run.reason else {}))
        run.teardown = ["tuning", "serving"]

    def _tear_down(self, run: Run) -> None:
        assert run.teardown is not None
        if not run.teardown:
            run.state = "failed"
            return
        purpose = run.teardown[0]
        if purpose == "serving":
            found = self.cluster.find("StatefulSet", NAME)
            if run.answered:
                run.teardown.pop(0)
                return
            if found and label(found, names.RUN_ID) == run.label and not found["status"].get("readyReplicas"):
                self.cluster.delete("StatefulSet", NAME)
        if self.cluster.claims(purpose):
            self._tell(run, Phase.RELEASED)
        if self._request_deletion(run, purpose):
            run.teardown.pop(0)

    def _request_deletion(self, run: Run, purpose: str) -> bool:
        """Delete this run's machines; True when they are gone."""
        own = [c for c in self.cluster.claims(purpose) if label(c, names.RUN_ID) == run.label]
        for claim in own:
            self.cluster.delete("NodeClaim", claim["metadata"]["name"])
        return not own

    # -- looks ------------------------------------------------------------------------------------------------------

    def _current(self, run: Run) -> bool:
        found = self.cluster.workspace
        return bool(
            found
            and found["metadata"]["uid"] == run.uid
            and names.generation(found) == run.generation
            and not going(found)
        )

    def _serves(self) -> bool:
        found = self.cluster.workspace
        return bool(found and serves(found))

    def _own_pods(self, run: Run) -> list[Obj]:
        return [
            p
            for p in self.cluster.all("Pod")
            if label(p, names.RUN_ID) == run.label and label(p, names.COMPONENT) != "serving"
        ]

    def _tell(self, run: Run, phase: Phase, **more: Any) -> None:
        found = self.cluster.workspace
        if found is None or found["metadata"]["uid"] != run.uid:
            return
        try:
            status = progress(
                found,
                phase,
                message=f"{phase} {run.id}",
                now=self.cluster.now,
                generation=run.generation,
                **more,
            )
        except StaleGeneration:
            return
        self.cluster.put("Workspace", {**found, "status": status})

    # -- steps: True when done, False to come again -------------------------------------------------------------------

    def _preflight(self, run: Run) -> bool:
        self._tell(run, Phase.ACCEPTED)
        return True

    def _pod(self, run: Run, component: str) -> bool:
        """Create the pod, or adopt the one of this run; never beside another one that has not gone yet."""
        others = [p for p in self.cluster.children(component) if label(p, names.RUN_ID) != run.label]
        own = [p for p in self._own_pods(run) if label(p, names.COMPONENT) == component]
        if own and not going(own[0]):
            return True
        found = self.cluster.workspace
        if own or others or found is None:
            return False
        meta = {
            "name": f"{names.pod(found, component)}-{self.cluster.count:x}",
            "namespace": NAMESPACE,
            "labels": names.labels(found, component, run.id),
            "ownerReferences": [names.owner_reference(found)],
        }
        self.cluster.create("Pod", {"metadata": meta, "spec": {}, "status": {"phase": "Pending"}})
        return True

    def _pod_done(self, run: Run, component: str, phase: Phase) -> bool:
        own = [p for p in self._own_pods(run) if label(p, names.COMPONENT) == component]
        if not own or going(own[0]):
            raise Fail(phase)
        if own[0]["status"]["phase"] == "Pending":
            return False
        self.cluster.delete("Pod", own[0]["metadata"]["name"])
        return True

    def _volume(self) -> None:
        found = self.cluster.workspace
        if found is None:
            return
        meta = {
            "name": names.work_volume(found),
            "namespace": NAMESPACE,
            "labels": names.labels(found, "tuning"),
        }
        meta["ownerReferences"] = [names.owner_reference(found)]
        self.cluster.create("PersistentVolumeClaim", {"metadata": meta})

    def _dataset(self, run: Run) -> bool:
        self._volume()
        return self._pod(run, "dataset")

    def _dataset_done(self, run: Run) -> bool:
        if not self._pod_done(run, "dataset", Phase.DATASET_FAILED):
            return False
        self._tell(run, Phase.DATASET_READY)
        return True

    def _pool(self, run: Run, purpose: str) -> bool:
        claims = self.cluster.claims(purpose)
        if any(going(c) for c in claims):
            return False
        if purpose == "tuning" and {label(c, names.RUN_ID) for c in claims} - {run.label}:
            raise Fail(Phase.NODES_FAILED)
        found = self.cluster.workspace
        if found is None:
            return False
        if not claims:
            labels = {**names.labels(found, "pool", run.id), names.POOL: purpose}
            requirement = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [MACHINE]}
            meta = {"name": node_claim_name(found, purpose, 0), "labels": labels}
            self.cluster.create("NodeClaim", {"metadata": meta, "spec": {"requirements": [requirement]}})
        self._tell(run, Phase.NODES_PENDING, target_nodes=1)
        return True

    def _nodes(self, run: Run, purpose: str) -> bool:
        claims = [c for c in self.cluster.claims(purpose) if not going(c)]
        if not claims:
            raise Fail(Phase.NODES_FAILED)
        name = (claims[0].get("status") or {}).get("nodeName")
        if not name or not self.cluster.find("Node", name):
            return False
        self._tell(run, Phase.NODES_READY, nodes=[name])
        return True

    def _tuning_pool(self, run: Run) -> bool:
        return self._pool(run, "tuning")

    def _tuning_nodes(self, run: Run) -> bool:
        return self._nodes(run, "tuning")

    def _tune(self, run: Run) -> bool:
        self._tell(run, Phase.TUNING)
        return self._pod(run, "tuning")

    def _tune_done(self, run: Run) -> bool:
        return self._pod_done(run, "tuning", Phase.TUNING_FAILED)

    def _release_tuning(self, run: Run) -> bool:
        if self.hands_over and self._serves() and not self.cluster.claims("serving"):
            return self._hand_over(run)
        self._tell(run, Phase.RELEASED)
        return self._request_deletion(run, "tuning")

    def _hand_over(self, run: Run) -> bool:
        """Change the purpose of the Node and then of its claim, as a provider does it; a claim that goes is let go."""
        own = [c for c in self.cluster.claims("tuning") if label(c, names.RUN_ID) == run.label]
        for claim in [c for c in own if not going(c)]:
            node = self.cluster.find("Node", (claim.get("status") or {}).get("nodeName") or "")
            for kind, obj in (("Node", node), ("NodeClaim", claim)):
                if obj is not None:
                    labels = {**obj["metadata"]["labels"], names.POOL: "serving"}
                    self.cluster.change(kind, obj, labels=labels)
        return not [c for c in own if going(c)]

    def _publish(self, run: Run) -> bool:
        self._tell(run, Phase.PUBLISHING)
        return self._pod(run, "adapter")

    def _publish_done(self, run: Run) -> bool:
        if not self._pod_done(run, "adapter", Phase.PUBLISH_FAILED):
            return False
        self._tell(run, Phase.PUBLISHED, adapter={"image": "r/a:1", "digest": f"sha256:{run.generation}"})
        if not self._serves():
            self._tell(run, Phase.SUCCEEDED)
        return True

    def _serving_pool(self, run: Run) -> bool:
        return self._pool(run, "serving")

    def _serving_nodes(self, run: Run) -> bool:
        return self._nodes(run, "serving")

    def _roll_out(self, run: Run) -> bool:
        found = self.cluster.workspace
        if found is None:
            return False
        self._tell(run, Phase.ROLLING_OUT)
        labels, owner = names.labels(found, "serving", run.id), [names.owner_reference(found)]
        for name in (names.service(found), names.headless_service(found)):
            there = self.cluster.find("Service", name)
            if there and there["metadata"].get("ownerReferences") != owner:
                raise Fail(Phase.INFERENCE_FAILED)
            meta = {"name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": owner}
            self.cluster.create("Service", {"metadata": meta})
        old = self.cluster.find("StatefulSet", NAME)
        if old and old["metadata"].get("ownerReferences") != owner:
            raise Fail(Phase.INFERENCE_FAILED)
        if old:
            generation = old["metadata"]["generation"] + 1
            grown = {**old, "spec": {**old["spec"], "replicas": 1}}
            self.cluster.change("StatefulSet", grown, labels=labels, generation=generation)
        else:
            meta = {
                "name": NAME,
                "namespace": NAMESPACE,
                "labels": labels,
                "ownerReferences": owner,
                "generation": 1,
            }
            template = {"spec": {"containers": [{"name": "inference"}, {"name": names.ADAPTERS_SIDECAR}]}}
            spec = {"replicas": 1, "template": template}
            self.cluster.create("StatefulSet", {"metadata": meta, "spec": spec, "status": {}})
        tried = retraining.canary(found.get("status"), names.generation(found))
        self.cluster.canaries = {tried["digest"]: tried["percent"]} if tried else {}
        return True

    def _service_ready(self, run: Run) -> bool:
        found = self.cluster.find("StatefulSet", NAME)
        if found is None:
            raise Fail(Phase.INFERENCE_FAILED)
        if not self.cluster.claims("serving"):
            raise Fail(Phase.NODES_FAILED)
        status, generation = found["status"], found["metadata"]["generation"]
        if status.get("observedGeneration") != generation or not (
            status.get("readyReplicas") and status.get("updatedReplicas")
        ):
            return False
        self._tell(run, Phase.INFERENCE_READY)
        return True

    def _ask(self, run: Run) -> bool:
        found = self.cluster.find("StatefulSet", NAME)
        if not found or not found["status"].get("readyReplicas"):
            raise Fail(Phase.INFERENCE_FAILED)
        run.answered = True
        self._tell(run, Phase.SUCCEEDED)
        return True

    def _clear(self, run: Run) -> bool:
        found = self.cluster.workspace
        if found is None:
            return True
        for kind in ("StatefulSet", "Service", "PersistentVolumeClaim", "Pod"):
            for obj in self.cluster.all(kind):
                if is_ours(obj, found, self.cluster):
                    self.cluster.delete(kind, obj["metadata"]["name"])
        for claim in self.cluster.all("NodeClaim"):
            self.cluster.delete("NodeClaim", claim["metadata"]["name"])
        return True

    def _cleared(self, run: Run) -> bool:
        if self.cluster.all("NodeClaim") or self.cluster.all("Pod"):
            self._clear(run)
            return False
        return True


PHASES = {
    "preflight": Phase.INVALID,
    "dataset_done": Phase.DATASET_FAILED,
    "tuning_nodes": Phase.NODES_FAILED,
    "tune_done": Phase.TUNING_FAILED,
    "publish_done": Phase.PUBLISH_FAILED,
    "serving_nodes": Phase.NODES_FAILED,
    "service_ready": Phase.INFERENCE_FAILED,
    "ask": Phase.INFERENCE_FAILED,
}


def is_ours(obj: Mapping[str, Any], workspace: Mapping[str, Any], cluster: Cluster) -> bool:
    """Whether an object belongs to the Workspace, by its owners."""
    uids = {workspace["metadata"]["uid"]}
    uids |= {
        s["metadata"]["uid"]
        for s in cluster.all("StatefulSet")
        if any(o["uid"] in uids for o in s["metadata"].get("ownerReferences") or ())
    }
    return any(owner["uid"] in uids for owner in obj["metadata"].get("ownerReferences") or ())
