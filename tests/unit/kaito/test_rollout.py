"""Rolling out: what is applied, how its state is judged, and that only an answer makes a Workspace ready."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kaito.hooks.api import (
    CONFIG_MAP,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    STATEFUL_SET,
    WORKSPACE,
    ClusterError,
    Request,
)
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.operators.rollout import AskOperator, RollOutOperator
from kaito.tasks import performance, served_adapters

from include.reconcile.rollout import rollout_status
from tests.support.fake_cluster import FakeCluster
from tests.support.rollouts import NAME, pod, stateful_set

KEY = f"{NAME}-api-key"
REFERENCE = "registry.example.com/adapters/phi@sha256:" + "1" * 64


def roll_out(cluster: FakeCluster) -> RollOutOperator:
    operator = RollOutOperator(task_id="roll_out", adapter_task_id="publish_adapter")
    operator.cluster = cluster
    return operator


def test_the_service_has_the_quick_starts_name_and_ports(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    result = roll_out(cluster).execute(context)
    service = cluster.find(SERVICE, NAME, "default")
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 29500]
    assert result["adapters"] == [{"name": NAME, "image": REFERENCE}]
    listed = {"adapters": [{"name": NAME, "image": REFERENCE}]}
    assert (
        json.loads(cluster.find(CONFIG_MAP, f"{NAME}-adapters", "default")["data"]["adapters.json"]) == listed
    )


def test_an_adapter_on_a_volume_is_mounted(cluster: FakeCluster, context: dict[str, Any]) -> None:
    source = {"persistentVolumeClaim": {"claimName": "mine"}}
    context["ti"].xcoms["preflight"]["workspace"]["tuning"]["output"] = {"volumeSource": source}
    context["ti"].xcoms["publish_adapter"] = {"volume": True}
    roll_out(cluster).execute(context)
    assert "mine" in str(cluster.find(STATEFUL_SET, NAME, "default"))


def live_pod(cluster: FakeCluster) -> dict[str, Any]:
    labels = {"kaito.sh/workspace": NAME, "kaito.sh/component": "serving"}
    return cluster.add(POD, {"metadata": {"name": f"{NAME}-0", "namespace": "default", "labels": labels}})


def test_another_adapter_changes_the_list_and_no_pod(cluster: FakeCluster, context: dict[str, Any]) -> None:
    marks, sets = [], []
    for digest in "12":
        live_pod(cluster)
        context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE[:-64] + digest * 64}
        roll_out(cluster).execute(context)
        marks.append(
            cluster.find(POD, f"{NAME}-0", "default")["metadata"]["annotations"]["kaito.sh/adapters"]
        )
        sets.append(cluster.find(STATEFUL_SET, NAME, "default")["spec"])
    assert sets[0] == sets[1]
    assert marks[0] != marks[1], "so that the kubelet looks at once"


@pytest.mark.parametrize(
    ("ready", "revision", "answers"), [(1, "a", "True"), (0, "a", "False"), (1, "b", "False")]
)
def test_a_service_that_answers_while_its_adapter_changes_is_ready_meanwhile(
    cluster: FakeCluster, context: dict[str, Any], ready: int, revision: str, answers: str
) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    roll_out(cluster).execute(context)
    assert cluster.condition(NAME, "InferenceReady")["status"] == "False", "nothing answered before"
    live = cluster.objects["statefulsets", "default", NAME]
    live["status"] = {"readyReplicas": ready, "currentRevision": "a", "updateRevision": revision}
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE[:-64] + "2" * 64}
    roll_out(cluster).execute(context)
    told = cluster.condition(NAME, "InferenceReady")
    assert told["status"] == answers
    assert ("no pod changes" in told["message"]) == (answers == "True")


def test_a_pod_that_cannot_be_marked_is_no_failure(cluster: FakeCluster, context: dict[str, Any]) -> None:
    live_pod(cluster)
    cluster.refuse["apply", "pods"] = ClusterError(403, "Forbidden", "no")
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    assert roll_out(cluster).execute(context)["adapters"]


@pytest.mark.parametrize("generation", [1, 2])
def test_a_rollout_in_between_leaves_a_canary_its_share(
    cluster: FakeCluster, context: dict[str, Any], generation: int
) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    tried = {"version": "1", "state": "canary", "percent": 10, "reference": REFERENCE[:-64] + "2" * 64}
    status = {"retrain": {"promotion": {**tried, "generation": generation}}}
    cluster.objects["workspaces", "default", NAME]["status"] = status
    roll_out(cluster).execute(context)
    listed = json.loads(cluster.find(CONFIG_MAP, f"{NAME}-adapters", "default")["data"]["adapters.json"])
    share = {"image": tried["reference"], "percent": 10.0} if generation == 1 else None
    assert listed["adapters"][0].get("canary") == share, "none of another generation"


def said(image: str, **pending: str) -> dict[str, Any]:
    now = {NAME: {"image": image, "digest": image.partition("@")[2], "since": "2026-01-01T00:00:00Z"}}
    return {"adapters": now, "pending": {NAME: {"image": REFERENCE, **pending}} if pending else {}}


def test_the_workspace_is_ready_when_its_adapter_answers(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    roll_out(cluster).execute(context)
    monkeypatch.setattr(served_adapters, "POLL", 0)
    cluster.said = [said("r/old@sha256:0"), said("r/old@sha256:0", state="Loading"), said(REFERENCE)]
    cluster.answers = [{"Result": "42"}]
    ask(cluster).execute(context)
    assert cluster.said == []
    [entry] = cluster.find(WORKSPACE, NAME, "default")["status"]["adapters"]
    assert entry == {
        "name": NAME,
        "digest": "sha256:" + "1" * 64,
        "state": "Serving",
        "since": "2026-01-01T00:00:00Z",
    }


def test_an_adapter_that_cannot_be_served_fails_the_run_and_says_what_still_answers(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    roll_out(cluster).execute(context)
    cluster.said = [said("r/old@sha256:0", state="Failed", message="rank 64 is too large")]
    with pytest.raises(AirflowFailException, match="rank 64 is too large; sha256:0 still answers"):
        ask(cluster).execute(context)
    assert "rank 64" in cluster.condition(NAME, "InferenceReady")["message"]


def test_waiting_for_an_adapter_ends(cluster: FakeCluster) -> None:
    clock = iter(range(1000))
    with pytest.raises(served_adapters.NotServed, match="not served after 3 s"):
        served_adapters.wait(
            lambda: {}, {"a": "r/a:1"}, seconds=3, sleep=lambda _: None, clock=lambda: next(clock)
        )


MEASURED = {
    "state": "done",
    "metrics": {
        "peakTokensPerMinute": {"value": "123456", "unit": "tokens/min", "config": {"engine": "vllm"}}
    },
}


def test_what_the_service_can_do_is_in_its_status(
    cluster: FakeCluster, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performance, "POLL", 0)
    cluster.answers = [{"Result": "42"}]
    cluster.said = [{"state": "running"}, MEASURED]
    ask(cluster).execute(context)
    status = cluster.find(WORKSPACE, NAME, "default")["status"]
    assert status["performance"]["metrics"]["peakTokensPerMinute"]["value"] == "123456"
    told = cluster.condition(NAME, "BenchmarkCompleted")
    assert (told["status"], told["reason"]) == ("True", "BenchmarkCompleted")
    assert "123,456 tokens a minute" in told["message"]
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"


@pytest.mark.parametrize(
    ("said", "condition"),
    [
        ({"state": "failed", "message": "None of 7 requests was answered."}, "False"),
        ({"state": "off"}, None),
        ("nonsense", None),
    ],
)
def test_a_benchmark_that_comes_to_nothing_fails_nothing(
    cluster: FakeCluster, context: dict[str, Any], said: Any, condition: str | None
) -> None:
    cluster.answers, cluster.said = [{"Result": "42"}], [said]
    ask(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"
    assert cluster.condition(NAME, "BenchmarkCompleted").get("status") == condition
    assert "performance" not in cluster.find(WORKSPACE, NAME, "default")["status"]


def test_the_annotation_turns_the_benchmark_off(cluster: FakeCluster, context: dict[str, Any]) -> None:
    keyed(context, disable_benchmark="true")
    roll_out(cluster).execute(context)
    assert "KAITO_BENCHMARK_FILE" not in str(cluster.find(STATEFUL_SET, NAME, "default"))
    keyed(context, disable_benchmark="false")
    roll_out(cluster).execute(context)
    assert "KAITO_BENCHMARK_FILE" in str(cluster.find(STATEFUL_SET, NAME, "default"))


def test_a_benchmark_is_not_waited_for_for_ever() -> None:
    clock = iter(range(1000))
    said = performance.wait(
        lambda: {"state": "running"}, seconds=3, sleep=lambda _: None, clock=lambda: next(clock)
    )
    assert said is not None
    assert said["state"] == "failed"


def test_a_refused_rollout_says_so(cluster: FakeCluster, context: dict[str, Any]) -> None:
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}
    cluster.refuse["apply", "statefulsets"] = ClusterError(403, "Forbidden", "exceeded quota: pods")
    context["ti"].max_tries = 20
    with pytest.raises(AirflowFailException, match="exceeded quota"):
        roll_out(cluster).execute(context)
    assert "exceeded quota" in cluster.condition(NAME, "InferenceReady")["message"]
    assert cluster.condition(NAME, "WorkspaceSucceeded")["reason"] == "workspaceFailed"


def keyed(context: dict[str, Any], **notes: str) -> None:
    metadata = context["ti"].xcoms["preflight"]["workspace"]["metadata"]
    metadata.setdefault("annotations", {}).update(
        {f"kaito.sh/{k.replace('_', '-')}": v for k, v in notes.items()}
    )
    context["ti"].xcoms["publish_adapter"] = {"reference": REFERENCE}


def test_the_quick_start_s_service_has_no_key_and_a_public_one_gets_one_that_stays(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    keyed(context)
    roll_out(cluster).execute(context)
    assert cluster.find(SECRET, KEY, "default") is None
    keyed(context, enablelb="True")
    roll_out(cluster).execute(context)
    first = cluster.find(SECRET, KEY, "default")["data"]["API_KEY"]
    assert len(base64.b64decode(first)) > 30
    roll_out(cluster).execute(context)
    assert cluster.find(SECRET, KEY, "default")["data"]["API_KEY"] == first
    assert KEY in str(cluster.find(STATEFUL_SET, NAME, "default"))
    assert cluster.find(NETWORK_POLICY, NAME, "default")
    assert cluster.find(DISRUPTION_BUDGET, NAME, "default")


def test_the_user_s_own_key_must_be_there(cluster: FakeCluster, context: dict[str, Any]) -> None:
    keyed(context, api_key="theirs")
    with pytest.raises(AirflowFailException, match="Secret theirs in namespace default has no API_KEY"):
        roll_out(cluster).execute(context)
    cluster.add(SECRET, {"metadata": {"name": "theirs", "namespace": "default"}, "data": {"API_KEY": "eA=="}})
    roll_out(cluster).execute(context)
    assert cluster.find(SECRET, KEY, "default") is None


def test_the_hook_carries_the_question_with_its_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own call on the real hook: the fake of the other tests takes anything."""
    sent: list[Request] = []

    async def send(_: Any, request: Request) -> dict[str, str]:
        sent.append(request)
        return {"Result": "42"}

    hook = KaitoClusterHook()
    monkeypatch.setattr(type(hook.calls), "send", send)
    asked = {"port": 80, "timeout": 5, "headers": {"X-Api-Key": "k"}}
    assert hook.post_to_service("w", "default", "chat", {"prompt": "?"}, **asked) == {"Result": "42"}
    assert sent[0].arguments()["header_params"]["X-Api-Key"] == "k"


