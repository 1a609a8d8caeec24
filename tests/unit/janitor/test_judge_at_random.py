"""Random clusters: whatever is in use, foreign, young or kept is never among the deletions.

The oracle below reads the raw objects in its own way, so that an error of the judgement is not repeated here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from include.janitor import OrphanAction, Rules, judge, questions
from include.workspace.status.conditions import timestamp
from tests.support.janitor_world import (
    EARLIER,
    NOW,
    UID,
    agent_pool,
    child,
    claim,
    node,
    node_pool,
    pod,
    reference,
    run_id,
    stateful_set,
    volume,
    workspace,
)
from tests.support.pools import RawInventory

GRACE = Rules().grace
AGES = [0, 5, 14, 15, 16, 300]
NODES = ["node-1", "node-2", ""]
UIDS = [UID, EARLIER]
OWNERS = ["ws", "other"]
STATES = ["queued", "running", "success", "failed", None]


@st.composite
def workspaces(draw: st.DrawFn, name: str) -> dict[str, Any] | None:
    if draw(st.booleans()):
        return None
    meta: dict[str, Any] = {}
    if draw(st.integers(0, 5)) == 0:
        meta["deletionTimestamp"] = timestamp(NOW)
    if draw(st.integers(0, 5)) == 0:
        meta["annotations"] = {"kaito.sh/paused": "true"}
    state = draw(st.sampled_from(["waiting", "started", "success", "failed", "success", "failed", ""]))
    found = workspace(name, uid=draw(st.sampled_from(UIDS)), state=state, tunes=draw(st.booleans()), **meta)
    if draw(st.integers(0, 4)) == 0:
        found["metadata"]["generation"] = 2
    return found


@st.composite
def things(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    owner, uid = draw(st.sampled_from(OWNERS)), draw(st.sampled_from(UIDS))
    created = NOW - timedelta(minutes=draw(st.sampled_from(AGES)))
    run = draw(st.sampled_from([run_id(owner, uid), run_id(owner, uid, 2), "manual__2026-11-23T09:00:00Z"]))
    common = {"owner": owner, "uid": uid, "created": created}
    purpose = draw(st.sampled_from(["tuning", "serving"]))
    kind = draw(st.sampled_from(["pods", "sets", "services", "maps", "volumes", "claims", "pools", "agents"]))
    made: dict[str, Any]
    match kind:
        case "pods":
            component = draw(st.sampled_from(["tuning", "dataset", "serving"]))
            phase = draw(st.sampled_from(["Running", "Succeeded", "Pending"]))
            mounts = {"volumes": [{"persistentVolumeClaim": {"claimName": f"{owner}-work"}}]}
            at = draw(st.sampled_from(NODES))
            made = pod(component, run=run, node=at, phase=phase, spec=mounts, **common)
        case "sets":
            made = stateful_set(owner, draw(st.sampled_from([0, 1])), uid=uid, created=created, run=run)
        case "services":
            made = child(owner, "serving", **common)
        case "maps":
            made = child(f"{owner}-g1-tuning", "tuning", **common)
        case "volumes":
            made = volume(**common)
        case "claims":
            made = claim(purpose, run=run, node=draw(st.sampled_from(NODES)), **common)
        case "pools":
            made = node_pool(purpose=purpose, run=run, **common)
        case _:
            made = agent_pool(owner, purpose)
    return kind, _spoiled(draw, kind, made)


def _spoiled(draw: st.DrawFn, kind: str, made: dict[str, Any]) -> dict[str, Any]:
    what = draw(st.sampled_from(["", "", "", "label", "keep", "going", "owner"]))
    if kind == "agents":
        tags = made["properties"]["tags"]
        if what in ("label", "owner"):
            tags.pop("kaito-managed-by")
        if what == "keep":
            tags["kaito-keep"] = "true"
        return made
    meta = made["metadata"]
    if what == "label":
        meta["labels"].pop("kaito.sh/workspace")
    if what == "keep":
        meta["annotations"] = {"kaito.sh/keep": "true"}
    if what == "going":
        meta["deletionTimestamp"] = timestamp(NOW)
    if what == "owner":
        meta["ownerReferences"] = [reference("Deployment", "mine", "d")]
    return made


@st.composite
def snapshots(draw: st.DrawFn) -> RawInventory:
    live = [ws for name in OWNERS if (ws := draw(workspaces(name))) is not None]
    lists: dict[str, list[Any]] = {}
    for index, (kind, thing) in enumerate(draw(st.lists(things(), max_size=12))):
        if "metadata" in thing:
            thing["metadata"]["uid"] = f"uid-{index}"
        lists.setdefault(kind, []).append(thing)
    others = []
    for index in range(draw(st.integers(0, 2))):
        spec = {"nodeName": draw(st.sampled_from(NODES))}
        others.append(
            {"metadata": {"name": f"o{index}", "namespace": "team", "uid": f"o{index}"}, "spec": spec}
        )
    every = [(ws["status"].get("run") or {}).get("id") for ws in live]
    every += [run_id(owner, uid, n) for owner in OWNERS for uid in UIDS for n in (1, 2)]
    runs = {}
    for run in sorted({r for r in every if r}):
        for dag in ("kaito_tune", "kaito_serve"):
            if draw(st.integers(0, 9)):
                runs[dag, run] = draw(st.sampled_from(STATES))
    keys = [f"uid-{n}" for n in range(12)] + ["AgentPool/wsabc"]
    since = {k: NOW - timedelta(minutes=draw(st.sampled_from(AGES))) for k in keys if draw(st.integers(0, 3))}
    pool_nodes = {"kubernetes.azure.com/agentpool": "wsabc"}, {"karpenter.sh/nodepool": "default-ws-tuning"}
    return RawInventory(
        workspaces=live,
        pods=lists.get("pods", []),
        stateful_sets=lists.get("sets", []),
        services=lists.get("services", []),
        config_maps=lists.get("maps", []),
        volume_claims=lists.get("volumes", []),
        node_claims=lists.get("claims", []),
        node_pools=lists.get("pools", []),
        agent_pools=lists.get("agents", [])[
            :1
        ],  # names are unique in a cloud, and the oracle finds it by name
        nodes=[node("node-1", **pool_nodes[0]), node("node-2", **pool_nodes[1])],
        others=others,
        runs=runs,
        busy=draw(st.sampled_from([{}, {"kaito_tune": False, "kaito_serve": False}, {"kaito_tune": True}])),
        seen=since,
    )


class Oracle:
    """What must never be deleted, told from the raw objects."""

    def __init__(self, inventory: RawInventory, deleted: set[str]) -> None:
        self.inventory, self.deleted = inventory, deleted
        self.live = {ws["metadata"]["name"]: ws for ws in inventory.workspaces}

    def foreign(self, obj: dict[str, Any], labels: dict[str, str], owners: list[Any]) -> bool:
        if "metadata" not in obj:
            return "kaito-managed-by" not in obj["properties"]["tags"]
        return "kaito.sh/workspace" not in labels or any(o["kind"] == "Deployment" for o in owners)

    def at_work(self, labels: dict[str, str]) -> bool:
        """Whether the Workspace of these labels lives, and a run of it is not known to be over."""
        live = self.live.get(labels.get("kaito.sh/workspace", ""))
        if live is None:
            return False
        meta, run = live["metadata"], live["status"].get("run")
        if meta.get("deletionTimestamp") or (meta.get("annotations") or {}).get("kaito.sh/paused"):
            return True
        if not run or run["generation"] != meta["generation"] or run["state"] == "waiting":
            return True
        answer = self.inventory.runs.get((run["dag"], run["id"]), "silence")
        if answer is None:
            return bool(run["state"] == "started")
        return answer in ("queued", "running", "silence")

    def pods_on(self, nodes: set[str]) -> bool:
        """Whether somebody works there who does not go in this sweep (alone or with its StatefulSet)."""
        for one in [*self.inventory.pods, *self.inventory.others]:
            phase = (one.get("status") or {}).get("phase")
            by = {o["uid"] for o in one["metadata"].get("ownerReferences", []) if o["kind"] == "StatefulSet"}
            going = one["metadata"]["uid"] in self.deleted or bool(by & self.deleted)
            if phase != "Succeeded" and not going and one["spec"].get("nodeName") in nodes - {""}:
                return True
        return False

    def mounted(self, name: str) -> bool:
        for one in self.inventory.pods:
            names = {v["persistentVolumeClaim"]["claimName"] for v in one["spec"].get("volumes", [])}
            by = {o["uid"] for o in one["metadata"].get("ownerReferences", [])}
            going = one["metadata"]["uid"] in self.deleted or bool(by & self.deleted)
            if name in names and one["status"]["phase"] != "Succeeded" and not going:
                return True
        return False


def _nodes(kind: str, obj: dict[str, Any], inventory: RawInventory) -> set[str]:
    if kind == "NodeClaim":
        return {obj.get("status", {}).get("nodeName", "")}
    if kind == "AgentPool":
        return {"node-1"}
    return {"node-2"} if obj["metadata"]["name"] == "default-ws-tuning" else set()


@settings(max_examples=250, deadline=None)
@given(snapshots())
def test_what_is_in_use_foreign_young_or_kept_is_never_deleted(inventory: RawInventory) -> None:
    found = judge(inventory, NOW, Rules())
    gone = [v for v in found if v.action == OrphanAction.DELETE]
    oracle = Oracle(inventory, {v.thing.uid for v in gone if v.thing.uid})
    raw = {("AgentPool", p["name"]): p for p in inventory.agent_pools}
    for objects in (
        inventory.pods,
        inventory.stateful_sets,
        inventory.services,
        inventory.config_maps,
        inventory.volume_claims,
        inventory.node_claims,
        inventory.node_pools,
    ):
        raw |= {("", str(o["metadata"]["uid"])): o for o in objects}
    for verdict in gone:
        thing = verdict.thing
        obj = raw[("", thing.uid) if thing.uid else ("AgentPool", thing.name)]
        meta = obj.get("metadata") or {}
        labels = meta.get("labels") or obj["properties"]["nodeLabels"]
        assert not oracle.foreign(obj, labels, meta.get("ownerReferences") or [])
        assert (meta.get("annotations") or {}).get("kaito.sh/keep") != "true"
        assert not meta.get("deletionTimestamp")
        assert NOW - inventory.seen.get(thing.key, NOW) >= GRACE
        if meta:
            assert meta["creationTimestamp"] <= timestamp(NOW - GRACE)
        assert not oracle.at_work(labels)
        if thing.kind in ("NodeClaim", "NodePool", "AgentPool"):
            assert not oracle.pods_on(_nodes(thing.kind, obj, inventory))
        if thing.kind == "PersistentVolumeClaim":
            assert not oracle.mounted(thing.name)


@settings(max_examples=60, deadline=None)
@given(snapshots())
def test_each_thing_has_one_verdict_in_a_sentence_and_judging_changes_nothing(
    inventory: RawInventory,
) -> None:
    before = repr(inventory)
    found = judge(inventory, NOW, Rules())
    assert len(found) == sum(
        len(objects)
        for objects in (
            inventory.pods,
            inventory.stateful_sets,
            inventory.services,
            inventory.config_maps,
            inventory.volume_claims,
            inventory.node_claims,
            inventory.node_pools,
            inventory.agent_pools,
        )
    )
    assert all(verdict.reason for verdict in found)
    asked = questions(inventory, NOW, Rules())
    assert not set(asked.runs) & set(inventory.runs)
    assert repr(inventory) == before
