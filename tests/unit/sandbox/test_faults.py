"""Faults are injected when set, as often as asked, and never otherwise."""

from __future__ import annotations

import pytest

from sandbox.faults import Fault, FaultKind, Faults


@pytest.fixture
def faults():
    return Faults()


def test_nothing_is_broken_unless_it_is_set(faults):
    assert all(faults.inject(kind, "x") is None for kind in FaultKind)


def test_a_pattern_says_what_is_struck(faults):
    faults.set(Fault(FaultKind.NO_CAPACITY, target="Standard_NC24*"))
    assert faults.inject(FaultKind.NO_CAPACITY, "Standard_NC24ads_A100_v4")
    assert not faults.inject(FaultKind.NO_CAPACITY, "Standard_NC6s_v3")
    assert not faults.inject(FaultKind.QUOTA, "Standard_NC24ads_A100_v4")


def test_a_count_is_used_up_by_injection_and_not_by_looking(faults):
    faults.set(Fault(FaultKind.API_ERROR, count=2))
    assert faults.peek(FaultKind.API_ERROR)
    assert [bool(faults.inject(FaultKind.API_ERROR)) for _ in range(3)] == [True, True, False]
    assert faults.active() == []


def test_one_in_so_many(faults):
    faults.set(Fault.from_dict({"kind": "api-error", "every": 3, "count": 2}))
    struck = [bool(faults.inject(FaultKind.API_ERROR, "GET /")) for _ in range(9)]
    assert struck == [False, False, True, False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("query", "left"),
    [({}, []), ({"kind": "quota"}, ["slow-boot"]), ({"kind": "oom"}, ["quota", "slow-boot"])],
)
def test_clearing(faults, query, left):
    faults.set(Fault(FaultKind.QUOTA))
    faults.set(Fault(FaultKind.SLOW_BOOT, value=1))
    faults.handle("DELETE", query, None)
    assert [fault.kind for fault in faults.active()] == left


def test_clearing_by_id(faults):
    first, second = faults.set(Fault(FaultKind.QUOTA)), faults.set(Fault(FaultKind.QUOTA))
    faults.clear(id=first.id)
    assert faults.active() == [second]


def test_listeners_hear_of_setting_and_of_the_end_however_it_comes(faults):
    heard = []
    faults.listen(FaultKind.REGISTRY_DOWN, lambda fault, active: heard.append(active))
    faults.set(Fault(FaultKind.REGISTRY_DOWN))
    faults.set(Fault(FaultKind.QUOTA))
    faults.clear()
    faults.set(Fault(FaultKind.REGISTRY_DOWN, count=1))
    faults.inject(FaultKind.REGISTRY_DOWN)
    assert heard == [True, False, True, False]


def test_one_shot_faults_are_told_and_not_kept(faults):
    heard = []
    faults.listen(FaultKind.NODE_LOSS, lambda fault, active: heard.append(fault.target))
    faults.set(Fault(FaultKind.NODE_LOSS, target="node-a"))
    assert heard == ["node-a"]
    assert faults.active() == []


def test_the_control_endpoint_sets_lists_and_clears(faults):
    code, made = faults.handle("POST", {}, {"kind": "api-latency", "value": 2, "target": "GET *"})
    assert code == 201
    assert faults.handle("GET", {}, None) == (200, {"faults": [made]})
    assert faults.handle("DELETE", {"id": made["id"]}, None) == (200, {"cleared": [made]})
    assert faults.handle("PUT", {}, None)[0] == 405


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"kind": "earthquake"}, "There is no fault 'earthquake'"),
        ({}, "There is no fault None"),
        (None, "There is no fault None"),
        ({"kind": "slow-boot"}, "needs a value in seconds"),
        ({"kind": "quota", "count": "many"}, "many"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(faults, body, words):
    code, answer = faults.handle("POST", {}, body)
    assert code == 400
    assert words in answer["message"]
    assert faults.active() == []
