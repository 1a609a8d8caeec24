"""The exact commands that work for a Workspace, to be copied: what its page offers to those who use a terminal."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.catalog import load_catalog
from include.catalog.hub import short_name
from include.contracts import pooling
from include.views import fleet
from include.workspace.api import access, names
from include.workspace.api.dialect import as_written, serves
from include.workspace.api.parse import parse_workspace
from include.workspace.validation.faults import WorkspaceInvalid

Object = Mapping[str, Any]
QUESTION = "What can you tell me?"


@dataclass(frozen=True, slots=True)
class Command:
    """One command line (or a few), and what it is for."""

    title: str
    text: str


def commands(workspace: Object) -> list[Command]:
    """The commands for a Workspace; those that ask its service where it has or will have one."""
    name = shlex.quote(str(workspace["metadata"]["name"]))
    space = shlex.quote(names.namespace(workspace))
    result = [
        Command(
            "Its status",
            f"kubectl get workspace {name} -n {space}\nkubectl describe workspace {name} -n {space}",
        ),
        Command(
            "Run again", f"kubectl annotate workspace {name} -n {space} --overwrite {names.RERUN}=$(date +%s)"
        ),
    ]
    if not serves(workspace):
        return result
    served = name if workspace.get("tuning") is not None else _served(fleet.model(workspace))
    path, body, python = _question(served, pooling.task_of(workspace.get("status")))
    key = _key(workspace, space)
    header = ' -H "Authorization: Bearer $KEY"' if key else ""
    found = [
        *result,
        Command("Reach its service from here", f"kubectl port-forward -n {space} service/{name} 8000:80"),
        Command(
            "Ask it with curl",
            f"{key}curl http://127.0.0.1:8000{path}{header} -H 'Content-Type: application/json' "
            f"-d {shlex.quote(json.dumps(body))}",
        ),
    ]
    if python:
        begin = (
            "from openai import OpenAI\n\n"
            f"client = OpenAI(base_url='http://127.0.0.1:8000/v1', api_key={'KEY' if key else 'none'!r})\n"
        )
        found.append(Command("Ask it with Python", begin + python))
    return found


def _served(model: str) -> str:
    """The name that a service has for a model, which may be named by its hub id."""
    catalog = load_catalog()
    return catalog.model(model).name if catalog.has_model(model) else short_name(model)


def _question(model: str, task: str) -> tuple[str, dict[str, Any], str]:
    """Path and body of a question, and the lines of OpenAI's client for it; "" for what that client does not know."""
    if task:
        path, body = pooling.question(task, model, QUESTION)
        lines = (
            f"answer = client.embeddings.create(model={model!r}, input={QUESTION!r})\n"
            "print(answer.data[0].embedding)"
        )
        return path, body, lines if task == pooling.EMBED else ""
    message = {"role": "user", "content": QUESTION}
    lines = (
        "answer = client.chat.completions.create(\n"
        f"    model={model!r}, messages=[{message}]\n"
        ")\nprint(answer.choices[0].message.content)"
    )
    return "/v1/chat/completions", {"model": model, "messages": [message]}, lines


def _key(workspace: Object, space: str) -> str:
    """The line that reads the service's key, "" where it has none."""
    try:
        secret = access.api_key_secret(parse_workspace(as_written(workspace)))
    except (WorkspaceInvalid, ValueError, TypeError, KeyError):
        return ""  # what Airflow refuses has no service
    if secret is None:
        return ""
    path = f"-o jsonpath='{{.data.{access.KEY}}}'"
    return f"KEY=$(kubectl get secret {shlex.quote(secret)} -n {space} {path} | base64 -d)\n"