def test_the_one_question_carries_the_key(cluster: FakeCluster, context: dict[str, Any]) -> None:
    keyed(context, enablelb="True")
    roll_out(cluster).execute(context)
    key = base64.b64decode(cluster.find(SECRET, KEY, "default")["data"]["API_KEY"]).decode()
    seen: dict[str, Any] = {}
    cluster.post_to_service = lambda *_, **named: seen.update(named) or {"Result": "42"}  # type: ignore[method-assign]
    ask(cluster).execute(context)
    assert seen["headers"] == {"X-Api-Key": key}
    keyed(context, enablelb="False")
    ask(cluster).execute(context)
    assert seen["headers"] == {}


def ask(cluster: FakeCluster) -> AskOperator:
    operator = AskOperator(task_id="ask", question="What is KAITO?")
    operator.cluster = cluster
    return operator


def test_an_answer_makes_the_workspace_ready(cluster: FakeCluster, context: dict[str, Any]) -> None:
    cluster.answers = [{"Result": "An operator."}]
    assert ask(cluster).execute(context) == {"question": "What is KAITO?", "answer": "An operator."}
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"
    assert cluster.condition(NAME, "WorkspaceSucceeded")["status"] == "True"


EMBEDS = {"data": [{"id": "minilm", "task": "embed"}, {"id": NAME, "task": "embed"}]}


