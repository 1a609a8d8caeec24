"""One question to a Workspace's service, to its base model and to each adapter at once, so that people can compare.

It goes through the API server's proxy with Airflow's account. The key of the service never leaves this process, and the
question is kept nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.contracts.redaction import hide, redact
from include.views.state import served_since
from include.workspace.api import access, names
from include.workspace.api.dialect import as_written
from include.workspace.api.parse import parse_workspace
from include.workspace.validation.faults import WorkspaceInvalid
from kaito.hooks import api
from kaito.hooks.api import SECRET
from kaito.ui.cluster import Cluster
from kaito.ui.problems import Problem

PORT = 80
#: Names of models that are asked at once, tokens of an answer, and how long one may take in seconds.
MOST_MODELS = 4
ANSWER_TOKENS = 200
ANSWER_SECONDS = 90.0


@dataclass(frozen=True)
class Answer:
    """What one model of the service said, how long it took in seconds, or why it said nothing."""

    model: str
    text: str
    seconds: float
    problem: str = ""


async def answers(cluster: Cluster, live: Mapping[str, Any], question: str) -> list[Answer]:
    """Return what each model of a Workspace's service answers.

    :raises Problem: the service is not ready, or cannot be asked.
    """
    if served_since(live.get("status") or {}) is None:
        raise Problem(409, "Its service is not ready, so it cannot be asked.")
    headers = await _key(cluster, live)
    which = str(live["metadata"]["name"]), names.namespace(live)
    asked = api.service_get(*which, "v1/models", port=PORT, timeout=ANSWER_SECONDS, headers=headers)
    told = await cluster.send(asked, ANSWER_SECONDS)
    models = [
        str(one["id"]) for one in (told or {}).get("data") or () if isinstance(one, Mapping) and one.get("id")
    ]
    if not models:
        raise Problem(502, "The service names no model at /v1/models.")
    return list(
        await asyncio.gather(*(_ask(cluster, which, one, question, headers) for one in models[:MOST_MODELS]))
    )


async def _ask(
    cluster: Cluster, which: tuple[str, str], model: str, question: str, headers: Mapping[str, str]
) -> Answer:
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": ANSWER_TOKENS}
    path = "v1/chat/completions"
    asked = api.service_post(*which, path, body, port=PORT, timeout=ANSWER_SECONDS, headers=headers)
    began = time.monotonic()
    try:
        told = await cluster.send(asked, ANSWER_SECONDS)
        text = str(told["choices"][0]["message"]["content"] or "")
    except Problem as problem:
        return Answer(model, "", time.monotonic() - began, problem.sentence)
    except (KeyError, IndexError, TypeError):
        return Answer(model, "", time.monotonic() - began, "It answered, but not as the OpenAI API does.")
    return Answer(model, redact(text), time.monotonic() - began)


async def _key(cluster: Cluster, live: Mapping[str, Any]) -> dict[str, str]:
    """The header with the service's key; the API server keeps Authorization for itself."""
    try:
        name = access.api_key_secret(parse_workspace(as_written(live)))
    except WorkspaceInvalid as error:
        raise Problem(409, f"The Workspace has faults: {error}") from None
    if name is None:
        return {}
    found = await cluster.find(SECRET, name, names.namespace(live)) or {}
    try:
        key = base64.b64decode((found.get("data") or {})[access.KEY]).decode()
    except (KeyError, ValueError):
        raise Problem(409, f"Secret {name} has no {access.KEY}, so the service cannot be asked.") from None
    hide(key)
    return {"X-Api-Key": key}
