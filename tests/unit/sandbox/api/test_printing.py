"""Tables: the columns of kubectl get, ages, and JSONPath."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from sandbox.api.http.printing.columns.parts import human_duration
from sandbox.api.http.printing.columns.pods import status_text
from sandbox.api.http.printing.jsonpath import found
from sandbox.api.http.printing.tables import table
from sandbox.api.kinds.builtin import BUILTINS

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (3600, "60m"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (50 * 3600, "2d2h"),
        (30 * 86400, "30d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


def pod(phase: str, *states: Json, init: tuple[Json, ...] = (), **meta: Any) -> Json:
    def statuses(found: tuple[Json, ...], prefix: str) -> list[Json]:
        return [
            {"name": f"{prefix}{i}", "state": state, "ready": "running" in state, "restartCount": 0}
            for i, state in enumerate(found)
        ]

    return {
        "metadata": {"name": "p", **meta},
        "spec": {
            "containers": [{"name": f"c{i}"} for i in range(len(states))],
            "initContainers": [{"name": f"i{i}"} for i in range(len(init))],
        },
        "status": {
            "phase": phase,
            "containerStatuses": statuses(states, "c"),
            "initContainerStatuses": statuses(init, "i"),
        },
    }


WAITING = {"waiting": {"reason": "PodInitializing"}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (pod("Pending"), "Pending"),
        (pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), "ContainerCreating"),
        (pod("Pending", {"waiting": {"reason": "ImagePullBackOff"}}), "ImagePullBackOff"),
        (pod("Running", {"running": {}}), "Running"),
        (pod("Running", {"waiting": {"reason": "CrashLoopBackOff"}}), "CrashLoopBackOff"),
        (pod("Succeeded", DONE), "Completed"),
        (pod("Failed", {"terminated": {"exitCode": 1, "reason": "Error"}}), "Error"),
        (pod("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), "OOMKilled"),
        (pod("Failed", {"terminated": {"exitCode": 3}}), "ExitCode:3"),
        (pod("Failed", {"terminated": {"exitCode": 3, "signal": 9}}), "Signal:9"),
        (pod("Pending", WAITING, init=({"running": {}}, WAITING)), "Init:0/2"),
        (
            pod("Pending", WAITING, init=(DONE, {"terminated": {"exitCode": 1, "reason": "Error"}})),
            "Init:Error",
        ),
        (pod("Running", {"running": {}}, deletionTimestamp="2026-11-23T13:00:00Z"), "Terminating"),
        (pod("Succeeded", DONE, deletionTimestamp="2026-11-23T13:00:00Z"), "Completed"),
    ],
)
def test_pod_status(one: Json, text: str) -> None:
    assert status_text(one) == text


def cells(plural: str, obj: Json) -> dict[str, Any]:
    info = next(one for one in BUILTINS if one.plural == plural)
    shown = table(info, [obj], {})
    names = [column["name"] for column in shown["columnDefinitions"]]
    return dict(zip(names, shown["rows"][0]["cells"], strict=True))


META = {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}


def test_service_columns() -> None:
    spec = {
        "type": "NodePort",
        "clusterIP": "127.96.0.5",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
    }
    row = cells("services", {"metadata": META, "spec": spec})
    assert row["Port(s)"] == "80:30080/TCP,53/UDP"
    assert row["External-IP"] == "<none>"
    assert row["Selector"] == "<none>"


def test_node_columns() -> None:
    labels = {"node-role.kubernetes.io/gpu": "", "node-role.kubernetes.io/agent": ""}
    node = {
        "metadata": {**META, "labels": labels},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0"},
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        },
    }
    row = cells("nodes", node)
    assert (row["Status"], row["Roles"]) == ("Ready,SchedulingDisabled", "agent,gpu")
    assert row["Internal-IP"] == "127.0.0.1"
    assert cells("nodes", {"metadata": META})["Status"] == "Unknown"


def test_claim_and_job_columns() -> None:
    claim = {
        "metadata": META,
        "spec": {"volumeName": "pv", "storageClassName": "local"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]},
    }
    row = cells("persistentvolumeclaims", claim)
    assert (row["Status"], row["Capacity"], row["Access Modes"]) == ("Bound", "1Gi", "RWO")
    job = {
        "metadata": META,
        "spec": {"completions": 1},
        "status": {
            "succeeded": 1,
            "conditions": [{"type": "Complete", "status": "True"}],
            "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:01:05Z",
        },
    }
    row = cells("jobs", job)
    assert (row["Status"], row["Completions"], row["Duration"]) == ("Complete", "1/1", "65s")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".a.b", [1]),
        ("{.a.b}", [1]),
        ("$.a.b", [1]),
        (".list[0].n", [1]),
        (".list[-1].n", [2]),
        (".list[*].n", [1, 2]),
        ('.list[?(@.k=="y")].n', [2]),
        (".list[?(@.n>1)].k", ["y"]),
        (".list[?(@.z)].n", [2]),
        (".labels['a.b/c']", ["v"]),
        (r".labels.a\.b/c", ["v"]),
        (".missing.x", []),
        (".list[9]", []),
        ("..[", []),
    ],
)
def test_json_paths(path: str, expected: list[Any]) -> None:
    value = {
        "a": {"b": 1},
        "list": [{"k": "x", "n": 1}, {"k": "y", "n": 2, "z": 1}],
        "labels": {"a.b/c": "v"},
    }
    assert found(path, value) == expected
