"""The table of Workspaces and the word for each: reasons come from the status, secrets never come through."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from include.views import fleet
from include.views.state import Tone, state
from include.views.words import due, duration, until, usd
from include.workspace.status.conditions import Phase, timestamp
from tests.support.fleet import BEGUN, NOW, SERVING, TRAINING, reached, workspace


def test_a_new_workspace_says_that_nobody_has_looked() -> None:
    assert state(workspace()).word == "New"


@pytest.mark.parametrize(
    ("phases", "word", "tone", "reason"),
    [
        (TRAINING, "Working", Tone.BUSY, "Training."),
        ((BEGUN, (Phase.NODES_FAILED, "The quota is spent.")), "Failed", Tone.BAD, "The quota is spent."),
        (
            (BEGUN, (Phase.BUDGET_EXCEEDED, "The budget is spent.")),
            "Over budget",
            Tone.BAD,
            "The budget is spent.",
        ),
        (
            (*TRAINING, (Phase.INFERENCE_READY, "Ready."), (Phase.SUCCEEDED, "It answers.")),
            "Serving",
            Tone.GOOD,
            "It answers.",
        ),
    ],
)
def test_the_word_and_its_reason(phases: Any, word: str, tone: Tone, reason: str) -> None:
    how = state(reached(*phases))
    assert (how.word, how.tone) == (word, tone)
    assert how.reason.startswith(reason)


def test_paused_and_deleting_come_before_what_the_status_says() -> None:
    assert state(reached(*TRAINING, annotations={"kaito.sh/paused": "true"})).word == "Paused"
    assert state(reached(*TRAINING, deletionTimestamp="2026-11-28T12:00:00Z")).word == "Deleting"


def test_a_retry_says_why_it_waits() -> None:
    found = reached(*TRAINING)
    found["status"]["retry"] = {"failures": 2, "message": "No machines in this zone."}
    assert state(found).reason == "No machines in this zone."


def test_a_failure_that_is_looked_at_again_still_says_its_cause() -> None:
    found = reached(BEGUN, (Phase.INVALID, "There is no Secret push."))
    found["status"]["retry"] = {"failures": 1, "message": "waiting for the cluster"}
    how = state(found)
    assert (how.word, how.reason.startswith("There is no Secret push.")) == ("Failed", True)


def test_a_reason_never_shows_a_signature() -> None:
    told = "https://data.example/rows.parquet?sig=SECRETSIGNATURE cannot be read"
    assert "SECRETSIGNATURE" not in state(reached(BEGUN, (Phase.DATASET_FAILED, told))).reason


def test_a_training_under_way_shows_its_steps_and_an_ended_one_does_not() -> None:
    found = reached(*TRAINING)
    found["status"]["progress"] = {"step": 30, "total": 120, "etaSeconds": 90.0}
    row = fleet.row(found, NOW)
    assert row.progress == fleet.Progress(30, 120, 90.0)
    assert row.progress.percent == 25
    found["status"]["run"] = {"state": "failed"}
    assert fleet.row(found, NOW).progress is None


def test_a_server_that_starts_shows_how_far_its_weights_are() -> None:
    found = reached(BEGUN)
    found["status"] |= {"progress": {"stage": "downloading the weights", "step": 512, "total": 2048}}
    row = fleet.row(found, NOW)
    assert row.progress is not None
    assert row.progress.words == "downloading the weights, 25%"
    found["status"]["progress"]["stage"] = "training"
    assert fleet.row(found, NOW).progress is None, "no training goes on"


def test_a_row_counts_cost_up_to_now() -> None:
    claim = {"uid": "1", "since": timestamp(NOW - timedelta(hours=2)), "usdPerHour": 3.0}
    row = fleet.row(workspace(status={"cost": {"claims": [claim]}}), NOW)
    assert (round(row.usd, 2), row.usd_per_hour) == (6.0, 3.0)


def test_kinds_and_models() -> None:
    assert fleet.row(workspace(), NOW).kind == fleet.BOTH
    silent = workspace(annotations={"kaito.sh/rollout": "false"})
    assert fleet.row(silent, NOW).kind == fleet.TUNING
    served = workspace()
    served["inference"] = {"template": {}}
    del served["tuning"]
    row = fleet.row(served, NOW)
    assert (row.kind, row.model) == (fleet.SERVING, "own pod template")


def test_a_candidate_of_a_retraining_says_of_whom() -> None:
    row = fleet.row(workspace("phi-r20261128-1", labels={"kaito.sh/retrain-of": "phi"}), NOW)
    assert row.kind == "candidate of phi"


def test_search_takes_every_word_and_sort_puts_trouble_first() -> None:
    rows = [
        fleet.row(reached(*TRAINING, name="alpha"), NOW),
        fleet.row(reached(BEGUN, (Phase.NODES_FAILED, "Quota."), name="omega"), NOW),
    ]
    assert [one.name for one in fleet.arranged(rows, "PHI-3 omega")] == ["omega"]
    assert [one.name for one in fleet.arranged(rows, sort="state")] == ["omega", "alpha"]
    assert [one.name for one in fleet.arranged(rows, sort="no such column", descending=True)] == [
        "omega",
        "alpha",
    ]
    assert "1 of them in trouble" in fleet.summary(rows)


@pytest.mark.parametrize("column", fleet.SORTS)
def test_every_column_sorts_rows_that_lack_it(column: str) -> None:
    rows = [fleet.row(workspace("a"), NOW), fleet.row(reached(*TRAINING, name="b"), NOW)]
    assert len(fleet.arranged(rows, sort=column)) == 2


def test_a_thousand_rows_are_a_matter_of_a_moment() -> None:
    many = [reached(*TRAINING, name=f"w{number}") for number in range(1000)]
    began = time.process_time()
    rows = fleet.arranged((fleet.row(one, NOW) for one in many), "phi", "state")
    assert len(rows) == 1000
    assert time.process_time() - began < 5  # it is a twentieth of a second; this only catches a square


def test_times_and_amounts_in_words() -> None:
    assert [duration(s) for s in (0, 45, 60, 100, 7500, 273600)] == [
        "0 s",
        "45 s",
        "1 min",
        "1 min 40 s",
        "2 h 05 min",
        "3 d 4 h",
    ]
    assert until(NOW + timedelta(hours=2), NOW) == "in 2 h 00 min"
    assert until(NOW - timedelta(seconds=30), NOW) == "30 s ago"
    assert (usd(None), usd(1.5)) == ("–", "1.50 USD")


def test_what_should_have_come_is_due() -> None:
    later = NOW + timedelta(hours=2)
    assert [due(moment, NOW) for moment in (None, later, NOW, NOW - timedelta(days=3))] == [
        "",
        "in 2 h 00 min",
        "due now",
        "due now",
    ]


def test_the_busiest_services_come_first_and_what_is_not_served_has_no_rate() -> None:
    busy, quiet = reached(*SERVING, name="busy"), reached(*SERVING, name="quiet")
    unknown, training = reached(*SERVING, name="unknown"), reached(*TRAINING, name="training")
    rates = [(training, None), (quiet, 0.0), (unknown, None), (busy, 2.5)]
    rows = fleet.arranged([fleet.row(one, NOW, rate) for one, rate in rates], sort="requests")
    shown = {one.name: fleet.cells(one, NOW)["requests"] for one in rows}
    assert list(shown)[:2] == ["busy", "quiet"]
    assert shown == {"busy": "2.50", "quiet": "0", "unknown": "–", "training": ""}
