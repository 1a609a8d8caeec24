"""The JSON API about Workspaces: what the pages show and do, for programs. /kaito/api/openapi.json describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from include.catalog import load_catalog
from include.cli.checking import check
from include.cli.machine_readable import as_json
from include.cli.sources import Source
from include.contracts.redaction import redact
from include.contracts.yaml_documents import reader as documents
from include.views import actions, draft, fleet, spending
from include.views.actions import Action, ActionRefused
from include.workspace.api import names
from kaito import settings
from kaito.ui import asking, shown
from kaito.ui.access import ACT, ASK, DELETE, READ, READ_LOGS, READ_TASKS, CurrentUser, audit
from kaito.ui.problems import Problem
from kaito.ui.rendering import unchanged

router = APIRouter(prefix="/api", tags=["Workspaces"])

#: A Workspace as text, at most; more is no Workspace that a person wrote.
LONGEST_YAML = 200_000
FILE = "workspace.yaml"


class Asked(BaseModel):
    """What an action takes besides its name."""

    model_config = ConfigDict(extra="forbid")
    uid: str = Field(
        description="uid of the Workspace that was looked at: another one of its name is left alone."
    )
    value: str = Field(
        "", max_length=200, description="What the action asks for, such as minutes or a digest."
    )


class Question(BaseModel):
    """What a service is asked."""

    model_config = ConfigDict(extra="forbid")
    question: str = Field(min_length=1, max_length=4000)
    stream: bool = Field(False, description="Whether the answers come while they are generated.")


class Text(BaseModel):
    """A Workspace as YAML."""

    model_config = ConfigDict(extra="forbid")
    yaml: str = Field(max_length=LONGEST_YAML)


class Form(BaseModel):
    """The form for a new Workspace; see `include.views.draft.compose`."""

    model_config = ConfigDict(extra="ignore")
    name: str = Field("", max_length=300)
    namespace: str = Field("default", max_length=300)
    purpose: str = Field(draft.SERVE, pattern=f"^({draft.TUNE}|{draft.SERVE})$")
    model: str = Field("", max_length=300)
    machine: str = Field("", max_length=300)
    urls: str = Field("", max_length=20_000)
    method: str = Field("qlora", max_length=20)
    objective: str = Field("sft", max_length=20)
    image: str = Field("", max_length=1000)
    secret: str = Field("", max_length=300)
    rollout: str = Field("", max_length=5)
    budget: str = Field("", max_length=20)


@router.get("/openapi.json", dependencies=READ, include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the description of this API."""
    return JSONResponse(request.app.openapi())


@router.get("/workspaces", dependencies=READ)
async def list_workspaces(
    request: Request, q: str = "", sort: str = Query("name", enum=list(fleet.SORTS)), desc: bool = False
) -> Response:
    """Return all Workspaces, or those that hold every word of `q`, in the order of a column."""
    every, found = await shown.rows(request, q, sort, desc)
    tag, same = unchanged(request, found, len(every))
    body = {"total": len(every), "rows": [one.to_dict() for one in found]}
    return same or JSONResponse(body, headers={"ETag": tag, "Cache-Control": "no-cache"})


@router.get("/workspaces/{namespace}/{name}", dependencies=READ_TASKS)
async def get_workspace(request: Request, user: CurrentUser, namespace: str, name: str) -> dict[str, Any]:
    """Return one Workspace: its state, conditions, Events, machines, costs, runs, and what may be done to it."""
    return shown.to_dict(await shown.workspace(request, user, namespace, name))


@router.get("/workspaces/{namespace}/{name}/training", dependencies=READ_LOGS)
async def get_training(
    request: Request, user: CurrentUser, namespace: str, name: str
) -> list[dict[str, Any]]:
    """Return the curves of its latest training, as the log tells them."""
    return [shown.vars_of(one) for one in await shown.charts(request, user, namespace, name)]


@router.post("/workspaces/{namespace}/{name}/ask", dependencies=ASK, response_model=list[asking.Answer])
async def ask(request: Request, namespace: str, name: str, asked: Question, user: CurrentUser) -> Any:
    """Ask a Workspace's service one question: its base model and its adapters, side by side.

    With `stream` the answers come as server-sent events: first the models as a list, then one answer of the list's
    kind each time it has grown, with all of its text so far; `done` says that it is the last of its model.
    """
    if not settings.ui_ask():
        raise Problem(403, "This installation lets nobody ask services from here ([kaito] ui_ask).")
    _allowed(namespace)
    cluster = shown.cluster_of(request)
    service = await asking.ready(cluster, await cluster.workspace(namespace, name))
    details = {"namespace": namespace, "name": name, "models": service.models}
    await asyncio.to_thread(audit, user, "kaito.ask", details)
    if not asked.stream:
        return await asking.answers(cluster, service, asked.question)

    async def events() -> AsyncIterator[str]:
        yield f"data: {json.dumps([redact(one) for one in service.models])}\n\n"
        async for answer in asking.stream(cluster, service, asked.question):
            yield f"data: {json.dumps(shown.vars_of(answer))}\n\n"

    # Event streams are what middlewares and proxies neither compress nor hold back.
    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.post("/workspaces/{namespace}/{name}/{action}", dependencies=ACT)
async def act(
    request: Request, namespace: str, name: str, action: Action, asked: Asked, user: CurrentUser
) -> dict[str, str]:
    """Do something to a Workspace; which actions it offers now, and what each does, is in the Workspace itself."""
    if action is Action.DELETE:
        raise Problem(405, "Deleting is DELETE, not POST.")
    return await _act(request, (namespace, name), action, asked, user)


