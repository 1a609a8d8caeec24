"""Prometheus metrics of one server: requests, latency, time to the first token, tokens, queue, and its last use.

The last use decides whether an idle service is scaled to zero (include/reconcile/idle.py reads it): a request counts
from its arrival to the last byte of its answer, and one that was refused is no use.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
QUESTIONS = frozenset({"/chat", "/v1/chat/completions"})


class Metrics:
    """One registry per server, so that tests and a second server in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("endpoint", "model")
        self.requests = Counter(
            "kaito_serving_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "kaito_serving_request_seconds",
            "From request to the end of its answer.",
            labels,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "kaito_serving_first_token_seconds",
            "From request to its first token, waiting included.",
            labels,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "kaito_serving_tokens", "Tokens read and written.", ("kind", "model"), registry=self.registry
        )
        self._loaded = Gauge(
            "kaito_serving_model_loaded", "1 once the model is loaded.", registry=self.registry
        )
        self._waiting = Gauge(
            "kaito_serving_requests_waiting", "Requests not yet begun.", registry=self.registry
        )
        self.in_flight = Gauge(
            "kaito_serving_requests_in_flight", "Requests not yet answered whole.", registry=self.registry
        )
        self._last = Gauge(
            "kaito_serving_last_request_timestamp_seconds",
            "When the last answer ended, in unix seconds; 0 before the first.",
            registry=self.registry,
        )

    def used(self) -> None:
        """A request was answered just now."""
        self._last.set(time.time())

    def loaded(self, waiting: Callable[[], int]) -> None:
        """The model is there; `waiting` reads the queue's length at each scrape."""
        self._loaded.set(1)
        self._waiting.set_function(waiting)

    def answered(
        self,
        endpoint: str,
        model: str,
        status: int,
        seconds: float,
        first_token_seconds: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        """Count one finished request."""
        self.requests.labels(endpoint, model, str(status)).inc()
        self.seconds.labels(endpoint, model).observe(seconds)
        if first_token_seconds is not None:
            self.first_token.labels(endpoint, model).observe(first_token_seconds)
        self.tokens.labels("prompt", model).inc(prompt_tokens)
        self.tokens.labels("completion", model).inc(completion_tokens)

    def refused(self, endpoint: str, status: int) -> None:
        """Count a request that got an error instead of an answer."""
        self.requests.labels(endpoint, "", str(status)).inc()

    def text(self) -> bytes:
        """The exposition text of /metrics."""
        return generate_latest(self.registry)


class InUse:
    """Around the whole application: knows of a request from its arrival until its answer has left, streams included."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in QUESTIONS:
            return await self._app(scope, receive, send)
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, watched)
            finally:
                if not 400 <= status < 500:
                    self._metrics.used()
        return None
