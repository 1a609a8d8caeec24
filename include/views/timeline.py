"""The stages of a run against real time: when each of its tasks ran, and what machines cost meanwhile.

Times are Airflow's, prices those of the Workspace's ledger. A stage without an end goes on now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from include.workspace.status.conditions import moment

#: What each task of a run is called on a page.
LABELS: Mapping[str, str] = {
    "preflight": "Check",
    "fetch_dataset": "Dataset",
    "create_gpu_pool": "Order machines",
    "wait_for_nodes": "Machines and drivers boot",
    "tune": "Tuning",
    "release_gpu_pool": "Release machines",
    "publish_adapter": "Push adapter",
    "serve.create_gpu_pool": "Order machines to serve",
    "serve.wait_for_nodes": "Machines to serve and drivers boot",
    "serve.roll_out": "Roll out",
    "serve.wait_until_ready": "Load the model",
    "serve.ask": "First question",
    "serve.release_gpu_pool_if_failed": "Release machines if it failed",
    "plan_candidate": "Plan the candidate",
    "judge_change": "Compare the data",
    "evaluate": "Evaluation",
    "gate": "Gate",
    "approve": "Approval",
    "promote": "Promotion",
    "record": "Record the version",
    "record_cost": "Settle the cost",
    "finish": "Verdict",
}
QUEUED = "Queued"


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task of a run as Airflow keeps it."""

    task_id: str
    state: str
    start: datetime | None
    end: datetime | None
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage. `offset` and `width` are shares (0..1) of the whole time that is shown; the queue has no `task_id`."""

    label: str
    state: str
    start: datetime
    end: datetime
    offset: float
    width: float
    usd: float
    tries: int
    goes_on: bool
    task_id: str

    @property
    def seconds(self) -> float:
        return (self.end - self.start).total_seconds()


def label(task_id: str) -> str:
    """What a page calls a task, whatever group of a DAG it stands in; a task of somebody else's has its own id."""
    return LABELS.get(task_id) or LABELS.get(task_id.rpartition(".")[2]) or task_id


def bars(
    tasks: Iterable[TaskRun],
    claims: Sequence[Mapping[str, Any]],
    now: datetime,
    queued: datetime | None = None,
) -> list[Bar]:
    """The stages of one run in the order of their beginning; tasks that were skipped or have not begun are left out.

    :param claims: the records of `status.cost`, of which all that overlap a stage count for it.
    :param queued: when the run was asked for.
    """
    begun = sorted(
        (t for t in tasks if t.start and t.state not in ("skipped", "upstream_failed")), key=_start
    )
    found = [(t.task_id, t.state, t.start, t.end, t.tries) for t in begun]
    if queued and begun and (first := _start(begun[0])) > queued:
        found.insert(0, ("", "success", queued, first, 1))
    if not found:
        return []
    start = min(one[2] for one in found if one[2])
    end = max(max(one[3] or now, one[2] or now) for one in found)
    whole = max((end - start).total_seconds(), 1.0)
    return [_bar(*one, start, whole, claims, now) for one in found if one[2]]


def _start(task: TaskRun) -> datetime:
    assert task.start is not None  # noqa: S101 those without one were left out
    return task.start


def _bar(
    task_id: str,
    state: str,
    begin: datetime | None,
    end: datetime | None,
    tries: int,
    origin: datetime,
    whole: float,
    claims: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Bar:
    since = begin or now
    until = max(end or now, since)
    offset = (since - origin).total_seconds() / whole
    width = max((until - since).total_seconds() / whole, 0.002)
    spent = sum(cost_within(claim, since, until, now) for claim in claims)
    name = label(task_id) if task_id else QUEUED
    return Bar(name, state, since, until, offset, min(width, 1.0), spent, tries, end is None, task_id)


def cost_within(claim: Mapping[str, Any], since: datetime, until: datetime, now: datetime) -> float:
    """US dollars of one machine's record between two moments."""
    begin, end = moment(claim.get("since")), moment(claim.get("until")) or now
    if begin is None:
        return 0.0
    held = max(timedelta(0), min(end, until) - max(begin, since)).total_seconds()
    return held / 3600 * float(claim.get("usdPerHour") or 0)
