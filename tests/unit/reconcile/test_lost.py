"""When a machine counts as lost although its Node is there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.pools.lost_nodes import (
    is_lost,
    seconds_left,
    sentence,
    standing,
)
from include.workspace.status.conditions import timestamp

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def node(status: str, since: float | None = 400, joined: float = 9000) -> dict[str, Any]:
    ready = {"type": "Ready", "status": status, "message": "Kubelet stopped posting node status."}
    if since is not None:
        ready["lastTransitionTime"] = timestamp(NOW - timedelta(seconds=since))
    made = timestamp(NOW - timedelta(seconds=joined))
    return {"metadata": {"name": "n", "creationTimestamp": made}, "status": {"conditions": [ready]}}


@pytest.mark.parametrize(
    ("seen", "lost", "left"),
    [
        (node("True"), False, None),
        (node("Unknown", 299), False, 1.0),
        (node("Unknown", 300), True, 0.0),
        (node("False", 300), True, 0.0),
        (node("False", 400, joined=400), False, 0.0),
        (node("Unknown", 400, joined=400), True, 0.0),
        (node("Unknown", None), False, 300.0),
        ({"metadata": {"name": "n"}}, False, 300.0),
    ],
    ids=["ready", "a while", "unreachable", "not ready", "boots", "died at boot", "undated", "new"],
)
def test_a_machine_is_lost_when_it_was_there_and_is_silent_for_long(
    seen: dict[str, Any], lost: bool, left: float | None
) -> None:
    assert is_lost(seen, NOW) is lost
    assert seconds_left(seen, NOW) == left
    assert standing([seen], NOW) == ([] if lost else [seen])


def test_the_sentence_says_since_when_and_why() -> None:
    assert sentence(node("Unknown", 3600)) == (
        "Node n has not been Ready since 2026-11-23T23:00:00Z: Kubelet stopped posting node status"
    )
