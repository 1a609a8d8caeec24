"""What keeps a pod from running is told in the scheduler's and the kubelet's words, and not waited for too long."""

from __future__ import annotations

from typing import Any

import pytest

from include.reconcile.pod_problems import (
    PASSING_SECONDS,
    STUCK_AFTER,
    UNSCHEDULABLE_SECONDS,
    Start,
    StartWatch,
)
from include.reconcile.rollout import rollout_status

ZONE = "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity."
NO_CLASS = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
NO_GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
AWAY = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
TAINT = "0/1 nodes are available: 1 node(s) had untolerated taint {team: other}."


def pod(phase: str = "Pending", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {}, "status": {"phase": phase, **status}}


def unschedulable(message: str) -> dict[str, Any]:
    return pod(
        conditions=[
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        ]
    )


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(
        containerStatuses=[{"name": "c", "state": {"waiting": {"reason": reason, "message": message}}}]
    )


def gives_up_after(watched: dict[str, Any], holds_machines: bool) -> float | None:
    """Return after how many seconds the watch gives a pod up that stays as it is; None within an hour."""
    watch = StartWatch(holds_machines)
    return next((float(now) for now in range(3600) if watch.look(watched, float(now)).hopeless), None)


@pytest.mark.parametrize(
    ("watched", "paid", "free"),
    [
        (unschedulable(ZONE), UNSCHEDULABLE_SECONDS, UNSCHEDULABLE_SECONDS),
        (unschedulable(NO_CLASS), UNSCHEDULABLE_SECONDS, UNSCHEDULABLE_SECONDS),
        (unschedulable(NO_GPU), UNSCHEDULABLE_SECONDS, None),
        (unschedulable(TAINT), UNSCHEDULABLE_SECONDS, None),
        (unschedulable(AWAY), PASSING_SECONDS, None),
        (waiting("InvalidImageName"), 0.0, 0.0),
        (waiting("ImagePullBackOff"), STUCK_AFTER["ImagePullError"], STUCK_AFTER["ImagePullError"]),
        (
            waiting("CreateContainerConfigError"),
            STUCK_AFTER["ContainerStartError"],
            STUCK_AFTER["ContainerStartError"],
        ),
        (waiting("ContainerCreating"), None, None),
        (pod(), None, None),
    ],
)
def test_a_cause_is_waited_for_as_long_as_it_may_pass(
    watched: dict[str, Any], paid: float | None, free: float | None
) -> None:
    assert gives_up_after(watched, holds_machines=True) == paid
    assert gives_up_after(watched, holds_machines=False) == free


def test_what_can_never_fit_stops_costing_within_a_minute() -> None:
    assert UNSCHEDULABLE_SECONDS < 60


def test_the_schedulers_words_come_with_what_would_help() -> None:
    told = StartWatch(False).look(unschedulable(NO_CLASS), 0.0).message
    assert NO_CLASS in told
    assert "[kaito] storage_class" in told


def test_a_cause_that_passes_is_counted_anew_when_it_comes_back() -> None:
    watch = StartWatch(True)
    assert not watch.look(unschedulable(NO_GPU), 0.0).hopeless
    assert not watch.look(waiting("ContainerCreating"), 40.0).hopeless
    assert not watch.look(unschedulable(NO_GPU), 50.0).hopeless
    assert watch.look(unschedulable(NO_GPU), 50.0 + UNSCHEDULABLE_SECONDS).hopeless


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_a_pod_that_runs_or_has_run_is_over_the_start(phase: str) -> None:
    running = {**pod(phase), "spec": {"nodeName": "gpu-0"}}
    assert StartWatch(True).look(running, 0.0) == Start("Pod p runs on Node gpu-0", running=True)


def test_a_pod_that_the_api_server_refuses_to_a_stateful_set_is_told() -> None:
    stateful_set = {"metadata": {"name": "w", "uid": "u"}, "spec": {"replicas": 1}, "status": {}}
    refusal = 'pods "w-0" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    event = {"reason": "FailedCreate", "message": refusal, "involvedObject": {"uid": "u"}}
    other = {"reason": "FailedCreate", "message": "not ours", "involvedObject": {"uid": "x"}}
    told = rollout_status(stateful_set, [], [event, other])
    assert told.reason == "ContainerStartError"
    assert refusal in told.message