def test_a_vector_makes_a_workspace_ready_whose_model_embeds(
    cluster: FakeCluster, context: dict[str, Any]
) -> None:
    cluster.models, cluster.said = EMBEDS, [MEASURED]
    sent: list[Any] = []

    def post(*asked: Any, **_: Any) -> dict[str, Any]:
        sent.append(asked)
        return {"data": [{"embedding": [0.25, 0.5]}]}

    cluster.post_to_service = post  # type: ignore[method-assign]
    assert ask(cluster).execute(context)["answer"] == "2 numbers, the first is 0.25"
    assert sent == [(NAME, "default", "v1/embeddings", {"model": "minilm", "input": "What is KAITO?"})]
    status = cluster.find(WORKSPACE, NAME, "default")["status"]
    assert status["task"] == "embed"
    assert "performance" not in status, "what is measured are written tokens"
    assert "at POST /v1/embeddings" in cluster.condition(NAME, "WorkspaceSucceeded")["message"]
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "True"
    cluster.models, cluster.answers = None, [{"Result": "It writes again."}]
    cluster.post_to_service = lambda *_, **__: cluster.answers.pop(0)  # type: ignore[method-assign]
    ask(cluster).execute(context)
    assert "task" not in cluster.find(WORKSPACE, NAME, "default")["status"]


