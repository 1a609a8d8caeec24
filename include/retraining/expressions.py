"""The gate's expressions: CEL (Common Expression Language) over what an evaluation measures.

`candidate.exact_match >= current.exact_match - 0.01` compares values; `.low`, `.high` and `.n` after a metric are the
ends of its confidence interval and its sample size. The library checks names and types only when it runs, so that an
expression is scanned for names here, and run on made-up measurements, before anything costs money. A misspelt metric
must never be what refuses, or lets through, a model that was trained for hours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cel

from include.contracts.evaluation import METRICS, SPEED, Metric, Subject
from include.contracts.faults import Fault, did_you_mean

RULE_ID = "E1"
MAX_CHARACTERS = 1000
GOLDEN = "golden"
GOLDEN_FIELDS = ("all", "failed", "passed", "total")
PARTS = ("value", "low", "high", "n")
#: By name: how many arguments a function takes, at least and at most, and whether the first is a metric's name.
FUNCTIONS: Mapping[str, tuple[int, int, bool]] = {
    "better": (1, 2, True),
    "worse": (1, 2, True),
    "non_inferior": (2, 3, True),
    "abs": (1, 1, False),
    "max": (2, 2, False),
    "min": (2, 2, False),
}
AGAINST = (Subject.BASE, Subject.CURRENT)
_CONSTANTS = ("true", "false")
_SUBJECTS = tuple(map(str, Subject))
_TRIALS = 24
_MIXED = "mixes types that do not go together"
_NUMBERS = "compare numbers with numbers, and join comparisons with && or ||"

_TOKEN = re.compile(
    r"""
    (?P<text>[rR]?(?:'{3}(?:[^\\]|\\.)*?'{3}|"{3}(?:[^\\]|\\.)*?"{3}|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?[uU]?)
    |(?P<path>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)
    |(?P<space>\s+)
    |(?P<comment>//[^\n]*)
    |(?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_WHOLE = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric that an expression reads of a subject; `against` is set where a function compares the two."""

    subject: Subject
    metric: Metric
    against: Subject | None = None


@dataclass(frozen=True)
class Expression:
    """An expression that was checked: its text, what is run, and which measurements it reads, in their order."""

    text: str
    source: str
    readings: tuple[Reading, ...]
    golden: bool = False

    def run(self, variables: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> bool:
        """The expression's answer. Raises TypeError where it has no sense for these values."""
        context = cel.Context(variables=dict(variables), functions={**_plain_functions(), **functions})
        answer = _compiled(self.source).execute(context)
        if not isinstance(answer, bool):
            raise TypeError(f"gives {type(answer).__name__}, not true or false")
        return answer


class NotAnExpression(ValueError):
    """What is wrong with an expression; `hint` says what would be right."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def parse(text: object, produced: Collection[str] | None = None) -> Expression:
    """The expression that a text holds.

    :param text: what the policy says.
    :param produced: the metrics that the evaluation will measure (`produced_metrics`); None: any that there is.
    :raises NotAnExpression: it is none, names what is not measured, or cannot give true or false.
    """
    if not isinstance(text, str) or not text.strip():
        raise NotAnExpression(
            "is not an expression", "write one such as candidate.golden >= current.golden - 0.01"
        )
    if len(text) > MAX_CHARACTERS:
        raise NotAnExpression(f"is longer than {MAX_CHARACTERS} characters", "write several rules")
    return _parsed(text, frozenset(METRICS if produced is None else produced))


@lru_cache(maxsize=256)
def _parsed(text: str, produced: frozenset[str]) -> Expression:
    found = _Scan(text, produced).expression()
    _compile(found)
    _try_out(found)
    return found


def faults_of(text: object, path: str, produced: Collection[str] | None = None) -> list[Fault]:
    """What is wrong with an expression, as the fault of the field at `path`; [] when nothing is."""
    try:
        parse(text, produced)
    except NotAnExpression as error:
        return [Fault(path, text, RULE_ID, str(error), error.hint)]
    return []


class _Scan:
    """One pass over an expression's words: judges every name, and writes the expression that is run."""

    def __init__(self, text: str, produced: frozenset[str]) -> None:
        self.text, self.produced = text, produced
        found = [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(text)]
        self.written = [" " if kind == "comment" else word for kind, word in found]
        self.places = [place for place, (kind, _) in enumerate(found) if kind not in ("space", "comment")]
        self.words = [found[place] for place in self.places]
        self.readings: list[Reading] = []
        self.golden = False

    def expression(self) -> Expression:
        for index, (kind, word) in enumerate(self.words):
            self.written[self.places[index]] = self._word(index, kind, word)
        if not self.readings and not self.golden:
            raise NotAnExpression(
                "never looks at the candidate",
                "compare candidate.<metric>, or ask golden.all or worse('golden')",
            )
        return Expression(self.text, "".join(self.written), tuple(dict.fromkeys(self.readings)), self.golden)

    def _word(self, index: int, kind: str, word: str) -> str:
        if kind == "number":
            # All measurements are doubles, and CEL does not multiply those by whole numbers.
            return f"{word}.0" if _WHOLE.fullmatch(word) else word
        if kind == "path":
            return self._path(index, re.sub(r"\s", "", word))
        return word

    def _path(self, index: int, path: str) -> str:
        head, *rest = path.split(".")
        if head in FUNCTIONS and not rest and self._next(index) == "(":
            self._call(index, head)
            return head
        if head in _CONSTANTS and not rest:
            return head
        if head == GOLDEN:
            return self._golden(rest)
        if head in _SUBJECTS:
            return self._metric(Subject(head), rest)
        if head in METRICS:
            raise NotAnExpression(f"names {head} of nobody", f"write candidate.{head} or current.{head}")
        raise NotAnExpression(
            f"knows no {head}", did_you_mean(head, [*_SUBJECTS, GOLDEN, *FUNCTIONS, *_CONSTANTS])
        )

    def _golden(self, rest: list[str]) -> str:
        self.golden = True
        if len(rest) != 1 or rest[0] not in GOLDEN_FIELDS:
            named = did_you_mean(rest[0], GOLDEN_FIELDS) if rest else "write golden.all or golden.failed"
            raise NotAnExpression(f"knows no {'.'.join([GOLDEN, *rest])}", named)
        if Metric.GOLDEN not in self.produced:
            raise NotAnExpression("asks for the golden set, and there is none", "name one in the policy")
        return f"{GOLDEN}.{rest[0]}"

    def _metric(self, subject: Subject, rest: list[str]) -> str:
        if not rest:
            raise NotAnExpression(
                f"names {subject} without a metric",
                f"write one, such as {subject}.{min(self.produced, default='golden')}",
            )
        metric = self._known(rest[0], f"{subject}.{rest[0]}")
        part = rest[1] if len(rest) > 1 else PARTS[0]
        if part not in PARTS or len(rest) > 2:
            raise NotAnExpression(f"knows no {'.'.join([subject, *rest])}", did_you_mean(part, PARTS))
        self.readings.append(Reading(subject, metric))
        return f"{subject}.{metric}.{part}"

    def _known(self, name: str, shown: str) -> Metric:
        if name in self.produced:
            return Metric(name)
        if name in METRICS:
            raise NotAnExpression(
                f"asks for {shown}, which this evaluation does not measure", _missing(Metric(name))
            )
        raise NotAnExpression(f"knows no metric {shown}", did_you_mean(name, self.produced))

    def _call(self, index: int, name: str) -> None:
        low, high, of_metric = FUNCTIONS[name]
        arguments = list(self._arguments(index + 1))
        if not low <= len(arguments) <= high:
            wanted = str(low) if low == high else f"{low} or {high}"
            raise NotAnExpression(f"gives {name} {len(arguments)} arguments", f"it takes {wanted}")
        if not of_metric:
            return
        metric = self._known(
            self._literal(arguments[0], name, "a metric's name"), self._literal(arguments[0])
        )
        against = Subject.CURRENT
        if len(arguments) == high:
            named = self._literal(arguments[-1], name, "'current' or 'base'")
            if named not in AGAINST:
                raise NotAnExpression(f"compares with {named!r}", "write 'current' or 'base'")
            against = Subject(named)
        self.readings.append(Reading(Subject.CANDIDATE, metric, against))

    def _arguments(self, opening: int) -> Iterator[list[tuple[str, str]]]:
        depth, found = 0, list[tuple[str, str]]()
        for kind, word in self.words[opening:]:
            if word in ("(", "["):
                depth += 1
            elif word in (")", "]"):
                depth -= 1
            if depth == 0:
                break
            if word == "," and depth == 1:
                yield found
                found = []
            elif not (word == "(" and depth == 1 and not found):
                found.append((kind, word))
        if found:
            yield found

    @staticmethod
    def _literal(argument: list[tuple[str, str]], function: str = "", what: str = "") -> str:
        if len(argument) == 1 and argument[0][0] == "text":
            return argument[0][1].lstrip("rR").strip("'\"")
        shown = "".join(word for _, word in argument)
        raise NotAnExpression(f"gives {function} {shown}", f"write {what} in quotes, such as worse('golden')")

    def _next(self, index: int) -> str:
        return self.words[index + 1][1] if index + 1 < len(self.words) else ""


def _missing(metric: Metric) -> str:
    if metric in SPEED:
        return "an evaluation needs a golden set or held-out rows"
    if metric in (Metric.PERPLEXITY, Metric.HELD_OUT_EXACT_MATCH, Metric.HELD_OUT_ROUGE_L):
        return "hold out rows of the dataset"
    return "the golden set needs rows with that matcher" if metric != Metric.GOLDEN else "name a golden set"


@lru_cache(maxsize=256)
def _compiled(source: str) -> Any:
    return cel.compile(source)


def _compile(expression: Expression) -> None:
    try:
        _compiled(expression.source)
    except ValueError as error:
        # The library's message shows the source that is run, with marks under it: only its reason is the user's.
        reason = str(error).partition("ERROR: <input>:")[2].partition("\n")[0].partition(": ")[2]
        raise NotAnExpression(
            f"cannot be read: {reason[:120] or 'a syntax error'}", "see cel.dev for the language"
        ) from None


def _try_out(expression: Expression) -> None:
    """Run the expression on made-up measurements of many kinds, so that each of its branches is run."""
    chance = random.Random(expression.text)  # noqa: S311 - the same trials each time
    metrics = {reading.metric for reading in expression.readings}
    for trial in range(_TRIALS):
        variables, functions = _made_up(chance, trial, metrics)
        try:
            expression.run(variables, functions)
        except TypeError as error:
            gives = str(error) if str(error).startswith("gives ") else _MIXED
            raise NotAnExpression(gives, _NUMBERS) from None
        except Exception as error:  # the library's own classes differ by fault
            raise NotAnExpression(
                f"cannot be run: {str(error)[:120]}", "see cel.dev for the language"
            ) from None


def _made_up(
    chance: random.Random, trial: int, metrics: Collection[Metric]
) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """Variables and functions of an evaluation that never was; an odd trial has a candidate that is all right."""

    def numbers() -> dict[str, float]:
        value = chance.choice((0.0, 1.0, chance.uniform(0, 2)))
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 100.0}

    variables: dict[str, Any] = {
        subject: {str(metric): numbers() for metric in metrics} for subject in _SUBJECTS
    }
    failed = 0.0 if trial % 2 else 3.0
    variables[GOLDEN] = {"total": 10.0, "failed": failed, "passed": 10.0 - failed, "all": failed == 0}

    def verdict(_metric: str, *_: object) -> bool:
        return chance.random() < 0.5

    def non_inferior(_metric: str, margin: object, *_: object) -> bool | str:
        # What raises in a function is logged by the library; a text, where no text has sense, is refused as quietly.
        return verdict("") if isinstance(margin, float) else "no margin"

    return variables, {"better": verdict, "worse": verdict, "non_inferior": non_inferior}


def _plain_functions() -> dict[str, Callable[..., Any]]:
    return {"abs": abs, "max": max, "min": min}
