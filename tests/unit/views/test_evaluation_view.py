"""The table of base, current and candidate, and the versions of an adapter, from whatever was told of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.evaluation import (
    AdapterIdentity,
    GoldenCount,
    HeldOut,
    Interval,
    Metric,
    Subject,
    Summary,
)
from include.views.evaluation import BETTER, SAME, WORSE, evaluation
from include.views.versions import SERVED, versions
from tests.support.fleet import DIGEST


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high, n=10)


def summary(**differences: Interval) -> dict[str, Any]:
    value = interval(0.5, 0.4, 0.6)
    known = {Metric.GOLDEN: value, Metric.PERPLEXITY: value}
    return Summary(
        report_digest="sha256:0",
        subjects=list(Subject),
        candidate=AdapterIdentity(weights_sha256="0"),
        metrics={Subject.BASE: {Metric.GOLDEN: value}, Subject.CURRENT: known, Subject.CANDIDATE: known},
        differences={Subject.CURRENT: {Metric(key): one for key, one in differences.items()}},
        golden=GoldenCount(total=10, failed=2, failed_ids=["capital", "<river>"]),
        held_out=HeldOut(rows=1200, digest="d", trained_rows=9, trained_digest="d", overlap=0),
        seconds=1,
    ).to_json()


@pytest.mark.parametrize(
    ("metric", "difference", "verdict"),
    [
        ("golden", interval(0.2, 0.1, 0.3), BETTER),
        ("golden", interval(-0.2, -0.3, -0.1), WORSE),
        ("golden", interval(0.2, -0.1, 0.3), SAME),
        ("perplexity", interval(-0.2, -0.3, -0.1), BETTER),
        ("perplexity", interval(0.2, 0.1, 0.3), WORSE),
    ],
)
def test_a_difference_is_one_beyond_noise_in_the_direction_that_is_good(
    metric: str, difference: Interval, verdict: str
) -> None:
    found = evaluation(summary(**{metric: difference}))
    assert found is not None
    assert (found.heads, found.against) == (["base model", "answers today", "candidate"], "answers today")
    verdicts = {row.title: row.verdict for row in found.rows}
    assert verdict in verdicts.values()
    assert len(found.rows) == 2
    assert all(len(row.cells) == 3 for row in found.rows)


def test_who_was_not_measured_has_a_dash_and_failed_rows_are_named() -> None:
    found = evaluation(summary())
    assert found is not None
    assert found.rows[1].cells[0] == "-"
    assert found.against == ""
    told = " ".join(found.notes)
    assert "2 of 10, such as capital, <river>" in told
    assert "1,200 rows were held out" in told


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(summary(), VALUES)))
def test_what_is_no_evaluation_is_none(told: object) -> None:
    assert evaluation(told) is None


def test_versions_say_what_they_learnt_from_and_which_one_answers() -> None:
    other = "sha256:" + "cd" * 32
    known = [
        {"version": "1", "digest": other, "state": "rolledBack", "usd": 1.5, "run": "r1", "reason": "Slow."},
        {
            "version": "2",
            "digest": DIGEST,
            "state": "promoted",
            "from": other,
            "dataset": {"digest": "sha256:" + "ef" * 32, "rows": 1200, "added": 7, "removed": 1},
        },
    ]
    second, first = versions({"adapter": {"digest": DIGEST}, "retrain": {"versions": known}})
    assert (second.state, second.tone, second.origin) == (SERVED, "good", "cd" * 6)
    assert second.data == f"1,200 rows, +7 \N{MINUS SIGN}1 rows, {'ef' * 6}"
    assert (first.state, first.cost, first.reason, first.tone) == ("rolled back", "1.50 USD", "Slow.", "idle")


@given(
    st.lists(VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(("digest", "dataset", "usd"), VALUES)))
)
def test_whatever_a_status_says_of_versions_is_shown_or_left_out(known: list[Any]) -> None:
    for one in versions({"retrain": {"versions": known}}):
        assert isinstance(one.data, str)
        assert isinstance(one.cost, str)
