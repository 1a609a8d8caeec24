"""What keeps a pod from running is told in the scheduler's and the kubelet's words, and not waited for too long."""

from __future__ import annotations

from typing import Any

import pytest

from include.reconcile.pod_problems import (
    BEGIN_SECONDS,
    PASSING_SECONDS,
    STUCK_AFTER,
    UNSCHEDULABLE_SECONDS,
    Start,
    StartWatch,
    begins_late,
    problems,
    stuck_seconds,
)
from include.reconcile.rollout import rollout_status, silent_about

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


NO_CONFIG_MAP = 'MountVolume.SetUp failed for volume "config" : configmap "mine" not found'
UNMOUNTED = (
    "Unable to attach or mount volumes: unmounted volumes=[config]: timed out waiting for the condition"
)
IN_USE = 'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node'
NO_PLUGIN = (
    'MountVolume.MountDevice failed for volume "pvc-1" : kubernetes.io/csi: attacher.MountDevice failed to create '
    "newCsiDriverClient: driver name disk.csi.azure.com not found in the list of registered CSI drivers"
)
NO_NODE = (
    'AttachVolume.Attach failed for volume "pvc-1" : rpc error: code = NotFound desc = node "gpu-0" not found'
)
NO_SECRET = 'MountVolume.SetUp failed for volume "key" : references secret: Secret "mine" not found'
NO_ACCOUNT = 'failed to fetch token: serviceaccounts "mine" not found'
NO_CLAIM = 'error processing PVC ns/mine: persistentvolumeclaims "mine" not found'
NO_NETWORK = 'Failed to create pod sandbox: rpc error: plugin type="calico" failed (add): no addresses left'


def creating(**status: Any) -> dict[str, Any]:
    """A pod that has its Node, and whose containers wait for what comes before them."""
    container = {"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}
    return {
        "metadata": {"name": "p", "uid": "u", "namespace": "ns"},
        "spec": {"nodeName": "gpu-0"},
        "status": {"phase": "Pending", "containerStatuses": [container], **status},
    }


def event(second: int, reason: str, message: str = "", uid: str = "u") -> dict[str, Any]:
    told = {"reason": reason, "message": message, "involvedObject": {"uid": uid}}
    return {**told, "lastTimestamp": f"2026-01-01T00:00:{second:02d}Z"}


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([event(1, "FailedMount", NO_CONFIG_MAP)], f"FailedMount: {NO_CONFIG_MAP}"),
        ([event(1, "FailedMount", NO_CONFIG_MAP), event(9, "FailedMount", UNMOUNTED)], NO_CONFIG_MAP),
        ([event(9, "FailedMount", UNMOUNTED)], UNMOUNTED),
        ([event(1, "FailedAttachVolume", IN_USE)], f"FailedAttachVolume: {IN_USE}"),
        ([event(1, "FailedCreatePodSandBox", NO_NETWORK)], f"FailedCreatePodSandBox: {NO_NETWORK}"),
        ([event(1, "FailedMount", "a"), event(2, "FailedAttachVolume", "b")], "FailedAttachVolume: b"),
        ([event(1, "Scheduled"), event(2, "FailedMount", NO_CONFIG_MAP)], NO_CONFIG_MAP),
        # What was got over is no cause any more.
        ([event(1, "FailedAttachVolume", IN_USE), event(2, "SuccessfulAttachVolume")], None),
        ([event(1, "FailedMount", NO_CONFIG_MAP), event(2, "Pulling")], None),
        ([event(1, "FailedCreatePodSandBox", NO_NETWORK), event(1, "Pulled")], None),
        # Another pod's, of the same name or not, and Events that say nothing about a start.
        ([event(1, "FailedMount", NO_CONFIG_MAP, uid="earlier")], None),
        ([event(1, "Unhealthy", "probe failed")], None),
        ([], None),
    ],
)
def test_a_pod_that_cannot_begin_is_told_in_the_words_of_its_events(
    events: list[dict[str, Any]], told: str | None
) -> None:
    found = problems(creating(), events)
    assert [problem.reason for problem in found] == (["ContainerStartError"] if told else [])
    assert all(problem.message.startswith("Pod p on Node gpu-0: Failed") for problem in found)
    assert told is None or told in found[0].message
    service = rollout_status({"metadata": {"name": "w"}, "spec": {}}, [creating()], events)
    assert (service.reason == "ContainerStartError") == bool(told)
    assert told is None or told in service.message


