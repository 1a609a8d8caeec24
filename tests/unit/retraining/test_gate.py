"""A gate is judged by numbers with their noise, and what it could not judge is refused before anything runs."""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from include.contracts.evaluation import (
    AdapterIdentity,
    GoldenCount,
    Interval,
    Metric,
    Subject,
    Summary,
    produced_metrics,
)
from include.retraining import gate
from include.retraining.expressions import MAX_CHARACTERS, NotAnExpression, parse
from include.retraining.gate import Rule, judge, parse_rules

ALL = produced_metrics(["exact", "contains", "regex", "json_schema", "rouge_l", "judge"], held_out=True)
BASE, CURRENT, CANDIDATE = Subject.BASE, Subject.CURRENT, Subject.CANDIDATE


def interval(value: float, spread: float = 0.05, n: int = 100) -> Interval:
    return Interval(value=value, low=value - spread, high=value + spread, n=n)


def summary(
    candidate: float = 0.8,
    current: float | None = 0.8,
    base: float = 0.2,
    metric: Metric = Metric.GOLDEN,
    spread: float = 0.05,
    failed: int = 0,
) -> Summary:
    """An evaluation of one metric; the paired differences are half as wide as the values."""
    values = {BASE: base, CURRENT: current, CANDIDATE: candidate}
    known = {subject: value for subject, value in values.items() if value is not None}
    return Summary(
        report_digest="sha256:0",
        subjects=list(known),
        candidate=AdapterIdentity(weights_sha256="0"),
        metrics={subject: {metric: interval(value, spread)} for subject, value in known.items()},
        differences={
            subject: {metric: interval(candidate - value, spread / 2)}
            for subject, value in known.items()
            if subject is not CANDIDATE
        },
        golden=GoldenCount(total=10, failed=failed, failed_ids=["capital"] if failed else []),
        seconds=1,
    )


def passes(rule: str, measured: Summary) -> bool:
    return judge([Rule(rule)], measured).passed


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("candidate.golden >= current.golden - 0.01", True),
        ("candidate.golden > current.golden", False),
        ("candidate.golden >= 4 * base.golden", True),
        ("candidate.golden>=0.5&&candidate . golden . low > 0.7", True),
        ("candidate.golden.low > 0.75", False),
        ("candidate.golden.high < 0.9 && candidate.golden.n >= 100", True),
        ("golden.all", True),
        ("golden.failed == 0 || golden.passed / golden.total > 0.9", True),
        ("better('golden', 'base') && !better('golden') && !worse(\"golden\")", True),
        ("non_inferior('golden', 0.03)", True),
        ("non_inferior('golden', 0.01)", False),
        ("abs(candidate.golden - current.golden) < 1e-6 // about the same", True),
        ("max(candidate.golden, base.golden) == candidate.golden", True),
    ],
)
def test_rules_over_values_intervals_and_differences(rule: str, expected: bool) -> None:
    assert parse_rules([rule], ALL)[1] == []
    assert passes(rule, summary()) is expected


@pytest.mark.parametrize(
    ("rule", "wrong", "hint"),
    [
        ("candidate.exact_mach > 0.5", "candidate.exact_mach", "did you mean exact_match?"),
        ("candiate.golden > 0.5", "knows no candiate", "did you mean candidate?"),
        ("candidate.golden.lo > 0.5", "candidate.golden.lo", "did you mean low?"),
        ("golden.al", "golden.al", "did you mean all?"),
        ("golden == all", "golden", "golden.all"),
        ("candidate.exact_match >= current - 0.01", "current", "current."),
        ("p50_ttft <= 1.2 * current.p50_ttft", "p50_ttft of nobody", "candidate.p50_ttft"),
        ("bettr('golden')", "bettr", "did you mean better?"),
        ("better('goldn')", "goldn", "did you mean golden?"),
        ("better(golden)", "golden", "in quotes"),
        ("better('golden', 'candidate')", "candidate", "'base'"),
        ("worse()", "0 arguments", "1 or 2"),
        ("non_inferior('golden', 'base')", "gives str", "numbers"),
        ("candidate.golden", "gives float", "compare"),
        ("candidate.golden > 'high'", "mixes types", "numbers"),
        ("candidate.golden > 0.5 ? 1.0 : true", "gives float", "compare"),
        ("golden.all ? candidate.golden > 'a' : false", "mixes types", "numbers"),
        ("candidate.golden >", "cannot be read", "language"),
        ("candidate['golden'] > 0.5", "without a metric", "candidate."),
        ("true", "never looks at the candidate", "golden.all"),
        ("'candidate.golden' == 'x'", "never looks at the candidate", "golden.all"),
        ("  ", "is not an expression", "write one"),
        (7, "is not an expression", "write one"),
        (f"candidate.golden > {'0' * MAX_CHARACTERS}", "longer", "several"),
    ],
)
def test_a_wrong_rule_is_refused_before_anything_runs(rule: object, wrong: str, hint: str) -> None:
    with pytest.raises(NotAnExpression) as refused:
        parse(rule, ALL)
    assert wrong in str(refused.value)
    assert hint in refused.value.hint
    assert isinstance(rule, int) or [fault.path for fault in parse_rules([rule, rule], ALL)[1]] == [
        "gate[0]",
        "gate[1]",
    ]


def test_a_metric_that_this_evaluation_does_not_measure_is_refused() -> None:
    produced = produced_metrics(["exact"], held_out=False)
    for rule in ("candidate.perplexity < 9.0", "worse('judge')", "candidate.rouge_l > base.rouge_l"):
        (fault,) = parse_rules([rule], produced)[1]
        assert "does not measure" in fault.message
    (fault,) = parse_rules(["golden.all"], produced_metrics([], held_out=True))[1]
    assert "golden set" in fault.message


