"""The bill."""

from __future__ import annotations

import pytest

from sandbox.cloud.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "state" / "ledger.jsonl")


def test_a_rental_has_a_start_and_a_stop(ledger):
    ledger.start("node", "Standard_NC6s_v3", "wsabc", {"kaito.sh/workspace": "ws"})
    running = ledger.rentals()[0]
    assert (running.node, running.instance_type, running.claim, running.stopped) == (
        "node",
        "Standard_NC6s_v3",
        "wsabc",
        None,
    )
    ledger.stop("node")
    ended = ledger.rentals()[0]
    assert ended.started == running.started
    assert ended.stopped >= ended.started
    assert ended.seconds >= 0
    assert ended.labels == {"kaito.sh/workspace": "ws"}


def test_noting_twice_changes_nothing(ledger):
    ledger.stop("node")
    for _ in range(2):
        ledger.start("node", "x", "c", {})
    for _ in range(2):
        ledger.stop("node")
    assert len(ledger.rentals()) == 1


def test_a_name_used_again_is_another_rental(ledger):
    for _ in range(2):
        ledger.start("node", "x", "c", {})
        ledger.stop("node")
    assert [r.stopped is not None for r in ledger.rentals()] == [True, True]


def test_a_torn_last_line_loses_only_itself(ledger, tmp_path):
    ledger.start("node", "x", "c", {})
    with (tmp_path / "state" / "ledger.jsonl").open("a") as file:
        file.write('{"at": "2026-')
    assert [r.node for r in ledger.rentals()] == ["node"]