@router.delete("/workspaces/{namespace}/{name}", dependencies=DELETE)
async def delete_workspace(
    request: Request, namespace: str, name: str, asked: Asked, user: CurrentUser
) -> dict[str, str]:
    """Delete a Workspace, its service and its machines; `value` repeats its name."""
    return await _act(request, (namespace, name), Action.DELETE, asked, user)


async def _act(
    request: Request, which: tuple[str, str], action: Action, asked: Asked, user: BaseUser
) -> dict[str, str]:
    """Do it, and write into the audit log who did, or what came of the try."""
    details = {"namespace": which[0], "name": which[1], "value": asked.value}
    try:
        _allowed(which[0])
        cluster = shown.cluster_of(request)
        live = await cluster.workspace(*which)
        if live["metadata"].get("uid") != asked.uid:
            raise Problem(
                409, "This Workspace was deleted and made again meanwhile.", "Load the page again and look."
            )
        wanted = actions.change(live, action, asked.value, datetime.now(UTC))
        await (cluster.delete(live) if wanted.deletes else cluster.annotate(live, wanted.annotations))
    except (ActionRefused, Problem) as error:
        problem = error if isinstance(error, Problem) else Problem(409, str(error))
        await asyncio.to_thread(audit, user, f"kaito.{action}", {**details, "refused": problem.sentence})
        raise problem from None
    await asyncio.to_thread(
        audit, user, f"kaito.{action}", {**details, "annotations": dict(wanted.annotations)}
    )
    done = "is being deleted" if wanted.deletes else f"was asked for: {action}"
    return {"detail": f"Workspace {which[1]} {done}."}


def _allowed(namespace: str) -> None:
    """Refuse a namespace that the installation does not allow, as a run would."""
    from include.workspace.validation.identity import namespace_faults

    try:
        patterns = settings.policy().allowed_namespaces
    except ValueError as error:
        raise Problem(500, str(error)) from None
    if faults := list(namespace_faults(namespace, patterns)):
        raise Problem(403, str(faults[0]))


@router.get("/machines", dependencies=READ)
def machines(
    model: str, purpose: str = draft.SERVE, method: str = "qlora", objective: str = "sft"
) -> list[dict[str, Any]]:
    """Return the machine types for a model with prices, those that fit first."""
    try:
        found = draft.machines(load_catalog(), model, purpose, method, objective)
    except (KeyError, ValueError) as error:
        raise Problem(422, str(error)) from None
    return [shown.vars_of(one) for one in found]


@router.post("/draft", dependencies=[*READ])
async def write_draft(form: Form) -> dict[str, Any]:
    """Return the YAML that a form means, and every fault of it or its plan; nothing is made."""
    text = draft.compose(form.model_dump())
    return {"yaml": text, "report": await asyncio.to_thread(_report, text)}


@router.post("/check", dependencies=[*READ])
async def check_workspace(text: Text) -> Mapping[str, Any]:
    """Return every fault of a Workspace, or its plan: machines, memory, time and price. Nothing is made."""
    return await asyncio.to_thread(_report, text.yaml)


@router.post("/workspaces", dependencies=ACT, status_code=201)
async def apply(request: Request, text: Text, user: CurrentUser) -> Any:
    """Make a Workspace, if it has no fault; Airflow starts its run within seconds."""
    report = await asyncio.to_thread(_report, text.yaml)
    if report["exitCode"]:
        return JSONResponse({"detail": "It has faults; nothing was made.", "report": report}, 422)
    document = documents.load_one(text.yaml)
    meta = document["metadata"] = {"namespace": "default", **document["metadata"]}
    details = {"namespace": meta["namespace"], "name": meta["name"]}
    try:
        _allowed(meta["namespace"])
        await shown.cluster_of(request).create(document)
    except Problem as problem:
        await asyncio.to_thread(audit, user, "kaito.apply", {**details, "refused": problem.sentence})
        raise
    await asyncio.to_thread(audit, user, "kaito.apply", details)
    return {"detail": f"Workspace {meta['name']} was made.", **details}


def _report(text: str) -> Mapping[str, Any]:
    """The report of `check` on one Workspace; a text with more than one, or with none, is a fault."""
    from include.cli.__main__ import plan_for

    try:
        policy = settings.policy()
    except ValueError as error:
        raise Problem(500, str(error)) from None
    found = check([Source(FILE, text.encode())], policy, plan_for)
    whole: dict[str, Any] = json.loads(as_json(found))
    kinds = [one.kind for file in found.files for one in file.documents]
    if not found.files[0].problems and kinds != [names.KIND]:
        sentence = f"write one Workspace, not {len(kinds)} objects ({', '.join(kinds) or 'none'})"
        whole["files"][0]["problems"].append({"line": 1, "column": 1, "message": sentence})
        whole["exitCode"] = 2
    return whole


@router.get("/cost", dependencies=READ)
async def cost(request: Request, by: str = Query("namespace", enum=list(spending.HEADS))) -> dict[str, Any]:
    """Return what machines have cost at list prices, the Workspaces that are gone included."""
    found, known = await shown.spending(request)
    by = by if by in spending.HEADS else "namespace"
    lines = [shown.vars_of(one) for one in spending.lines(found, by, known)]
    return {"by": by, "rows": lines, "total": shown.vars_of(spending.total(found))}


@router.get("/cost.csv", dependencies=READ)
async def cost_csv(request: Request, by: str = Query("namespace", enum=list(spending.HEADS))) -> Response:
    """Return the same for a spreadsheet."""
    found, known = await shown.spending(request)
    by = by if by in spending.HEADS else "namespace"
    text = spending.as_csv(spending.lines(found, by, known), by)
    headers = {"Content-Disposition": f'attachment; filename="kaito-cost-by-{by}.csv"'}
    return PlainTextResponse(text, headers=headers, media_type="text/csv")
