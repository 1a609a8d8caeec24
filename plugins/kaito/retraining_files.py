"""The DAGs of dags/retraining/*.yaml: one a file, `kaito_retrain__<name>`.

A file that is broken is named with its line in one import error, and the others stay DAGs: Airflow keeps what a file
has made even when one of its DAGs does not validate, so the faults of all files stand in a DAG that never does.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable, DeltaTriggerTimetable

from include.retraining.files import NAME, RetrainingFile, examine
from include.retraining.policy import Policy
from kaito.alerts import deadline, on_failure
from kaito.pipelines import DEFAULT_ARGS, retrain

PREFIX = "kaito_retrain__"
#: Fixed, so that the DAGs are the same at every parse; with catchup off it starts nothing.
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class BrokenRetrainings(DAG):
    """Carries the faults of broken files to Airflow's list of import errors; never a DAG that runs."""

    def validate(self) -> None:
        raise ValueError(str(self.description))


def load(folder: Path) -> list[DAG]:
    """Return the DAGs of all files of a folder, and one that carries the faults of those that are broken."""
    dags: list[DAG] = []
    faults: list[str] = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        found, wrong = _examined(folder, path)
        faults += wrong
        if found is not None:
            dags.append(_dag(path, found))
    return [*dags, *_broken(faults)]


def _examined(folder: Path, path: Path) -> tuple[RetrainingFile | None, list[str]]:
    name = f"{folder.name}/{path.name}"
    if not NAME.fullmatch(path.stem):
        return None, [f"{name}: is called by the DAG's name: use lower-case letters, digits, '-' and '_'"]
    try:
        return examine(name, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{name}: cannot be read: {error}"]


def _broken(faults: Iterable[str]) -> list[DAG]:
    told = "\n".join(faults)
    return [BrokenRetrainings("kaito_retrain_broken_files", schedule=None, description=told)] if told else []


def _dag(path: Path, said: RetrainingFile) -> DAG:
    policy = said.parsed_policy()
    doc = f"Retrains Workspace `{said.namespace}/{said.workspace}`; written in `{path.name}`. {said.description}"
    with DAG(
        f"{PREFIX}{path.stem}",
        description=said.description or None,
        schedule=_schedule(said, policy),
        start_date=BEGIN,
        catchup=False,
        max_active_runs=1,
        on_failure_callback=on_failure(),
        deadline=deadline(),
        default_args={**DEFAULT_ARGS, "owner": said.owner},
        tags=["kaito", "tuning", *said.tags],
        doc_md=doc,
    ) as dag:
        retrain(
            said.workspace,
            said.namespace,
            policy=None if policy is None else policy.as_dict(),
            urls=said.urls,
        )
    return dag


def _schedule(said: RetrainingFile, policy: Policy | None) -> Any:
    if said.assets:
        return [Asset(uri) for uri in said.assets]
    schedule = said.parsed_schedule()
    if schedule is None:
        return None
    if schedule.on_data:
        return DeltaTriggerTimetable((policy or Policy()).watch.every)
    return CronTriggerTimetable(schedule.cron, timezone=said.timezone)