@pytest.mark.parametrize(
    ("watched", "late"),
    [
        (creating(), True),
        (creating(containerStatuses=None), True),
        (creating(conditions=[{"type": "PodReadyToStartContainers", "status": "False"}]), True),
        (creating(conditions=[{"type": "PodReadyToStartContainers", "status": "True"}]), False),
        (creating(phase="Running"), False),
        (creating(initContainerStatuses=[{"name": "i", "state": {"running": {}}}]), False),
        (pod(), False),
    ],
)
def test_only_a_pod_that_has_its_node_and_has_not_begun_is_asked_about(
    watched: dict[str, Any], late: bool
) -> None:
    assert begins_late(watched) is late
    mount = event(1, "FailedMount", NO_CONFIG_MAP, uid=str(watched["metadata"].get("uid")))
    assert bool(problems(watched, [mount])) is late
    one = {"metadata": {"name": "w"}, "spec": {"replicas": 1}}
    assert silent_about(one, [watched]) == ([watched] if late else [])
    assert silent_about(one, []) == [one]
    assert silent_about(None, []) == []


@pytest.mark.parametrize(
    ("reason", "message", "seconds"),
    [
        ("FailedMount", NO_CONFIG_MAP, STUCK_AFTER["ContainerStartError"]),
        ("FailedMount", NO_SECRET, STUCK_AFTER["ContainerStartError"]),
        ("FailedMount", NO_ACCOUNT, STUCK_AFTER["ContainerStartError"]),
        ("FailedMount", NO_CLAIM, STUCK_AFTER["ContainerStartError"]),
        # A fresh Node, until its CSI driver's pod runs.
        ("FailedMount", NO_PLUGIN, BEGIN_SECONDS),
        ("FailedAttachVolume", NO_NODE, BEGIN_SECONDS),
        ("FailedMount", UNMOUNTED, BEGIN_SECONDS),
        ("FailedAttachVolume", IN_USE, BEGIN_SECONDS),  # Kubernetes detaches by force after 6 minutes
        ("FailedCreatePodSandBox", NO_NETWORK, BEGIN_SECONDS),
    ],
)
def test_what_kubernetes_gets_over_by_itself_is_waited_for_longer(
    reason: str, message: str, seconds: float
) -> None:
    (problem,) = problems(creating(), [event(1, reason, message)])
    assert stuck_seconds(problem, holds_machines=True) == seconds
    watch = StartWatch(True)
    events = [event(1, reason, message)]
    assert not watch.look(creating(), 0.0, events).hopeless
    assert watch.look(creating(), seconds, events).hopeless


SANDBOX = (
    "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox "
    '"{id}": plugin type="calico" failed (add): netns /var/run/netns/cni-{uuid}: '
    "read tcp 10.244.0.5:{port}->10.0.0.1:443: i/o timeout after {seconds}s at {time}"
)
FIRST = {
    "id": "0123456789abcdef" * 4,
    "uuid": "0b3c1f6e-5d0e-4b7e-9d5f-3f6b0a1c2d3e",
    "port": "40112",
    "seconds": "10.003",
}
FIRST["time"] = "2026-01-01T00:00:01.123456789Z"
SECOND = {
    "id": "fedcba9876543210" * 4,
    "uuid": "11111111-2222-4333-8444-555555555555",
    "port": "51320",
    "seconds": "1m2",
}
SECOND["time"] = "2026-01-01T00:00:31Z"


def test_a_cause_reads_the_same_at_each_try() -> None:
    """A condition takes it, so that each new sandbox id was a write of the status."""
    first, second = (
        problems(creating(), [event(at, "FailedCreatePodSandBox", SANDBOX.format(**told))])
        for at, told in ((1, FIRST), (2, SECOND))
    )
    assert first == second
    assert (
        'for sandbox "...": plugin type="calico" failed (add): netns /var/run/netns/cni-...:'
        in first[0].message
    )
    assert "10.244.0.5:...->10.0.0.1:443: i/o timeout after ... at ..." in first[0].message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rpc error: RequestID: " + FIRST["uuid"], "rpc error: RequestID: " + SECOND["uuid"]),
        ("/kubepods/cri-containerd-" + FIRST["id"], "/kubepods/cri-containerd-" + SECOND["id"]),
        ("back-off 40s restarting", "back-off 1m20s restarting"),
        ("2026/01/01 10:00:00 refused", "2026/01/01 10:00:31 refused"),
    ],
)  # fmt: skip
def test_what_changes_is_cut_from_what_a_container_waits_for(first: str, second: str) -> None:
    assert problems(waiting("CreateContainerError", first)) == problems(
        waiting("CreateContainerError", second)
    )


@pytest.mark.parametrize(
    "message",
    [
        'configmap "mine-10s" not found',
        'secret "' + FIRST["id"] + '" not found',
        'MountVolume.SetUp failed for volume "pvc-' + FIRST["uuid"] + '": exit status 32',
        "pull r.example.com/x@sha256:" + FIRST["id"] + ": manifest unknown",
        "0/3 nodes are available, port 8080, 10.0.0.1:443, node gpu-0s",
    ],
)
def test_what_stays_is_told_in_full(message: str) -> None:
    assert problems(creating(), [event(1, "FailedMount", message)])[0].message.endswith(message)
