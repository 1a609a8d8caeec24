"""A cluster in memory for the model: objects, and the controllers that move them, one small step at a time.

Objects are replaced, never changed in place, so that an observation is a look at a moment and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from include.workspace.api import names
from include.workspace.status.conditions import timestamp

Obj = dict[str, Any]

MACHINE = "Standard_NC24ads_A100_v4"
NAME, NAMESPACE = "w", "ml"
KINDS = (
    "Workspace",
    "NodeClaim",
    "Node",
    "StatefulSet",
    "Pod",
    "Service",
    "PersistentVolumeClaim",
    "ControllerRevision",
)
GRACEFUL = frozenset({"Workspace", "NodeClaim", "Pod"})


class Conflict(Exception):
    """A write that was refused for the version of the object."""


class Cluster:
    """Objects by kind and name, a clock, and the controllers."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.count = 0
        self.objects: dict[str, dict[str, Obj]] = {kind: {} for kind in KINDS}
        #: What the servers give a share of the requests to: percent by digest.
        self.canaries: dict[str, float] = {}

    # -- what an API server does ------------------------------------------------------------------------------------

    def put(self, kind: str, obj: Mapping[str, Any]) -> Obj:
        self.count += 1
        meta = {**obj["metadata"], "resourceVersion": str(self.count)}
        kept: Obj = {**obj, "metadata": meta}
        self.objects[kind][meta["name"]] = kept
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and kind == "Workspace":
            del self.objects[kind][meta["name"]]
        return kept

    def create(self, kind: str, obj: Mapping[str, Any]) -> Obj:
        name = obj["metadata"]["name"]
        if name in self.objects[kind]:
            return self.objects[kind][name]
        self.count += 1
        meta = {
            **obj["metadata"],
            "uid": f"{self.count:08x}-{kind}",
            "creationTimestamp": timestamp(self.now),
        }
        return self.put(kind, {**obj, "metadata": meta})

    def change(self, kind: str, obj: Obj, status: Mapping[str, Any] | None = None, **meta: Any) -> Obj:
        changed = {**obj, "metadata": {**obj["metadata"], **meta}}
        if status is not None:
            changed["status"] = {**(obj.get("status") or {}), **status}
        return self.put(kind, changed)

    def delete(self, kind: str, name: str, uid: str = "") -> None:
        obj = self.objects[kind].get(name)
        if obj is None or (uid and obj["metadata"]["uid"] != uid):
            return
        if kind in GRACEFUL:
            if not obj["metadata"].get("deletionTimestamp"):
                self.change(kind, obj, deletionTimestamp=timestamp(self.now))
        else:
            del self.objects[kind][name]

    def find(self, kind: str, name: str) -> Obj | None:
        return self.objects[kind].get(name)

    def all(self, kind: str) -> list[Obj]:
        return list(self.objects[kind].values())

    @property
    def workspace(self) -> Obj | None:
        return self.find("Workspace", NAME)

    def children(self, component: str) -> list[Obj]:
        return [p for p in self.all("Pod") if label(p, names.COMPONENT) == component]

    def claims(self, purpose: str) -> list[Obj]:
        return [c for c in self.all("NodeClaim") if label(c, names.POOL) == purpose]

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- what controllers do ----------------------------------------------------------------------------------------

    def tick(self, kinds: Iterable[str] = KINDS) -> None:
        for kind in kinds:
            step = getattr(self, f"_tick_{kind.lower()}", None)
            for obj in self.all(kind):
                if step:
                    step(obj)
        self._collect()

    def _tick_workspace(self, obj: Obj) -> None:
        if going(obj) and not obj["metadata"].get("finalizers"):
            self.objects["Workspace"].pop(NAME, None)

    def _tick_nodeclaim(self, obj: Obj) -> None:
        name = obj["metadata"]["name"]
        if going(obj):
            self.objects["Node"].pop(f"node-{name}", None)
            del self.objects["NodeClaim"][name]
        elif not (obj.get("status") or {}).get("nodeName"):
            steps = ("Launched", "Registered", "Initialized", "Ready")
            conditions = [{"type": step, "status": "True", "reason": step} for step in steps]
            self.change("NodeClaim", obj, status={"nodeName": f"node-{name}", "conditions": conditions})
            labels = obj["metadata"]["labels"]
            self.create(
                "Node",
                {"metadata": {"name": f"node-{name}", "labels": labels}, "status": node_status("True")},
            )

    def _tick_pod(self, obj: Obj) -> None:
        name, phase = obj["metadata"]["name"], obj["status"]["phase"]
        node = obj["spec"].get("nodeName")
        lost = node is not None and node != "cpu" and node not in self.objects["Node"]
        if going(obj) or lost:
            del self.objects["Pod"][name]
        elif phase == "Pending":
            where = self._place(obj)
            if where:
                ready = [{"name": "main", "ready": True, "state": {"running": {}}, "restartCount": 0}]
                moved = {**obj, "spec": {"nodeName": where}}
                self.change("Pod", moved, status={"phase": "Running", "containerStatuses": ready})

    def _place(self, pod: Obj) -> str | None:
        component = label(pod, names.COMPONENT)
        if component in ("dataset", "adapter"):
            return "cpu"
        nodes = [n for n in self.all("Node") if label(n, names.POOL) == component and is_ready(n)]
        return nodes[0]["metadata"]["name"] if nodes else None

    def _tick_statefulset(self, obj: Obj) -> None:
        meta = obj["metadata"]
        if label(obj, names.COMPONENT) != "serving":
            return
        pod = self.find("Pod", f"{meta['name']}-0")
        wanted = obj["spec"]["replicas"]
        if pod is not None and not wanted:
            self.delete("Pod", pod["metadata"]["name"])
        elif pod is None and wanted:
            labels = {**meta["labels"]}
            owner = {"kind": "StatefulSet", "name": meta["name"], "uid": meta["uid"], "controller": True}
            manifest = {"metadata": {"name": f"{meta['name']}-0", "namespace": NAMESPACE, "labels": labels}}
            manifest["metadata"]["ownerReferences"] = [owner]
            self.create("Pod", {**manifest, "spec": {}, "status": {"phase": "Pending"}})
        elif pod is not None and label(pod, names.RUN_ID) != label(obj, names.RUN_ID):
            self.delete("Pod", pod["metadata"]["name"])  # a rolling update
        node = self.find("Node", (pod or {}).get("spec", {}).get("nodeName") or "")
        ready = int(
            bool(pod and not going(pod) and pod["status"]["phase"] == "Running" and node and is_ready(node))
        )
        current = label(pod, names.RUN_ID) == label(obj, names.RUN_ID) if pod else False
        status = {
            "readyReplicas": ready,
            "updatedReplicas": int(current),
            "observedGeneration": meta["generation"],
        }
        if status != obj.get("status"):
            self.change("StatefulSet", obj, status=status)

    def _collect(self) -> None:
        """Garbage collection by owner."""
        uids = {o["metadata"]["uid"] for kind in ("Workspace", "StatefulSet") for o in self.all(kind)}
        for kind in ("Pod", "StatefulSet", "Service", "PersistentVolumeClaim", "ControllerRevision"):
            for obj in self.all(kind):
                owners = obj["metadata"].get("ownerReferences") or ()
                if (
                    owners
                    and owners[0]["kind"] in ("Workspace", "StatefulSet")
                    and owners[0]["uid"] not in uids
                ):
                    self.delete(kind, obj["metadata"]["name"])


def label(obj: Mapping[str, Any], key: str) -> str:
    return (obj["metadata"].get("labels") or {}).get(key) or ""


def going(obj: Mapping[str, Any]) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def node_status(ready: str, since: str | None = None) -> Obj:
    condition = {"type": "Ready", "status": ready, **({"lastTransitionTime": since} if since else {})}
    return {"conditions": [condition], "allocatable": {"nvidia.com/gpu": "1"}}


def is_ready(node: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"]["conditions"])
