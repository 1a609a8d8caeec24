"""Files in dags/retraining: one DAG each, and a broken one is an import error that names its line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronTriggerTimetable, DeltaTriggerTimetable, MultipleCronTriggerTimetable
from kaito.operators.candidate import PlanCandidateOperator

from include.retraining.files import examine

PROJECT = Path(__file__).parents[2]
GOOD = "workspace: phi\nschedule: '0 3 * * 1'\ntimezone: Europe/Berlin\npolicy: {when: always}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dags folder with nothing but the loader."""
    shutil.copy(PROJECT / "dags" / "kaito_retrain_files.py", tmp_path)
    (tmp_path / "retraining").mkdir()
    return tmp_path


def bag(folder: Path) -> DagBag:
    return DagBag(dag_folder=str(folder))


def test_each_file_is_a_dag_with_its_own_schedule(folder: Path) -> None:
    (folder / "retraining" / "weekly.yaml").write_text(GOOD)
    (folder / "retraining" / "watch.yaml").write_text(
        "workspace: phi\nschedule: '@data'\npolicy: {watch: {every: 30m}}\n"
    )
    (folder / "retraining" / "after.yaml").write_text("workspace: phi\nassets: ['s3://answers/ready']\n")
    (folder / "retraining" / "by-hand.yaml").write_text("workspace: phi\n")
    found = bag(folder)
    assert found.import_errors == {}
    assert {name.removeprefix("kaito_retrain__") for name in found.dags} == {
        "weekly",
        "watch",
        "after",
        "by-hand",
    }
    weekly = found.dags["kaito_retrain__weekly"]
    assert isinstance(weekly.timetable, CronTriggerTimetable)
    assert isinstance(found.dags["kaito_retrain__watch"].timetable, DeltaTriggerTimetable)
    assert "Asset" in type(found.dags["kaito_retrain__after"].timetable).__name__
    assert found.dags["kaito_retrain__by-hand"].schedule is None
    assert not weekly.catchup
    assert weekly.max_active_runs == 1
    first = {name: dag.get_task("retrain.plan_candidate") for name, dag in found.dags.items()}
    assert first["kaito_retrain__weekly"].workspace == "phi"
    assert [name for name, step in first.items() if step.watches] == ["kaito_retrain__watch"]


def test_a_file_may_name_a_timetable_of_somebody_s_own(folder: Path) -> None:
    shutil.copy(PROJECT / "examples" / "retraining" / "weekly.yaml", folder / "retraining")
    text = (folder / "retraining" / "weekly.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("schedule", "timezone"))]
    written = "\n".join(line.removeprefix("# ") if "timetables" in line else line for line in lines)
    (folder / "retraining" / "weekly.yaml").write_text(written)
    found = bag(folder)
    assert found.import_errors == {}
    timetable = found.dags["kaito_retrain__weekly"].timetable
    assert isinstance(timetable, MultipleCronTriggerTimetable)
    assert len(timetable.timetables) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("timetable: 'examples.timetables.working_days:timetabel'", "cannot be made: "),
        ("timetable: 'pathlib:Path'", "must make an airflow.sdk.BaseTimetable, and made PosixPath"),
        ("assets: ['x://ok', '   ']", "assets[1]: '   ' is no asset's URI"),
    ],
)
def test_what_airflow_will_not_take_of_a_file_is_told_with_its_line(
    folder: Path, line: str, told: str
) -> None:
    (folder / "retraining" / "good.yaml").write_text(GOOD)
    (folder / "retraining" / "bad.yaml").write_text(f"workspace: phi\n{line}\n")
    found = bag(folder)
    assert set(found.dags) == {"kaito_retrain__good"}
    [said] = found.import_errors.values()
    assert "retraining/bad.yaml:2: " in said
    assert told in said


