"""KAITO's gauges: each Workspace is in one phase, and one that only waits is no error."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ledger.gpu_seconds import gpu_seconds
from include.workspace.status.gauges import PHASES, gauges, phase, quantity


def workspace(status: str = "", reason: str = "", **more: Any) -> dict[str, Any]:
    said = [{"type": "WorkspaceSucceeded", "status": status, "reason": reason}] if status else []
    return {"metadata": {"name": "w"}, "status": {"conditions": said}, **more}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (workspace(), "pending"),
        (workspace("False", "workspacePending"), "pending"),
        (workspace("True", "workspaceSucceeded"), "succeeded"),
        (workspace("False", "workspaceFailed"), "error"),
        (workspace("False", "BudgetExceeded"), "error"),
        ({"metadata": {"deletionTimestamp": "now"}, "status": workspace("True")["status"]}, "deleting"),
        ({}, "pending"),
    ],
)
def test_a_workspace_is_in_one_phase(found: dict[str, Any], name: str) -> None:
    assert phase(found) == name


@given(st.lists(st.sampled_from([workspace(), workspace("True"), workspace("False", "workspaceFailed")])))
def test_every_phase_is_told_and_they_are_all_of_them(found: list[dict[str, Any]]) -> None:
    told = [one for one in gauges(found, []) if one.name == "kaito_workspace_count"]
    assert [one.labels["phase"] for one in told] == list(PHASES), (
        "also one that is at zero, or it kept its value"
    )
    assert {one.labels["phase"]: one.value for one in told} == {
        name: Counter(map(phase, found))[name] for name in PHASES
    }


def test_presets_that_are_served_and_volumes() -> None:
    serving = workspace(inference={"preset": {"name": "phi-4"}})
    bound = {
        "status": {"capacity": {"storage": "2Gi"}},
        "spec": {"resources": {"requests": {"storage": "1Gi"}}},
    }
    waiting = {"spec": {"resources": {"requests": {"storage": "512Mi"}}}}
    told = list(gauges([serving, serving, workspace(tuning={"preset": {"name": "x"}})], [bound, waiting, {}]))
    by_name = {(one.name, *one.labels.values()): one.value for one in told}
    assert by_name["kaito_workspace_preset_count", "phi-4"] == 2
    assert ("kaito_workspace_preset_count", "x") not in by_name
    assert by_name["kaito_workspace_pvc_count",] == 3
    assert by_name["kaito_workspace_pvc_allocated_bytes",] == 2.5 * 2**30


@pytest.mark.parametrize(
    ("text", "size"), [("1Ki", 1024), ("1.5G", 1_500_000_000), ("7", 7), ("", 0), ("x", 0)]
)
def test_quantities(text: str, size: int) -> None:
    assert quantity(text) == size


def test_gpu_seconds_are_those_of_each_gpu_useful_or_wasted() -> None:
    held = [
        {
            "purpose": "tuning",
            "machine": "big",
            "since": "2026-01-01T00:00:00Z",
            "until": "2026-01-01T00:01:40Z",
        }
        | {"workedSeconds": 60},
        {"purpose": "serving", "machine": "small", "since": "2026-01-01T00:00:00Z"},
    ]
    now = datetime(2026, 1, 1, 0, 0, 50, tzinfo=UTC)
    found = gpu_seconds(held, {"big": 8, "small": 1}.__getitem__, now)
    assert found == {
        ("tuning", "useful"): 480,
        ("tuning", "wasted"): 320,
        ("serving", "useful"): 0,
        ("serving", "wasted"): 50,
    }
