"""Servers that drip: whatever they drip, the step ends in time and nothing half is taken for whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from include.workloads.contract import TryAgain
from include.workloads.dataset.connection import PassingFault, PinnedClient
from include.workloads.dataset.fetch import Fetcher
from include.workloads.network import AddressPolicy
from tests.support.dataset_server import LOOPBACK
from tests.support.dripping_server import ENDLESS, server

FAST = 0.4


@pytest.mark.parametrize("kind", ENDLESS)
def test_the_whole_download_has_one_deadline(kind: str, make_fetcher, target: Path):
    with server(ENDLESS[kind]) as port:
        begun = time.monotonic()
        with pytest.raises(TryAgain, match="took longer than 0 s"):
            make_fetcher(max_seconds=FAST, attempts=5).fetch(f"http://127.0.0.1:{port}/a", target)
        assert time.monotonic() - begun < 3
    assert not target.exists()


@pytest.mark.parametrize("kind", ["headers", "100 Continue"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_headers_have_a_deadline_of_their_own(kind: str, scheme: str):
    """Over https it is the handshake that drips: what comes is no TLS, or nothing at all."""
    client = PinnedClient(AddressPolicy(LOOPBACK), header_seconds=FAST)
    silent = lambda connection, stop: stop.wait(5)  # noqa: E731
    with server(ENDLESS[kind] if scheme == "http" else silent) as port:
        begun = time.monotonic()
        with pytest.raises(PassingFault, match="no whole answer within 0 s"):
            client.open(f"{scheme}://127.0.0.1:{port}/a", {})
        assert time.monotonic() - begun < 3


def test_an_unchanged_source_is_asked_within_the_deadline_too(slept):
    client = PinnedClient(AddressPolicy(LOOPBACK), header_seconds=FAST)
    with server(ENDLESS["headers"]) as port:
        assert Fetcher(client).unchanged(f"http://127.0.0.1:{port}/a", '"1"', None) is False


def test_deadlines_leave_no_thread_and_no_socket_behind(make_fetcher, target: Path, web):
    url = web.serve("/a", b"PAR1")
    make_fetcher().fetch(url, target)
    before = _descriptors()
    for number in range(5):
        make_fetcher().fetch(url, target.with_name(f"again{number}"))
    assert _descriptors() <= before + 1
    for thread in threading.enumerate():  # a cancelled one ends when it is next given a CPU
        if isinstance(thread, threading.Timer):
            assert thread.finished.is_set(), "not cancelled"
            thread.join(30)
            assert not thread.is_alive()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
