"""A cluster in memory at the hook's boundary, and the part of a task instance that operators use."""

from __future__ import annotations

import builtins
import copy
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from kaito.hooks import kubernetes as hooks
from kaito.hooks.api import CONFIG_MAP, EVENT, STORAGE_CLASS, WORKSPACE, ClusterError, Kind, Request
from kaito.hooks.cluster_calls import in_turn
from kaito.hooks.ownership import controller, refuse_foreign

RUN_ID = "default.workspace-tuning-phi-3.0123abcd.g1"

QUICK_START: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "workspace-tuning-phi-3", "namespace": "default"},
    "resource": {
        "instanceType": "Standard_NC6s_v3",
        "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}},
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/train.parquet?sig=SECRET"]},
        "output": {"image": "registry.example.com/adapters/phi:0.0.1", "imagePushSecret": "push"},
    },
}


class FakeCalls:
    """The fake's methods as the calls over a transport that answers at once."""

    blocking = True

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self.cluster, name)(*args, **kwargs)

        return call

    async def together(self, *calls: Any) -> list[Any]:
        return await in_turn(*calls)


class FakeCluster:
    """Objects by (plural, namespace, name); remembers what was written, and can be told to refuse."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.writes: list[tuple[str, str]] = []
        self.deleted: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], ClusterError] = {}
        self.answers: list[Any] = []
        self.said: list[Any] = []
        self.models: Any = None  # what a service lists, its model and adapters unless it is told
        self.lingering: set[str] = set()
        self.version: Any = {"major": "1", "minor": "33+"}
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        self.add(STORAGE_CLASS, {"metadata": {"name": "standard", "annotations": default}})
        #: What tasks left for Airflow to emit, by asset.
        self.outlets: dict[Any, SimpleNamespace] = defaultdict(lambda: SimpleNamespace(extra={}))

    @property
    def calls(self) -> FakeCalls:
        return FakeCalls(self)

    def _key(self, kind: Kind, name: str, namespace: str | None) -> tuple[str, str, str]:
        return kind.plural, (namespace or "default") if kind.namespaced else "", name

    def _check(self, verb: str, kind: Kind) -> None:
        if error := self.refuse.get((verb, kind.plural)):
            raise error

    def add(self, kind: Kind, obj: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = copy.deepcopy(dict(obj))
        metadata = kept["metadata"]
        metadata.setdefault("uid", f"uid-{len(self.objects)}")
        metadata.setdefault("generation", 1)
        metadata.setdefault("resourceVersion", "1")
        self.objects[self._key(kind, metadata["name"], metadata.get("namespace"))] = kept
        return kept

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        self._check("get", kind)
        return copy.deepcopy(self.objects.get(self._key(kind, name, namespace)))

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> list[dict[str, Any]]:
        self._check("list", kind)
        return [
            copy.deepcopy(obj)
            for (plural, ns, _), obj in sorted(self.objects.items())
            if plural == kind.plural
            and (not namespace or ns == namespace)
            and all((obj["metadata"].get("labels") or {}).get(k) == v for k, v in (labels or {}).items())
        ]

    def send(self, request: Request) -> dict[str, Any]:
        """Take a dry run, which stores nothing, unless the test refuses it; or a merge patch of metadata."""
        if request.method == "PATCH":
            return self._annotate(request)
        if request.path == "/version":
            if isinstance(self.version, ClusterError):
                raise self.version
            return dict(self.version)
        assert ("dryRun", "All") in request.query, "the fake stores nothing that is sent to it"
        refusal = self.refuse.get(("dry run", request.path.rpartition("/")[2]))
        if refusal:
            raise refusal
        return dict(request.body)

    def _annotate(self, request: Request) -> dict[str, Any]:
        """Bound to the uid and resourceVersion that it names, as the API server does it."""
        namespace, plural, name = request.path.split("/")[-3:]
        self._check("patch", Kind("", "", plural, ""))
        here = namespace if "/namespaces/" in request.path else ""
        kept = self.objects.get((plural, here, name))
        if kept is None:
            raise ClusterError(404, "NotFound", f"{plural} {name} not found")
        found, change = kept["metadata"], request.body["metadata"]
        for guard in ("uid", "resourceVersion"):
            if change.get(guard, found[guard]) != found[guard]:
                raise ClusterError(409, "Conflict", "the object has been modified")
        for part in ("annotations", "labels"):
            if part in change:
                found[part] = {**(found.get(part) or {}), **change[part]}
        found["resourceVersion"] = str(int(found["resourceVersion"]) + 1)
        return copy.deepcopy(kept)

    def events(self, namespace: str, name: str) -> builtins.list[dict[str, Any]]:
        return [one for one in self.list(EVENT, namespace) if one["involvedObject"].get("name") == name]

    def may(self, verb: str, kind: Kind) -> bool:
        return (verb, kind.plural) not in self.refuse

    def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        self._check("apply", kind)
        metadata = manifest["metadata"]
        refuse_foreign(kind, self.find(kind, metadata["name"], metadata.get("namespace")), manifest)
        self.writes.append((kind.plural, manifest["metadata"]["name"]))
        return copy.deepcopy(self.add(kind, manifest))

    def get_or_create(self, kind: Kind, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        self._check("create", kind)
        metadata = manifest["metadata"]
        existing = self.find(kind, metadata["name"], metadata.get("namespace"))
        if existing:
            if controller(manifest) is not None:
                refuse_foreign(kind, existing, manifest)
            return existing, False
        if kind is not EVENT:  # told beside the work, and counted by those who are about Events
            self.writes.append((kind.plural, metadata["name"]))
        return copy.deepcopy(self.add(kind, manifest)), True

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> bool:
        self._check("delete", kind)
        found = self.objects.get(self._key(kind, name, namespace), {}).get("metadata", {})
        if (uid and found.get("uid") != uid) or (version and found.get("resourceVersion") != version):
            return False
        self.writes.append((kind.plural, f"-{name}"))
        self.deleted.append((kind.plural, name))
        if name in self.lingering:
            return True
        return self.objects.pop(self._key(kind, name, namespace), None) is not None

    def delete_and_wait(self, kind: Kind, name: str, namespace: str | None = None, **_: Any) -> None:
        self.delete(kind, name, namespace)

    def patch_status(
        self,
        name: str,
        namespace: str,
        next_status: hooks.NextStatus,
        *,
        uid: str,
        generation: int,
        even_deleting: bool = False,
        begins: bool = False,
    ) -> dict[str, Any] | None:
        found = self.find(WORKSPACE, name, namespace)
        live = hooks.fence(found, name, uid, generation, even_deleting=even_deleting, begins=begins)
        status = next_status(live)
        if status is not None:
            self.objects[self._key(WORKSPACE, name, namespace)]["status"] = status
        return live

    def post_to_service(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_from_service(self, name: str, namespace: str, path: str, **_: Any) -> Any:
        """What a sidecar that has done all it was asked for says, unless an answer is prepared."""
        found = self.find(CONFIG_MAP, f"{name}-adapters", namespace) or {"data": {"adapters.json": "{}"}}
        listed = json.loads(found["data"]["adapters.json"]).get("adapters", [])
        if path == "v1/models":
            ids = ["base", *(one["name"] for one in listed or [{"name": name}])]
            return {"data": [{"id": one} for one in ids]} if self.models is None else self.models
        if self.said:
            return self.said.pop(0)
        return {
            "adapters": {
                one["name"]: {"image": one["image"], "digest": one["image"].partition("@")[2], "since": "s"}
                for one in listed
            }
        }

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        """Return a Workspace's condition, empty when it has none."""
        workspace = self.objects[self._key(WORKSPACE, name, "default")]
        found = (workspace.get("status") or {}).get("conditions") or []
        return next((c for c in found if c["type"] == type_), {})


class FakeTaskInstance:
    """The part of a task instance that operators use."""

    dag_id, run_id, task_id = "kaito_tune", RUN_ID, "finish"

    def __init__(self, xcoms: dict[str, Any], states: dict[str, str | None]) -> None:
        self.try_number, self.max_tries = 1, 0
        self.xcoms, self.states = xcoms, states

    def xcom_pull(self, task_ids: str) -> Any:
        return self.xcoms.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[f"pushed:{key}"] = value

    def get_task_states(self, **_: Any) -> dict[str, Any]:
        return {RUN_ID: dict(self.states)}
