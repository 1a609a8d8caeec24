"""Records of machines: from when to when each costs, when it worked, and that no second is counted twice or lost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ledger.machines import HeldMachine, Span
from include.ledger.records import account, spent, summed, total, with_outcome
from include.pools.observed import UnregisteredCapacity
from include.workspace.api import names
from include.workspace.status.conditions import timestamp
from tests.support.pools import held_machines

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PRICE = 3.6


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def machine(uid: str = "a", run: str = "r1", since: float = 0, work: tuple[Span, ...] = ()) -> HeldMachine:
    return HeldMachine(uid, f"claim-{uid}", f"node-{uid}", run, "tuning", "Standard_NC6s_v3", at(since), work)


def look(old: Any, seconds: float, *seen: HeldMachine, price: float | None = PRICE) -> dict[str, Any]:
    return account(old, seen, at(seconds), lambda _: price)


def sums(cost: dict[str, Any]) -> tuple[int, int]:
    return cost["nodeSeconds"], cost["usefulNodeSeconds"]


def test_boot_and_waiting_are_wasted_and_work_is_useful() -> None:
    cost = look({}, 0, machine())
    cost = look(cost, 100, machine(work=(Span(at(80), None),)))
    cost = look(cost, 300, machine(work=(Span(at(80), at(280)),)))
    cost = look(cost, 400)
    assert sums(cost) == (400, 200)
    assert cost["wastedNodeSeconds"] == 200
    assert (cost["usd"], cost["usefulUsd"], cost["wastedUsd"]) == (0.4, 0.2, 0.2)


def test_work_that_nobody_saw_begin_or_end_is_counted_from_what_the_pod_tells() -> None:
    cost = look(look({}, 500, machine(work=(Span(at(80), at(280)),))), 600)
    assert sums(cost) == (600, 200)


def test_work_whose_pod_vanished_lasted_until_that_was_seen() -> None:
    cost = look({}, 100, machine(work=(Span(at(80), None),)))
    assert sums(look(look(cost, 150, machine()), 200)) == (200, 70)


def test_a_failed_tuning_wastes_all_of_it() -> None:
    cost = look(look({}, 100, machine(work=(Span(at(0), None),))), 200)
    assert sums(cost) == (200, 200)
    assert sums(summed(with_outcome(cost, "r1", "failed"), at(300))) == (200, 0)
    assert sums(summed(with_outcome(cost, "r1", "success"), at(300))) == (200, 200)
    assert sums(summed(with_outcome(cost, "another", "failed"), at(300))) == (200, 200)


def test_a_machine_that_goes_over_to_another_run_begins_another_record() -> None:
    cost = look({}, 100, machine(run="r1"))
    cost = look(look(cost, 250, machine(run="r2")), 400)
    assert [(r["run"], r["since"], r["until"]) for r in cost["claims"]] == [
        ("r1", timestamp(at(0)), timestamp(at(250))),
        ("r2", timestamp(at(250)), timestamp(at(400))),
    ]


def test_a_machine_that_goes_from_tuning_to_serving_within_a_run_begins_another_record() -> None:
    tuning, serving = machine(work=(Span(at(50), at(240)),)), replace(machine(), purpose="serving")
    cost = look(look({}, 100, tuning), 250, tuning)
    cost = look(look(cost, 260, serving), 400, replace(serving, work=(Span(at(300), None),)))
    cost = look(cost, 500)
    assert [(r["purpose"], r["since"], r["until"]) for r in cost["claims"]] == [
        ("tuning", timestamp(at(0)), timestamp(at(260))),
        ("serving", timestamp(at(260)), timestamp(at(500))),
    ]
    assert sums(cost) == (500, 190 + 200)
    failed = summed(with_outcome(cost, "r1", "failed"), at(500))
    assert sums(failed) == (500, 200), "what the tuning came to says nothing of the service"


@pytest.mark.parametrize("late", [5, 45])
def test_a_sight_of_who_held_a_machine_before_counts_no_second_twice(late: float) -> None:
    serving = replace(machine(), purpose="serving")
    cost = look(look(look({}, 100, machine()), 200, serving), 200 + late, machine())
    cost = look(look(cost, 300, serving), 400)
    assert [r["purpose"] for r in cost["claims"]] == ["tuning", "serving"]
    assert sums(cost)[0] == 400


def test_a_machine_that_is_handed_over_is_not_taken_for_one_that_has_just_joined() -> None:
    cost = unregistered({}, 300, [pool_of(count=2)])
    cost = unregistered(cost, 400, None, in_pool(0))
    handed = replace(in_pool(0), purpose="serving")
    cost = unregistered(cost, 500, None, handed)
    assert sorted((r["uid"], r["purpose"]) for r in cost["claims"]) == [
        ("uid-0", "serving"),
        ("uid-0", "tuning"),
        (cost["claims"][1]["uid"], "tuning"),
    ], "the one that has not joined keeps its own record"
    assert sums(cost)[0] == 1000


def test_a_look_that_is_older_than_the_end_does_not_begin_a_machine_again() -> None:
    ended = look(look({}, 100, machine()), 200)
    assert look(ended, 210, machine()) == {**ended, "at": timestamp(at(210))}
    assert "until" not in look(ended, 300, machine())["claims"][0], (
        "it is there half a minute later: it had not ended"
    )


def test_a_machine_costs_until_it_was_seen_to_go_and_not_until_the_look_that_missed_it() -> None:
    begun = look({}, 100, machine(work=(Span(at(80), None),)))
    ended = {"a": at(150), "another": at(1)}
    told = account(begun, (), at(200), lambda _: PRICE, ended=ended)
    assert sums(told) == (150, 70)
    missed = look(begun, 190)
    assert sums(missed) == (190, 110)
    mended = account(missed, (), at(200), lambda _: PRICE, ended=ended)
    assert sums(mended) == (150, 70)
    assert account(mended, (), at(200), lambda _: PRICE, ended=ended) == mended
    assert account(mended, (), at(200), lambda _: PRICE, ended={"a": at(180)}) == mended, "never longer"


def test_an_unpriced_machine_is_not_free() -> None:
    cost = look(look({}, 0, machine()), 100, machine(), machine("b", since=50), price=None)
    assert cost["unpriced"]
    assert cost["usd"] == pytest.approx(100 * PRICE / 3600)


def test_what_was_spent_goes_on_between_two_looks() -> None:
    assert spent(look({}, 0, machine()), at(1000)) == pytest.approx(1.0)


# -- what the cluster shows ------------------------------------------------------------------------------------------


def claim(launched: str = "True", **meta: Any) -> dict[str, Any]:
    labels = {names.POOL: "tuning", names.RUN_ID: "r1"}
    status = {
        "conditions": [{"type": "Launched", "status": launched, "lastTransitionTime": timestamp(at(30))}]
    }
    spec = {"requirements": [{"key": "node.kubernetes.io/instance-type", "values": ["Standard_NC6s_v3"]}]}
    whole = {"name": "c", "uid": "u", "labels": labels, "creationTimestamp": timestamp(NOW), **meta}
    return {"metadata": whole, "spec": spec, "status": {**status, "nodeName": "n"}}


def node(name: str = "n", joined: float = 240, **labels: str) -> dict[str, Any]:
    meta = {"name": name, "uid": f"uid-{name}", "creationTimestamp": timestamp(at(joined))}
    own = {names.POOL: "tuning", names.RUN_ID: "r1", "node.kubernetes.io/instance-type": "Standard_NC6s_v3"}
    return {"metadata": {**meta, "labels": {**own, **labels}}}


def asked(seconds: float) -> str:
    return str(int(at(seconds).timestamp()))


def test_a_claim_costs_from_its_launch_and_not_at_all_before() -> None:
    assert [m.since for m in held_machines([claim()], [node()], [])] == [at(30)]
    assert held_machines([claim(launched="Unknown")], [], []) == []


def test_a_node_of_an_agent_pool_costs_since_its_pool_was_asked_for() -> None:
    seen = held_machines([], [node(**{names.ASKED_AT: asked(10)})], [])
    assert [(m.since, m.kind, m.run) for m in seen] == [(at(10), "Standard_NC6s_v3", "r1")]
    added = held_machines([], [node(joined=9000, **{names.ASKED_AT: asked(10)})], [])
    assert [m.since for m in added] == [at(9000)], "it was added to the pool later"


def test_a_machine_is_its_claim_or_its_node_never_both() -> None:
    assert len(held_machines([claim()], [node(**{names.ASKED_AT: asked(0)})], [])) == 1
    assert held_machines([], [node()], []) == [], "the node of a claim that has just gone, or BYO"


@pytest.mark.parametrize(
    ("component", "status", "expected"),
    [
        (
            "tuning",
            {"containerStatuses": [{"state": {"running": {"startedAt": timestamp(at(5))}}}]},
            (5, None),
        ),
        (
            "tuning",
            {
                "containerStatuses": [
                    {"state": {"terminated": {"startedAt": timestamp(at(5)), "finishedAt": timestamp(at(9))}}}
                ]
            },
            (5, 9),
        ),
        ("tuning", {"containerStatuses": [{"state": {"waiting": {}}}]}, None),
        ("dataset", {"containerStatuses": [{"state": {"running": {}}}]}, None),
    ],
)
def test_a_machine_works_while_a_pod_of_its_purpose_runs_on_it(
    component: str, status: dict[str, Any], expected: tuple[int, int | None] | None
) -> None:
    pod = {"metadata": {"labels": {names.COMPONENT: component}}, "spec": {"nodeName": "n"}, "status": status}
    work = held_machines([claim()], [], [pod])[0].work
    told = [
        tuple(None if t is None else round((t - NOW).total_seconds()) for t in (s.since, s.until))
        for s in work
    ]
    assert told == ([] if expected is None else [expected])


# -- machines that have not joined -----------------------------------------------------------------------------------


def pool_of(since: float = 0, count: int = 1) -> UnregisteredCapacity:
    return UnregisteredCapacity("ws12", "r1", "tuning", "Standard_NC6s_v3", at(since), count)


def unregistered(old: Any, seconds: float, pools: Any, *seen: HeldMachine) -> dict[str, Any]:
    return account(old, seen, at(seconds), lambda _: PRICE, pools)


def in_pool(number: int = 0, since: float = 0) -> HeldMachine:
    node = f"aks-ws12-7-vmss00000{number}"
    return replace(machine(f"uid-{number}", since=since), node=node, name=node)


def test_a_machine_that_never_joins_costs_from_the_request_until_its_pool_is_gone() -> None:
    cost = unregistered({}, 300, [pool_of()])
    cost = unregistered(
        unregistered(cost, 400, None), 500, [pool_of(count=0)]
    )  # not asked; then it is being deleted
    assert "until" not in cost["claims"][0]
    cost = unregistered(cost, 600, [])
    assert sums(cost) == (600, 0)
    assert sums(unregistered(cost, 900, [])) == (600, 0)


def test_a_machine_that_joins_late_keeps_its_record() -> None:
    cost = unregistered({}, 300, [pool_of(count=2)])
    assert len(cost["claims"]) == 2
    cost = unregistered(cost, 400, [pool_of(count=2)], in_pool(0))
    assert sorted(r["uid"] for r in cost["claims"])[0] == "uid-0"
    cost = unregistered(cost, 500, None, in_pool(0), in_pool(1))
    assert [r["uid"] for r in cost["claims"]] == ["uid-0", "uid-1"]
    cost = unregistered(cost, 1000, [])
    assert sums(cost) == (2000, 0)


def test_a_pool_that_was_seen_ready_before_its_node_was_is_not_counted_twice() -> None:
    cost = unregistered(unregistered({}, 300, [pool_of()]), 310, [])
    cost = unregistered(cost, 320, [], in_pool())
    assert sums(unregistered(cost, 600, [])) == (600, 0)


def test_a_machine_that_has_joined_is_not_begun_again() -> None:
    cost = unregistered({}, 300, None, in_pool())
    assert len(unregistered(cost, 320, [pool_of()], in_pool())["claims"]) == 1
    assert len(unregistered(cost, 400, [pool_of()])["claims"]) == 1, "its Node has gone before its pool"
    assert len(unregistered(cost, 900, [pool_of(since=800)])["claims"]) == 2, "the pool was made again"


# -- whatever happens ------------------------------------------------------------------------------------------------

LIVES = st.lists(
    st.tuples(
        st.integers(0, 3000),  # from
        st.integers(1, 3000),  # for that long
        st.lists(st.integers(1, 2900), max_size=3),  # handed over after so many seconds
        st.lists(st.tuples(st.integers(0, 2900), st.integers(1, 900)), max_size=3),  # pods: begin, length
    ),
    min_size=1,
    max_size=25,
)


def seen_at(lives: Any, moment: int) -> list[HeldMachine]:
    found = []
    for number, (begin, length, handed, pods) in enumerate(lives):
        age = moment - begin
        if not 0 <= age < length:
            continue
        run = f"r{sum(age >= after for after in handed)}"
        spans = tuple(
            Span(at(begin + b), at(begin + b + n) if b + n <= age else None) for b, n in pods if b <= age
        )
        found.append(machine(f"m{number:02}", run, begin, spans))
    return found


@given(LIVES, st.integers(20, 400))
def test_every_second_of_every_machine_is_counted_once(lives: Any, pace: int) -> None:
    cost: dict[str, Any] = {}
    looks = range(0, 6001 + pace, pace)
    for moment in looks:
        seen = seen_at(lives, moment)
        cost = look(cost, moment, *seen)
        assert {**look(cost, moment, *seen)} == cost, "the same look twice changes nothing"
    # Seen from the first to the last look, a machine is known to have lived from its begin to the look after.
    exact = {
        n: next(m for m in looks if m >= begin + length) - begin
        for n, (begin, length, _, _) in enumerate(lives)
        if any(begin <= m < begin + length for m in looks)
    }
    assert cost.get("nodeSeconds", 0) == sum(exact.values())
    assert 0 <= cost.get("usefulNodeSeconds", 0) <= cost.get("nodeSeconds", 0)
    assert cost.get("usd", 0) == pytest.approx(sum(exact.values()) * PRICE / 3600, abs=1e-3)


HOLDERS = st.tuples(st.sampled_from(["r1", "r2"]), st.sampled_from(["tuning", "serving"]))
HELD = st.lists(
    st.lists(st.tuples(HOLDERS, st.integers(1, 6)), min_size=1, max_size=5), min_size=1, max_size=5
)


@given(HELD, st.integers(1, 60))
def test_whoever_holds_a_machine_its_records_are_its_whole_life(held: Any, pace: int) -> None:
    """Handed to any run and purpose and back again: its intervals follow each other, without a gap or an overlap."""
    lives = [[holder for holder, looks in turns for _ in range(looks)] for turns in held]
    cost: dict[str, Any] = {}
    for number in range(max(map(len, lives)) + 1):
        seen = [
            replace(machine(f"m{one}", run=life[number][0]), purpose=life[number][1])
            for one, life in enumerate(lives)
            if number < len(life)
        ]
        cost = look(cost, number * pace, *seen)
    assert cost["nodeSeconds"] == sum(len(life) * pace for life in lives)
    if "earlier" in cost:
        return  # summed up: there are no intervals any more
    for one, life in enumerate(lives):
        own = [record for record in cost["claims"] if record["uid"] == f"m{one}"]
        assert (own[0]["since"], own[-1]["until"]) == (timestamp(at(0)), timestamp(at(len(life) * pace)))
        assert all(first["until"] == then["since"] for first, then in itertools.pairwise(own))
        assert len({(record["run"], record["purpose"]) for record in own}) == len(own)
        once = [holder for holder, _ in itertools.groupby(life)]
        if len(set(once)) == len(once):
            assert [(record["run"], record["purpose"]) for record in own] == once


@given(LIVES)
def test_the_sum_of_the_runs_is_the_sum_of_all(lives: Any) -> None:
    cost: dict[str, Any] = {}
    for moment in range(0, 6100, 100):
        cost = look(cost, moment, *seen_at(lives, moment))
    if not cost:
        return
    records = cost["claims"]
    by_run = [total([r for r in records if r["run"] == run], at(6100)) for run in {r["run"] for r in records}]
    earlier = cost.get("earlier") or {"nodeSeconds": 0, "usefulNodeSeconds": 0}
    for key in ("nodeSeconds", "usefulNodeSeconds"):
        assert sum(part[key] for part in by_run) + earlier[key] == cost[key]
    spans: dict[str, list[tuple[str, str]]] = {}
    for record in records:
        spans.setdefault(record["uid"], []).append((record["since"], record["until"]))
    for of_one in spans.values():
        ordered = sorted(of_one)
        assert all(one[1] <= next_[0] for one, next_ in itertools.pairwise(ordered)), "no overlap"
