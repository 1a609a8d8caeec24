"""The status through the life of a run: truthful at each step, in KAITO's words, and fenced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from include.workspace import ConditionType, Phase, StaleGeneration
from include.workspace.status import conditions
from tests.support.quick_start import QUICK_START
from tests.support.workspaces import SERVING, TUNING, changed

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
QUICK: dict[str, Any] = changed(yaml.safe_load(QUICK_START), {"metadata.uid": "u", "metadata.generation": 1})
TO_THE_END = [
    Phase.ACCEPTED,
    Phase.DATASET_READY,
    Phase.NODES_PENDING,
    Phase.NODES_READY,
    Phase.TUNING,
    Phase.RELEASED,
    Phase.PUBLISHING,
    Phase.PUBLISHED,
    Phase.NODES_PENDING,
    Phase.NODES_READY,
    Phase.ROLLING_OUT,
    Phase.INFERENCE_READY,
    Phase.SUCCEEDED,
]


def run(document: dict[str, Any], phases: list[Phase], **kwargs: Any) -> list[dict[str, Any]]:
    """The statuses after each phase, a minute apart."""
    statuses = []
    for minute, phase in enumerate(phases):
        status = conditions.progress(
            document, phase, message=phase, now=NOW + timedelta(minutes=minute), **kwargs
        )
        document = {**document, "status": status}
        statuses.append(status)
    return statuses


def table(status: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in status["conditions"]}


def test_the_quick_start_ends_with_three_times_true() -> None:
    last = run(QUICK, TO_THE_END)[-1]
    assert table(last) == {
        "NodeClaimReady": "True",
        "NodesReady": "True",
        "ResourceReady": "True",
        "DatasetReady": "True",
        "JobStarted": "True",
        "AdapterPublished": "True",
        "InferenceReady": "True",
        "WorkspaceSucceeded": "True",
        "WorkspaceReady": "True",
    }
    assert last["state"] == "Succeeded"
    reasons = {condition["type"]: condition["reason"] for condition in last["conditions"]}
    assert reasons["ResourceReady"] == "workspaceResourceStatusSuccess"
    assert reasons["InferenceReady"] == "WorkspaceInferenceStatusSuccess"
    assert reasons["JobStarted"] == "WorkspaceTuningJobStatusStarted"
    assert reasons["WorkspaceSucceeded"] == "workspaceSucceeded"
    assert reasons["WorkspaceReady"] == "workspaceReady"


def test_resource_ready_is_true_only_while_there_are_nodes() -> None:
    history = [table(status)["ResourceReady"] for status in run(QUICK, TO_THE_END)]
    assert history == ["False"] * 3 + ["True"] * 2 + ["False"] * 4 + ["True"] * 4


def test_nothing_is_ready_before_the_end() -> None:
    for status in run(QUICK, TO_THE_END)[:-1]:
        assert table(status)["WorkspaceReady"] == "False"
        assert table(status)["WorkspaceSucceeded"] == "False"


def test_states_of_a_tuning() -> None:
    states = [status["state"] for status in run(QUICK, TO_THE_END)]
    assert states == ["Pending"] * 4 + ["Running"] * 8 + ["Succeeded"]


def test_a_tuning_without_rollout_says_nothing_of_inference() -> None:
    phases = [*TO_THE_END[:8], Phase.SUCCEEDED]
    last = run(TUNING, phases)[-1]
    assert "InferenceReady" not in table(last)
    assert table(last)["ResourceReady"] == "False"  # released, and it says so
    assert table(last)["WorkspaceSucceeded"] == "True"


def test_an_inference_workspace_says_nothing_of_tuning() -> None:
    statuses = run(
        SERVING,
        [Phase.ACCEPTED, Phase.NODES_READY, Phase.ROLLING_OUT, Phase.INFERENCE_READY, Phase.SUCCEEDED],
    )
    assert set(table(statuses[-1])) == {
        "NodeClaimReady",
        "NodesReady",
        "ResourceReady",
        "InferenceReady",
        "WorkspaceSucceeded",
        "WorkspaceReady",
    }
    assert [status["state"] for status in statuses] == ["Pending", "Pending", "Pending", "Pending", "Ready"]


@pytest.mark.parametrize(
    ("phase", "kind", "reason"),
    [
        (Phase.INVALID, ConditionType.RESOURCE_READY, "workspaceResourceStatusFailed"),
        (Phase.DATASET_FAILED, ConditionType.DATASET_READY, "DatasetFailed"),
        (Phase.NODES_FAILED, ConditionType.RESOURCE_READY, "workspaceResourceStatusFailed"),
        (Phase.TUNING_FAILED, ConditionType.JOB_STARTED, "WorkspaceTuningJobStatusFailed"),
        (Phase.PUBLISH_FAILED, ConditionType.ADAPTER_PUBLISHED, "AdapterFailed"),
        (Phase.INFERENCE_FAILED, ConditionType.INFERENCE_READY, "WorkspaceInferenceStatusFailed"),
        (Phase.FAILED, ConditionType.WORKSPACE_SUCCEEDED, "workspaceFailed"),
    ],
)
def test_a_failure_says_which_part_failed_and_why(phase: Phase, kind: ConditionType, reason: str) -> None:
    status = run(QUICK, [Phase.ACCEPTED, phase])[-1]
    blamed = conditions.condition(status, kind)
    assert blamed is not None
    told = f"{phase}. {conditions.NEXT[phase]}"
    assert (blamed["status"], blamed["reason"], blamed["message"]) == ("False", reason, told)
    for summary in (ConditionType.WORKSPACE_SUCCEEDED, ConditionType.WORKSPACE_READY):
        found = conditions.condition(status, summary)
        assert found is not None
        assert (found["status"], found["reason"]) == ("False", "workspaceFailed")
    assert status["state"] == "Failed"


def test_a_node_claim_s_own_reason_reaches_resource_ready() -> None:
    status = run(QUICK, [Phase.NODES_FAILED], reason="LaunchFailed")[-1]
    reasons = {condition["type"]: condition["reason"] for condition in status["conditions"]}
    assert reasons["NodeClaimReady"] == reasons["ResourceReady"] == "LaunchFailed"
    assert reasons["WorkspaceSucceeded"] == "workspaceFailed"


def test_transition_times_move_only_with_the_status() -> None:
    first, second, third = run(QUICK, [Phase.ACCEPTED, Phase.NODES_PENDING, Phase.NODES_READY])
    times = [
        conditions.condition(status, "ResourceReady")["lastTransitionTime"]
        for status in (first, second, third)
    ]  # type: ignore[index]
    assert times == ["2026-11-23T12:00:00Z", "2026-11-23T12:00:00Z", "2026-11-23T12:02:00Z"]


def test_every_condition_carries_the_generation() -> None:
    document = changed(QUICK, {"metadata.generation": 7})
    assert {c["observedGeneration"] for c in run(document, [Phase.ACCEPTED])[-1]["conditions"]} == {7}


def test_the_adapter_and_the_nodes_are_recorded() -> None:
    adapter = {"image": "r/a:1", "digest": "sha256:1", "reference": "r/a@sha256:1", "size": 5}
    status = conditions.progress(
        QUICK, Phase.PUBLISHED, message="m", now=NOW, adapter=adapter, nodes=["b", "a"], target_nodes=1
    )
    assert status["adapter"] == {"image": "r/a:1", "digest": "sha256:1", "reference": "r/a@sha256:1"}
    assert (status["workerNodes"], status["targetNodeCount"]) == (["a", "b"], 1)
    released = conditions.progress({**QUICK, "status": status}, Phase.RELEASED, message="m", now=NOW)
    assert (released["workerNodes"], "adapter" in released) == ([], True)


def test_a_new_generation_starts_afresh_and_locks_the_old_run_out() -> None:
    done = {**QUICK, "status": run(QUICK, TO_THE_END, adapter={"image": "r/a:1"})[-1]}
    edited = changed(done, {"metadata.generation": 2})
    with pytest.raises(StaleGeneration, match="is at generation 2; a run for 1"):
        conditions.progress(edited, Phase.SUCCEEDED, message="m", now=NOW, generation=1)
    status = conditions.progress(edited, Phase.ACCEPTED, message="m", now=NOW, generation=2)
    still = {kind for kind, value in table(status).items() if value == "True"}
    assert still == {"InferenceReady"}, "the service of the old generation answers until it is rolled"
    assert "adapter" not in status
    with pytest.raises(StaleGeneration, match="already speaks of generation 2"):
        conditions.fence(status, 1)
    conditions.fence(status, 2)


def test_foreign_conditions_and_fields_are_kept_and_inputs_untouched() -> None:
    foreign = {"type": "Theirs", "status": "Unknown", "reason": "X", "message": "", "lastTransitionTime": "t"}
    before = {"conditions": [foreign], "performance": {"metrics": {}}}
    status = conditions.progress({**QUICK, "status": before}, Phase.ACCEPTED, message="m", now=NOW)
    assert status["conditions"][0] == foreign
    assert status["performance"] == {"metrics": {}}
    assert before["conditions"] == [foreign]


def test_long_messages_are_cut() -> None:
    status = conditions.progress(QUICK, Phase.FAILED, message="x" * 5000, now=NOW)
    assert all(len(condition["message"]) in (1023, 1024) for condition in status["conditions"])
    assert all(
        condition["message"].endswith(conditions.NEXT[Phase.FAILED]) for condition in status["conditions"]
    )


def test_the_same_write_twice_changes_nothing() -> None:
    first = conditions.progress(QUICK, Phase.NODES_READY, message="m", now=NOW)
    later = NOW + timedelta(hours=1)
    assert conditions.progress({**QUICK, "status": first}, Phase.NODES_READY, message="m", now=later) == first


def test_a_deleted_workspace_says_so() -> None:
    assert table(conditions.progress(QUICK, Phase.DELETING, message="m", now=NOW)) == {
        "WorkspaceDeleting": "True"
    }


def repairing(document: dict[str, Any], phases: list[Phase]) -> list[dict[str, Any]]:
    """The statuses of a run that brings back the service of a finished generation."""
    done = run(document, TO_THE_END, adapter={"image": "r/a:1"})[-1]
    record = {"id": "x.r2", "cause": "repair", "generation": document["metadata"]["generation"]}
    return run({**document, "status": {**done, "run": record}}, phases)


def test_a_repair_leaves_what_the_tuning_has_reached() -> None:
    statuses = repairing(QUICK, [Phase.ACCEPTED, Phase.NODES_READY, Phase.INFERENCE_FAILED])
    for status in statuses:
        told = table(status)
        assert told["DatasetReady"] == told["JobStarted"] == told["AdapterPublished"] == "True"
        assert (told["WorkspaceSucceeded"], told["WorkspaceReady"]) == ("True", "False")
        assert (status["state"], status["adapter"]) == ("Succeeded", {"image": "r/a:1"})
    assert [table(status)["InferenceReady"] for status in statuses] == ["True", "True", "False"]


MACHINES = ("NodeClaimReady", "NodesReady", "ResourceReady")


@pytest.mark.parametrize("lost", [None, Phase.NODES_PENDING, Phase.ROLLING_OUT])
def test_a_version_that_is_rolled_out_finds_the_machines_of_the_service_ready(lost: Phase | None) -> None:
    done = run(QUICK, [*TO_THE_END, *([lost] if lost else [])], nodes=["gpu-0"])[-1]
    record = {"id": "x.r2", "cause": "promote", "generation": 1}
    status = run({**QUICK, "status": {**done, "run": record}}, [Phase.ACCEPTED])[-1]
    told = table(status)
    assert {told[kind] for kind in MACHINES} == {"False" if lost else "True"}
    assert status["workerNodes"] == ([] if lost else ["gpu-0"])
    assert told["WorkspaceReady"] == "False", "the run is under way"


def test_an_inference_workspace_in_repair_is_not_ready_rather_than_pending() -> None:
    states = [s["state"] for s in repairing(SERVING, [Phase.ACCEPTED, Phase.ROLLING_OUT, Phase.SUCCEEDED])]
    assert states == ["NotReady", "NotReady", "Ready"]


def test_a_repair_of_an_earlier_generation_means_nothing_to_the_next_one() -> None:
    done = run(QUICK, TO_THE_END, adapter={"image": "r/a:1"})[-1]
    record = {"id": "x.r2", "cause": "repair", "generation": 1}
    edited = changed({**QUICK, "status": {**done, "run": record}}, {"metadata.generation": 2})
    status = run(edited, [Phase.ACCEPTED])[-1]
    assert {kind for kind, value in table(status).items() if value == "True"} == {"InferenceReady"}
    assert "adapter" not in status


def test_a_run_that_somebody_started_is_recorded_unless_another_is_under_way() -> None:
    by_hand = {"id": "manual__1", "dag": "kaito_tune"}
    first = run(QUICK, [Phase.ACCEPTED], begun=by_hand)[-1]
    assert first["run"] == {
        "id": "manual__1",
        "dag": "kaito_tune",
        "attempt": 1,
        "generation": 1,
        "rerun": "",
        "cause": "found",
        "state": "started",
    }
    ours = {"id": "ours", "generation": 1, "attempt": 2, "state": "started", "cause": "spec"}
    assert run({**QUICK, "status": {"run": ours}}, [Phase.ACCEPTED], begun=by_hand)[-1]["run"] == ours
    over = {**ours, "state": "failed"}
    again = run({**QUICK, "status": {"run": over}}, [Phase.ACCEPTED], begun=by_hand)[-1]["run"]
    assert (again["id"], again["attempt"], again["state"]) == ("manual__1", 2, "started")
    older = changed({**QUICK, "status": {"run": ours}}, {"metadata.generation": 2})
    assert run(older, [Phase.ACCEPTED], begun=by_hand)[-1]["run"]["attempt"] == 1


def test_serving_a_tuned_workspace_by_hand_keeps_what_was_tuned() -> None:
    done = run(QUICK, TO_THE_END, adapter={"image": "r/a:1"})[-1]
    by_hand = {"id": "manual__1", "dag": "kaito_serve"}
    status = run({**QUICK, "status": done}, [Phase.ACCEPTED], begun=by_hand)[-1]
    assert (status["run"]["cause"], status["adapter"]) == ("repair", {"image": "r/a:1"})
    assert table(status)["AdapterPublished"] == "True"


ENDS = [
    Phase.DATASET_FAILED,
    Phase.NODES_FAILED,
    Phase.TUNING_FAILED,
    Phase.PUBLISH_FAILED,
    Phase.INFERENCE_FAILED,
    Phase.FAILED,
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("reached", range(len(TO_THE_END) + 1))
def test_nothing_says_what_was_planned_after_a_run_has_failed(end: Phase, reached: int) -> None:
    status = run(QUICK, [*TO_THE_END[:reached], end])[-1]
    assert not [c["type"] for c in status["conditions"] if c["message"] == Phase.ACCEPTED]


def test_a_step_that_is_tried_again_leaves_the_plan_as_it_is() -> None:
    before = run(QUICK, [Phase.ACCEPTED, Phase.DATASET_READY, Phase.NODES_READY])[-1]
    again = conditions.progress(
        {**QUICK, "status": before}, Phase.TUNING_FAILED, message="m", now=NOW, again=True
    )
    assert table(again)["AdapterPublished"] == "False"
    assert not any("Not reached" in c["message"] for c in again["conditions"])


@pytest.mark.parametrize(
    "end",
    [
        Phase.TUNING_FAILED,
        Phase.RELEASED,
        Phase.PUBLISHED,
        Phase.PUBLISH_FAILED,
        Phase.SUCCEEDED,
        Phase.FAILED,
        Phase.BUDGET_EXCEEDED,
    ],
)
def test_no_progress_of_a_training_is_told_when_it_is_over(end: Phase) -> None:
    busy = {**run(QUICK, [Phase.ACCEPTED, Phase.TUNING])[-1], "progress": {"step": 159, "etaSeconds": 9}}
    assert "progress" not in conditions.progress({**QUICK, "status": busy}, end, message="m", now=NOW)
    still = conditions.progress({**QUICK, "status": busy}, Phase.TUNING, message="m", now=NOW)
    assert still["progress"] == busy["progress"]


def test_a_training_that_an_edit_has_ended_does_not_say_that_it_goes_on() -> None:
    before = run(QUICK, [Phase.ACCEPTED, Phase.NODES_READY, Phase.TUNING])[-1]
    edited = changed({**QUICK, "status": before}, {"metadata.generation": 2})
    status = conditions.progress(edited, Phase.INVALID, message="no such preset", now=NOW)
    told = conditions.condition(status, "JobStarted")
    assert told is not None
    assert (told["status"], told["message"]) == ("False", "Not reached: no such preset")


def test_what_is_tried_again_by_itself_asks_nothing_of_its_author() -> None:
    none_left = conditions.progress(
        QUICK, Phase.NODES_FAILED, message="no capacity", reason="CapacityUnavailable", now=NOW
    )
    assert not any("Next:" in condition["message"] for condition in none_left["conditions"])
