"""Each matcher says yes and no where a person would, and none runs for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.evaluation import Matcher
from include.contracts.golden_set import GoldenPrompt
from include.workloads.evaluation import matching
from include.workloads.evaluation.matching import rouge_l, same_text, score

SCHEMA = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "n": {"$ref": "#/$defs/n"}},
    "patternProperties": {"^x-": {"type": "integer"}},
    "$defs": {"n": {"type": "integer"}},
}


def row(matcher: Matcher, expected: Any, **more: Any) -> GoldenPrompt:
    return GoldenPrompt("r", ({"role": "user", "content": "?"},), matcher, expected, **more)


@pytest.mark.parametrize(
    ("matcher", "expected", "more", "answer", "passes"),
    [
        ("exact", "Paris", {}, " Paris\n", True),
        ("exact", "two words", {}, "two  words", True),
        ("exact", "Paris", {}, "paris", False),
        ("exact", "Paris", {"ignore_case": True}, "PARIS", True),
        ("exact", "Paris", {}, "It is Paris", False),
        ("contains", "Paris", {}, "It is Paris.", True),
        ("contains", ["Rome", "Paris"], {}, "It is Paris.", True),
        ("contains", ["Rome", "Oslo"], {}, "It is Paris.", False),
        ("contains", "paris", {"ignore_case": True}, "PARIS", True),
        ("regex", r"\b\d{3}\b", {}, "about 141 GiB", True),
        ("regex", r"\b\d{3}\b", {}, "about 1410 GiB", False),
        ("regex", "paris", {"ignore_case": True}, "PARIS", True),
        ("json_schema", SCHEMA, {}, '{"city": "Paris", "n": 3, "x-a": 1}', True),
        ("json_schema", SCHEMA, {}, 'Here:\n```json\n{"city": "Paris"}\n```\nDone.', True),
        ("json_schema", SCHEMA, {}, '{"city": "paris"}', False),
        ("json_schema", SCHEMA, {}, '{"city": "Paris", "n": "3"}', False),
        ("json_schema", SCHEMA, {}, '{"city": "Paris", "x-a": "1"}', False),
        ("json_schema", SCHEMA, {}, "Paris", False),
        ("json_schema", {"$ref": "#/$defs/missing"}, {}, "{}", False),
        ("json_schema", SCHEMA, {}, "[" * 100_000, False),
        ("rouge_l", "the quick brown fox", {"threshold": 0.7}, "The quick fox!", True),
        ("rouge_l", "the quick brown fox", {"threshold": 0.9}, "The quick fox!", False),
    ],
)
def test_answers(matcher: str, expected: Any, more: dict[str, Any], answer: str, passes: bool) -> None:
    found = score(row(Matcher(matcher), expected, **more), answer)
    assert found.passed is passes
    assert bool(found.why) is not passes
    assert 0 <= found.score <= 1


def test_a_pattern_that_would_run_for_ever_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "PATTERN_SECONDS", 0.05)
    endless, answer = "^(a|a)*$", "a" * 40 + "b"
    found = score(row(Matcher.REGEX, endless), answer)
    assert not found.passed
    assert "took longer" in found.why
    found = score(row(Matcher.JSON_SCHEMA, {"pattern": endless}), f'"{answer}"')
    assert not found.passed
    assert "cannot be judged" in found.why


def test_a_judge_is_no_matcher_of_text() -> None:
    with pytest.raises(ValueError, match="judge"):
        score(row(Matcher.JUDGE, "polite"), "yes")


def test_rouge_l_is_what_its_paper_says() -> None:
    # Lin 2004, section 3.1: S1 "police killed the gunman", S2 "police kill the gunman", S3 "the gunman kill police".
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_l("", "") == 1.0
    assert rouge_l("", reference) == 0.0


words = st.text("ab c", max_size=30)


@given(words, words)
def test_rouge_l_is_symmetric_and_one_for_equal_words(one: str, other: str) -> None:
    assert rouge_l(one, other) == pytest.approx(rouge_l(other, one))
    assert 0 <= rouge_l(one, other) <= 1
    assert rouge_l(one, one) == 1.0
    assert not same_text(one, other) or rouge_l(one, other) == 1.0
