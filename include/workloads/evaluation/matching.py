"""Judges one answer by its golden row's matcher: a score from 0 to 1, and whether it passes.

An answer is a model's text and may be anything; a pattern is a user's and may run for ever. Both are bounded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from include.contracts.evaluation import Matcher
from include.contracts.golden_set import GoldenPrompt

#: Seconds that one pattern may take on one answer.
PATTERN_SECONDS = 1.0
_WHY_CHARACTERS = 200
#: A code block, in which models like to put JSON.
_FENCE = re.compile(r"```[A-Za-z]*\n(.*?)```", re.DOTALL)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Score:
    """How good an answer is (0 to 1), whether it passes, and where it does not: why."""

    score: float
    passed: bool
    why: str = ""


def score(row: GoldenPrompt, answer: str) -> Score:
    """Judge an answer. Raises ValueError for the matcher judge, which is a model's to answer."""
    if row.matcher is Matcher.EXACT:
        return _yes_or_no(_plain(answer, row) == _plain(row.expected, row), "it is another text")
    if row.matcher is Matcher.CONTAINS:
        wanted = [row.expected] if isinstance(row.expected, str) else row.expected
        there = any(_plain(one, row) in _plain(answer, row) for one in wanted)
        return _yes_or_no(there, "the text is not in it")
    if row.matcher is Matcher.REGEX:
        return _search(row, answer)
    if row.matcher is Matcher.JSON_SCHEMA:
        return _fits(row.expected, answer)
    if row.matcher is Matcher.ROUGE_L:
        return scored(row, rouge_l(answer, row.expected))
    raise ValueError(f"{row.matcher} is no matcher of text")


def scored(row: GoldenPrompt, value: float, why: str = "") -> Score:
    """The verdict about a score by the row's threshold."""
    passed = value >= row.threshold
    return Score(value, passed, "" if passed else why or f"{value:.2f} is below {row.threshold:g}")


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L's F1: of the longest common subsequence of words, in lower case (Lin 2004, without stemming)."""
    from rapidfuzz.distance import LCSseq

    one, other = (_WORD.findall(text.casefold()) for text in (answer, expected))
    if not one or not other:
        return float(one == other)
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other))


def same_text(answer: str, expected: str) -> bool:
    """Whether two texts are the same but for white space."""
    return " ".join(answer.split()) == " ".join(expected.split())


def _plain(text: str, row: GoldenPrompt) -> str:
    plain = " ".join(text.split())
    return plain.casefold() if row.ignore_case else plain


def _yes_or_no(passed: bool, why: str) -> Score:
    return Score(float(passed), passed, "" if passed else why)


def _search(row: GoldenPrompt, answer: str) -> Score:
    import regex

    flags = regex.IGNORECASE if row.ignore_case else 0
    try:
        found = regex.search(row.expected, answer, flags=flags, timeout=PATTERN_SECONDS)
    except TimeoutError:
        return _yes_or_no(False, f"the pattern took longer than {PATTERN_SECONDS:g} s on it")
    return _yes_or_no(found is not None, "the pattern is not in it")


def _fits(schema: Any, answer: str) -> Score:
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(_json_text(answer))
    except (ValueError, RecursionError) as error:
        return _yes_or_no(False, f"it is no JSON: {error}"[:_WHY_CHARACTERS])
    try:
        fault = next(iter(_validator_class()(schema, registry=_no_registry()).iter_errors(value)), None)
    except (Unresolvable, RecursionError, TimeoutError) as error:
        return _yes_or_no(False, f"it cannot be judged: {type(error).__name__}")
    if fault is None:
        return Score(1.0, True)
    return _yes_or_no(False, f"{fault.json_path}: {fault.message}"[:_WHY_CHARACTERS])


def _json_text(answer: str) -> str:
    fenced = _FENCE.search(answer)
    return fenced.group(1) if fenced else answer


def _no_registry() -> Any:
    """References lead nowhere but into the schema itself: the default would fetch them."""
    from referencing import Registry

    return Registry()


@lru_cache(maxsize=1)
def _validator_class() -> Any:
    """JSON Schema 2020-12 whose patterns end in time."""
    import regex
    from jsonschema import Draft202012Validator, ValidationError, validators

    def pattern(validator: Any, wanted: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not regex.search(wanted, instance, timeout=PATTERN_SECONDS):
            yield ValidationError(f"{instance!r} does not match {wanted!r}")

    def pattern_properties(
        validator: Any, wanted: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        for name, item in instance.items() if isinstance(instance, dict) else ():
            for one, inner in wanted.items():
                if regex.search(one, name, timeout=PATTERN_SECONDS):
                    yield from validator.descend(item, inner, path=name, schema_path=one)

    return validators.extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": pattern, "patternProperties": pattern_properties}
    )