def test_text_from_a_model_that_embeds_is_no_answer(cluster: FakeCluster, context: dict[str, Any]) -> None:
    cluster.models, cluster.answers = EMBEDS, [{"Result": "Hello"}]
    with pytest.raises(AirflowException, match="POST /v1/embeddings answered without numbers"):
        ask(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "False"


@pytest.mark.parametrize(
    "answer", [{"error": "busy"}, "plain", ClusterError(503, "ServiceUnavailable", "no endpoints")]
)
def test_no_answer_is_a_failure(cluster: FakeCluster, context: dict[str, Any], answer: Any) -> None:
    cluster.answers = [answer]
    with pytest.raises((AirflowException, ClusterError)):
        ask(cluster).execute(context)
    assert cluster.condition(NAME, "WorkspaceReady")["status"] == "False"


@pytest.mark.parametrize(("tried", "reason"), [(1, "workspacePending"), (3, "workspaceFailed")])
def test_no_answer_fails_the_workspace_only_when_it_is_not_asked_again(
    cluster: FakeCluster, context: dict[str, Any], tried: int, reason: str
) -> None:
    context["ti"].try_number, context["ti"].max_tries = tried, 2
    cluster.answers = [{"error": "busy"}]
    with pytest.raises(AirflowException):
        ask(cluster).execute(context)
    assert cluster.condition(NAME, "InferenceReady")["reason"] == "WorkspaceInferenceStatusFailed"
    assert cluster.condition(NAME, "WorkspaceReady")["reason"] == reason


def container(restarts: int = 0, **state: Any) -> dict[str, Any]:
    last = state.pop("last", {})
    return {"name": "serving", "restartCount": restarts, "state": state, "lastState": last}


def test_ready_means_ready_now_and_for_this_generation() -> None:
    assert rollout_status(stateful_set(ready=1), []).ready
    assert not rollout_status(stateful_set(ready=1, observed=0), []).ready
    assert not rollout_status(stateful_set(ready=1, updated=0), []).ready
    nobody = rollout_status({**stateful_set(), "spec": {"replicas": 0}}, [])
    assert (nobody.ready, nobody.failed) == (False, False)
    assert "scaled to 0 replicas" in nobody.message


@pytest.mark.parametrize(
    ("status", "reason", "failed"),
    [
        (
            {"containerStatuses": [container(waiting={"reason": "ImagePullBackOff", "message": "401"})]},
            "ImagePullError",
            False,
        ),
        (
            {"containerStatuses": [container(waiting={"reason": "InvalidImageName", "message": "bad"})]},
            "ImagePullError",
            True,
        ),
        (
            {
                "initContainerStatuses": [
                    container(waiting={"reason": "CreateContainerConfigError", "message": "s"})
                ]
            },
            "ContainerStartError",
            False,
        ),
        (
            {
                "containerStatuses": [
                    container(
                        3,
                        waiting={"reason": "CrashLoopBackOff"},
                        last={"terminated": {"exitCode": 1, "message": "boom"}},
                    )
                ]
            },
            "ContainerCrashLoopBackOff",
            True,
        ),
        (
            {"containerStatuses": [container(0, terminated={"exitCode": 137, "reason": "OOMKilled"})]},
            "ContainerOOMKilled",
            False,
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: no nvidia.com/gpu"}
                ]
            },
            "Unschedulable",
            False,
        ),
        ({"reason": "Evicted", "message": "preempted"}, "PodEvicted", False),
        (
            {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
            "NodeDiskPressure",
            False,
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: memory."},
            "NodeMemoryPressure",
            False,
        ),
        (
            {"reason": "Evicted", "message": "The node had condition: [DiskPressure]."},
            "NodeDiskPressure",
            False,
        ),
    ],
)
def test_the_kubelets_own_words_are_the_reason(status: dict[str, Any], reason: str, failed: bool) -> None:
    found = rollout_status(stateful_set(), [pod(**status)])
    assert (found.reason, found.failed) == (reason, failed)


def test_a_workload_that_names_a_wrong_input_is_not_started_again_and_again() -> None:
    said = '{"error": "there is no adapter at r/a:1", "class": "data"}'
    ended = container(terminated={"exitCode": 65, "message": said})
    found = rollout_status(stateful_set(), [pod(initContainerStatuses=[ended])])
    assert found.failed
    assert found.message.endswith("ended with exit code 65: there is no adapter at r/a:1")


def test_a_deleted_stateful_set_never_becomes_ready() -> None:
    assert rollout_status(None, []).failed


def test_a_quiet_start_is_just_waiting() -> None:
    found = rollout_status(stateful_set(), [pod(containerStatuses=[container(running={})])])
    assert (found.reason, found.failed) == ("WorkspaceInferenceStatusPending", False)
    assert "running" in found.message
