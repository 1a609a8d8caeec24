"""The share of a canary is drawn by the request's id: the same id, the same side; so many percent of many ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts import canary


@given(st.text(), st.floats(0, 100), st.floats(0, 100))
def test_an_id_stays_with_the_canary_when_its_share_grows(request_id: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert not canary.answers(request_id, small) or canary.answers(request_id, large)
    assert not canary.answers(request_id, 0)
    assert canary.answers(request_id, 100)


@pytest.mark.parametrize("percent", [1, 10, 50, 99])
def test_the_share_is_what_was_asked_for(percent: float) -> None:
    drawn = sum(canary.answers(f"request-{number}", percent) for number in range(20_000))
    assert drawn / 200 == pytest.approx(percent, abs=1.5)


@given(st.floats(0.5, 100))
def test_whoever_wants_the_canary_gets_it(percent: float) -> None:
    assert canary.answers(canary.id_for_the_canary(percent), percent)


def test_nobody_gets_a_canary_that_answers_nothing() -> None:
    with pytest.raises(ValueError, match="0 percent"):
        canary.id_for_the_canary(0)
