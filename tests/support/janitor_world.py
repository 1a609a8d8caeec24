"""Small clusters for the janitor: Workspaces and their children as the API server returns them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.janitor import Verdict
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.pools import RawInventory

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=5)
UID = "aaaaaaaa-0000-0000-0000-000000000000"
EARLIER = "bbbbbbbb-0000-0000-0000-000000000000"
Obj = dict[str, Any]


def workspace(
    name: str = "ws", *, uid: str = UID, state: str = "success", tunes: bool = True, **meta: Any
) -> Obj:
    """A Workspace of generation 1 whose run is waiting, started, success or failed; "" for none."""
    part = {"tuning": {"method": "qlora"}} if tunes else {"inference": {"preset": {"name": "p"}}}
    found: Obj = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1, **meta},
        **part,
        "status": {},
    }
    if state:
        dag = "kaito_tune" if tunes else "kaito_serve"
        found["status"]["run"] = {"id": run_id(name, uid), "dag": dag, "generation": 1, "state": state}
    return found


def run_id(name: str = "ws", uid: str = UID, attempt: int = 1) -> str:
    return f"default.{name}.{uid[:8]}.g1" + (f".r{attempt}" if attempt > 1 else "")


def _meta(name: str, component: str, owner: str, run: str, created: datetime, **meta: Any) -> Obj:
    labels = {names.WORKSPACE: owner, names.WORKSPACE_NAMESPACE: "default", names.COMPONENT: component}
    labels |= {names.RUN_ID: names.run_id_label(run)} if run else {}
    uid = f"uid-{name}"
    return {
        "name": name,
        "uid": uid,
        "resourceVersion": "7",
        "labels": labels,
        "creationTimestamp": timestamp(created),
        **meta,
    }


def reference(kind: str, name: str, uid: str) -> Obj:
    group = "kaito.sh/v1beta1" if kind == "Workspace" else "apps/v1"
    return {"apiVersion": group, "kind": kind, "name": name, "uid": uid, "controller": True}


def pod(
    component: str = "tuning",
    *,
    owner: str = "ws",
    uid: str = UID,
    run: str | None = None,
    node: str = "",
    phase: str = "Running",
    created: datetime = LONG_AGO,
    spec: Obj | None = None,
    **meta: Any,
) -> Obj:
    name = f"{owner}-0" if component == "serving" else f"{owner}-g1-{component}-x7"
    by = [reference("Workspace", owner, uid)]
    if component == "serving":
        by = [reference("StatefulSet", owner, f"uid-{owner}")]
    meta = {"namespace": "default", "ownerReferences": by, **meta}
    run = run_id(owner, uid) if run is None else run
    found = {"metadata": _meta(name, component, owner, run, created, **meta), "status": {"phase": phase}}
    return {**found, "spec": {"nodeName": node, **(spec or {})}}


def child(name: str, component: str, *, owner: str = "ws", uid: str = UID, **more: Any) -> Obj:
    """A StatefulSet, Service, ConfigMap or PersistentVolumeClaim."""
    by = [reference("Workspace", owner, uid)] if uid else []
    meta = {"namespace": "default", "ownerReferences": by}
    run = more.pop("run", "")
    created = more.pop("created", LONG_AGO)
    return {"metadata": _meta(name, component, owner, run, created, **meta), **more}


def volume(owner: str = "ws", **more: Any) -> Obj:
    return child(f"{owner}-work", "tuning", owner=owner, **more)


def stateful_set(owner: str = "ws", replicas: int = 1, **more: Any) -> Obj:
    more.setdefault("run", run_id(owner))
    return child(owner, "serving", owner=owner, spec={"replicas": replicas}, **more)


def claim(
    purpose: str = "tuning",
    *,
    name: str = "",
    owner: str = "ws",
    uid: str = UID,
    run: str | None = None,
    node: str = "node-1",
    created: datetime = LONG_AGO,
    **meta: Any,
) -> Obj:
    name = name or f"{owner}{purpose}"
    found = _meta(name, "pool", owner, run_id(owner, uid) if run is None else run, created, **meta)
    found["labels"] |= {names.POOL: purpose}
    return {"metadata": found, "status": {"nodeName": node} if node else {}}


def node_pool(owner: str = "ws", purpose: str = "tuning", **more: Any) -> Obj:
    return claim(purpose, name=f"default-{owner}-{purpose}", owner=owner, node="", **more)


def agent_pool(
    owner: str = "ws", purpose: str = "tuning", *, state: str = "Succeeded", **tags: str
) -> dict[str, Any]:
    labels = claim(purpose, owner=owner)["metadata"]["labels"]
    return {
        "name": "wsabc",
        "properties": {
            "provisioningState": state,
            "eTag": "e1",
            "nodeLabels": labels,
            "tags": {"kaito-managed-by": "kaito-airflow", **tags},
        },
    }


def node(name: str = "node-1", **labels: str) -> Obj:
    return {"metadata": {"name": name, "labels": labels}}


def seen(*objects: Obj, since: datetime = NOW - timedelta(hours=1)) -> dict[str, datetime]:
    """As if each look of the last hour had seen these as orphans."""
    keys = (f"AgentPool/{o['name']}" if "name" in o else str(o["metadata"]["uid"]) for o in objects)
    return dict.fromkeys(keys, since)


def everything(inventory: RawInventory) -> list[Obj]:
    return [
        *inventory.pods,
        *inventory.stateful_sets,
        *inventory.services,
        *inventory.config_maps,
        *inventory.volume_claims,
        *inventory.node_claims,
        *inventory.node_pools,
        *inventory.agent_pools,
    ]


def said(verdicts: list[Verdict]) -> dict[str, str]:
    """What becomes of each thing, by kind and name."""
    return {f"{v.thing.kind}/{v.thing.name}": str(v.action) for v in verdicts}
