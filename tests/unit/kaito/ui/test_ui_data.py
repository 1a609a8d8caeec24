"""What steps have told of data and evaluation on a page: whole, escaped, and only for whoever may see XComs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from kaito.ui import runs
from kaito.ui.mount import PREFIX
from sqlalchemy import delete, insert

from include.views.timeline import TaskRun

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
NOW = datetime(2026, 11, 28, 11, tzinfo=UTC)
TOLD = {
    "rows": 7,
    "digest": "sha256:1",
    "sentence": SCRIPT,
    "findings": [SCRIPT],
    "layouts": [SCRIPT],
    "dropped": {SCRIPT: 2},
    "sources": [{"url": SCRIPT, "rows": 7}],
    "languages": {SCRIPT: 1.0},
    "personal": {SCRIPT: 3},
    "tokens": {
        **{"rows": 7, "p50": 5, "p95": 9, "max": 9, "max_length": 8, "cut_share": 0.5, "lost_share": 0.0},
        "histogram": {"width": 1, "rows": [0, 1, 2, 3, 0, 0, 0, 0, 0, 1]},
    },
}
ROWS = [[[f"Who? {SCRIPT}", False], [f"Anna. {SCRIPT}", True]]]
Fetched = Callable[..., runs.Run]


@pytest.fixture
def fetched(airflow: Any, database: Any) -> Iterator[Fetched]:
    """Make a run whose dataset step has told something."""
    from airflow.models.xcom import XComModel

    def made(run_id: str, number: int, step: str = "fetch_dataset", **told: Any) -> runs.Run:
        which = {"dag_run_id": number, "dag_id": "kaito_tune", "run_id": run_id, "task_id": step}
        with database.begin() as connection:
            for key, value in told.items():
                row = {**which, "key": key, "value": value, "timestamp": NOW, "map_index": -1}
                connection.execute(insert(XComModel).values(**row))
        task = TaskRun(step, "success", NOW, NOW)
        return runs.Run("kaito_tune", run_id, "success", NOW, NOW, NOW, (task,))

    yield made
    with database.begin() as connection:
        connection.execute(delete(XComModel))


@pytest.fixture
def page(client: TestClient, viewer: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def shown(*found: runs.Run) -> str:
        monkeypatch.setattr(runs, "runs_of", lambda _: list(found))
        answer = client.get(f"{PREFIX}/workspaces/team/phi", headers=viewer)
        assert answer.status_code == 200
        return answer.text

    return shown


def test_the_whole_report_is_on_the_page_and_nothing_of_it_is_markup(
    page: Any, fetched: Fetched, client: TestClient, viewer: dict[str, str]
) -> None:
    text = page(fetched("r", 77, return_value=TOLD, samples=ROWS))
    assert 'id="data"' in text
    assert "/dags/kaito_tune/runs/r/tasks/fetch_dataset" in text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert not re.search(r"\sstyle=|<style|\son\w+=\"", text)
    assert text.count('class="count"') == 10
    assert 'class="limit"' in text
    assert "50.0% are longer than 8 and cut" in text
    assert re.search(r'Who\? &lt;script.*<mark class="learnt">Anna\. &lt;script', text)
    told = client.get(f"{PREFIX}/api/workspaces/team/phi", headers=viewer).json()["data"]
    assert ["Rows", "7"] in told["facts"]
    assert told["samples"] == ROWS
    assert told["lengths"]["bars"][3]["height"] == 120.0


def test_whoever_may_not_see_xcoms_sees_no_row_and_no_number(
    page: Any, fetched: Fetched, airflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = airflow.is_authorized_dag

    def but_xcoms(**asked: Any) -> bool:
        return getattr(asked["access_entity"], "name", "") != "XCOM" and allowed(**asked)

    run = fetched("r", 77, return_value=TOLD, samples=ROWS)
    monkeypatch.setattr(airflow, "is_authorized_dag", but_xcoms)
    text = page(run)
    assert 'id="data"' not in text
    assert "Anna" not in text


def test_a_run_that_trained_nothing_anew_shows_the_report_of_the_run_that_fetched_the_same_data(
    page: Any, fetched: Fetched
) -> None:
    kept = fetched("again", 78, return_value={"rows": 7, "digest": "sha256:1"})
    first = fetched("first", 77, return_value=TOLD, samples=ROWS)
    assert "Anna" in page(kept, first)
    other = fetched("other", 79, return_value={"rows": 8, "digest": "sha256:2"})
    assert "Anna" not in page(other, first)
    assert 'id="data"' in page(other, first)


def test_rows_whose_mask_is_not_known_say_so(page: Any, fetched: Fetched) -> None:
    text = page(fetched("r", 77, return_value=TOLD, samples=[[["Who? I.", False]]]))
    assert "What the loss is on is not known here" in text
    assert "learnt" not in text


def test_a_run_without_rows_says_where_they_are(page: Any, fetched: Fetched) -> None:
    text = page(fetched("r", 77, return_value=TOLD))
    assert "First rows" not in text
    assert "data/report.html" in text


def test_the_last_evaluation_that_measured_something_is_a_table(
    page: Any, fetched: Fetched, client: TestClient, viewer: dict[str, str]
) -> None:
    value = [0.5, 0.4, 0.6, 10]
    told = {
        "report_digest": "sha256:0",
        "subjects": ["base", "current", "candidate"],
        "candidate": {"weights_sha256": "0"},
        "metrics": {"golden": [value, value, value]},
        "differences": {"golden": [None, [0.1, 0.05, 0.2, 10]]},
        "golden": {"total": 9, "failed": 1, "failed_ids": [SCRIPT]},
        "seconds": 1,
    }
    nothing = fetched("later", 80, "retrain.evaluate", return_value={})
    text = page(nothing, fetched("r", 77, "retrain.evaluate", return_value=told))
    assert "<script>alert" not in text
    assert "answers today" in text
    assert '<span class="state good">better</span>' in text
    assert text.count("50% [40% to 60%], n=10") == 3
    measured = client.get(f"{PREFIX}/api/workspaces/team/phi", headers=viewer).json()["evaluation"]
    assert measured["rows"][0]["verdict"] == "better"
    assert "answers today" not in page(nothing)
