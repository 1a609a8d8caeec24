"""Whoever asks while a version changes counts every question that failed, and names who answered in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest

from demo import asking
from demo.asking import Asking

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def gone(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def answered(digest: str, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, headers={"x-kaito-adapter-digest": digest})


def test_every_failure_is_counted_and_each_adapter_named_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PAUSE_SECONDS", 0)
    replies = [answered(A), answered(A), gone, answered(B, 503), answered(B)]
    done = threading.Event()

    def handle(request: httpx.Request) -> httpx.Response:
        if not replies:
            done.set()
            return answered(B)(request)
        return replies.pop(0)(request)

    client = httpx.Client(transport=httpx.MockTransport(handle))
    replies.insert(0, answered(A))
    client.get("http://service/health")  # as whoever looks which way leads to the service
    waits = iter([False, False, True])
    with Asking("http://service/chat", lambda: client, lambda: next(waits)) as found:
        assert done.wait(10)
    told = found.to_dict()
    assert told["asked"] >= 6
    assert [failure.partition(" after")[0] for failure in told["failures"]] == ["ConnectError", "HTTP 503"]
    assert told["digests"] == [A, B]


def test_who_is_never_told_to_begin_asks_nothing() -> None:
    with Asking("http://service/chat", httpx.Client, lambda: False) as found:
        pass
    assert found.to_dict() == {"asked": 0, "failures": [], "digests": []}
