"""How the pages learn what services are used for: in the background, a few at a time, and never by failing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from kaito.hooks.api import ClusterError
from kaito.ui import meter as meters
from kaito.ui.cluster import Cluster
from kaito.ui.meter import Meter

from tests.support.fake_pages import FakeHook
from tests.support.fleet import SERVING, TRAINING, reached

KEY = ("team", "served")


class Serving(FakeHook):
    """A cluster whose services have one pod each that has answered so many requests."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(*objects)
        self.answered: list[str] = []
        self.count: float | None = 0
        labels = {"kaito.sh/component": "serving"}
        self.told = [{"metadata": {"name": "p", "namespace": "team", "uid": "u", "labels": labels}}]

    @asynccontextmanager
    async def stream(self, request: Any) -> Any:
        self.answered.append(request.path)
        if self.count is None:
            raise ClusterError(503, "ServiceUnavailable", "no endpoints")
        text = f"kaito_serving_requests_total {self.count}\n".encode()

        async def chunks(_size: int) -> Any:
            yield text

        yield SimpleNamespace(content=SimpleNamespace(iter_chunked=chunks))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(*objects: dict[str, Any]) -> tuple[Serving, Clock, Meter]:
    hook, clock = Serving(*objects), Clock()
    return hook, clock, Meter(Cluster(hook), clock)  # type: ignore[arg-type]


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def test_two_looks_at_a_page_give_a_rate() -> None:
    served = reached(*SERVING, name="served")
    hook, clock, meter = made(served)

    async def walk() -> None:
        meter.look_at(served)
        meter.look_at(served)
        await meter.settled()
        assert (len(hook.answered), meter.rate(KEY)) == (1, None)
        assert hook.answered == ["/api/v1/namespaces/team/pods/p:5000/proxy/metrics"]
        hook.count, clock.now = 20, clock.now + 10
        meter.look_at(served)
        await meter.settled()
        assert meter.rate(KEY) == 2.0

    run(walk())


def test_only_services_that_are_ready_are_asked_and_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "MOST_AT_ONCE", 3)
    every = [reached(*SERVING, name=f"s{n}") for n in range(5)] + [reached(*TRAINING, name="t")]
    hook, clock, meter = made(*every)

    async def walk() -> None:
        for _ in range(4):
            meter.look_at_all(every)
        await meter.settled()
        assert len(hook.answered) == 3
        clock.now += meters.PASS_SECONDS
        meter.look_at_all(every)
        await meter.settled()
        assert len(hook.answered) == 5

    run(walk())


def test_a_server_that_does_not_answer_leaves_the_rate_unknown() -> None:
    served = reached(*SERVING, name="served")
    hook, clock, meter = made(served)

    async def walk() -> None:
        for count in (None, None):
            hook.count = count
            meter.look_at(served)
            await meter.settled()
            clock.now += 10
        hook.error = ClusterError(503, "ServiceUnavailable", "away")
        meter.look_at(served)
        await meter.settled()
        assert meter.rate(KEY) is None

    run(walk())


def test_one_that_cannot_be_asked_leaves_the_others_their_rates() -> None:
    served = reached(*SERVING, name="served")
    hidden = {**served, "metadata": {**served["metadata"], "namespace": "another"}}
    hook, clock, meter = made(hidden, served)
    send = hook.send

    async def refused(request: Any) -> Any:
        if "/another/" in request.path:
            raise ClusterError(403, "Forbidden", "pods is forbidden")
        return await send(request)

    hook.send = refused  # type: ignore[method-assign]

    async def walk() -> None:
        for _ in range(2):
            meter.look_at_all([hidden, served])
            await meter.settled()
            hook.count, clock.now = 30, clock.now + meters.FLEET_PAUSE
        assert meter.rate(KEY) == 1.0
        assert meter.rate(("another", "served")) is None

    run(walk())
