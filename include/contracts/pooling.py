"""How a service that embeds, ranks or scores texts is told from one that writes them, and what one question to it is.

The gateway in its pod says the task of such a model (vLLM: a pooling model) in its entry of /v1/models; who asks the
service reads it there, since neither a name nor a Workspace tells the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.plural import plural

KEY = "task"  # of an entry of /v1/models; a model that writes text has none
EMBED, CLASSIFY, POOLING = "embed", "classify", "pooling"
PATHS: Mapping[str, str] = {EMBED: "/v1/embeddings", CLASSIFY: "/classify", POOLING: "/pooling"}
DOES: Mapping[str, str] = {
    EMBED: "embeds texts",
    CLASSIFY: "scores texts",
    POOLING: "ranks or marks texts",
}
NUMBERS = ("embedding", "probs", "data")  # where the answers of these paths keep them


def task_of(entry: object) -> str:
    """The task in an entry of /v1/models, "" for a model that writes text."""
    found = entry.get(KEY) if isinstance(entry, Mapping) else None
    return str(found) if found in PATHS else ""


def first_task(listed: object) -> str:
    """The task of the first model that a service lists.

    :param listed: what it says at /v1/models.
    """
    data = listed.get("data") if isinstance(listed, Mapping) else None
    return task_of(data[0]) if isinstance(data, list) and data else ""


def told(task: str, model: str) -> str:
    """The sentence for whoever asks such a model to write."""
    return f"{model} {DOES[task]} and writes none: ask it at POST {PATHS[task]}."


def question(task: str, model: str, text: str) -> tuple[str, dict[str, Any]]:
    """Path and body of one question."""
    return PATHS[task], {"model": model, "input": text}


def answer_of(task: str, said: object) -> str:
    """The answer in words. Raises ValueError where it holds no numbers, or one that is none."""
    data = said.get("data") if isinstance(said, Mapping) else None
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], Mapping) else {}
    values = list(_flat(next((first[name] for name in NUMBERS if name in first), None)))
    if not values or not all(isinstance(one, int | float) and math.isfinite(one) for one in values):
        raise ValueError(f"POST {PATHS[task]} answered without numbers: {str(said)[:200]}")
    return f"{plural(len(values), 'number')}, the first is {values[0]:.4g}"


def _flat(value: object) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value
