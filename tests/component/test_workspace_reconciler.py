"""One pass of the reconciler over a real API server (the sandbox's, in this process), with a scripted Airflow."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kaito.controller import (
    initial_status,
    trouble,
)
from kaito.controller import (
    reconciler as reconciling,
)
from kaito.controller import (
    status_writer as status,
)
from kaito.controller.dag_runs import AirflowRuns
from kaito.controller.initial_status import InitialStatusReconciler
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    CRD,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    WORKSPACE,
    ClusterError,
)
from kaito.installation import installation
from kaito.operators import reconcile as operator
from kaito.providers.nodeclaim import NODE_CLAIM

from include.workspace.api import names
from sandbox.cloud import crds
from tests.support.installed import KEY, Installed


async def test_first_sight_of_a_workspace(cluster: Installed) -> None:
    made = await cluster.quick_start()
    outcome = await cluster.look()
    seen = await cluster.get()
    run_id = names.attempt_run_id(made, 1)
    assert str(outcome) == "1 Workspace looked at, 1 changed, 0 in trouble"
    assert names.FINALIZER in seen["metadata"]["finalizers"]
    assert seen["status"]["run"]["id"] == run_id
    assert seen["status"]["state"] == "Pending"
    assert (await cluster.condition("WorkspaceSucceeded"))["reason"] == "workspacePending"
    assert cluster.airflow.runs == {("kaito_tune", run_id): "queued"}
    assert len(await cluster.hook.list(CONTROLLER_REVISION, "default")) == 1
    assert seen["metadata"]["annotations"][names.REVISION] == "1"
    assert [event["reason"] for event in await cluster.events()] == ["Pending"]


async def test_the_initial_status_leaves_everything_else_to_the_task(cluster: Installed) -> None:
    made = await cluster.quick_start()
    log = logging.getLogger("reconcile-test")
    outcome = await InitialStatusReconciler(
        cluster.hook, AirflowRuns(cluster.airflow), installation(), log
    ).run([KEY])
    assert (outcome.changed, outcome.troubled) == (1, 0)
    word = (await cluster.get())["status"]
    assert word["run"] | {"id": names.attempt_run_id(made, 1), "state": "waiting"} == word["run"]
    assert cluster.airflow.runs == {}
    assert await cluster.hook.list(CONTROLLER_REVISION, "default") == []
    told = await cluster.events()
    await cluster.look()
    seen = await cluster.get()
    assert seen["status"] == word | {"run": word["run"] | {"state": "started"}}
    assert seen["metadata"]["annotations"][names.REVISION] == "1"
    assert list(cluster.airflow.runs) == [("kaito_tune", word["run"]["id"])]
    assert await cluster.events() == told


async def test_a_initial_status_in_trouble_is_left_to_the_task(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    before = await cluster.get()
    monkeypatch.setattr(reconciling, "decide", lambda *_: 1 / 0)
    log = logging.getLogger("reconcile-test")
    outcome = await InitialStatusReconciler(
        cluster.hook, AirflowRuns(cluster.airflow), installation(), log
    ).run([KEY])
    assert outcome.troubled == 1
    assert await cluster.get() == before
    assert await cluster.events() == []


async def test_the_conditions_of_all_come_before_the_events_of_any(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [("default", f"w{number}") for number in range(5)]
    for _, name in keys:
        await cluster.quick_start(name)
    sent: list[tuple[str, str]] = []
    send = cluster.hook.send

    async def listening(request: api.Request) -> Any:
        sent.append((request.method, request.path.rpartition("/")[2]))
        return await send(request)

    monkeypatch.setattr(cluster.hook, "send", listening)
    monkeypatch.setattr(initial_status, "ROUND", 2)
    reported: set[tuple[str, str]] = set()

    async def pending() -> list[tuple[str, str]]:
        return [key for key in keys if key not in reported]

    log = logging.getLogger("reconcile-test")
    await InitialStatusReconciler(cluster.hook, AirflowRuns(cluster.airflow), installation(), log).to_all(
        pending, reported
    )
    last = max(number for number, what in enumerate(sent) if what == ("PATCH", "status"))
    assert [what for what in sent[last + 1 :] if what == ("POST", "events")] == [("POST", "events")] * 5
    assert sent.count(("POST", "events")) == 5
    assert sent.count(("PATCH", "status")) == 5
    assert sent.count(("GET", "push")) == 3  # the Secret that all of them name, once in each round
    assert sent.count(("GET", status.DEFINITION)) == 1


async def test_who_comes_after_the_keys_were_named_has_a_word_before_runs_are_started(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    await cluster.quick_start("later")
    told: list[Any] = []

    class Watching(AirflowRuns):
        async def start(self, *what: Any) -> bool:
            told.append((await cluster.get("later")).get("status"))
            return await super().start(*what)

    monkeypatch.setattr(operator, "AirflowRuns", lambda: Watching(cluster.airflow))
    task = operator.ReconcileOperator(task_id="reconcile", changes_task_id="wait")
    outcome = await task._pass(cluster.hook, [KEY], {})
    assert (outcome.looked, outcome.changed) == (1, 1)
    assert [bool(status and status["conditions"]) for status in told] == [True]
    assert [run for _, run in cluster.airflow.runs] == [(await cluster.get())["status"]["run"]["id"]]


async def test_who_is_silent_for_long_is_not_new(cluster: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    await cluster.quick_start()
    await cluster.quick_start("known")
    assert await initial_status.newcomers(cluster.hook, {("default", "known")}) == [KEY]
    monkeypatch.setattr(initial_status, "NEW", timedelta(seconds=-60))
    assert await initial_status.newcomers(cluster.hook, set()) == []


async def test_a_step_of_a_run_applies_its_status_as_the_reconciler_does(cluster: Installed) -> None:
    await cluster.quick_start()
    await cluster.look()
    before = await cluster.get()
    since = "2026-11-23T00:00:00Z"
    theirs = {"type": "Theirs", "status": "True", "reason": "R", "message": "", "lastTransitionTime": since}
    change = {"performance": {"metrics": {"a": {}}}, "conditions": [*before["status"]["conditions"], theirs]}
    foreign = api.merge_patch(WORKSPACE, KEY[1], KEY[0], {"status": change})
    path, query = f"{foreign.path}/status", (("fieldManager", "theirs"),)
    await cluster.hook.send(replace(foreign, path=path, query=query))

    def step(live: dict[str, Any]) -> dict[str, Any]:
        return {**live["status"], "state": "Running", "progress": {"step": 1}}

    for change_of in (step, lambda live: {k: v for k, v in live["status"].items() if k != "progress"}):
        uid, name, space = before["metadata"]["uid"], KEY[1], KEY[0]
        await cluster.hook.patch_status(name, space, change_of, uid=uid, generation=1)
        told = (await cluster.get())["status"]
        assert ("progress" in told) is (change_of is step)
        assert told["state"] == "Running"
        assert told["conditions"][-1]["type"] == "Theirs"
    owners = (await cluster.get())["metadata"]["managedFields"]
    of_status = [(o["manager"], o["operation"]) for o in owners if o.get("subresource") == "status"]
    assert sorted(of_status) == [("kaito-airflow", "Apply"), ("theirs", "Update")]


async def test_a_second_look_changes_nothing(cluster: Installed) -> None:
    await cluster.quick_start()
    await cluster.look()
    before = await cluster.get()
    cluster.airflow.runs = dict.fromkeys(cluster.airflow.runs, "running")
    outcome = await cluster.look()
    assert (outcome.looked, outcome.changed) == (1, 0)
    assert (await cluster.get())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert len(cluster.airflow.runs) == 1


async def test_every_fault_stands_in_the_condition_and_nothing_is_made(cluster: Installed) -> None:
    output = {"image": "registry.example.com/a:1", "imagePushSecret": "absent"}
    await cluster.quick_start(output=output, preset={"name": "phi-3-mini-128k-instrukt"})
    await cluster.look()
    told = await cluster.condition("WorkspaceSucceeded")
    assert (told["status"], told["reason"]) == ("False", "workspaceFailed")
    assert "absent" in told["message"]
    assert "phi-3-mini-128k-instrukt" in told["message"]
    assert cluster.airflow.runs == {}
    assert await cluster.hook.list(CONTROLLER_REVISION, "default") == []
    assert any(event["type"] == "Warning" for event in await cluster.events())


async def test_a_secret_that_comes_later_is_noticed(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = {"image": "registry.example.com/a:1", "imagePushSecret": "late"}
    await cluster.quick_start(output=output)
    await cluster.look()
    assert "late" in (await cluster.condition("WorkspaceSucceeded"))["message"]
    await cluster.apply(
        SECRET,
        {
            "metadata": {"name": "late"},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": "e30="},
        },
    )
    live = await cluster.get()
    live["status"]["retry"]["after"] = "2026-01-01T00:00:00Z"
    await cluster.hook.send(api.status_patch(WORKSPACE, await cluster.get(), live["status"]))
    await cluster.look()
    assert len(cluster.airflow.runs) == 1
    assert (await cluster.condition("WorkspaceSucceeded"))["reason"] == "workspacePending"


async def test_what_others_wrote_survives(cluster: Installed) -> None:
    await cluster.quick_start()
    metadata = {
        "finalizers": ["example.com/theirs"],
        "labels": {"theirs": "1"},
        "annotations": {"theirs": "2"},
    }
    await cluster.hook.send(api.merge_patch(WORKSPACE, KEY[1], "default", {"metadata": metadata}))
    theirs = {
        "type": "Theirs",
        "status": "True",
        "reason": "r",
        "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {"status": {"conditions": [theirs]}}
    request = api.Request(
        "PATCH",
        WORKSPACE.path(KEY[1], "default", "status"),
        (("fieldManager", "them"),),
        body,
        api.MERGE_PATCH,
    )
    await cluster.hook.send(request)
    await cluster.look()
    seen = await cluster.get()
    assert set(seen["metadata"]["finalizers"]) == {"example.com/theirs", names.FINALIZER}
    assert seen["metadata"]["labels"] == {"theirs": "1"}
    assert seen["metadata"]["annotations"]["theirs"] == "2"
    assert (await cluster.condition("Theirs"))["status"] == "True"
    assert (await cluster.condition("WorkspaceSucceeded"))["status"] == "False"


async def test_a_paused_dag_is_a_sentence_in_the_status_and_the_run_starts_when_it_is_on(
    cluster: Installed,
) -> None:
    cluster.airflow.dags["kaito_tune"] = True
    await cluster.quick_start()
    outcome = await cluster.look()
    assert outcome.troubled == 1
    told = await cluster.condition("WorkspaceReady")
    assert "kaito_tune is paused" in told["message"]
    status = (await cluster.get())["status"]
    assert status["retry"]["failures"] == 1
    assert cluster.airflow.runs == {}
    cluster.airflow.dags["kaito_tune"] = False
    await cluster.look()
    assert len(cluster.airflow.runs) == 1
    assert (await cluster.get())["status"]["run"]["attempt"] == 1
    assert "retry" not in (await cluster.get())["status"]


async def test_a_run_that_airflow_forgot_is_started_under_the_same_id(cluster: Installed) -> None:
    await cluster.quick_start()
    await cluster.look()
    before, cluster.airflow.runs = cluster.airflow.runs, {}
    await cluster.look()
    assert cluster.airflow.runs == before


async def test_one_bad_workspace_does_not_touch_the_others(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        await cluster.quick_start(name)

    decide = reconciling.decide  # type: ignore[attr-defined]

    def poisoned(workspace: Any, *args: Any) -> Any:
        if workspace["metadata"]["name"] == "bad":
            raise ZeroDivisionError("a defect")
        return decide(workspace, *args)

    monkeypatch.setattr(reconciling, "decide", poisoned)
    outcome = await cluster.look(everything=True)
    assert (outcome.looked, outcome.troubled) == (2, 1)
    assert (await cluster.get("good"))["status"]["run"]
    status = (await cluster.get("bad"))["status"]
    assert status["retry"]["message"] == "Not carried out: a defect"
    assert [e["reason"] for e in await cluster.events("bad") if e["type"] == "Warning"] == ["ReconcileFailed"]


async def test_a_slow_workspace_is_left_for_the_next_pass(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "SECONDS_EACH", 2.0)
    for name in ("slow", "quick"):
        await cluster.quick_start(name)
    send = cluster.hook.send

    async def slowly(request: api.Request) -> Any:
        if request.method == "PATCH" and "/slow" in request.path and request.content_type != api.MERGE_PATCH:
            await asyncio.sleep(60)
        return await send(request)

    monkeypatch.setattr(cluster.hook, "send", slowly)
    outcome = await cluster.look(everything=True)
    assert outcome.troubled == 1
    assert outcome.unreported == [("default", "slow")]
    assert (await cluster.get("quick"))["status"]["run"]


async def test_an_edit_in_the_middle_is_decided_anew(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    send, edited = cluster.hook.send, []

    async def edit_first(request: api.Request) -> Any:
        if request.path.endswith("/status") and not edited:
            edited.append(1)
            change = {"tuning": {"output": {"image": "registry.example.com/adapters/phi:0.0.2"}}}
            await send(api.merge_patch(WORKSPACE, KEY[1], "default", change))
        return await send(request)

    monkeypatch.setattr(cluster.hook, "send", edit_first)
    await cluster.look()
    seen = await cluster.get()
    assert seen["metadata"]["generation"] == 2
    assert seen["status"]["run"]["id"].endswith(".g2")
    assert [run for _, run in cluster.airflow.runs] == [seen["status"]["run"]["id"]]


async def test_a_decision_made_anew_sees_what_was_made_meanwhile(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    send, met = cluster.hook.send, []

    async def be_overtaken(request: api.Request) -> Any:
        if request.path.endswith("/status") and not met:
            met.append(1)
            await cluster.apply(SERVICE, {"metadata": {"name": KEY[1]}, "spec": {"ports": [{"port": 1}]}})
            note = {"metadata": {"labels": {"somebody": "wrote"}}}
            await send(api.merge_patch(WORKSPACE, KEY[1], "default", note))
        return await send(request)

    monkeypatch.setattr(cluster.hook, "send", be_overtaken)
    await cluster.look()
    assert met
    assert "Service" in (await cluster.condition("WorkspaceReady"))["message"]
    assert cluster.airflow.runs == {}


async def test_a_workspace_that_goes_while_it_is_looked_at_is_no_trouble(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    send = cluster.hook.send

    async def delete_first(request: api.Request) -> Any:
        if request.method == "PATCH":
            monkeypatch.setattr(cluster.hook, "send", send)
            await send(api.delete(WORKSPACE, KEY[1], "default"))
        return await send(request)

    monkeypatch.setattr(cluster.hook, "send", delete_first)
    outcome = await cluster.look()
    assert outcome.troubled == 0
    assert cluster.airflow.runs == {}


async def test_a_workspace_that_is_gone_is_not_looked_at(cluster: Installed) -> None:
    assert (await cluster.look()).looked == 0


@pytest.mark.parametrize("upstream", ["deployment", "webhook"])
async def test_where_kaitos_own_controller_runs_only_our_workspaces_are_touched(
    cluster: Installed, upstream: str
) -> None:
    if upstream == "deployment":
        container = {"name": "c", "image": "mcr.microsoft.com/aks/kaito/workspace:0.12.0"}
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
        labels = {"app.kubernetes.io/name": "workspace"}
        await cluster.apply(api.DEPLOYMENT, {"metadata": {"name": "kaito", "labels": labels}, "spec": spec})
    else:
        await cluster.apply(
            api.WEBHOOKS, {"metadata": {"name": "validation.workspace.kaito.sh"}, "webhooks": []}
        )
    await cluster.quick_start()
    await cluster.quick_start("ours")
    note = {"metadata": {"annotations": {names.MANAGED_BY: "airflow"}}}
    await cluster.hook.send(api.merge_patch(WORKSPACE, "ours", "default", note))
    for _ in range(2):
        await cluster.look(everything=True)
    theirs = await cluster.get()
    assert "status" not in theirs
    assert "finalizers" not in theirs["metadata"]
    assert [(e["reason"], e["count"]) for e in await cluster.events()] == [("ManagedByUpstream", 1)]
    assert (await cluster.get("ours"))["status"]["run"]
    assert len(cluster.airflow.runs) == 1


async def test_a_service_of_somebody_else_is_named_and_left_alone(cluster: Installed) -> None:
    theirs = await cluster.apply(SERVICE, {"metadata": {"name": KEY[1]}, "spec": {"ports": [{"port": 1}]}})
    await cluster.quick_start()
    for everything in (False, True):
        await cluster.look(everything=everything)
    assert KEY[1] in (await cluster.condition("WorkspaceSucceeded"))["message"]
    assert "Service" in (await cluster.condition("WorkspaceSucceeded"))["message"]
    assert cluster.airflow.runs == {}
    assert (await cluster.hook.find(SERVICE, KEY[1], "default")) == theirs


async def test_a_megabyte_of_annotations_is_no_trouble(cluster: Installed) -> None:
    made = await cluster.quick_start()
    note = {"metadata": {"annotations": {"example.com/note": "x" * 200_000}}}
    await cluster.hook.send(api.merge_patch(WORKSPACE, made["metadata"]["name"], "default", note))
    assert (await cluster.look()).troubled == 0


async def test_a_cluster_that_does_not_know_node_claims_has_none(cluster: Installed) -> None:
    await cluster.admin.send(api.delete(CRD, crds.NODECLAIMS))
    await cluster.quick_start()
    assert (await cluster.look()).troubled == 0


async def test_what_we_may_not_see_is_never_taken_as_gone(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.quick_start()
    text = cluster.hook._text_of

    async def forbidden(request: api.Request) -> bytes:
        if NODE_CLAIM.plural in request.path:
            raise ClusterError(403, "Forbidden", "nodeclaims is forbidden")
        return await text(request)

    monkeypatch.setattr(cluster.hook, "_text_of", forbidden)
    with pytest.raises(ClusterError, match="nodeclaims is forbidden"):
        await cluster.look()
    assert "status" not in await cluster.get()


async def test_everything_of_a_workspace_is_found_in_both_ways_of_looking(cluster: Installed) -> None:
    made = await cluster.quick_start()
    label = {names.WORKSPACE: KEY[1], names.WORKSPACE_NAMESPACE: "default", names.COMPONENT: "tuning"}
    pod = {"metadata": {"name": "p", "labels": label}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await cluster.apply(POD, pod)
    await cluster.apply(CONFIG_MAP, {"metadata": {"name": "c"}, "data": {"a": "b"}})
    claim = {
        "metadata": {"name": "wsabc", "labels": label},
        "spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []},
    }
    await cluster.apply(NODE_CLAIM, claim)
    service = {"metadata": {"name": f"{KEY[1]}-headless"}, "spec": {"ports": [{"port": 1}]}}
    await cluster.apply(SERVICE, service)
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template}
    await cluster.apply(STATEFUL_SET, {"metadata": {"name": KEY[1]}, "spec": spec})
    for keys in ([KEY], None):
        snapshot = await reconciling.take(cluster.hook, keys)  # type: ignore[attr-defined]
        found = snapshot.observed(KEY, {}, None)
        assert [p["metadata"]["name"] for p in found.pods] == ["p"]
        assert [pool.name for pool in snapshot.pools(KEY)] == ["wsabc"]
        assert [s["metadata"]["name"] for s in found.services] == [f"{KEY[1]}-headless"]
        assert [s["metadata"]["name"] for s in found.stateful_sets] == [made["metadata"]["name"]]


async def test_decisions_know_who_makes_machines_where_auto_had_to_look(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "auto")
    await cluster.quick_start()
    seen = []
    real = reconciling.decide  # type: ignore[attr-defined]

    def noted(workspace: Any, observed: Any, *rest: Any) -> Any:
        seen.append(observed.pools.provider)
        return real(workspace, observed, *rest)

    monkeypatch.setattr(reconciling, "decide", noted)
    await cluster.look()
    assert set(seen) == {"nodepool"}, "this cluster knows both kinds of Karpenter"
