"""Machines that tuned go over to serving, and whatever is not certain, or ends the run afterwards, lets them go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kaito.hooks.api import NODE, STATEFUL_SET, ClusterError
from kaito.operators.hand_over import HandOverGpuPoolOperator
from kaito.providers.nodeclaim import NODE_CLAIM, NodeClaims

from include.contracts.purpose import Purpose
from include.planning import Plan
from tests.support.fake_cluster import FakeCluster
from tests.support.node_claims import node
from tests.support.tasks import claims, create, hand_over, release_if_failed

NAME = "workspace-tuning-phi-3"
Context = dict[str, Any]


def boots(cluster: FakeCluster, purpose: str) -> None:
    """Let each machine of a purpose join: its Node carries the labels of its claim."""
    for claim in cluster.list(NODE_CLAIM, labels={"kaito.sh/pool": purpose}):
        name = f"node-{claim['metadata']['name']}"
        ready = [
            {"type": step, "status": "True", "lastTransitionTime": "2026-11-29T10:00:00Z"}
            for step in ("Launched", "Registered", "Initialized", "Ready")
        ]
        claim["status"] = {"conditions": ready, "nodeName": name}
        cluster.add(NODE_CLAIM, claim)
        joined = node(name)
        joined["metadata"]["labels"] = dict(claim["metadata"]["labels"])
        cluster.add(NODE, joined)


def purposes(cluster: FakeCluster) -> list[str]:
    return [claim["metadata"]["labels"]["kaito.sh/pool"] for claim in cluster.list(NODE_CLAIM)]


def events(cluster: FakeCluster) -> list[str]:
    return [event["message"] for event in cluster.events("default", NAME) if "HandedOver" in event["reason"]]


@pytest.fixture
def tuned(cluster: FakeCluster, context: Context) -> Context:
    """A run whose tuning has succeeded on one machine."""
    create(cluster).execute(context)
    boots(cluster, "tuning")
    context["ti"].states = {"tune": "success"}
    return context


def test_machines_that_serve_next_are_not_waited_for(cluster: FakeCluster, tuned: Context) -> None:
    hand_over(cluster).execute(tuned)
    before = cluster.condition(NAME, "ResourceReady")
    create(cluster, "serving").execute(tuned)
    after = cluster.condition(NAME, "ResourceReady")
    assert (before["status"], after["status"]) == ("True", "True")
    assert "ready" in after["message"]
    assert cluster.objects["workspaces", "default", NAME]["status"]["workerNodes"], "they are still there"


def nodes_go_with_their_claims(cluster: FakeCluster) -> None:
    deletes = cluster.delete

    def delete(kind: Any, name: str, *args: Any, **kwargs: Any) -> bool:
        done = deletes(kind, name, *args, **kwargs)
        if done and kind is NODE_CLAIM:
            cluster.objects.pop(("nodes", "", f"node-{name}"), None)
        return done

    cluster.delete = delete  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def cloud(cluster: FakeCluster) -> None:
    nodes_go_with_their_claims(cluster)


def test_the_machine_that_tuned_is_the_one_that_serves(cluster: FakeCluster, tuned: Context) -> None:
    (machine,) = claims(cluster)
    hand_over(cluster).execute(tuned)
    assert (claims(cluster), purposes(cluster), cluster.deleted) == ([machine], ["serving"], [])
    (joined,) = cluster.list(NODE)
    assert joined["metadata"]["labels"]["kaito.sh/pool"] == "serving"
    told = cluster.condition(NAME, "ResourceReady")
    sentence = f"1 machine handed over to serving: NodeClaim {machine}."
    assert (told["status"], told["message"], events(cluster)) == ("True", sentence, [sentence])
    assert create(cluster, "serving").execute(tuned)["made"] == []


def test_the_ledger_counts_the_machine_once_for_each_purpose(cluster: FakeCluster, tuned: Context) -> None:
    hand_over(cluster).execute(tuned)
    tuning, serving = cluster.objects["workspaces", "default", NAME]["status"]["cost"]["claims"]
    assert (tuning["purpose"], serving["purpose"]) == ("tuning", "serving")
    assert (tuning["uid"], tuning["until"]) == (serving["uid"], serving["since"])
    assert "until" not in serving


def another_machine(context: Context) -> None:
    serving = Plan.from_dict(context["ti"].xcoms["preflight"]["serving_plan"])
    serving = replace(serving, instance_type="Standard_NC24ads_A100_v4")
    context["ti"].xcoms["preflight"]["serving_plan"] = serving.to_dict()


def no_rollout(context: Context) -> None:
    context["ti"].xcoms["preflight"]["serving_plan"] = None


def failed(context: Context) -> None:
    context["ti"].states = {"tune": "failed"}


@pytest.mark.parametrize("change", [another_machine, no_rollout, failed])
def test_what_serving_would_not_ask_for_is_let_go(
    cluster: FakeCluster, tuned: Context, change: Callable[[Context], None]
) -> None:
    change(tuned)
    hand_over(cluster).execute(tuned)
    assert (claims(cluster), events(cluster)) == ([], [])
    assert cluster.condition(NAME, "ResourceReady")["reason"] == "NodesReleased"


def test_a_run_that_was_ended_hands_nothing_over(
    cluster: FakeCluster, tuned: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaito.operators.hand_over.stopped", lambda task, context: "the run was ended")
    hand_over(cluster).execute(tuned)
    assert claims(cluster) == []


def switched_off(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_HAND_OVER", "false")


def switched_badly(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_HAND_OVER", "perhaps")


def edited(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 2


def deleted(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["deletionTimestamp"] = "2026-11-29T10:00:00Z"


def gone(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    del cluster.objects["workspaces", "default", NAME]


def beyond_budget(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.objects["workspaces", "default", NAME]["metadata"]["annotations"] = {
        "kaito.sh/budget-usd": "0.01"
    }


def served_already(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.add(STATEFUL_SET, {"metadata": {"name": NAME}, "status": {"readyReplicas": 1}})


def node_may_not_be_changed(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.refuse["patch", "nodes"] = ClusterError(403, "Forbidden", "nodes: no")


def claim_changes_meanwhile(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.refuse["patch", "nodeclaims"] = ClusterError(409, "Conflict", "modified")


def machine_is_not_ready(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for (plural, _, _), obj in cluster.objects.items():
        if plural == "nodes":
            obj["status"]["conditions"][0]["status"] = "False"


def provider_cannot(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no(*_: Any) -> bool:
        return False

    monkeypatch.setattr(NodeClaims, "hand_over", no)


UNCERTAIN = [
    switched_off,
    switched_badly,
    edited,
    deleted,
    gone,
    beyond_budget,
    served_already,
    node_may_not_be_changed,
    claim_changes_meanwhile,
    machine_is_not_ready,
    provider_cannot,
]


@pytest.mark.parametrize("change", UNCERTAIN)
def test_whatever_is_not_certain_is_a_release(
    cluster: FakeCluster,
    tuned: Context,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[FakeCluster, pytest.MonkeyPatch], None],
) -> None:
    change(cluster, monkeypatch)
    hand_over(cluster).execute(tuned)
    assert (claims(cluster), events(cluster)) == ([], [])


def two_machines(cluster: FakeCluster, context: Context) -> None:
    """A run that tuned on two machines, which serving needs too."""
    found = context["ti"].xcoms["preflight"]
    for plan in ("plan", "serving_plan"):
        found[plan] = replace(Plan.from_dict(found[plan]), node_count=2).to_dict()
    create(cluster).execute(context)
    boots(cluster, "tuning")
    context["ti"].states = {"tune": "success"}


@pytest.mark.parametrize("dies", [True, False])
def test_of_two_machines_none_stays_when_one_cannot_follow(
    cluster: FakeCluster, context: Context, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    two_machines(cluster, context)
    hands_over, asked = NodeClaims.hand_over, []

    async def first_only(self: NodeClaims, pool: Any, *args: Any) -> bool:
        asked.append(pool.name)
        if len(asked) == 2 and dies:
            raise SystemExit("the worker is killed")
        return len(asked) < 2 and await hands_over(self, pool, *args)

    monkeypatch.setattr(NodeClaims, "hand_over", first_only)
    if dies:
        with pytest.raises(SystemExit):
            hand_over(cluster).execute(context)
        assert sorted(purposes(cluster)) == ["serving", "tuning"]
        monkeypatch.setattr(NodeClaims, "hand_over", hands_over)
    hand_over(cluster).execute(context)
    assert (claims(cluster), events(cluster)) == ([], [])


def test_both_machines_go_over_together(cluster: FakeCluster, context: Context) -> None:
    two_machines(cluster, context)
    hand_over(cluster).execute(context)
    assert purposes(cluster) == ["serving", "serving"]
    assert cluster.deleted == []


def test_a_worker_that_dies_after_the_hand_over_tells_it_at_its_next_try(
    cluster: FakeCluster, tuned: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(HandOverGpuPoolOperator, "_tell", dies)
        with pytest.raises(SystemExit):
            hand_over(cluster).execute(tuned)
    hand_over(cluster).execute(tuned)
    assert (purposes(cluster), len(events(cluster))) == (["serving"], 1)
    assert cluster.condition(NAME, "ResourceReady")["status"] == "True"


@pytest.mark.parametrize(("serving", "expected"), [("first", []), ("other", ["serving"])])
def test_the_machine_that_is_there_counts_and_not_the_first_that_was_got(
    cluster: FakeCluster, context: Context, serving: str, expected: list[str]
) -> None:
    """The training lost its machine and got its second choice: serving has to ask for just that."""
    found = context["ti"].xcoms["preflight"]
    plans = {"first": Plan.from_dict(found["plan"])}
    plans["other"] = replace(plans["first"], instance_type="Standard_NC24ads_A100_v4")
    found["plan"] = plans["other"].to_dict()
    create(cluster).execute(context)
    boots(cluster, "tuning")
    found |= {"plan": plans["first"].to_dict(), "alternatives": {Purpose.TUNING: [plans["other"].to_dict()]}}
    wanted = replace(Plan.from_dict(found["serving_plan"]), instance_type=plans[serving].instance_type)
    found["serving_plan"] = wanted.to_dict()
    context["ti"].xcoms["wait_for_nodes"] = {"offer": plans["first"].offer}
    context["ti"].states = {"tune": "success"}
    hand_over(cluster).execute(context)
    assert purposes(cluster) == expected


# the second net


@pytest.fixture
def pushing(cluster: FakeCluster, tuned: Context) -> Context:
    """A run that pushes its adapter while its machine waits for the service."""
    hand_over(cluster).execute(tuned)
    assert purposes(cluster) == ["serving"]
    return tuned


@pytest.mark.parametrize("publish", ["failed", "skipped"])
def test_a_push_that_fails_or_is_ended_lets_the_machine_go(
    cluster: FakeCluster, pushing: Context, publish: str
) -> None:
    pushing["ti"].states |= {"publish_adapter": publish, "serve.create_gpu_pool": "upstream_failed"}
    release_if_failed(cluster).execute(pushing)
    assert claims(cluster) == []
    assert cluster.condition(NAME, "ResourceReady")["message"] == "The serving machines were released."


def test_a_machine_that_a_broken_hand_over_left_goes_too(cluster: FakeCluster, tuned: Context) -> None:
    """Somebody marks release_gpu_pool as failed: it has neither handed over nor released anything."""
    tuned["ti"].states |= {"release_gpu_pool": "failed", "publish_adapter": "upstream_failed"}
    release_if_failed(cluster).execute(tuned)
    assert claims(cluster) == []
    assert cluster.condition(NAME, "ResourceReady")["message"] == "The tuning machines were released."


def test_between_the_two_labels_the_machine_is_still_found(cluster: FakeCluster, tuned: Context) -> None:
    """The Node says serving and its claim says tuning: what was killed there is let go by its claim."""
    for joined in cluster.list(NODE):
        joined["metadata"]["labels"]["kaito.sh/pool"] = "serving"
        cluster.add(NODE, joined)
    release_if_failed(cluster).execute(tuned)
    assert (claims(cluster), cluster.list(NODE)) == ([], [])


def test_tuning_machines_go_even_when_those_of_serving_stay(cluster: FakeCluster, tuned: Context) -> None:
    (tuning,) = claims(cluster)
    create(cluster, "serving").execute(tuned)
    (serving,) = set(claims(cluster)) - {tuning}
    cluster.lingering.add(serving)
    with pytest.raises(TimeoutError, match=serving):
        release_if_failed(cluster).execute(tuned)
    assert claims(cluster) == [serving]


def test_a_net_that_holds_nothing_says_nothing(cluster: FakeCluster, context: Context) -> None:
    context["ti"].states = {"tune": "failed", "serve.create_gpu_pool": "upstream_failed"}
    release_if_failed(cluster).execute(context)
    assert cluster.condition(NAME, "ResourceReady") == {}
    assert cluster.deleted == []


def test_a_net_that_cannot_look_releases_all_the_same(cluster: FakeCluster, pushing: Context) -> None:
    lists, looked = cluster.list, []

    def once_away(kind: Any, *args: Any, **kwargs: Any) -> Any:
        if kind is NODE_CLAIM and not looked:
            looked.append(kind)
            raise ClusterError(503, "Unavailable", "etcd is away")
        return lists(kind, *args, **kwargs)

    cluster.list = once_away  # type: ignore[method-assign]
    release_if_failed(cluster).execute(pushing)
    assert looked
    cluster.list = lists  # type: ignore[method-assign]
    assert claims(cluster) == []


def test_a_service_that_answers_keeps_the_machine_that_tuned(cluster: FakeCluster, pushing: Context) -> None:
    pushing["ti"].states |= {"serve.ask": "success"}
    release_if_failed(cluster).execute(pushing)
    assert purposes(cluster) == ["serving"]


def test_a_run_that_is_taken_up_again_while_it_pushes_keeps_its_machine(
    cluster: FakeCluster, pushing: Context
) -> None:
    """Airflow has lost its database: the same run begins again, and finds its adapter on the volume."""
    pushing["ti"].xcoms["preflight"]["trained"] = {"run": "earlier", "recipe": "sha256:1"}
    hand_over(cluster).execute(pushing)
    assert (purposes(cluster), create(cluster, "serving").execute(pushing)["made"]) == (["serving"], [])
    pushing["ti"].states |= {"publish_adapter": "failed"}
    release_if_failed(cluster).execute(pushing)
    assert claims(cluster) == []


def test_another_runs_machines_are_left_alone(cluster: FakeCluster, pushing: Context) -> None:
    (machine,) = cluster.list(NODE_CLAIM)
    machine["metadata"]["labels"]["kaito.sh/run-id"] = "a-later-run"
    cluster.add(NODE_CLAIM, machine)
    release_if_failed(cluster).execute(pushing)
    assert len(claims(cluster)) == 1
