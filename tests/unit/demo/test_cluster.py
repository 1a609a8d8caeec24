"""When pods and machines count as working."""

from demo.cluster import WorkClock


def pod(statuses: list[dict], conditions: list[dict] | None = None, component: str = "tuning") -> dict:
    status = {"containerStatuses": statuses, "conditions": conditions or []}
    return {
        "metadata": {"name": "p", "uid": "u", "labels": {"kaito.sh/component": component}},
        "status": status,
    }


def spans(*pods: dict, claims: tuple[dict, ...] = ()) -> list[tuple[str, float]]:
    from pathlib import Path

    clock = WorkClock(Path("unused"))
    clock.pods.update({str(i): p for i, p in enumerate(pods)})
    clock.claims.update({str(i): c for i, c in enumerate(claims)})
    return [(what, (end - start).total_seconds()) for what, start, end in clock.intervals()]


def test_a_finished_pod_worked_while_its_container_ran() -> None:
    ended = {
        "state": {"terminated": {"startedAt": "2026-11-23T12:00:01Z", "finishedAt": "2026-11-23T12:01:01Z"}}
    }
    assert spans(pod([ended])) == [("pod tuning", 60.0)]


def test_a_service_works_until_it_is_ready() -> None:
    running = {"state": {"running": {"startedAt": "2026-11-23T12:00:01Z"}}}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-23T12:00:09Z"}
    assert spans(pod([running], [ready], "serving")) == [("pod serving", 8.0)]


def test_a_waiting_pod_does_not_work() -> None:
    assert spans(pod([{"state": {"waiting": {"reason": "ContainerCreating"}}}])) == []


def test_a_machine_works_while_it_boots() -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-23T12:00:03Z"}
    claim = {"metadata": {"creationTimestamp": "2026-11-23T12:00:00Z"}, "status": {"conditions": [ready]}}
    assert spans(claims=(claim,)) == [("machine boot", 3.0)]
    assert spans(claims=({"metadata": {"creationTimestamp": "2026-11-23T12:00:00Z"}},)) == []
