"""The client that pages share: one for many requests, another one after a failure and after some minutes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kaito.hooks.api import ClusterError
from kaito.ui import connection
from kaito.ui.cluster import Cluster
from kaito.ui.problems import Problem

from tests.support.fake_pages import FakeHook
from tests.support.fleet import workspace


class Counted(FakeHook):
    """A cluster that counts how often somebody connects, and how many have gone again."""

    def __init__(self) -> None:
        super().__init__(workspace("phi"))
        self.opened = self.closed = 0

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Counted]:
        self.opened += 1
        await asyncio.sleep(0)
        yield self
        self.closed += 1


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.0)
    return Counted()


def cluster(hook: Counted) -> Cluster:
    return Cluster(hook)  # type: ignore[arg-type]


async def test_many_requests_at_once_share_one(hook: Counted) -> None:
    asked = cluster(hook)
    await asyncio.gather(*(asked.workspace("team", "phi") for _ in range(9)))
    await asked.fleet()
    assert (hook.opened, hook.closed) == (1, 0)


@pytest.mark.parametrize(
    ("error", "opened"),
    [
        (ClusterError(0, "ConnectionFailed", "away"), 2),
        (ClusterError(401, "Unauthorized", "expired"), 2),
        (OSError("away"), 2),
        (ClusterError(403, "Forbidden", "no"), 1),
        (ClusterError(409, "Conflict", "no"), 1),
    ],
)
async def test_another_one_is_opened_where_this_one_may_be_at_fault(
    hook: Counted, error: Exception, opened: int
) -> None:
    asked = cluster(hook)
    hook.error = error
    with pytest.raises(Problem):
        await asked.workspace("team", "phi")
    hook.error = None
    await asked.workspace("team", "phi")
    await asyncio.sleep(0.01)
    assert (hook.opened, hook.closed) == (opened, opened - 1)


async def test_after_some_minutes_it_is_made_anew(hook: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cluster(hook)
    await asked.workspace("team", "phi")
    monkeypatch.setattr(connection, "KEPT_SECONDS", -1.0)
    await asked.workspace("team", "phi")
    await asyncio.sleep(0.01)
    assert (hook.opened, hook.closed) == (2, 1)


def test_another_event_loop_has_one_of_its_own(hook: Counted) -> None:
    asked = cluster(hook)
    for _ in range(2):
        found: Any = asyncio.run(asked.workspace("team", "phi"))
        assert found["metadata"]["name"] == "phi"
    assert hook.opened == 2
