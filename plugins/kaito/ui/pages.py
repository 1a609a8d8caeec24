"""The pages, rendered on the server; parts of them are fetched again while somebody looks (/part/...)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from include.catalog import load_catalog
from include.views import draft, fleet, spending
from include.workspace.api import names
from kaito import settings
from kaito.ui import runs, shown
from kaito.ui.access import ASKING, READ, READ_LOGS, READ_TASKS, RELEASE, SERVE, TUNE, CurrentUser, may
from kaito.ui.problems import Problem
from kaito.ui.rendering import HERE, render, root, unchanged

router = APIRouter(include_in_schema=False)

FILES = {"kaito.js": "text/javascript", "kaito.css": "text/css"}
#: How often pages look again, in seconds.
LIST_SECONDS, PAGE_SECONDS, CURVE_SECONDS = 10, 5, 15
#: The columns of the table, each with what it can be sorted by: two short texts share one, so that all fit a screen.
COLUMNS = (
    (("name", "Name"), ("namespace", "Namespace")),
    (("state", "State"),),
    (("model", "Model"), ("kind", "For")),
    (("machine", "Machine"),),
    (("progress", "Progress"),),
    (("", "Adapter"),),
    (("served", "Served since"),),
    (("requests", "Requests/s"),),
    (("cost", "Cost"),),
    (("rate", "Per hour"),),
    (("retraining", "Next retraining"),),
)
NUMBERS = ("requests", "cost", "rate")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Return a script or style of this package. They hold no data; a tab of Airflow's loads them without a login."""
    if name not in FILES:
        raise HTTPException(404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Access-Control-Allow-Origin": "*"}
    return FileResponse(Path(HERE) / "static" / name, media_type=FILES[name], headers=headers)


@router.get("/", dependencies=READ)
def home(request: Request) -> Response:
    return RedirectResponse(f"{root(request)}/workspaces", 307)


@router.get("/workspaces", dependencies=READ)
async def workspaces(
    request: Request, user: CurrentUser, q: str = "", sort: str = "name", desc: bool = False
) -> Response:
    """All Workspaces."""
    values = await _table(request, q, sort, desc)
    begin = await asyncio.to_thread(_may_act, user)
    return render(request, "workspaces.html", seconds=LIST_SECONDS, may_act=begin, **values)


@router.get("/part/workspaces", dependencies=READ)
async def workspaces_part(request: Request, q: str = "", sort: str = "name", desc: bool = False) -> Response:
    """The table alone; 304 while nothing in it has changed."""
    values = await _table(request, q, sort, desc)
    minute = datetime.now(UTC).replace(second=0, microsecond=0)  # ages are of the minute
    tag, same = unchanged(request, [_lasting(*one) for one in values["rows"]], values["total"], minute)
    return same or _tagged(render(request, "_table.html", **values), tag)


def _lasting(row: fleet.Row, cell: Mapping[str, str]) -> tuple[Any, ...]:
    """A row without what counts on by itself."""
    counting = ("usd", "requests_per_second")
    same = (getattr(row, key) for key in row.__dataclass_fields__ if key not in counting)
    return *same, round(row.usd, 2), cell["requests"]


def _tagged(response: Response, tag: str) -> Response:
    response.headers.update({"ETag": tag, "Cache-Control": "no-cache"})
    return response


async def _table(request: Request, q: str, sort: str, desc: bool) -> dict[str, Any]:
    every, found = await shown.rows(request, q, sort, desc)
    now = datetime.now(UTC)
    wanted = {
        "progress": any(one.progress for one in found),
        "requests": any(one.served_since for one in found),
        "retraining": any(one.next_retraining for one in found),
    }
    columns = [one for one in COLUMNS if wanted.get(one[0][0], True)]
    return {
        "total": len(every),
        "summary": fleet.summary(every),
        "rows": [(one, fleet.cells(one, now)) for one in found[: shown.MOST_ROWS]],
        "left_out": max(0, len(found) - shown.MOST_ROWS),
        "columns": columns,
        "shown": {key for column in columns for key, _ in column},
        "numbers": NUMBERS,
        "q": q,
        "sort": sort,
        "desc": desc,
    }


@router.get("/workspaces/{namespace}/{name}", dependencies=READ_TASKS)
async def workspace(request: Request, user: CurrentUser, namespace: str, name: str) -> Response:
    """One Workspace."""
    return await _one(request, user, namespace, name)


async def _one(request: Request, user: BaseUser, namespace: str, name: str) -> Response:
    seen = await shown.workspace(request, user, namespace, name)
    acting, deleting, asking = await asyncio.to_thread(
        lambda: (_may_act(user), may(user, "POST", RELEASE), settings.ui_ask() and may(user, "POST", ASKING))
    )
    offers = [one for one in seen.page.offers if (deleting if one.dangerous else acting)]
    return render(
        request,
        "workspace.html",
        shown=seen,
        page=seen.page,
        offers=offers,
        may_ask=seen.page.row.served_since is not None and asking,
        seconds=PAGE_SECONDS,
        curve_seconds=CURVE_SECONDS,
    )


def _may_act(user: BaseUser) -> bool:
    return all(may(user, "POST", dag) for dag in (TUNE, SERVE))


@router.get("/part/workspaces/{namespace}/{name}", dependencies=READ_TASKS)
async def workspace_part(request: Request, user: CurrentUser, namespace: str, name: str) -> Response:
    """What changes on the page of a Workspace; 304 while nothing does."""
    seen = await shown.workspace(request, user, namespace, name)
    going = any(one.run.state in ("queued", "running") for one in seen.stages)
    now = datetime.now(UTC)
    looked = (
        now if going else now.replace(second=0, microsecond=0)
    )  # a stage that goes on is longer each time
    version, states = seen.live["metadata"].get("resourceVersion"), [one.run for one in seen.stages]
    tag, same = unchanged(
        request, version, len(seen.page.events), states, seen.page.cells["requests"], looked
    )
    return same or _tagged(render(request, "_workspace.html", shown=seen, page=seen.page), tag)


@router.get("/part/workspaces/{namespace}/{name}/training", dependencies=READ_LOGS)
async def training_part(request: Request, user: CurrentUser, namespace: str, name: str) -> Response:
    """The curves of the latest training."""
    charts_shown = await shown.charts(request, user, namespace, name)
    tag, same = unchanged(request, charts_shown)
    return same or _tagged(render(request, "_charts.html", charts=charts_shown), tag)


@router.get("/run/{dag_id}/{run_id:path}", dependencies=READ_TASKS)
async def run(request: Request, user: CurrentUser, dag_id: str, run_id: str) -> Response:
    """The Workspace that a run of Airflow works for: the tab of a DAG run."""
    if not dag_id.startswith("kaito_"):
        return render(
            request, "note.html", title="No Workspace", text=f"Runs of {dag_id} work for no Workspace."
        )
    found = await _of_run(request, dag_id, run_id)
    if found is None:
        text = "This run works for no Workspace of its own, or its Workspace is gone."
        return render(request, "note.html", title="No Workspace", text=text)
    return await _one(request, user, *found)


async def _of_run(request: Request, dag_id: str, run_id: str) -> tuple[str, str] | None:
    """Which Workspace a run serves: by its id, its conf, or what the Workspaces say of their runs."""
    served = names.served_by(run_id)
    live = await shown.cluster_of(request).fleet()
    for one in live:
        meta, told = one["metadata"], (one.get("status") or {}).get("run") or {}
        mine = served is not None and str(meta.get("uid", "")).startswith(served[0])
        if mine or told.get("id") == run_id:
            return names.namespace(one), str(meta["name"])
    conf = await asyncio.to_thread(runs.conf_of, dag_id, run_id)
    meta = ((conf or {}).get("workspace") or {}).get("metadata") or {}
    return (str(meta.get("namespace") or "default"), str(meta["name"])) if meta.get("name") else None


@router.get("/cost", dependencies=READ)
async def cost(request: Request, by: str = "namespace") -> Response:
    """What machines have cost."""
    if by not in spending.HEADS:
        raise Problem(422, f"Cost can be shown by {', '.join(spending.HEADS)}, not by {by!r}.")
    found, known = await shown.spending(request)
    lines = spending.lines(found, by, known)
    return render(request, "cost.html", by=by, heads=spending.HEADS, lines=lines, total=spending.total(found))


@router.get("/new", dependencies=READ)
async def new(request: Request, user: CurrentUser, model: str = "", purpose: str = draft.TUNE) -> Response:
    """The form for a new Workspace."""
    catalog = load_catalog()
    models = sorted((one for one in catalog.models if not one.deprecated), key=lambda one: one.name)
    acting = await asyncio.to_thread(_may_act, user)
    return render(
        request,
        "new.html",
        models=[(one.name, one.parameters, one.tuning.supported, one.gated) for one in models],
        model=model,
        purpose=purpose if purpose in (draft.TUNE, draft.SERVE) else draft.TUNE,
        methods=draft.METHODS,
        objectives=draft.LEARNS_FROM,
        may_act=acting,
    )
