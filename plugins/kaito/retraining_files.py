"""The DAGs of dags/retraining/*.yaml: one a file, `kaito_retrain__<name>`.

A file that is broken is named with its line in one import error, and the others stay DAGs: Airflow keeps what a file
has made even when one of its DAGs does not validate, so the faults of all files stand in a DAG that never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable, DeltaTriggerTimetable
from airflow.sdk.bases.timetable import BaseTimetable

from include.retraining.files import NAME, RetrainingFile, examine
from include.retraining.policy import Policy
from kaito import named
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
        found, wrong = _examined(path)
        faults += wrong
        if found is None:
            continue
        try:
            dags.append(_dag(path, found))
        except Exception as error:  # whatever Airflow will not take of one file must not stop the others
            faults.append(f"{_name(path)}:1: Airflow cannot make a DAG of it: {error}")
    return [*dags, *_broken(faults)]


def _name(path: Path) -> str:
    """Return what the faults call a file."""
    return f"{path.parent.name}/{path.name}"


def _examined(path: Path) -> tuple[RetrainingFile | None, list[str]]:
    name = _name(path)
    if not NAME.fullmatch(path.stem):
        return None, [f"{name}: is called by the DAG's name: use lower-case letters, digits, '-' and '_'"]
    try:
        return examine(name, path.read_text(), _airflows_faults)
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{name}: cannot be read: {error}"]


def _airflows_faults(said: RetrainingFile) -> Iterator[tuple[str, str]]:
    """Yield (path, sentence) of what Airflow takes for no asset, or of what makes no timetable."""
    for index, uri in enumerate(said.assets):
        try:
            Asset(uri)
        except (TypeError, ValueError) as error:
            yield f"assets[{index}]", f"assets[{index}]: {uri!r} is no asset's URI: {error}"
    try:
        _timetable(said)
    except ValueError as error:
        yield "timetable", str(error)


def _timetable(said: RetrainingFile) -> BaseTimetable | None:
    """Return the timetable that a file names, None without one. Raises ValueError."""
    named_by = said.timetable
    return named.make(named_by, BaseTimetable, f"timetable: {named_by}") if named_by else None


def _broken(faults: Iterable[str]) -> list[DAG]:
    told = "\n".join(faults)
    return [BrokenRetrainings("kaito_retrain_broken_files", schedule=None, description=told)] if told else []


def _dag(path: Path, said: RetrainingFile) -> DAG:
    policy, schedule = said.parsed_policy(), said.parsed_schedule()
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
            # Without a policy here, the Workspace's own says how often, which is not known yet.
            watches=schedule is not None and schedule.on_data,
        )
    return dag


def _schedule(said: RetrainingFile, policy: Policy | None) -> Any:
    if said.assets:
        return [Asset(uri) for uri in said.assets]
    if (timetable := _timetable(said)) is not None:
        return timetable
    schedule = said.parsed_schedule()
    if schedule is None:
        return None
    if schedule.on_data:
        return DeltaTriggerTimetable((policy or Policy()).watch.every)
    return CronTriggerTimetable(schedule.cron, timezone=said.timezone)
