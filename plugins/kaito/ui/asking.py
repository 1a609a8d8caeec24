"""One question to a Workspace's service, to its base model and to each adapter at once, so that people can compare.

It goes through the API server's proxy with Airflow's account. The key of the service never leaves this process, and the
question is kept nowhere.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from include.cli.chat import delta
from include.contracts import pooling
from include.contracts.redaction import hide, redact
from include.ledger.sources import SourceError
from include.views.state import served_since
from include.workspace.api import access, names
from include.workspace.api.dialect import as_written
from include.workspace.api.parse import parse_workspace
from include.workspace.validation.faults import WorkspaceInvalid
from kaito.hooks import api
from kaito.hooks.api import SECRET
from kaito.tasks import served_adapters
from kaito.ui.cluster import Cluster
from kaito.ui.problems import Problem

log = logging.getLogger(__name__)

PORT = 80
#: Names of models that are asked at once, tokens of an answer, and how long one may take in seconds.
MOST_MODELS = 4
ANSWER_TOKENS = 200
ANSWER_SECONDS = 90.0


@dataclass(frozen=True)
class Answer:
    """What one model of the service said so far, for how many seconds, whether it ended, or why it said nothing."""

    model: str
    text: str
    seconds: float
    problem: str = ""
    done: bool = False


@dataclass(frozen=True)
class Asking:
    """A service that can be asked: where it is, its models, and the header with its key."""

    which: tuple[str, str]
    models: list[str]
    headers: Mapping[str, str]


async def ready(cluster: Cluster, live: Mapping[str, Any]) -> Asking:
    """Return the models of a Workspace's service, and what asking them takes.

    :raises Problem: the service is not ready, or cannot be asked.
    """
    if served_since(live.get("status") or {}) is None:
        raise Problem(409, "Its service is not ready, so it cannot be asked.")
    headers = await _key(cluster, live)
    which = str(live["metadata"]["name"]), names.namespace(live)
    asked = api.service_get(
        *which, served_adapters.MODELS, port=PORT, timeout=ANSWER_SECONDS, headers=headers
    )
    told = await cluster.send(asked, ANSWER_SECONDS)
    models = served_adapters.models(told)
    if not models:
        raise Problem(502, "The service names no model at /v1/models.")
    if task := pooling.first_task(told):
        raise Problem(409, f"It cannot be asked a question: {pooling.told(task, models[0])}")
    return Asking(which, models[:MOST_MODELS], headers)


async def answers(cluster: Cluster, service: Asking, question: str) -> list[Answer]:
    """Return what each model of a service answers, once all have."""
    last: dict[str, Answer] = {}
    async for answer in stream(cluster, service, question):
        last[answer.model] = answer
    return [last[model] for model in service.models]


async def stream(cluster: Cluster, service: Asking, question: str) -> AsyncIterator[Answer]:
    """Yield the answer of each model as it grows: each time all of it so far, the last time with `done`."""
    queue: asyncio.Queue[Answer] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_follow(cluster, service, model, question, queue)) for model in service.models
    ]
    try:
        waiting = len(tasks)
        while waiting:
            answer = await queue.get()
            waiting -= answer.done
            yield answer
    finally:  # also where the one who asked has gone away: then nothing has to be generated any more
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(
    cluster: Cluster, service: Asking, model: str, question: str, queue: asyncio.Queue[Answer]
) -> None:
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": True}
    asked = api.service_post(
        *service.which,
        "v1/chat/completions",
        body,
        port=PORT,
        timeout=ANSWER_SECONDS,
        headers=service.headers,
    )
    began = time.monotonic()
    answer, text, problem, events = Answer(model, "", 0.0), "", "", 0
    try:
        async for line in cluster.lines(asked, ANSWER_SECONDS):
            events += line.startswith("data:")
            piece = delta(line)
            text += piece
            # Whole words only: half of a secret would not be recognised as one.
            whole = redact(text[: _end_of_words(text)])
            if piece and whole != answer.text:
                answer = replace(answer, text=whole, seconds=time.monotonic() - began)
                queue.put_nowait(answer)
        if not events:
            problem = "It answered, but not as the OpenAI API does."
    except Problem as error:
        problem = error.sentence
    except SourceError as error:
        problem = redact(str(error))
    except Exception:
        log.exception("Asking model %s failed.", model)
        problem = "Asking it failed by a fault of this page; the API server's log says where."
    queue.put_nowait(Answer(model, redact(text), time.monotonic() - began, problem, done=True))


def _end_of_words(text: str) -> int:
    """Where the last whole word of a text ends: at its last white space."""
    return max((text.rfind(space) for space in " \n\t"), default=-1) + 1


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
