"""What the janitor remembers between two looks."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from include.janitor import Memory, Rules, judge
from include.janitor.memory import LONGEST_PAUSE, MOST
from tests.support.janitor_world import NOW, claim, workspace
from tests.support.pools import RawInventory

STEP = timedelta(minutes=10)


def _look(memory: Memory, now: Any, **parts: Any) -> tuple[str, Memory]:
    stored = json.loads(json.dumps(memory.dump()))
    seen = Memory.load(stored, now).seen
    found = judge(RawInventory(**parts, seen=seen), now, Rules())
    return str(found[0].action), Memory.of(found, now)


def test_an_orphan_goes_at_the_look_after_the_grace_time() -> None:
    actions, memory = [], Memory()
    for turn in range(4):
        action, memory = _look(memory, NOW + turn * STEP, node_claims=[claim()])
        actions.append(action)
    assert actions == ["wait", "wait", "delete", "delete"]


def test_whoever_was_needed_in_between_starts_again() -> None:
    _, memory = _look(Memory(), NOW, node_claims=[claim()])
    _, memory = _look(memory, NOW + STEP, node_claims=[claim()], workspaces=[workspace(state="waiting")])
    action, _ = _look(memory, NOW + 2 * STEP, node_claims=[claim()])
    assert action == "wait"


def test_after_a_pause_nothing_is_remembered() -> None:
    _, memory = _look(Memory(), NOW, node_claims=[claim()])
    action, _ = _look(memory, NOW + LONGEST_PAUSE + timedelta(seconds=1), node_claims=[claim()])
    assert action == "wait"
    action, _ = _look(memory, NOW + LONGEST_PAUSE, node_claims=[claim()])
    assert action == "delete"


@pytest.mark.parametrize(
    "stored", [None, "x", [], {}, {"at": "x", "seen": {}}, {"at": 1e30, "seen": {}}, {"at": 1, "seen": [1]}]
)
def test_what_cannot_be_read_is_forgotten(stored: Any) -> None:
    assert Memory.load(stored, NOW) == Memory()


def test_a_look_of_the_future_is_forgotten() -> None:
    later = Memory(NOW + STEP, {"x": NOW}).dump()
    assert Memory.load(later, NOW) == Memory()


def test_it_stays_small() -> None:
    many = [claim(name=f"claim-{n}") for n in range(MOST + 50)]
    memory = Memory.of(judge(RawInventory(node_claims=many), NOW, Rules()), NOW)
    assert len(memory.seen) == MOST
    assert len(json.dumps(Memory(NOW, {f"{n:036}": NOW for n in range(MOST)}).dump())) < 65536
