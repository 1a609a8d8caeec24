"""The note of a run: which of its steps' reports it says, in Airflow's own tables, and whose note it never takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from kaito import run_notes
from kaito.run_notes import outcome, sentence
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

WHEN = datetime(2026, 11, 29, tzinfo=UTC)


CRASHED = outcome("TuningFailed", "It crashed; trying again")
PUSHED = outcome("Published", "Pushed.")
ANSWERS = outcome("Succeeded", "It answers.")
NO_QUOTA = outcome("NodesFailed", "No quota.")


@pytest.mark.parametrize(
    ("succeeded", "outcomes", "failed", "text"),
    [
        (True, [CRASHED, ANSWERS], [], "It answers."),
        (True, [PUSHED, ANSWERS], [], "It answers."),
        (True, [], [], ""),
        (True, [None, "text", {"phase": "Succeeded"}], [], ""),
        (False, [NO_QUOTA], ["create_gpu_pool", "finish"], "Failed in create_gpu_pool: No quota."),
        (False, [PUSHED], ["serve.ask"], "Failed in serve.ask: Its log says why."),
        (False, [], [], "Failed: Its log says why."),
    ],
)
def test_the_sentence(succeeded: bool, outcomes: list[Any], failed: list[str], text: str) -> None:
    assert sentence(succeeded, outcomes, failed) == text


def test_it_is_short_and_without_secrets() -> None:
    left = outcome("DatasetFailed", "GET https://data.example/x.parquet?sig=SECRET refused " + "x" * 2000)
    text = sentence(False, [left], ["fetch_dataset"])
    assert len(text) == 1000
    assert "SECRET" not in text


class FakeRun:
    """A DAG run as the listener gets it, without a database behind it."""

    def __init__(self, dag_id: str, note: Any = None) -> None:
        self.dag_id, self.run_id, self.dag_run_note = dag_id, "r", note

    @property
    def note(self) -> str | None:
        return self.dag_run_note.content if self.dag_run_note else None

    @note.setter
    def note(self, text: str) -> None:
        self.dag_run_note = SimpleNamespace(content=text, user_id=None)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Airflow's tables of XComs and task instances, with one failed step that left its cause."""
    from airflow.models import import_all_models
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel

    import_all_models()  # their foreign keys name each other
    engine = create_engine("sqlite://")
    for table in (TaskInstance.__table__, XComModel.__table__):
        table.create(engine)
    with Session(engine) as session, engine.begin() as connection:
        row = {"dag_run_id": 1, "map_index": -1, "dag_id": "kaito_tune", "run_id": "r", "timestamp": WHEN}
        connection.execute(
            XComModel.__table__.insert(),
            [{**row, "task_id": "create_gpu_pool", "key": "outcome", "value": NO_QUOTA}],
        )
        monkeypatch.setattr("sqlalchemy.orm.object_session", lambda run: session)
        yield session


def test_a_failed_run_says_its_cause(database: Session) -> None:
    run = FakeRun("kaito_tune")
    run_notes.on_dag_run_failed(run, "task_failure")  # type: ignore[arg-type]
    assert run.note == "Failed: No quota."


def test_our_own_note_is_replaced_and_a_persons_stays(database: Session) -> None:
    ours = FakeRun("kaito_tune", SimpleNamespace(content="Failed: old.", user_id=None))
    theirs = FakeRun("kaito_tune", SimpleNamespace(content="Look at this one!", user_id="eve"))
    for run in (ours, theirs):
        run_notes.on_dag_run_failed(run, "task_failure")  # type: ignore[arg-type]
    assert (ours.note, theirs.note) == ("Failed: No quota.", "Look at this one!")


def test_other_peoples_dags_and_a_broken_database_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the database is away")

    monkeypatch.setattr("sqlalchemy.orm.object_session", lambda run: Broken())
    other, ours = FakeRun("their_dag"), FakeRun("kaito_serve")
    for run in (other, ours):
        run_notes.on_dag_run_success(run, "success")  # type: ignore[arg-type]
    assert (other.note, ours.note) == (None, None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_airflow_loads_the_listener() -> None:
    from kaito_plugin import KaitoPlugin

    assert run_notes in KaitoPlugin.listeners
