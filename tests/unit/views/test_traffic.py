"""Requests a second from counters: of servers that come, go and start again, and of looks that are far apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.reconcile.activity import requests
from include.views.traffic import STALE_SECONDS, WINDOW_SECONDS, Traffic
from include.views.words import per_second

KEY, OTHER = ("team", "a"), ("team", "b")


def test_a_rate_takes_two_looks() -> None:
    traffic = Traffic()
    traffic.heard(KEY, {"pod": 100}, 0.0)
    assert traffic.per_second(KEY, 1.0) is None
    traffic.heard(KEY, {"pod": 130}, 10.0)
    assert traffic.per_second(KEY, 10.0) == 3.0
    assert traffic.per_second(KEY, 10.0 + STALE_SECONDS + 1) is None
    assert traffic.per_second(OTHER, 10.0) is None


def test_a_server_that_is_new_or_started_again_counts_from_nothing() -> None:
    traffic = Traffic()
    traffic.heard(KEY, {"old": 100, "again": 50}, 0.0)
    traffic.heard(KEY, {"old": 110, "again": 5, "new": 7}, 10.0)
    assert traffic.per_second(KEY, 10.0) == pytest.approx(2.2)


def test_the_rate_is_that_of_the_last_minute() -> None:
    traffic = Traffic()
    for second in range(0, 200, 5):
        traffic.heard(KEY, {"pod": 10 * min(second, 100)}, float(second))
    assert traffic.per_second(KEY, 195.0) == 0.0


def test_a_look_after_a_long_pause_begins_anew() -> None:
    traffic = Traffic()
    traffic.heard(KEY, {"pod": 0}, 0.0)
    traffic.heard(KEY, {"pod": 1000}, STALE_SECONDS + 1)
    assert traffic.per_second(KEY, STALE_SECONDS + 1) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.5, 40)), min_size=2, max_size=30))
def test_a_rate_never_leaves_the_rates_between_looks(steps: list[tuple[int, float]]) -> None:
    traffic, total, now = Traffic(), 0, 0.0
    traffic.heard(KEY, {"pod": 0}, now)
    recent = []
    for more, pause in steps:
        total, now = total + more, now + pause
        traffic.heard(KEY, {"pod": total}, now)
        recent.append((now, more / pause))
    rates = [rate for moment, rate in recent if moment >= now - WINDOW_SECONDS - 40]
    found = traffic.per_second(KEY, now)
    assert found is not None
    assert min(rates) - 1e-9 <= found <= max(rates) + 1e-9


def test_the_longest_unasked_come_first_and_not_too_many() -> None:
    traffic = Traffic()
    keys = [("team", name) for name in "abcd"]
    traffic.asked(keys[0], 5.0)
    traffic.asked(keys[1], 1.0)
    assert traffic.due(keys, 100.0, 30.0, 3) == [keys[2], keys[3], keys[1]]
    assert traffic.due(keys, 20.0, 30.0, 9) == [keys[2], keys[3]]
    traffic.keep({keys[0]})
    assert traffic.due(keys[:1], 20.0, 30.0, 9) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("kaito_serving_requests_in_flight 0\n", 0.0),
        (
            'kaito_serving_requests_total{endpoint="/chat",status="200"} 7\nkaito_serving_requests_total{a="b"} 2',
            9.0,
        ),
        (
            'vllm:num_requests_running 1\nvllm:request_success_total{x="stop"} 4\nvllm:prompt_tokens_total 90\n',
            4.0,
        ),
        ("up 1\n", None),
        ("kaito_serving_requests_total many\n", None),
        ("kaito_serving_requests_total NaN\n", None),
        ("<html>", None),
    ],
)
def test_what_a_server_has_answered(text: str, count: float | None) -> None:
    assert requests(text) == count


def test_a_rate_in_words() -> None:
    assert [per_second(one) for one in (None, 0, 0.001, 0.5, 9.996, 12.3)] == [
        "–",
        "0",
        "below 0.01",
        "0.50",
        "10.00",
        "12",
    ]