def test_a_file_that_airflow_makes_no_dag_of_leaves_the_others(folder: Path) -> None:
    (folder / "retraining" / "good.yaml").write_text(GOOD)
    (folder / "retraining" / "bad.yaml").write_text(f"workspace: phi\ntags: ['{'x' * 101}']\n")
    found = bag(folder)
    assert set(found.dags) == {"kaito_retrain__good"}
    assert "retraining/bad.yaml:1: Airflow cannot make a DAG of it" in " ".join(found.import_errors.values())


def test_a_file_may_name_its_data_by_the_date_of_each_run(folder: Path) -> None:
    text = "workspace: phi\nschedule: '@daily'\nurls: ['https://data.example.com/{{ ds }}.parquet']\n"
    (folder / "retraining" / "daily.yaml").write_text(text)
    task = bag(folder).dags["kaito_retrain__daily"].get_task("retrain.plan_candidate")
    assert isinstance(task, PlanCandidateOperator)
    task.render_template_fields({"ds": "2026-11-28"})  # type: ignore[typeddict-item]
    assert list(task.urls) == ["https://data.example.com/2026-11-28.parquet"]
    assert task.policy is None


def test_a_broken_file_is_one_import_error_with_its_line_and_the_others_are_dags(folder: Path) -> None:
    (folder / "retraining" / "good.yaml").write_text(GOOD)
    (folder / "retraining" / "bad.yaml").write_text("workspace: phi\nnamespace: default\nschedle: '@daily'\n")
    (folder / "retraining" / "worse.yaml").write_text("workspace: phi\npolicy: {\n")
    found = bag(folder)
    assert set(found.dags) == {"kaito_retrain__good"}
    assert len(found.import_errors) == 1
    told = next(iter(found.import_errors.values()))
    assert "retraining/bad.yaml:3: schedle: is no key of a retraining; did you mean schedule?" in told
    assert "retraining/worse.yaml:" in told


def test_the_example_is_a_dag(folder: Path) -> None:
    shutil.copy(PROJECT / "examples" / "retraining" / "weekly.yaml", folder / "retraining")
    assert set(bag(folder).dags) == {"kaito_retrain__weekly"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workspace: Phi\n", "x.yaml:1: workspace:"),
        ("namespace: a\n", "x.yaml:1: workspace: is required"),
        ("workspace: a\nschedule: 0 0 30 2 *\n", "x.yaml:2: schedule: never fires"),
        ("workspace: a\ntimezone: Europe/Berln\n", "did you mean Europe/Berlin?"),
        ("workspace: a\nschedule: '@daily'\nassets: [x]\n", "x.yaml:3: assets: exclude a schedule"),
        (
            "workspace: a\nschedule: '@daily'\ntimetable: 'a:b'\nassets: [x]\n",
            "x.yaml:3: timetable: excludes a schedule",
        ),
        ("workspace: a\ntimetable: a.b.c\n", "x.yaml:2: timetable: String should match"),
        ("workspace: a\ntimetable: 'a:b'\ntimezone: UTC\n", "x.yaml:3: timezone: goes with a schedule"),
        ("workspace: a\npolicy:\n  when: always\n  coolDwn: 1h\n", "x.yaml:4: policy.coolDwn"),
        (
            "workspace: a\npolicy:\n  evaluation: {}\n  gate:\n  - candidate.perplexty < 3\n",
            "x.yaml:5: policy.gate[0]: knows no metric candidate.perplexty",
        ),
        (
            "workspace: a\nurls: ['https://x.io/{{ dss }}.csv']\n",
            "x.yaml:2: urls[0]: {{ dss }} is nothing of",
        ),
        ("workspace: a\nurls:\n- 'https://x.io/a?sig=1'\n", "x.yaml:3: urls[0]: has a query"),
        ("workspace: a\n---\nworkspace: b\n", "holds 2 documents"),
        ("- a\n", "is a mapping"),
        ("", "holds 0 documents"),
        ("workspace: a\nworkspace: b\n", "x.yaml:2:"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: str) -> None:
    found, faults = examine("x.yaml", text)
    assert found is None
    assert any(told in fault for fault in faults), faults
