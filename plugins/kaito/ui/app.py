"""The FastAPI application that the plugin mounts under /kaito: pages and JSON API.

Airflow mounts it without any protection of its own, so every route here carries Airflow's security dependencies; a test
walks all routes. Scripts and styles are two files of this package; the Content-Security-Policy allows nothing else.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint

from kaito.ui import api, pages
from kaito.ui.cluster import Cluster
from kaito.ui.meter import Meter
from kaito.ui.problems import Problem
from kaito.ui.rendering import render

log = logging.getLogger(__name__)

PHRASES = {one.value: one.phrase for one in HTTPStatus}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'self'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
LOGIN = "Log in to Airflow, then load this page again."


def create_app(cluster: Cluster | None = None) -> FastAPI:
    """Return the application.

    :param cluster: what it asks of the cluster; default: over the connection that the installation names.
    """
    app = FastAPI(
        title="KAITO Workspaces",
        description="Workspaces of KAITO on Airflow. Log in as for Airflow's own API: a bearer token, or its cookie.",
        version="1",
        docs_url=None,  # would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,  # served below, to those who may read
    )
    app.state.cluster = cluster or Cluster()
    app.state.meter = Meter(app.state.cluster)
    app.include_router(api.router)
    app.include_router(pages.router)
    app.middleware("http")(_headers)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _refusal)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(Exception, _fault)
    return app


async def _headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _answer(request: Request, status: int, sentence: str, remedy: str = "", **more: Any) -> Response:
    """Return an error as what was asked for: JSON for programs, a part of a page for a part, else a page."""
    path = request.url.path
    if "/api/" in path:
        return JSONResponse({"detail": sentence, "remedy": remedy, **more}, status, HEADERS)
    name = "_problem.html" if "/part/" in path else "problem.html"
    title = PHRASES.get(status, "Error")
    response = render(request, name, status=status, title=title, sentence=sentence, remedy=remedy)
    response.headers.update(HEADERS)
    return response


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 it is registered for nothing else
    return _answer(request, error.status, error.sentence, error.remedy)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    sentences = {
        401: "You are not logged in, or your login has ended.",
        403: "Your role in Airflow does not allow this.",
        404: "There is no such page.",
    }
    message = str(error.detail)
    plain = message in (PHRASES.get(error.status_code), "Not authenticated", "Forbidden", "Token Expired")
    sentence = sentences.get(error.status_code, message) if plain else message
    return _answer(request, error.status_code, sentence, LOGIN if error.status_code == 401 else "")


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    faults = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
    return _answer(request, 422, "This request is not as it must be: " + "; ".join(faults))


async def _fault(request: Request, error: Exception) -> Response:
    log.error("A page of the plugin failed.", exc_info=error)
    return _answer(
        request, 500, "This page failed by a fault of its own.", "The API server's log says where."
    )
