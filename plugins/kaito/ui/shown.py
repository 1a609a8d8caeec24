"""What pages and API share: a Workspace's page with its runs, the fleet's rows, costs. All of it for one request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import Request

from include.ledger.books import Book, Entry, entries, of_event, of_workspace
from include.ledger.sources import ASSET
from include.views import curve, fleet
from include.views.data_report import DataReport, data_report
from include.views.evaluation import Evaluation, evaluation
from include.views.page import Page, page
from include.views.spending import Known, budget_left
from include.views.timeline import Bar, bars
from include.workspace.api import names
from kaito.ui import runs
from kaito.ui.access import may
from kaito.ui.cluster import Cluster, Object
from kaito.ui.meter import Meter

#: Rows that one page shows.
MOST_ROWS = 1000
#: Ended runs whose costs Airflow tells: the latest events of its asset.
MOST_EVENTS = 5000


@dataclass(frozen=True)
class Stages:
    """One run with its stages."""

    run: runs.Run
    bars: Sequence[Bar]

    @property
    def usd(self) -> float:
        return sum(bar.usd for bar in self.bars)


@dataclass(frozen=True)
class Shown:
    """One Workspace with its runs."""

    live: Object
    page: Page
    stages: Sequence[Stages]
    data: DataReport | None
    evaluation: Evaluation | None


def cluster_of(request: Request) -> Cluster:
    result: Cluster = request.app.state.cluster
    return result


def meter_of(request: Request) -> Meter:
    result: Meter = request.app.state.meter
    return result


async def rows(
    request: Request, search: str, sort: str, descending: bool
) -> tuple[list[fleet.Row], list[fleet.Row]]:
    """Return the rows of all Workspaces, and those of them that are looked for, in order."""
    now = datetime.now(UTC)
    live, meter = await cluster_of(request).fleet(), meter_of(request)
    meter.look_at_all(live)
    every = [fleet.row(one, now, meter.rate(_key(one))) for one in live]
    return every, fleet.arranged(every, search, sort, descending)


def _key(workspace: Object) -> tuple[str, str]:
    return names.namespace(workspace), str(workspace["metadata"]["name"])


async def workspace(request: Request, user: BaseUser, namespace: str, name: str) -> Shown:
    """Return one Workspace, its Events, and those of its runs that the user may see."""
    cluster = cluster_of(request)
    live, events = await asyncio.gather(cluster.workspace(namespace, name), cluster.events(namespace, name))
    found = await asyncio.to_thread(_runs, live, user, DagAccessEntity.TASK_INSTANCE)
    told = await asyncio.to_thread(_told, found, user)
    now = datetime.now(UTC)
    claims = ((live.get("status") or {}).get("cost") or {}).get("claims") or []
    stages = []
    for run in found:
        mine = [one for one in claims if one.get("run") in (None, run.run_id, names.run_id_label(run.run_id))]
        stages.append(Stages(run, bars(run.tasks, mine, now, run.queued)))
    meter = meter_of(request)
    meter.look_at(live)
    seen = page(live, events, now, meter.rate(_key(live)))
    return Shown(live, seen, stages, data_report(told.dataset, told.samples), evaluation(told.evaluation))


def _told(found: Sequence[runs.Run], user: BaseUser) -> runs.Told:
    """What the steps of these runs have told, as far as the user may see XComs."""
    allowed = {dag for dag in {run.dag_id for run in found} if may(user, "GET", dag, DagAccessEntity.XCOM)}
    return runs.told([run for run in found if run.dag_id in allowed])


def _runs(live: Object, user: BaseUser, entity: DagAccessEntity) -> list[runs.Run]:
    """The runs of a Workspace in DAGs of which the user may see something."""
    found = runs.runs_of(live)
    allowed = {dag for dag in {run.dag_id for run in found} if may(user, "GET", dag, entity)}
    return [run for run in found if run.dag_id in allowed]


async def charts(request: Request, user: BaseUser, namespace: str, name: str) -> list[curve.Chart]:
    """Return the charts of a Workspace's latest training, where the user may see its log."""
    live = await cluster_of(request).workspace(namespace, name)
    found = await asyncio.to_thread(_runs, live, user, DagAccessEntity.TASK_LOGS)
    lines = await asyncio.to_thread(runs.training_log, found)
    return curve.charts(curve.points(lines))


async def spending(request: Request) -> tuple[list[Entry], Known]:
    """Return what machines have cost, deleted Workspaces' included, and what is known of those that are there."""
    now = datetime.now(UTC).replace(microsecond=0)
    live = await cluster_of(request).fleet()
    books = [book for one in live if (book := of_workspace(one, now))]
    told = await asyncio.to_thread(_told_books)
    models = {_key(one): fleet.model(one) for one in live}
    left = {_key(one): usd for one in live if (usd := budget_left(one, now)) is not None}
    return entries([*books, *told]), Known(models, left)


def _told_books() -> list[Book]:
    """The books in the events of the ledger's asset: what Airflow remembers of Workspaces that are gone."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    query = (
        select(AssetEvent.extra)
        .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        .where(AssetModel.name == ASSET)
        .order_by(AssetEvent.id.desc())
        .limit(MOST_EVENTS)
    )
    with create_session(scoped=False) as session:
        extras = [extra for extra in session.scalars(query) if isinstance(extra, Mapping)]
    return [book for extra in extras if (book := of_event(extra))]


def to_dict(shown: Shown) -> dict[str, Any]:
    """Return one Workspace for programs."""
    seen = shown.page
    return {
        "workspace": seen.row.to_dict(),
        "uid": seen.uid,
        "generation": seen.generation,
        "facts": dict(seen.facts),
        "conditions": [vars_of(one) for one in seen.conditions],
        "events": [vars_of(one) for one in seen.events],
        "machines": [vars_of(one) for one in seen.machines],
        "lineage": dict(seen.lineage),
        "data": asdict(shown.data) if shown.data else None,
        "evaluation": asdict(shown.evaluation) if shown.evaluation else None,
        "versions": [vars_of(one) for one in seen.versions],
        "retraining": dict(seen.retraining),
        "yaml": seen.yaml,
        "commands": [vars_of(one) for one in seen.commands],
        "actions": [vars_of(one) for one in seen.offers],
        "runs": [
            {
                "dag": one.run.dag_id,
                "run": one.run.run_id,
                "state": one.run.state,
                "usd": one.usd,
                "stages": [{**vars_of(bar), "seconds": bar.seconds} for bar in one.bars],
            }
            for one in shown.stages
        ],
    }


def vars_of(one: Any) -> dict[str, Any]:
    return {field: getattr(one, field) for field in type(one).__dataclass_fields__}
