"""How the pages come into Airflow's UI: the application at /kaito, an entry in the menu, and a tab of each DAG run.

Every process of Airflow loads plugins; only the API server answers requests. So the application is imported at its
first request, and nothing is imported here.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/kaito"


class LazyApp:
    """An ASGI application that is made when it is first asked for something."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    def made(self) -> ASGIApp:
        """Return the application."""
        if self._app is None:
            self._app = import_module("kaito.ui.app").create_app()
        return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = self.made()
        except ImportError as error:
            log.exception("The pages about Workspaces cannot be imported.")
            await _sorry(send, f"The pages about Workspaces cannot be loaded: {error}.")
            return
        await app(scope, receive, send)


async def _sorry(send: Send, sentence: str) -> None:
    """Answer without any of what could not be imported."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    remedy = "The project's root, with the folder include, must be in PYTHONPATH of the API server too."
    await send({"type": "http.response.body", "body": f"{sentence} {remedy}\n".encode()})


FASTAPI_APPS: list[Any] = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "KAITO Workspaces"}]


def external_views(base_url: str) -> list[Any]:
    """Return the entry of the menu and the tab of a DAG run.

    :param base_url: the address of Airflow's UI; behind a proxy it may have a path of its own.
    """
    prefix = urlsplit(base_url).path.rstrip("/") + PREFIX
    return [
        {
            "name": "Workspaces",
            "href": f"{prefix}/workspaces",
            "destination": "nav",
            "url_route": "workspaces",
            "nav_top_level": True,
        },
        {
            "name": "Workspace",
            "href": f"{prefix}/run/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "workspace",
        },
    ]
