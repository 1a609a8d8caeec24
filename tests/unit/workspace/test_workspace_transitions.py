"""Events: one for each turn, the cause first, and nothing without a turn."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.workspace import Phase
from include.workspace.status import conditions
from include.workspace.status.transitions import Event, transition_events
from tests.support.workspaces import SERVING, TUNING

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def after(document: dict[str, Any], *phases: Phase) -> dict[str, Any]:
    for phase in phases:
        status = conditions.progress(document, phase, message=f"it is {phase}", now=NOW)
        document = {**document, "status": status}
    return document


def turn(document: dict[str, Any], before: list[Phase], phase: Phase) -> list[Event]:
    start = after(document, *before)
    return transition_events(start.get("status"), after(start, phase)["status"])


def test_first_sight_is_one_event() -> None:
    assert turn(TUNING, [], Phase.ACCEPTED) == [Event("Normal", "Pending", "Pending: it is Accepted")]


def test_conditions_that_share_a_sentence_share_an_event() -> None:
    assert turn(TUNING, [Phase.ACCEPTED], Phase.NODES_READY) == [
        Event(
            "Normal", "NodeClaimsReady", "NodeClaimReady, NodesReady, ResourceReady: True. it is NodesReady"
        )
    ]


def test_a_failure_is_a_warning_with_the_reason_of_its_part() -> None:
    found = turn(TUNING, [Phase.ACCEPTED, Phase.TUNING], Phase.TUNING_FAILED)
    assert found == [
        Event(
            "Warning",
            "WorkspaceTuningJobStatusFailed",
            "JobStarted, WorkspaceSucceeded, WorkspaceReady: False, Running -> Failed. it is TuningFailed. Next: mend "
            "the cause, then give the annotation kaito.sh/rerun a new value.",
        )
    ]


@pytest.mark.parametrize(("document", "state"), [(TUNING, "Succeeded"), (SERVING, "Ready")])
def test_success_is_told_once(document: dict[str, Any], state: str) -> None:
    [found] = turn(document, [Phase.ACCEPTED, Phase.NODES_READY, Phase.INFERENCE_READY], Phase.SUCCEEDED)
    assert (found.type, found.reason) == ("Normal", state)
    assert found.message.startswith("WorkspaceSucceeded, WorkspaceReady: True, ")
    assert found.message.endswith(f" -> {state}. it is Succeeded")


def test_a_reason_of_its_own_goes_before_the_state() -> None:
    [found] = turn(TUNING, [Phase.ACCEPTED, Phase.TUNING], Phase.BUDGET_EXCEEDED)
    assert (found.type, found.reason) == ("Warning", "BudgetExceeded")
    [found] = turn(TUNING, [Phase.ACCEPTED, Phase.TUNING], Phase.FAILED)
    assert (found.type, found.reason) == ("Warning", "Failed")


@given(st.lists(st.sampled_from(list(Phase)), max_size=6), st.sampled_from(list(Phase)), st.booleans())
def test_no_sentence_is_told_twice_and_no_new_state_is_left_out(
    before: list[Phase], phase: Phase, tunes: bool
) -> None:
    start = after(TUNING if tunes else SERVING, *before)
    new = after(start, phase)["status"]
    messages = [event.message for event in transition_events(start.get("status"), new)]
    assert sum(f"it is {phase}" in message for message in messages) <= 1
    state, was = new.get("state"), (start.get("status") or {}).get("state")
    assert state == was or any(state in message for message in messages)


def test_a_cause_that_changes_while_the_status_stays_false_is_told() -> None:
    start = after(SERVING, Phase.ACCEPTED, Phase.ROLLING_OUT)
    pull = conditions.progress(
        start, Phase.ROLLING_OUT, message="no such image", reason="ImagePullError", now=NOW
    )
    assert [(e.type, e.reason) for e in transition_events(start["status"], pull)] == [
        ("Warning", "ImagePullError")
    ]


def test_a_service_that_stops_answering_is_a_warning_and_a_new_generation_is_not() -> None:
    served = [Phase.ACCEPTED, Phase.NODES_READY, Phase.INFERENCE_READY, Phase.SUCCEEDED]
    assert turn(SERVING, served, Phase.ROLLING_OUT)[0].type == "Warning"
    start = after(SERVING, *served)
    edited = {**start, "metadata": {**start["metadata"], "generation": 2}}
    assert {e.type for e in transition_events(start["status"], after(edited, Phase.ACCEPTED)["status"])} == {
        "Normal"
    }


def test_releasing_the_machines_is_no_warning() -> None:
    found = turn(TUNING, [Phase.ACCEPTED, Phase.NODES_READY], Phase.RELEASED)
    assert [(e.type, e.reason) for e in found] == [("Normal", "NodesReleased")]


@given(st.lists(st.sampled_from(list(Phase)), max_size=6), st.sampled_from(list(Phase)))
def test_the_same_status_twice_tells_nothing(before: list[Phase], phase: Phase) -> None:
    status = after(TUNING, *before, phase)["status"]
    assert transition_events(status, status) == []


def test_nothing_at_all_tells_nothing() -> None:
    assert transition_events(None, None) == []
    assert transition_events({"conditions": []}, None) == []


@pytest.mark.parametrize(
    "reason", ["NodeNotFound", "AwaitingReconciliation", "NotRegistered", "StartupTaintsExist"]
)
def test_a_machine_that_is_on_its_way_is_no_warning(reason: str) -> None:
    start = after(TUNING, Phase.ACCEPTED)
    for told, kinds in ((reason, set()), ("LaunchFailed", {"Warning"})):
        new = conditions.progress(start, Phase.NODES_PENDING, message="m", now=NOW, reason=told)
        assert {event.type for event in transition_events(start["status"], new)} == kinds
