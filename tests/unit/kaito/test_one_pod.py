"""One pod for a step of a generation: found again by a run that starts anew, and never made twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException
from kaito.operators import one_pod
from kaito.operators.one_pod import PodRefused
from kaito.operators.tuning import TuneOperator
from kubernetes.client.exceptions import ApiException

from tests.support.fake_cluster import FakeCluster

LABELS = {"kaito.sh/workspace": "w", "kaito.sh/component": "tuning"}


def a_pod(
    name: str = "w-g2-tuning",
    phase: str = "Running",
    going: bool = False,
    run: str = "run-1",
    judged: bool = False,
) -> Any:
    metadata = SimpleNamespace(
        name=name,
        namespace="n",
        uid=f"uid-{name}",
        labels={**LABELS, "kaito.sh/run-id": run, **({"already_checked": "True"} if judged else {})},
        deletion_timestamp="2026-11-23T00:00:00Z" if going else None,
    )
    return SimpleNamespace(metadata=metadata, status=SimpleNamespace(phase=phase))


class Pods:
    """The pods of a namespace; each look sees the next list, the last one for ever."""

    def __init__(self, *looks: list[Any], refusal: int = 0, busy: int = 0, deaf: int = 0) -> None:
        self.looks, self.made, self.deleted, self.marked = list(looks), [], [], []
        self.refusal, self.busy, self.deaf = refusal, busy, deaf
        self.api_client = SimpleNamespace(sanitize_for_serialization=str)

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        assert label_selector == "kaito.sh/component=tuning,kaito.sh/workspace=w"
        if self.deaf:
            self.deaf -= 1
            raise ApiException(status=503, reason="ServiceUnavailable")
        return SimpleNamespace(items=self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])

    def create_namespaced_pod(self, namespace: str, body: Any) -> Any:
        assert namespace == "n"
        if self.busy:
            self.busy -= 1
            raise ApiException(status=503, reason="ServiceUnavailable")
        if self.refusal:
            raise ApiException(status=self.refusal)
        self.made.append(body)
        return body

    def patch_namespaced_pod(self, name: str, namespace: str, change: Any) -> None:
        self.marked.append((name, namespace, change))

    def delete(self, kind: Any, name: str, namespace: str, uid: str) -> bool:
        self.deleted.append((name, uid))
        return True


def ask(pods: Pods, monkeypatch: pytest.MonkeyPatch, wanted: Any = None, *, gone: float = 60.0) -> Any:
    """Ask for the pod; a test that expects no pod asks once (``gone=0``)."""
    monkeypatch.setattr(one_pod, "PATIENT_POLL", 0)
    monkeypatch.setattr(one_pod, "GONE_SECONDS", gone)
    operator = TuneOperator(task_id="tune")
    for asked in (one_pod.OnePodOperator._create, one_pod.OnePodOperator._listed):
        monkeypatch.setattr(asked.retry, "sleep", lambda seconds: None)
    operator.cluster = pods
    operator.client = pods
    return operator.get_or_create_pod(wanted or a_pod(), {})


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded", "Failed"])
def test_the_pod_of_this_run_is_taken_up_whatever_it_has_reached(
    phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended unread counts: the provider would delete that pod and train again."""
    there = a_pod(phase=phase)
    pods = Pods([there])
    assert ask(pods, monkeypatch) is there
    assert pods.made == pods.deleted == []


@pytest.mark.parametrize(("made_by", "marked"), [("1", ["2"]), ("2", [])])
def test_a_pod_that_is_taken_up_is_marked_as_this_trys(
    made_by: str, marked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, wanted = a_pod(), a_pod()
    there.metadata.labels["try_number"], wanted.metadata.labels["try_number"] = made_by, "2"
    pods = Pods([there])
    assert ask(pods, monkeypatch, wanted) is there
    assert pods.marked == [
        ("w-g2-tuning", "n", {"metadata": {"labels": {"try_number": one}}}) for one in marked
    ]


@pytest.mark.parametrize(("taken", "deleted"), [("1", True), ("2", False)])
def test_a_try_that_is_killed_deletes_its_pod_unless_a_later_try_has_it(
    taken: str, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow may take a task for lost, start it again, and end the first try only then."""
    wanted, live, calls = a_pod(), a_pod(), []
    wanted.metadata.labels["try_number"], live.metadata.labels["try_number"] = "1", taken
    pods = Pods([])
    pods.read_namespaced_pod = lambda name, namespace: live  # type: ignore[attr-defined]
    pods.delete_namespaced_pod = lambda **which: calls.append(which["name"])  # type: ignore[attr-defined]
    operator = TuneOperator(task_id="tune")
    operator.cluster = pods
    operator.client = pods
    operator.pod_manager = pods
    operator.pod = operator.get_or_create_pod(wanted, {})
    operator.on_kill()
    assert calls == (["w-g2-tuning"] if deleted else [])


def test_without_a_pod_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods([])
    assert ask(pods, monkeypatch) is pods.made[0]


@pytest.mark.parametrize("trouble", [{"busy": 3}, {"deaf": 3}], ids=["creating", "looking"])
def test_a_busy_api_server_is_asked_again(trouble: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods([], **trouble)
    ask(pods, monkeypatch)
    assert len(pods.made) == 1


def test_a_pod_that_is_refused_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its environment has the dataset's URL, which may be signed."""
    wanted = a_pod()
    wanted.spec = "https://example.com/train.parquet?sig=SECRET"
    with pytest.raises(PodRefused, match="w-g2-tuning"):
        ask(Pods([], refusal=403), monkeypatch, wanted)
    assert "SECRET" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "left",
    [
        a_pod(phase="Failed", judged=True),
        a_pod("w-g1-tuning", run="run-0"),
        a_pod(phase="Succeeded", run="run-0"),
    ],
    ids=["judged by an earlier try", "of an older generation", "ended for another run"],
)
def test_what_is_of_no_use_goes_before_a_new_one_comes(left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods([left], [])
    ask(pods, monkeypatch)
    assert pods.deleted == [(left.metadata.name, left.metadata.uid)]
    assert len(pods.made) == 1


@pytest.mark.parametrize(
    ("name", "run"),
    [("w-g2-tuning", "run-0"), ("w-g3-tuning", "run-3")],
    ids=["another run of this generation", "a newer generation"],
)
def test_a_pod_that_works_for_somebody_else_is_never_touched(
    name: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = Pods([a_pod(name, run=run)])
    with pytest.raises(AirflowException, match=run):
        ask(pods, monkeypatch, gone=0)
    assert pods.made == pods.deleted == []


def test_a_pod_on_its_way_out_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods([a_pod(going=True)], [a_pod(going=True)], [])
    ask(pods, monkeypatch)
    assert pods.deleted == []
    assert len(pods.made) == 1


def test_a_name_that_a_stranger_holds_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowException, match="not ours"):
        ask(Pods([], refusal=409), monkeypatch, gone=0)


def test_two_that_ask_at_once_get_one_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's create came first: the API server refuses ours, and the next look finds the pod."""
    there = a_pod()
    assert ask(Pods([], [there], refusal=409), monkeypatch) is there


def test_the_name_is_the_manifests_own(cluster: FakeCluster, context: dict[str, Any]) -> None:
    operator = TuneOperator(task_id="tune")
    operator.cluster = cluster
    operator.hook = SimpleNamespace(is_in_cluster=False)
    operator._use(operator.pod_manifest(operator.this_run(context), context))
    assert operator.build_pod_request_obj().metadata.name == "workspace-tuning-phi-3-g1-tuning"
