"""A version is taken back for what its servers count while it is watched, and for nothing that may be chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.reconcile.activity import read
from include.reconcile.bake import FEWEST_ANSWERS, FEWEST_FAILURES, Limits, breach, counted

LIMITS = Limits(errors=0.1, latency=2.0)
BEFORE = {"answered": 100.0, "failed": 1.0, "timed": 99.0, "seconds": 49.5}


def later(answered: float, failed: float = 0, timed: float = 0, seconds: float = 0) -> dict[str, float]:
    """What is counted when so much was added since."""
    more = {"answered": answered, "failed": failed, "timed": timed, "seconds": seconds}
    return {name: BEFORE[name] + value for name, value in more.items()}


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (later(0), ""),
        (later(30, 3), ""),  # just what the policy lets fail
        (later(29, 3), "3 of 29 answers failed within the bake time, and the policy lets 10% fail"),
        (later(2, 2), ""),  # two may be chance
        (later(30, 0, 30, 30.0), ""),  # twice as long is what the policy lets them take
        (later(30, 0, 30, 31.0), "take 1.03 s on average within the bake time, those before took 0.50 s"),
        (later(19, 0, 19, 99.0), ""),  # too few to say
        ({"answered": 9.0, "failed": 9.0, "timed": 0.0, "seconds": 0.0}, "9 of 9"),  # the servers began anew
    ],
)
def test_what_is_held_against_a_version(now: dict[str, float], why: str) -> None:
    found = breach(LIMITS, BEFORE, BEFORE, now)
    assert why in found
    assert bool(found) is bool(why)


def test_what_is_not_known_is_not_held_against_it() -> None:
    bad = later(100, 100, 100, 1000.0)
    assert breach(LIMITS, BEFORE, None, bad) == breach(LIMITS, BEFORE, BEFORE, None) == ""
    assert breach(Limits.of(None), None, BEFORE, bad) == ""
    assert "failed" in breach(LIMITS, None, BEFORE, bad)
    assert counted(None) is None


numbers = st.floats(0, 1e6)
looks = st.builds(
    lambda good, failed, seconds: {
        "answered": good + failed,
        "failed": failed,
        "timed": good,
        "seconds": seconds,
    },
    numbers,
    numbers,
    numbers,
)


@given(looks, looks, looks, st.floats(0, 1), st.floats(0, 100))
def test_whatever_is_counted_there_is_a_verdict_and_no_few_answers_decide(
    before: dict[str, float], begun: dict[str, float], now: dict[str, float], errors: float, latency: float
) -> None:
    why = breach(Limits(errors, latency), before, begun, now)
    if now["failed"] < FEWEST_FAILURES and now["timed"] < FEWEST_ANSWERS:
        assert why == ""
    assert breach(Limits(1.0, 0.0), before, begun, now) == ""


def test_the_numbers_are_those_that_the_gateway_gives() -> None:
    from include.workloads.serving.gateway.use import Answering, Use

    use = Use()

    async def nobody(_: object) -> None:
        return None

    for status in (200, 200, 500, 404):
        with use.watched("/chat", nobody) as answering:
            assert isinstance(answering, Answering)
            answering.status = status
    told = counted(read(use.text().decode()))
    assert told is not None
    assert (told["answered"], told["failed"], told["timed"]) == (4, 1, 2)
    assert told["seconds"] >= 0
