"""Templates with everything escaped, and answers that a browser need not load twice."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.views import words
from kaito.settings import base_url

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """Return the templates: whatever is put into them is escaped, and a name that they do not get is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.filters |= {
        "usd": words.usd,
        "duration": words.duration,
        "clock": lambda at: at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else words.NONE,
        "iso": lambda at: at.astimezone(UTC).isoformat() if at else "",
    }
    return made


@cache
def version() -> str:
    """Return what tells these scripts and styles from those of another release, for browsers that keep files."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def render(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page, or a part of one."""
    common = {"root": root(request), "airflow": base_url(), "version": version(), "now": datetime.now(UTC)}
    common["here"] = request.url.path.removeprefix(root(request))
    text = environment().get_template(name).render(**common, **values)
    return HTMLResponse(text, status)


def root(request: Request) -> str:
    """Return the path under which the application is mounted, whatever proxy stands before Airflow."""
    return str(request.scope.get("root_path") or "").rstrip("/")


def unchanged(request: Request, *grounds: Any) -> tuple[str, Response | None]:
    """Return the tag of an answer that follows from `grounds`, and 304 where the browser has just this one."""
    tag = '"' + hashlib.sha256(repr((version(), *grounds)).encode()).hexdigest()[:24] + '"'
    if request.headers.get("if-none-match") == tag:
        return tag, Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
    return tag, None