def test_all_faults_of_a_policy_come_at_once() -> None:
    value = ["candidate.x > 1", {"rule": 3, "nme": "n"}, 5, {"name": "fine", "rule": "golden.all"}]
    rules, faults = parse_rules(value, ALL)
    assert [fault.path for fault in faults] == ["gate[0]", "gate[1].nme", "gate[1].rule", "gate[2]"]
    assert rules[3].title == "fine"
    assert [str(f) for f in parse_rules([], ALL)[1] + parse_rules("golden.all", ALL)[1]] != []
    assert parse_rules(["golden.all"] * (gate.MAX_RULES + 1), ALL)[1] != []


def test_the_default_refuses_what_is_worse_and_lets_noise_pass() -> None:
    rules, faults = parse_rules(None, produced_metrics(["exact"], held_out=False))
    assert not faults
    measured = [rule for rule in rules if "golden" in rule.expression]
    assert judge(measured, summary(candidate=0.8)).passed
    assert judge(measured, summary(candidate=0.78)).passed, "within the noise of the difference"
    refused = judge(measured, summary(candidate=0.6))
    assert not refused.passed
    assert "candidate.golden 0.6 [0.55 to 0.65, n=100], current.golden 0.8" in refused.sentence
    assert "difference -0.2 [-0.225 to -0.175" in refused.sentence
    assert parse_rules(None, frozenset())[1], "an evaluation that measures nothing is no gate"


def test_for_perplexity_and_latency_less_is_better() -> None:
    for metric in (Metric.PERPLEXITY, Metric.P50_TTFT):
        assert passes(f"worse('{metric}')", summary(candidate=2.0, current=1.0, metric=metric))
        assert passes(f"better('{metric}')", summary(candidate=1.0, current=2.0, metric=metric))
    (slower,) = (rule for rule in gate.default_rules(ALL) if "ttft" in rule.expression)
    assert judge([slower], summary(candidate=1.2, current=1.0, metric=Metric.P50_TTFT)).passed
    assert not judge([slower], summary(candidate=1.4, current=1.0, metric=Metric.P50_TTFT)).passed
    noisy = summary(candidate=1.4, current=1.0, metric=Metric.P50_TTFT, spread=1)
    assert judge([slower], noisy).passed


def test_where_nothing_is_served_the_base_model_is_what_is_compared_with() -> None:
    verdict = judge([Rule("better('golden')")], summary(current=None))
    assert verdict.passed
    assert "base (nothing is served yet).golden" in verdict.reasons[0].sentence


def test_what_was_not_measured_is_refused() -> None:
    verdict = judge([Rule("candidate.judge >= 0.5"), Rule("golden.all")], summary())
    assert not verdict.passed
    assert [reason.passed for reason in verdict.reasons] == [False, True]
    assert "candidate.judge was not measured" in verdict.sentence
    assert not judge([], summary().model_copy(update={"metrics": {}, "differences": {}})).passed
    assert judge([], summary().to_json()).passed, "the default rules, over what XCom has"
    assert gate.check(["golden.all", "candidate.goldn > 1"])
    assert not gate.check([])


def test_the_failed_golden_rows_are_named() -> None:
    verdict = judge([Rule("golden.all", "all golden rows")], summary(failed=1))
    assert verdict.sentence == (
        "The candidate is refused: all golden rows: not met (1 of 10 golden rows failed: capital)"
    )
    assert verdict.to_json()["reasons"][0]["passed"] is False


shares = st.integers(0, 100).map(lambda number: number / 100)


@settings(max_examples=60, phases=set(Phase) - {Phase.shrink})
@given(shares, shares, shares, st.sampled_from([0.001, 0.03, 0.2]))
def test_the_three_verdicts_fit_together(
    candidate: float, current: float, base: float, spread: float
) -> None:
    measured = summary(candidate, current, base, spread=spread)
    for against in ("current", "base"):
        better, worse = (passes(f"{name}('golden', '{against}')", measured) for name in ("better", "worse"))
        assert not (better and worse)
        assert passes(f"!better('golden', '{against}')", measured) is not better
        if better:
            assert passes(f"non_inferior('golden', 0.0, '{against}')", measured)
            assert passes(f"candidate.golden > {against}.golden", measured)
        if worse:
            assert not passes(f"non_inferior('golden', 0.0, '{against}')", measured)
    assert passes(f"candidate.golden >= {current}", measured) is (candidate >= current)


WORDS = "candidate current base golden better worse non_inferior ( ) [ ] . , && || ! ? : + - * / < >= == 'golden' 1 0.5"
words = st.sampled_from(
    [*WORDS.split(), "exact_match", ".low", "null", "in", '"x', "/*", "//", "1u", "0x1", "has"]
)


@settings(max_examples=150)
@given(st.one_of(st.text(max_size=40), st.lists(words, max_size=12).map(" ".join)))
@example("(" * 990 + "candidate")
@example("[" * 300 + "golden.all" + "]" * 300)
@example("better(" * 100)
def test_any_text_is_an_expression_or_a_sentence(text: str) -> None:
    faults = parse_rules([text], ALL)[1]
    assert all(fault.message for fault in faults)
    assert isinstance(judge([Rule(text)], summary()).passed, bool)


def test_the_trials_are_the_same_each_time() -> None:
    state = random.getstate()
    for _ in range(2):
        parse("candidate.golden > 0.5 ? golden.all : worse('golden')", ALL)
    assert random.getstate() == state
