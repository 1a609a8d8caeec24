"""What the server is used for, and whether its answers fail: counters for scale-to-zero, and health.

A request is in use from the moment that its body is whole until the last byte of its answer has left: one that is
half sent is no use yet, and one that was refused never was (include/reconcile/activity.py reads the numbers).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Summary, generate_latest

from include.workloads.serving.gateway.asgi import Message, Receive, Refusal, Send

RUNNING_LIMIT = "kaito_serving_requests_running_limit"
SEND_SECONDS = 60.0
FAILURES = 5  # answers that failed one after the other, with none between that did not
NOT_IMPLEMENTED = (
    501  # vLLM's word for what this model or version cannot do: the client's fault, not the engine's
)
STREAM_ERRORS = (b'data: {"error"', b"event: error")
CLIENT_S_FAULT = re.compile(rb'"code": ?4\d\d\b')  # of such an error


class ClientStalled(Exception):
    """The client takes no more bytes."""


class Use:
    """Counters of one server, in a registry of their own."""

    def __init__(self, failures: int = FAILURES, send_seconds: float = SEND_SECONDS) -> None:
        self._send_seconds = send_seconds
        self.registry = CollectorRegistry()
        self._limit = failures
        self._failed_in_a_row = 0
        self.requests = Counter(
            "kaito_serving_requests",
            "Requests answered.",
            ("endpoint", "status", "adapter"),
            registry=self.registry,
        )
        self.failures = Counter(
            "kaito_serving_failed",
            "Answers that failed by the server's own fault.",
            ("adapter",),
            registry=self.registry,
        )
        self.seconds = Summary(
            "kaito_serving_answer_seconds",
            "From a whole request to the last byte of its answer, of answers that came to a good end.",
            ("adapter",),
            registry=self.registry,
        )
        self.rejected = Counter(
            "kaito_ratelimit_rejected", "Requests refused because too many wait.", registry=self.registry
        )
        self.in_flight = Gauge(
            "kaito_serving_requests_in_flight", "Requests not yet answered whole.", registry=self.registry
        )
        self._last = Gauge(
            "kaito_serving_last_request_timestamp_seconds",
            "When the last answer ended, in unix seconds; 0 before the first.",
            registry=self.registry,
        )
        self._limit_gauge = Gauge(
            RUNNING_LIMIT,
            "Requests that the engine works on together; as many again may wait. 0 before it is up.",
            registry=self.registry,
        )
        self._canary = Gauge(
            "kaito_serving_canary_percent",
            "The share of its name's requests that a canary answers.",
            ("adapter",),
            registry=self.registry,
        )
        self._refused = Gauge(
            "kaito_serving_adapter_refused",
            "1 for a version that the server was given and does not take.",
            ("adapter",),
            registry=self.registry,
        )
        self.current = 0

    def text(
        self,
        canaries: Mapping[str, float] | None = None,
        refused: Iterable[str] = (),
        running_limit: int | None = None,
    ) -> bytes:
        """Prometheus' text format.

        :param canaries: the share of each canary in percent, by its digest.
        :param refused: digests of the versions that the server does not take.
        :param running_limit: how many requests the engine works on together, None where nobody knows.
        """
        self._limit_gauge.set(running_limit or 0)
        self._canary.clear()
        self._refused.clear()
        for digest, percent in (canaries or {}).items():
            self._canary.labels(digest).set(percent)
        for digest in refused:
            self._refused.labels(digest).set(1)
        return generate_latest(self.registry)

    def refused(self, endpoint: str, status: int) -> None:
        """Count a request that never reached the model."""
        self.requests.labels(endpoint, str(status), "").inc()

    def trouble(self) -> str | None:
        """Why the server should be restarted, None while it is well."""
        if self._failed_in_a_row < self._limit:
            return None
        return f"The last {self._failed_in_a_row} answers failed."

    @contextmanager
    def watched(self, endpoint: str, send: Send, adapter: str = "") -> Iterator[Answering]:
        """One request on its way; sends through what this gives.

        :param adapter: digest of the adapter that answers, "" for the base model and where nobody knows it.
        """
        answering = Answering(send, self._send_seconds)
        begin = time.monotonic()
        self.current += 1
        self.in_flight.inc()
        try:
            yield answering
        except asyncio.CancelledError:
            answering.left = True
            raise
        except Refusal as refusal:
            answering.status, refusal.counted = refusal.status, True
            raise
        except BaseException:
            answering.failed = not answering.left
            raise
        finally:
            self.current -= 1
            self.in_flight.dec()
            self._ended(endpoint, adapter, answering, time.monotonic() - begin)

    def _ended(self, endpoint: str, adapter: str, answering: Answering, seconds: float) -> None:
        status = answering.status or (499 if answering.left else 500)
        self.requests.labels(endpoint, str(status), adapter).inc()
        if not 400 <= status < 500:
            self._last.set(time.time())
        if answering.failed or (status >= 500 and status != NOT_IMPLEMENTED):
            self._failed_in_a_row += 1
            self.failures.labels(adapter).inc()
        elif status < 400 and not answering.left:
            self._failed_in_a_row = 0
            self.seconds.labels(adapter).observe(seconds)


class Leave:
    """A server's way out: questions under way are answered whole, as far as the time allows, and none is taken."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: float | None = None

    def begin(self) -> None:
        """Take nothing new from now on; safe in a signal handler."""
        if self._begun is None:
            self._begun = time.monotonic()

    def is_begun(self) -> bool:
        return self._begun is not None

    def is_over(self, use: Use) -> bool:
        """Whether nobody waits for an answer any more, or has waited for long enough."""
        if self._begun is None:
            return False
        return use.current == 0 or time.monotonic() - self._begun >= self._seconds


def _says_failure(piece: bytes) -> bool:
    """Whether a piece of a stream tells that the engine failed; the status was sent before that was known."""
    return piece.startswith(STREAM_ERRORS) and CLIENT_S_FAULT.search(piece) is None


class Answering:
    """The way of one answer to its client, with a deadline for each piece.

    `left` says that the client went away or takes nothing: what breaks then is no sign of the model's health.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds = send, seconds
        self.status = 0
        self.failed = self.left = self.whole = False
        self.headers: list[tuple[bytes, bytes]] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ours = {name for name, _ in self.headers}
            theirs = [one for one in message.get("headers") or [] if one[0].lower() not in ours]
            message = {**message, "headers": [*theirs, *self.headers]}
        elif message["type"] == "http.response.body" and _says_failure(message.get("body", b"")):
            self.failed = True
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            self.left = True
            raise ClientStalled(f"the client took nothing for {self._seconds:g} s") from None
        except OSError:
            self.left = True
            raise
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    def hearing(self, receive: Receive) -> Receive:
        """A receive that takes notice when the client goes away before it has its answer."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not self.whole:
                self.left = True
            return message

        return heard
