"""The gateway inside vLLM: `vllm serve ... --middleware include.workloads.serving.vllm_middleware.KaitoMiddleware`.

vLLM makes one for its application. Nothing of vLLM is imported or changed: what the queue guard needs is read from the
application's state and from the metrics that vLLM itself exposes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY

from include.contracts import pooling
from include.workloads.serving.gateway.asgi import App, Receive, Scope, Send
from include.workloads.serving.gateway.environment import parts_of
from include.workloads.serving.gateway.gateway import Gateway
from include.workloads.serving.gateway.queue_guard import QueueGuard

WAITING = "vllm:num_requests_waiting"
GAUGE_SECONDS = 0.2  # the engine writes its gauges about as often


class KaitoMiddleware:
    """The gateway, made from this process's environment."""

    def __init__(self, app: App) -> None:
        self._most: int | None = None
        self._task = ""
        guard = QueueGuard(lambda: self._most, kept(waiting, GAUGE_SECONDS))
        parts = parts_of(os.environ, guard=guard, translates_chat=True, task=lambda: self._task)
        self._gateway = Gateway(app, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._most is None and scope["type"] == "http":
            self._most, self._task = sequences(scope.get("app")), task(scope.get("app"))
        await self._gateway(scope, receive, send)


def sequences(application: Any) -> int | None:
    """How many sequences the engines behind this front end run together, None before they are up.

    One front end answers for all copies of the model (include/planning/launch.py), and vLLM's limit is for one copy.
    """
    config = getattr(getattr(application, "state", None), "vllm_config", None)
    found = getattr(getattr(config, "scheduler_config", None), "max_num_seqs", None)
    copies = getattr(getattr(config, "parallel_config", None), "data_parallel_size", None)
    if not isinstance(found, int) or found <= 0:
        return None
    return found * copies if isinstance(copies, int) and copies > 0 else found


def task(application: Any) -> str:
    """What a model that writes no text does here; "" for one that writes, and before the engine is up."""
    state = getattr(application, "state", None)
    model = getattr(getattr(state, "vllm_config", None), "model_config", None)
    if getattr(model, "runner_type", None) != "pooling":
        return ""
    if getattr(state, "serving_embedding", None) is not None:
        return pooling.EMBED
    return pooling.POOLING if getattr(state, "serving_classification", None) is None else pooling.CLASSIFY


def waiting() -> float:
    """Requests that wait in the engines, by the gauge that vLLM keeps in this process."""
    metrics = REGISTRY.restricted_registry([WAITING]).collect()
    return sum(sample.value for metric in metrics for sample in metric.samples if sample.name == WAITING)


def kept(read: Callable[[], float], seconds: float) -> Callable[[], float]:
    """`read`, at most once in so many seconds."""
    value, until = 0.0, 0.0

    def current() -> float:
        nonlocal value, until
        if (now := time.monotonic()) >= until:
            value, until = read(), now + seconds
        return value

    return current
