"""Phases and conditions as the kubelet computes them."""

from __future__ import annotations

import pytest

from sandbox.node.status import ContainerRecord, PodRecord, build_status, compute_phase

WAITING = {"waiting": {"reason": "ContainerCreating"}}
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


def ended(code):
    return {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}}


def record(*states, init=(), **fields):
    def one(name, state):
        ready = "running" in state
        last = state.pop("_last", {}) if isinstance(state, dict) else {}
        return ContainerRecord(
            name, "busybox", state=dict(state), last_state=last, ready=ready, started=ready
        )

    containers = [one(f"c{i}", dict(state)) for i, state in enumerate(states)]
    inits = [one(f"i{i}", dict(state)) for i, state in enumerate(init)]
    return PodRecord(
        containers, inits, "2026-01-01T00:00:00Z", pod_ip="127.64.0.1", host_ip="127.0.0.1", **fields
    )


CRASHED = {**WAITING, "_last": ended(1)}


@pytest.mark.parametrize(
    ("policy", "pod", "phase"),
    [
        ("Always", record(WAITING), "Pending"),
        ("Always", record(RUNNING), "Running"),
        ("Always", record(RUNNING, WAITING), "Pending"),
        ("Always", record(ended(0)), "Running"),
        ("Always", record(CRASHED), "Running"),
        ("Never", record(ended(0)), "Succeeded"),
        ("Never", record(ended(1)), "Failed"),
        ("Never", record(ended(0), ended(3)), "Failed"),
        ("Never", record(ended(1), RUNNING), "Running"),
        ("OnFailure", record(ended(0)), "Succeeded"),
        ("OnFailure", record(ended(1)), "Running"),
        ("OnFailure", record(CRASHED), "Running"),
        ("Never", record(WAITING, init=[RUNNING]), "Pending"),
        ("Never", record(WAITING, init=[ended(1)]), "Failed"),
        ("Always", record(WAITING, init=[ended(1)]), "Pending"),
        ("Never", record(RUNNING, init=[ended(0)]), "Running"),
        ("Always", record(RUNNING, phase="Failed"), "Failed"),
    ],
)
def test_phase(policy, pod, phase):
    assert compute_phase({"restartPolicy": policy}, pod) == phase


def conditions(pod, state):
    return {
        c["type"]: (c["status"], c.get("reason"), c.get("message"))
        for c in build_status(pod, state)["conditions"]
    }


def test_a_running_pod_is_ready(pod):
    found = conditions(pod, record(RUNNING))
    assert found["Ready"] == found["ContainersReady"] == ("True", None, None)
    assert found["Initialized"] == found["PodScheduled"] == ("True", None, None)


def test_an_unready_container_is_named(pod):
    state = record(RUNNING, RUNNING)
    state.containers[1].ready = False
    found = conditions(pod, state)
    assert found["Ready"] == ("False", "ContainersNotReady", "containers with unready status: [c1]")


def test_an_init_container_that_is_not_done_is_named(pod):
    found = conditions(pod, record(WAITING, init=[ended(0), RUNNING]))
    message = "containers with incomplete status: [i1]"
    assert found["Initialized"] == ("False", "ContainersNotInitialized", message)


@pytest.mark.parametrize(("code", "reason"), [(0, "PodCompleted"), (1, "PodFailed")])
def test_an_ended_pod_is_not_ready_for_a_reason(pod, code, reason):
    assert conditions(pod, record(ended(code)))["Ready"][:2] == ("False", reason)


def test_conditions_of_others_are_kept_and_times_move_only_with_the_state(pod):
    pod["status"] = build_status(pod, record(RUNNING))
    pod["status"]["conditions"] = [
        {**c, "lastTransitionTime": "2020-01-01T00:00:00Z"} for c in pod["status"]["conditions"]
    ]
    pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True"})
    state = record(RUNNING)
    state.containers[0].ready = False
    times = {c["type"]: c.get("lastTransitionTime") for c in build_status(pod, state)["conditions"]}
    assert "DisruptionTarget" in times
    assert times["Initialized"] == "2020-01-01T00:00:00Z"
    assert times["Ready"] != "2020-01-01T00:00:00Z"


def test_a_pod_that_has_ended_stays_ended(pod):
    pod["status"] = {"phase": "Failed", "reason": "NodeLost", "message": "gone"}
    status = build_status(pod, record(RUNNING))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "NodeLost", "gone")


def test_restart_counts_survive_a_restart_of_the_sandbox():
    stored = {"name": "main", "state": RUNNING, "lastState": ended(1), "restartCount": 4}
    again = ContainerRecord.of({"name": "main", "image": "busybox"}, stored)
    assert (again.restart_count, again.state, again.last_state) == (4, RUNNING, ended(1))
