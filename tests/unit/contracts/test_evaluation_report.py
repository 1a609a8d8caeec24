"""The report's names agree with each other, and its summary fits a termination message and comes back from it whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts import held_out
from include.contracts.evaluation import (
    METRIC_OF_MATCHER,
    METRICS,
    AdapterIdentity,
    GoldenAnswer,
    GoldenResults,
    GoldenRow,
    HeldOut,
    Interval,
    Matcher,
    Metric,
    Report,
    Subject,
    Summary,
    digest_of,
    produced_metrics,
)
from include.workloads.contract import TERMINATION_LIMIT, fit_result

WIDE = Interval(value=-0.123456789, low=-1234.56789, high=0.000123456789, n=123456)


def measures(*subjects: Subject) -> dict[Subject, dict[Metric, Interval]]:
    return {subject: dict.fromkeys(Metric, WIDE) for subject in subjects}


def report(rows: int = 200) -> Report:
    wrong = GoldenAnswer(answer="no", score=0.0, passed=False, why="differs")
    golden = [
        GoldenRow(
            id=f"a-rather-long-id-of-a-golden-row-{number}",
            prompt="?",
            matcher=Matcher.EXACT,
            expected="yes",
            answers=dict.fromkeys(Subject, wrong),
        )
        for number in range(rows)
    ]
    digest = "sha256:" + "0" * 64
    return Report(
        model="m",
        revision="r",
        engine="transformers",
        device="cpu",
        dtype="float32",
        seed=0,
        bootstrap_samples=1000,
        adapters={Subject.CANDIDATE: AdapterIdentity(weights_sha256="0" * 64, image_digest=digest)},
        golden=GoldenResults(digest=digest, rows=golden),
        held_out=HeldOut(rows=10, digest=digest, trained_rows=90, trained_digest=digest, overlap=0),
        metrics=measures(*Subject),
        differences=measures(Subject.BASE, Subject.CURRENT),
        seconds=12.5,
    )


def test_every_metric_has_facts_and_every_matcher_a_metric() -> None:
    assert set(METRICS) == set(Metric)
    assert set(METRIC_OF_MATCHER) == set(Matcher)
    assert produced_metrics(Matcher, held_out=True, tasks=True) == {str(metric) for metric in Metric}
    assert produced_metrics([], held_out=False) == frozenset()
    assert produced_metrics([], held_out=False, tasks=True) == {"lm_eval"}


def test_the_widest_summary_fits_a_termination_message_uncut() -> None:
    made = report()
    summary = made.summary("/mnt/results/evaluation/" + "0" * 64 + "/report.json", digest_of(made.content()))
    content = json.dumps(summary.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
    assert len(content) <= TERMINATION_LIMIT
    assert "truncated" not in json.loads(fit_result(summary.to_json()))
    back = Summary.from_json(json.loads(content))
    assert back.golden is not None
    assert back.golden.failed == 200
    assert back.metrics[Subject.BASE][Metric.REGEX].value == pytest.approx(WIDE.value, rel=1e-3)
    assert back.to_json() == summary.to_json()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"subjects": ["base"], "metrics": 1},
        {"subjects": ["base"], "metrics": {"golden": [[1]]}, "differences": {}},
    ],
)
def test_what_is_no_summary_is_a_value_error(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"summary|validation"):
        Summary.from_json(document)


def test_equal_reports_have_equal_digests() -> None:
    assert digest_of(report().content()) == digest_of(report().content())
    assert Report.model_validate_json(report().content()) == report()


texts = st.lists(st.text(max_size=8), max_size=60)
shares = st.floats(0, 1, allow_nan=False)


@settings(max_examples=60)
@given(texts, shares)
def test_a_row_is_held_out_by_its_content_alone(rows: list[str], share: float) -> None:
    digests = list(map(held_out.row_digest, rows))
    chosen = dict(zip(digests, held_out.held_out(digests, share), strict=True))
    backwards = held_out.held_out(digests[::-1], share)[::-1]
    assert [chosen[digest] for digest in digests] == backwards
    different = len(chosen)
    if share > 0 and different > 1:
        assert 0 < sum(chosen.values()) < different
    else:
        assert not any(chosen.values())


@given(texts, texts, st.floats(0.05, 0.5))
def test_a_row_stays_on_its_side_when_the_dataset_grows(old: list[str], new: list[str], share: float) -> None:
    # From a hundred rows on no side is ever empty: the rule for a handful of rows is the one exception.
    floor = [held_out.row_digest(number) for number in range(200)]
    before = floor + list(map(held_out.row_digest, old))
    after = before + list(map(held_out.row_digest, new))
    assert held_out.held_out(after, share)[: len(before)] == held_out.held_out(before, share)


def test_the_share_is_kept_on_average() -> None:
    digests = [held_out.row_digest({"text": str(number)}) for number in range(5000)]
    assert sum(held_out.held_out(digests, 0.2)) == pytest.approx(1000, abs=100)


def test_the_digest_of_a_set_knows_no_order() -> None:
    assert (
        held_out.set_digest(["b", "a", "b"]) == held_out.set_digest(["a", "b"]) != held_out.set_digest(["a"])
    )
