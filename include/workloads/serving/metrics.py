"""Prometheus metrics of one server's generation: latency, time to the first token, tokens, queue.

What the server is used for is counted around it (gateway/use.py).
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


class Metrics:
    """One registry per server, so that tests and a second server in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("endpoint", "model")
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

    def loaded(self, waiting: Callable[[], int]) -> None:
        """The model is there; `waiting` reads the queue's length at each scrape."""
        self._loaded.set(1)
        self._waiting.set_function(waiting)

    def answered(
        self,
        endpoint: str,
        model: str,
        seconds: float,
        first_token_seconds: float | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        """Count one finished request."""
        self.seconds.labels(endpoint, model).observe(seconds)
        if first_token_seconds is not None:
            self.first_token.labels(endpoint, model).observe(first_token_seconds)
        self.tokens.labels("prompt", model).inc(prompt_tokens)
        self.tokens.labels("completion", model).inc(completion_tokens)

    def text(self) -> bytes:
        """The exposition text of /metrics."""
        return generate_latest(self.registry)
