"""Which things the janitor would delete, and why it keeps the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from include.janitor import OrphanAction, Rules, find_orphans, judge, questions
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.janitor_world import (
    EARLIER,
    LONG_AGO,
    NOW,
    agent_pool,
    child,
    claim,
    everything,
    node,
    node_pool,
    pod,
    reference,
    run_id,
    said,
    seen,
    stateful_set,
    volume,
    workspace,
)
from tests.support.pools import RawInventory

RULES = Rules()
OVER = {("kaito_tune", run_id()): "success", ("kaito_serve", run_id()): "success"}


def verdicts(**parts: Any) -> dict[str, str]:
    """Fates, with all things seen as orphans for an hour."""
    return {v.thing.kind: v.action for v in _judge(**parts)}


def reason(**parts: Any) -> str:
    (found,) = _judge(**parts)
    return found.reason


def _judge(**parts: Any) -> list[Any]:
    inventory = RawInventory(**parts)
    return judge(replace(inventory, seen=parts.get("seen") or seen(*everything(inventory))), NOW, RULES)


ALL = {
    "pods": [pod("tuning", node="node-1")],
    "stateful_sets": [stateful_set()],
    "services": [child("ws", "serving"), child("ws-headless", "serving")],
    "config_maps": [child("ws-g1-tuning", "tuning")],
    "volume_claims": [volume()],
    "node_claims": [claim("tuning"), claim("serving", node="node-2")],
    "node_pools": [node_pool()],
    "agent_pools": [agent_pool()],
}


def test_everything_of_a_workspace_that_is_gone_goes_makers_first_and_volumes_last() -> None:
    found = _judge(**ALL)
    assert {v.action for v in found} == {OrphanAction.DELETE}
    assert [v.thing.kind for v in found] == [
        "StatefulSet",
        "Service",
        "Service",
        "Pod",
        "ConfigMap",
        "NodePool",
        "NodeClaim",
        "NodeClaim",
        "AgentPool",
        "PersistentVolumeClaim",
    ]
    assert all(v.reason == "Workspace default/ws is gone" for v in found)


def test_nothing_of_a_workspace_at_work_goes() -> None:
    runs = {("kaito_tune", run_id()): "running"}
    found = _judge(**ALL, workspaces=[workspace(state="started")], runs=runs)
    assert {v.action for v in found} == {OrphanAction.KEEP}
    told = {v.thing.name: v.reason for v in found}
    assert told["wstuning"] == f"run {run_id()} of its Workspace is under way"
    assert told["ws-work"] == "Workspace default/ws exists and owns it"
    assert told["wsserving"] == "the service of its Workspace stands"


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"deletionTimestamp": timestamp(NOW)}, "being deleted"),
        ({"annotations": {names.PAUSED: "true"}}, "paused"),
    ],
)
def test_a_workspace_in_other_hands_keeps_what_it_owns(meta: dict[str, Any], words: str) -> None:
    live = workspace(state="failed", **meta)
    assert words in reason(node_claims=[claim()], workspaces=[live], runs=OVER)


def test_upstream_keeps_its_workspaces_but_not_those_of_airflow() -> None:
    parts = {"node_claims": [claim()], "runs": OVER, "upstream": "KAITO's own controller"}
    assert "works on its Workspace" in reason(**parts, workspaces=[workspace()])
    ours = workspace(annotations={names.MANAGED_BY: "airflow"})
    assert verdicts(**parts, workspaces=[ours]) == {"NodeClaim": "delete"}


@pytest.mark.parametrize("state", ["success", "failed"])
def test_what_only_a_run_needs_goes_when_it_is_over(state: str) -> None:
    live = workspace(state=state)
    assert verdicts(pods=[pod("tuning", phase="Succeeded")], workspaces=[live], runs=OVER) == {
        "Pod": "delete"
    }
    assert verdicts(node_claims=[claim()], workspaces=[live], runs=OVER) == {"NodeClaim": "delete"}
    assert verdicts(agent_pools=[agent_pool()], workspaces=[live], runs=OVER) == {"AgentPool": "delete"}
    assert verdicts(node_pools=[node_pool()], workspaces=[live], runs=OVER) == {"NodePool": "delete"}


@pytest.mark.parametrize("airflow", ["queued", "running"])
def test_a_run_whose_tasks_were_cleared_is_at_work_whatever_the_status_says(airflow: str) -> None:
    runs = {("kaito_tune", run_id()): airflow}
    assert "under way" in reason(node_claims=[claim()], workspaces=[workspace()], runs=runs)


def test_an_answer_that_is_missing_counts_as_work() -> None:
    assert "is not known" in reason(node_claims=[claim()], workspaces=[workspace()])


def test_a_lost_run_is_over_only_if_the_status_says_so() -> None:
    lost = {("kaito_tune", run_id()): None}
    assert "lost" in reason(node_claims=[claim()], workspaces=[workspace(state="started")], runs=lost)
    assert verdicts(node_claims=[claim()], workspaces=[workspace()], runs=lost) == {"NodeClaim": "delete"}


def test_a_generation_that_nobody_has_taken_up_keeps_the_machines_of_the_last_one() -> None:
    live = workspace()
    live["metadata"]["generation"] = 2
    assert "generation 2 is not finished" in reason(node_claims=[claim()], workspaces=[live], runs=OVER)


def test_a_run_that_is_about_to_start_or_to_be_repeated_keeps_the_machines() -> None:
    waiting = workspace(state="waiting")
    assert "about to start" in reason(node_claims=[claim()], workspaces=[waiting], runs=OVER)
    soon = workspace(state="failed")
    soon["status"]["retry"] = {"after": timestamp(NOW + timedelta(minutes=3))}
    assert "due soon" in reason(node_claims=[claim()], workspaces=[soon], runs=OVER)


def test_another_attempt_of_the_workspace_is_asked_about_by_its_own_id() -> None:
    second = claim(run=run_id(attempt=2))
    parts = {"node_claims": [second], "workspaces": [workspace()]}
    asked = questions(RawInventory(**parts, runs=OVER), NOW, RULES)
    assert asked.runs == (("kaito_serve", run_id(attempt=2)), ("kaito_tune", run_id(attempt=2)))
    runs = {**OVER, ("kaito_tune", run_id(attempt=2)): None, ("kaito_serve", run_id(attempt=2)): "running"}
    assert "r2 is under way" in reason(**parts, runs=runs)
    runs[("kaito_serve", run_id(attempt=2))] = "failed"
    assert verdicts(**parts, runs=runs) == {"NodeClaim": "delete"}


def test_a_run_whose_id_cannot_be_told_is_over_only_when_none_is_under_way() -> None:
    parts = {"node_claims": [claim(run="manual__2026-11-23T09:00:00+00:00")], "workspaces": [workspace()]}
    assert questions(RawInventory(**parts, runs=OVER), NOW, RULES).dags == ("kaito_serve", "kaito_tune")
    assert "is not known" in reason(**parts, runs=OVER)
    busy = {"kaito_tune": True, "kaito_serve": False}
    assert "may be among those under way" in reason(**parts, runs=OVER, busy=busy)
    idle = dict.fromkeys(busy, False)
    assert verdicts(**parts, runs=OVER, busy=idle) == {"NodeClaim": "delete"}


def test_nothing_is_asked_about_what_is_kept_anyway() -> None:
    parts = {**ALL, "node_claims": [claim("serving")], "pods": [], "node_pools": [], "agent_pools": []}
    asked = questions(RawInventory(**parts, workspaces=[workspace(state="started")]), NOW, RULES)
    assert (asked.runs, asked.dags, asked.nodes, asked.namespaces) == ((), (), (), ())


def test_what_is_new_is_not_worth_a_question() -> None:
    new = claim(created=NOW - timedelta(minutes=14))
    asked = questions(RawInventory(node_claims=[new], workspaces=[workspace(state="started")]), NOW, RULES)
    assert asked.runs == ()


def test_serving_machines_stay_while_a_service_may_use_them() -> None:
    parts = {"workspaces": [workspace(tunes=False)], "runs": OVER}
    machine = claim("serving")
    pending = pod("serving", phase="Pending")
    assert (
        _action_on(_judge(node_claims=[machine], stateful_sets=[stateful_set()], **parts))
        == OrphanAction.KEEP
    )
    assert _action_on(_judge(node_claims=[machine], pods=[pending], **parts)) == OrphanAction.KEEP
    assert _action_on(_judge(node_claims=[machine], **parts)) == OrphanAction.DELETE
    idle = stateful_set(replicas=0)
    assert _action_on(_judge(node_claims=[machine], stateful_sets=[idle], **parts)) == OrphanAction.DELETE


def test_a_machine_that_was_handed_over_stays_while_its_run_pushes_and_goes_when_the_run_is_over() -> None:
    """It serves by its labels, bears the name of a tuning machine, and there is no service yet."""
    machine, tuning = claim("serving", name="wstuning"), ("kaito_tune", run_id())
    parts: dict[str, Any] = {"node_claims": [machine]}
    started = workspace(state="started")
    assert "under way" in reason(**parts, workspaces=[started], runs={tuning: "running"})
    assert "is not known" in reason(**parts, workspaces=[started])
    for state in ("failed", "success"):
        live = workspace(state=state)
        told = reason(**parts, workspaces=[live], runs={tuning: state})
        assert told == f"run {run_id()} is over and there is no service"
        assert verdicts(**parts, workspaces=[live], runs={tuning: state}) == {"NodeClaim": "delete"}
    assert verdicts(**parts) == {"NodeClaim": "delete"}, "its Workspace is gone"


def _action_on(found: list[Any]) -> OrphanAction:
    return next(v.action for v in found if v.thing.kind == "NodeClaim")


def test_machines_of_an_earlier_workspace_of_the_name_go_unless_the_new_one_serves_on_them() -> None:
    old = claim("serving", uid=EARLIER)
    parts = {"workspaces": [workspace(tunes=False)], "runs": OVER}
    assert "earlier Workspace default/ws (bbbbbbbb)" in reason(node_claims=[old], **parts)
    assert _action_on(_judge(node_claims=[old], **parts)) == OrphanAction.DELETE
    assert _action_on(_judge(node_claims=[old], stateful_sets=[stateful_set()], **parts)) == OrphanAction.KEEP


def test_a_volume_of_an_earlier_workspace_goes_and_one_that_a_pod_mounts_stays() -> None:
    parts = {"volume_claims": [volume(uid=EARLIER)], "workspaces": [workspace()], "runs": OVER}
    assert verdicts(**parts) == {"PersistentVolumeClaim": "delete"}
    mounts = {"volumes": [{"persistentVolumeClaim": {"claimName": "ws-work"}}]}
    other = {"metadata": {"name": "notebook", "namespace": "default", "uid": "n"}, "spec": mounts}
    assert "Pod default/notebook uses it" in reason(**parts, others=[other])


def test_a_pod_of_anybody_on_its_node_keeps_a_machine_and_equipment_does_not() -> None:
    machine, work = claim(), {"metadata": {"name": "job", "namespace": "team", "uid": "j"}}
    work["spec"] = {"nodeName": "node-1"}
    assert "but Pod team/job runs on its node node-1" in reason(node_claims=[machine], others=[work])
    ended = {**work, "status": {"phase": "Succeeded"}}
    assert verdicts(node_claims=[machine], others=[ended]) == {"NodeClaim": "delete"}
    driver = {
        **work,
        "metadata": {**work["metadata"], "ownerReferences": [reference("DaemonSet", "gpu", "d")]},
    }
    assert verdicts(node_claims=[machine], others=[driver]) == {"NodeClaim": "delete"}


def test_a_pod_that_is_not_going_keeps_its_machine() -> None:
    kept = pod("tuning", node="node-1", annotations={names.KEEP: "true"})
    found = said(_judge(pods=[kept], node_claims=[claim()]))
    assert found == {"Pod/ws-g1-tuning-x7": "keep", "NodeClaim/wstuning": "keep"}


def test_pods_of_a_statefulset_go_with_it_and_free_their_machine() -> None:
    parts = {"pods": [pod("serving", node="node-2")], "node_claims": [claim("serving", node="node-2")]}
    found = said(_judge(**parts, stateful_sets=[stateful_set()]))
    assert found == {"StatefulSet/ws": "delete", "Pod/ws-0": "keep", "NodeClaim/wsserving": "delete"}
    assert said(_judge(**parts)) == {"Pod/ws-0": "keep", "NodeClaim/wsserving": "keep"}


def test_agent_pools_and_node_pools_are_in_use_by_their_nodes_labels() -> None:
    work = {"metadata": {"name": "job", "namespace": "team", "uid": "j"}, "spec": {"nodeName": "aks-1"}}
    nodes = [node("aks-1", **{"kubernetes.azure.com/agentpool": "wsabc"})]
    assert "runs on its node aks-1" in reason(agent_pools=[agent_pool()], nodes=nodes, others=[work])
    nodes = [node("aks-1", **{"karpenter.sh/nodepool": "default-ws-tuning"})]
    assert "runs on its node aks-1" in reason(node_pools=[node_pool()], nodes=nodes, others=[work])


def test_a_nodepools_machines_are_judged_with_it() -> None:
    made = claim(ownerReferences=[{"kind": "NodePool", "name": "default-ws-tuning", "uid": "uid-p"}])
    assert "goes or stays with NodePool default-ws-tuning" in reason(node_claims=[made])


def test_what_was_kept_on_request_stays() -> None:
    kept = {"annotations": {names.KEEP: "true"}}
    assert "on request" in reason(node_claims=[claim(**kept)])
    assert "on request" in reason(agent_pools=[agent_pool(**{"kaito-keep": "true"})])
    assert verdicts(node_claims=[claim(annotations={names.KEEP: "false"})]) == {"NodeClaim": "delete"}


def test_what_is_going_is_left_to_go() -> None:
    going = {"deletionTimestamp": timestamp(LONG_AGO), "finalizers": ["karpenter.sh/termination"]}
    assert "held by its finalizers karpenter.sh/termination" in reason(node_claims=[claim(**going)])
    assert "its state is Deleting" in reason(agent_pools=[agent_pool(state="Deleting")])


def _bare(obj: dict[str, Any], *without: str) -> dict[str, Any]:
    labels = {k: v for k, v in obj["metadata"]["labels"].items() if k not in without}
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


UPSTREAM_LABELS_ONLY = (names.RUN_ID, names.COMPONENT, names.POOL)


@pytest.mark.parametrize(
    "parts",
    [
        {"node_claims": [_bare(claim(), *UPSTREAM_LABELS_ONLY)]},
        {"node_claims": [_bare(claim(), names.POOL)]},
        {"node_claims": [_bare(claim(), names.WORKSPACE_NAMESPACE)]},
        {"node_claims": [_bare(claim(), names.WORKSPACE)]},
        {"stateful_sets": [_bare(stateful_set(), *UPSTREAM_LABELS_ONLY)]},
        {"pods": [_bare(pod(), names.RUN_ID)]},
        {"volume_claims": [child("my-data", "tuning")]},
        {"services": [child("ws-public", "serving")]},
        {"config_maps": [child("ws-config", "tuning")]},
        {"stateful_sets": [child("other", "serving", run=run_id())]},
        {"agent_pools": [agent_pool(**{"kaito-managed-by": "somebody"})]},
        {"pods": [pod(ownerReferences=[reference("Job", "mine", "j")])]},
        {"volume_claims": [{"metadata": {**volume()["metadata"], "namespace": "team"}}]},
    ],
)
def test_what_is_not_ours_is_never_touched(parts: dict[str, Any]) -> None:
    assert set(verdicts(**parts).values()) == {"keep"}


def test_grace_runs_from_creation_and_from_the_first_look_that_saw_an_orphan() -> None:
    def action(created: int, since: int | None) -> str:
        thing = claim(created=NOW - timedelta(minutes=created))
        known = {} if since is None else seen(thing, since=NOW - timedelta(minutes=since))
        (found,) = find_orphans(RawInventory(node_claims=[thing], seen=known), NOW, RULES)
        return f"{found.action}: {found.reason.partition('; ')[2]}"

    assert action(14, 14) == "wait: it is 14 min old, and waits until it is 15 min"
    assert action(300, None) == "wait: an orphan for 0 s, it goes in 15 min at the earliest"
    assert action(300, 10) == "wait: an orphan for 10 min, it goes in 5 min at the earliest"
    assert action(15, 15) == "delete: "


def test_an_agent_pool_which_tells_no_age_waits_from_the_first_look() -> None:
    (found,) = find_orphans(RawInventory(agent_pools=[agent_pool()]), NOW, RULES)
    assert found.action == OrphanAction.WAIT
    assert found.since == NOW


def test_users_are_looked_for_where_something_may_go() -> None:
    parts = {"node_claims": [claim()], "volume_claims": [volume()]}
    asked = questions(RawInventory(**parts), NOW, RULES)
    assert (asked.nodes, asked.namespaces) == (("node-1",), ("default",))
