"""What the reconciler does for a retraining: starts what is due, serves what is wanted, takes back what fails."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from include.reconcile import StartRun, due
from include.reconcile.decision import Activity, Decision
from include.workspace.api import names
from include.workspace.api.crd_status import status_schema
from include.workspace.status import retraining
from include.workspace.status.conditions import condition
from tests.support.reconcile.cluster import NAME
from tests.support.reconcile.retrained import ENTRY, NEW, OLD, a_service, digest, told, wants, write
from tests.support.reconcile.story import Story, of, ready, run_ended

#: The model's clock begins on Monday, 2026-11-23, at noon (UTC).
HOURLY = {names.RETRAIN_SCHEDULE: "0 * * * *"}


def starts(decision: Decision) -> list[StartRun]:
    return [act for act in of(decision, StartRun) if act.dag_id == "kaito_retrain"]


def end(story: Story, state: str = "success") -> None:
    story.airflow.runs[story.status["retrain"]["run"]["id"]].state = state


def test_a_workspace_without_the_annotations_is_as_before() -> None:
    story = a_service()
    story.reconcile()
    assert "retrain" not in story.status
    assert condition(story.status, "RetrainReady") is None
    assert due(story.ws, story.cluster.now, story.cluster.now) is None


def test_a_new_schedule_starts_nothing_at_once_and_says_when() -> None:
    story = a_service(**HOURLY)
    decision = story.reconcile()
    assert not starts(decision)
    assert story.status["retrain"]["next"] == "2026-11-23T13:00:00Z"
    assert told(story) == ("True", "Scheduled")
    left = due(story.ws, story.cluster.now, story.cluster.now)
    assert left == (datetime.fromisoformat("2026-11-23T13:00:00Z") - story.cluster.now).total_seconds()


def test_what_is_due_is_one_run_named_after_its_time_and_the_service_is_not_touched() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.cluster.advance(3600)
    assert due(story.ws, story.cluster.now - timedelta(minutes=5), story.cluster.now) == 0.0
    decision = story.reconcile()
    run = starts(decision)[0]
    assert run.run_id == f"ml.w.{story.ws['metadata']['uid'][:8]}.retrain.20261123T130000Z"
    assert decision.actions == (run,)
    assert digest(story) == OLD
    assert ready(story)
    assert not starts(story.reconcile())
    assert told(story) == ("True", "Scheduled")


def test_however_many_times_were_missed_one_run_makes_up_for_them() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.annotate(paused="true")
    for _ in range(7):
        story.cluster.advance(3600)
        assert not starts(story.reconcile())
    story.annotate(paused="false")
    began = [run for _ in range(3) for run in starts(story.reconcile())]
    assert len(began) == 1
    assert began[0].run_id.endswith(".retrain.20261123T190000Z")
    assert story.status["retrain"]["next"] > "2026-11-23T19"


def test_two_retrainings_of_a_workspace_are_one_after_the_other() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.cluster.advance(3600)
    first = starts(story.reconcile())[0]
    story.cluster.advance(2 * 3600 + 600)
    assert not starts(story.reconcile())
    end(story)
    second = starts(story.reconcile())
    assert [run.run_id for run in second] == [first.run_id.replace("T130000Z", "T150000Z")]


def test_a_run_that_airflow_has_forgotten_is_started_again_under_its_id() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.cluster.advance(3600)
    run = starts(story.reconcile())[0]
    story.airflow.runs.clear()
    assert starts(story.reconcile()) == [run]


def test_a_run_of_somebody_elses_dag_that_is_forgotten_is_over() -> None:
    story = a_service()
    run = {"id": "manual__1", "dag": "weekly_report", "state": "started"}
    write(story, {**story.status, "retrain": {"run": run}})
    assert not starts(story.reconcile())
    assert story.status["retrain"]["run"]["state"] == "failed"
    assert told(story) == ("False", "RetrainFailed")


def test_a_run_that_dies_without_a_word_is_told() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.cluster.advance(3600)
    story.reconcile()
    end(story, "failed")
    decision = story.reconcile()
    assert told(story) == ("False", "RetrainFailed")
    assert ("Warning", "RetrainFailed") in {(event.type, event.reason) for event in decision.events}
    assert ready(story)


def test_data_is_looked_at_at_once_and_then_when_the_run_has_said_so() -> None:
    story = a_service(**{names.RETRAIN_SCHEDULE: "@data"})
    story.reconcile()
    assert sum("retrain" in run for run in story.airflow.started) == 1
    end(story)
    later = "2026-11-24T12:00:00Z"
    write(story, retraining.with_retrain(story.status, {**retraining.of(story.status), "next": later}))
    assert not starts(story.reconcile())
    story.cluster.now = datetime.fromisoformat(later)
    assert len(starts(story.reconcile())) == 1


@pytest.mark.parametrize("text", ["0 0 30 2 *", "often"])
def test_a_schedule_that_was_edited_into_nonsense_is_told_and_starts_nothing(text: str) -> None:
    story = a_service(**{names.RETRAIN_SCHEDULE: text})
    story.reconcile()
    assert told(story) == ("False", "RetrainInvalid")
    assert "next" not in story.status.get("retrain", {})
    assert ready(story)


def test_a_spent_budget_starts_no_retraining() -> None:
    story = a_service(**HOURLY, **{names.BUDGET: "5"})
    story.reconcile()
    write(story, retraining.with_retrain(story.status, {**retraining.of(story.status), "usd": 99.0}))
    story.cluster.advance(3600)
    assert not starts(story.reconcile())
    assert story.condition("WorkspaceReady") == ("False", "BudgetExceeded")


def test_a_wanted_version_is_rolled_out_and_served() -> None:
    story = wants(a_service())
    assert digest(story) == OLD
    assert (due(story.ws, story.cluster.now, story.cluster.now) or 0) <= 1.0
    decision = story.reconcile()
    run = of(decision, StartRun)[0]
    assert (run.dag_id, story.status["run"]["cause"]) == ("kaito_serve", "promote")
    assert digest(story) == NEW
    assert told(story) == ("False", "Promoting")
    story.lives(lambda s: told(s) == ("True", "Promoted"))
    assert digest(story) == NEW
    entry = story.status["retrain"]["versions"][0]
    assert entry["state"] == "promoted"
    assert entry["promotedAt"]
    assert "promotion" not in story.status["retrain"]
    assert retraining.served_version(story.status) == "20261123.1"


def test_a_version_that_does_not_become_ready_is_taken_back_by_itself() -> None:
    story = wants(a_service())
    story.reconcile()
    story.airflow.runs[story.status["run"]["id"]].doomed = "service_ready"
    story.lives(lambda s: told(s) == ("False", "RolledBack"))
    assert digest(story) == OLD
    assert story.status["run"]["cause"] == "rollback"
    assert story.status["retrain"]["versions"][0]["state"] == "rolledBack"
    story.lives(lambda s: ready(s) and run_ended(s))
    assert digest(story) == OLD
    assert told(story) == ("False", "RolledBack")
    assert story.cluster.find("StatefulSet", NAME)


@pytest.mark.parametrize("fault", ["restarts", "not ready"])
def test_a_version_that_fails_within_its_bake_time_is_taken_back(fault: str) -> None:
    story = wants(a_service(), bake=600).lives(
        lambda s: (s.status["retrain"].get("promotion") or {}).get("state") == "baking"
    )
    story.reconcile()
    assert told(story) == ("False", "Promoting")
    if fault == "restarts":
        pod = story.cluster.children("serving")[0]
        statuses = [{**one, "restartCount": 1} for one in pod["status"]["containerStatuses"]]
        story.cluster.change("Pod", pod, status={"containerStatuses": statuses})
    else:
        found = story.cluster.find("StatefulSet", NAME)
        assert found
        story.cluster.change("StatefulSet", found, status={"readyReplicas": 0})
    story.reconcile()
    assert told(story) == ("False", "RolledBack")
    assert digest(story) == OLD
    story.lives(lambda s: ready(s) and run_ended(s))


def test_a_version_whose_answers_fail_within_its_bake_time_is_taken_back() -> None:
    limits = {"errors": 0.05, "latency": 3.0}
    story = wants(a_service(), bake=600)
    known = story.status["retrain"]
    promotion = {**known["promotion"], "limits": limits}
    write(story, retraining.with_retrain(story.status, {**known, "promotion": promotion}))
    story.shell.activity = Activity(0, 100, 1.0, failed=2, timed=98, seconds=49.0)
    story.lives(lambda s: (s.status["retrain"].get("promotion") or {}).get("state") == "baking")
    story.reconcile()
    assert told(story) == ("False", "Promoting")
    begun = story.status["retrain"]["promotion"]
    assert begun["before"] == begun["begun"] == {"answered": 100, "failed": 2, "timed": 98, "seconds": 49.0}
    assert (due(story.ws, story.cluster.now, story.cluster.now) or 0) <= 10.0
    story.shell.activity = Activity(0, 120, 1.0, failed=12, timed=108, seconds=54.0)
    story.reconcile()
    assert told(story) == ("False", "RolledBack")
    assert "10 of 20 answers failed" in str((condition(story.status, "RetrainReady") or {}).get("message"))
    assert digest(story) == OLD
    story.lives(lambda s: ready(s) and run_ended(s))
    assert digest(story) == OLD


def test_a_version_that_answers_golden_questions_wrongly_is_taken_back() -> None:
    story = wants(a_service(), bake=600).lives(
        lambda s: (s.status["retrain"].get("promotion") or {}).get("state") == "baking"
    )
    known = story.status["retrain"]
    promotion = {**known["promotion"], "breach": "the service answers 3 of 3 golden questions wrongly"}
    write(story, retraining.with_retrain(story.status, {**known, "promotion": promotion}))
    story.reconcile()
    assert told(story) == ("False", "RolledBack")
    assert digest(story) == OLD
    assert "golden questions" in story.status["retrain"]["versions"][0]["reason"]


def test_a_machine_that_is_lost_within_the_bake_time_is_repaired_and_the_version_stays() -> None:
    story = wants(a_service(), bake=600).lives(
        lambda s: (s.status["retrain"].get("promotion") or {}).get("state") == "baking"
    )
    story.cluster.delete("NodeClaim", sorted(story.cluster.objects["NodeClaim"])[0])
    story.reconcile()
    assert digest(story) == NEW
    story.lives(lambda s: told(s) == ("True", "Promoted"), rounds=200)


def test_a_version_that_held_out_is_good_after_its_bake_time() -> None:
    story = wants(a_service(), bake=120).lives(lambda s: told(s) == ("True", "Promoted"), rounds=120)
    assert digest(story) == NEW


@pytest.mark.parametrize("asked", ["previous", OLD, "20261122.1"])
def test_a_rollback_by_hand_is_followed_once(asked: str) -> None:
    story = a_service()
    earlier = {
        "version": "20261122.1",
        "digest": OLD,
        "reference": f"r.io/x@{OLD}",
        "promotedAt": "2026-11-22",
    }
    now = {**ENTRY, "state": "promoted", "promotedAt": "2026-11-23T12:00:00Z"}
    status = {**story.status, "adapter": {key: now[key] for key in ("image", "digest", "reference")}}
    write(story, retraining.with_retrain(status, {"versions": [earlier, now]}))
    story.cluster.change(
        "Workspace", story.ws, annotations={**story.ws["metadata"]["annotations"], names.ROLLBACK_TO: asked}
    )
    story.lives(lambda s: told(s) == ("True", "Promoted") if condition(s.status, "RetrainReady") else False)
    assert digest(story) == OLD
    runs = len(story.airflow.started)
    story.reconcile()
    assert len(story.airflow.started) == runs


def test_a_rollback_to_what_does_not_exist_is_refused_with_what_there_is() -> None:
    story = a_service()
    write(story, retraining.with_retrain(story.status, {"versions": [ENTRY]}))
    notes = {**story.ws["metadata"]["annotations"], names.ROLLBACK_TO: "20250101.1"}
    story.cluster.change("Workspace", story.ws, annotations=notes)
    decision = story.reconcile()
    event = next(one for one in decision.events if one.reason == "RollbackRefused")
    assert "there are: 20261123.1" in event.message
    assert digest(story) == OLD


def test_an_edit_of_the_workspace_gives_a_wanted_version_up() -> None:
    story = wants(a_service())
    story.edit(variant=9)
    story.lives(lambda s: ready(s) and run_ended(s) and s.status["run"]["generation"] == 2)
    story.reconcile()
    assert "promotion" not in story.status["retrain"]
    assert story.status["retrain"]["versions"][0]["state"] == "refused"
    assert story.status["run"]["cause"] == "spec"


def test_a_run_that_ends_while_the_next_spec_is_refused_is_over() -> None:
    story = a_service(**HOURLY)
    story.reconcile()
    story.cluster.advance(3600)
    story.reconcile()
    end(story)
    story.shell.secret = False
    story.edit(preset="good", variant=9)
    story.reconcile()
    assert story.condition("ResourceReady")[0] == "False"
    assert story.status["retrain"]["run"]["state"] == "success"


def test_without_a_service_another_version_is_the_adapter_at_once() -> None:
    story = Story("tuning").lives(run_ended)
    write(story, {**story.status, "adapter": {"digest": OLD, "reference": f"r.io/x@{OLD}"}})
    wants(story)
    decision = story.reconcile()
    assert not of(decision, StartRun)
    assert digest(story) == NEW
    assert told(story) == ("True", "Promoted")


def test_a_candidate_that_failed_is_never_run_by_itself() -> None:
    story = Story("tuning")
    labels = {names.RETRAIN_OF: "parent"}
    notes = {**story.ws["metadata"]["annotations"], names.STARTED_BY: "my_dag/manual__1", names.RERUN: "x"}
    story.cluster.change("Workspace", story.ws, labels=labels, annotations=notes)
    for _ in range(5):
        decision = story.reconcile()
        assert not of(decision, StartRun)
        story.cluster.advance(600)
    assert story.status["run"]["dag"] == "my_dag"
    assert story.status["run"]["state"] == "failed"  # Airflow knows no such run


def test_all_that_is_written_is_in_the_schema() -> None:
    checker = Draft202012Validator(_strict(status_schema()["properties"]["retrain"]))
    seen: list[dict[str, Any]] = []
    story = wants(a_service(**HOURLY), bake=60)
    story.lives(
        lambda s: bool(seen.append(s.status.get("retrain") or {})) or told(s)[1] == "Promoted", rounds=99
    )
    story.cluster.advance(3600)
    story.reconcile()
    seen.append(story.status["retrain"])
    assert len(seen) > 5
    for one in seen:
        plain = {**one, "versions": [], "promotion": {k: v for k, v in (one.get("promotion") or {}).items()}}
        assert [error.message for error in checker.iter_errors(plain)] == []


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    if schema.get("properties"):
        found["properties"] = {name: _strict(child) for name, child in schema["properties"].items()}
        if set(schema["properties"]) - {"digest", "version"}:
            found["additionalProperties"] = False
    return found
