"""The gate: whether a candidate may take the place of what is served, by rules over its evaluation.

A refused candidate costs a training, and a bad one that passes costs users: so every rule is judged, not only up to the
first that is not met, and each reason gives the numbers with their confidence intervals. Whatever was not measured is
refused. Where nothing is served yet, `current` is the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.contracts.evaluation import (
    METRICS,
    Direction,
    Interval,
    Metric,
    Subject,
    Summary,
)
from include.contracts.faults import Fault, did_you_mean
from include.retraining.expressions import (
    GOLDEN,
    RULE_ID,
    Expression,
    NotAnExpression,
    Reading,
    faults_of,
    parse,
)

MAX_RULES = 50
#: How much later the first token may come with the candidate, where no policy says so: beyond noise and this factor.
LATENCY_FACTOR = 1.25
_KEYS = frozenset({"name", "rule"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of a gate."""

    expression: str
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or self.expression


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule says of a candidate; `sentence` has the numbers."""

    rule: str
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate passes, and every rule's reason."""

    passed: bool
    reasons: tuple[Reason, ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        """A sentence with numbers for each rule that is not met."""
        return tuple(reason.sentence for reason in self.reasons if not reason.passed)

    @property
    def sentence(self) -> str:
        """For a condition or an event: what was not met, or that all was."""
        if not self.refusals:
            return f"The candidate meets all {len(self.reasons)} rules of its gate"
        return f"The candidate is refused: {'; '.join(self.refusals)}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object for XCom and assets."""
        reasons = [
            {"rule": reason.rule, "passed": reason.passed, "sentence": reason.sentence}
            for reason in self.reasons
        ]
        return {"passed": self.passed, "sentence": self.sentence, "reasons": reasons}


def default_rules(produced: Collection[str]) -> tuple[Rule, ...]:
    """The gate of a policy that gives none: nothing that is measured may be worse, beyond noise.

    :param produced: the metrics that the evaluation measures (`produced_metrics`).
    """
    rules = []
    if Metric.GOLDEN in produced:
        rules += [
            Rule("!worse('golden')", "not worse than current on the golden set"),
            Rule("!worse('golden', 'base')", "not worse than the base model on the golden set"),
        ]
    if Metric.PERPLEXITY in produced:
        rules.append(Rule("!worse('perplexity')", "not worse than current on held-out rows"))
    if Metric.P50_TTFT in produced:
        slower = f"candidate.p50_ttft <= {LATENCY_FACTOR} * current.p50_ttft || !worse('p50_ttft')"
        rules.append(Rule(slower, "not slower than current"))
    return tuple(rules)


def parse_rules(
    value: object, produced: Collection[str], path: str = "gate"
) -> tuple[tuple[Rule, ...], list[Fault]]:
    """The rules of a policy, and everything that is wrong with them.

    :param value: a list of expressions, or of mappings with rule and name; None for the default.
    :param produced: the metrics that the evaluation will measure (`produced_metrics`).
    :param path: of the field, for the faults.
    """
    if value is None:
        rules = default_rules(produced)
        missing = [
            Fault(path, None, RULE_ID, "nothing would be measured", "give a golden set, or hold out rows")
        ]
        return rules, [] if rules else missing
    if not isinstance(value, list) or not value:
        return (), [
            Fault(path, value, RULE_ID, "is not a list of expressions", "leave it out for the default")
        ]
    if len(value) > MAX_RULES:
        return (), [Fault(path, len(value), RULE_ID, f"has more than {MAX_RULES} rules", "join some with &&")]
    rules_found: list[Rule] = []
    faults: list[Fault] = []
    for index, item in enumerate(value):
        rule, wrong = _parse_rule(item, f"{path}[{index}]")
        faults += wrong or faults_of(rule.expression, f"{path}[{index}]", produced)
        rules_found.append(rule)
    return tuple(rules_found), faults


def _parse_rule(item: object, path: str) -> tuple[Rule, list[Fault]]:
    if isinstance(item, str):
        return Rule(item), []
    if not isinstance(item, Mapping):
        hint = "write an expression, or a mapping with rule and name"
        return Rule(""), [Fault(path, item, RULE_ID, "is not a rule", hint)]
    faults = [
        Fault(f"{path}.{key}", item[key], RULE_ID, "is no field of a rule", did_you_mean(str(key), _KEYS))
        for key in item
        if key not in _KEYS
    ]
    text, name = item.get("rule"), item.get("name", "")
    if not isinstance(text, str):
        faults.append(Fault(f"{path}.rule", text, RULE_ID, "is not an expression", "write text"))
    if not isinstance(name, str):
        faults.append(Fault(f"{path}.name", name, RULE_ID, "is not text", "write text"))
    return Rule(str(text), str(name)), faults


def check(expressions: Sequence[str], produced: Collection[str] | None = None) -> list[str]:
    """A sentence for each expression that is wrong; see `parse_rules`."""
    known = frozenset(METRICS) if produced is None else produced
    return [str(fault) for fault in parse_rules(list(expressions) or None, known)[1]]


def judge(rules: Sequence[Rule | str], summary: Summary | Mapping[str, Any]) -> Verdict:
    """Judge a candidate by every rule. It must never raise for a rule that the preflight has let through.

    :param rules: rules or expressions; without any, the default ones for what was measured.
    :param summary: of the candidate's evaluation, or its JSON object.
    :raises ValueError: the object is no summary.
    """
    known = summary if isinstance(summary, Summary) else Summary.from_json(summary)
    metrics = frozenset(map(str, known.metrics.get(Subject.CANDIDATE, {})))
    wanted = [rule if isinstance(rule, Rule) else Rule(rule) for rule in rules] or default_rules(metrics)
    measured = _Measured(known)
    reasons = tuple(measured.reason(rule) for rule in wanted)
    if not reasons:
        reasons = (Reason("", False, "nothing was measured that the candidate could be judged by"),)
    return Verdict(all(reason.passed for reason in reasons), reasons)


class _Measured:
    """A summary as the expressions read it."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        known, differences = dict(summary.metrics), dict(summary.differences)
        self.stands_in = Subject.CURRENT not in known
        if self.stands_in:
            known[Subject.CURRENT] = known.get(Subject.BASE, {})
            differences[Subject.CURRENT] = differences.get(Subject.BASE, {})
        self.metrics, self.differences = known, differences

    def reason(self, rule: Rule) -> Reason:
        try:
            expression = parse(rule.expression)
        except NotAnExpression as error:
            return Reason(rule.title, False, f"{rule.title}: {error}")
        missing = self._missing(expression)
        if missing:
            return Reason(rule.title, False, f"{rule.title}: {', '.join(missing)} was not measured")
        try:
            passed = expression.run(self._variables(), self._functions())
        except (
            Exception
        ) as error:  # the library's own classes differ by fault; what cannot be judged does not pass
            return Reason(rule.title, False, f"{rule.title}: cannot be judged: {error}")
        numbers = ", ".join(self._numbers(expression))
        return Reason(rule.title, passed, f"{rule.title}: {'met' if passed else 'not met'} ({numbers})")

    def _missing(self, expression: Expression) -> list[str]:
        found = []
        for reading in expression.readings:
            where = self.metrics if reading.against is None else self.differences
            if reading.metric not in where.get(reading.against or reading.subject, {}):
                found.append(f"{reading.subject}.{reading.metric}")
        if expression.golden and self.summary.golden is None:
            found.append(GOLDEN)
        return found

    def _variables(self) -> dict[str, Any]:
        variables: dict[str, Any] = {
            str(subject): {str(metric): _fields(interval) for metric, interval in found.items()}
            for subject, found in self.metrics.items()
        }
        if (golden := self.summary.golden) is not None:
            passed = golden.total - golden.failed
            variables[GOLDEN] = {
                "total": float(golden.total),
                "failed": float(golden.failed),
                "passed": float(passed),
                "all": golden.failed == 0,
            }
        return variables

    def _functions(self) -> dict[str, Callable[..., bool]]:
        def better(metric: str, against: str = Subject.CURRENT) -> bool:
            return self._gain(metric, against)[0] > 0

        def worse(metric: str, against: str = Subject.CURRENT) -> bool:
            return self._gain(metric, against)[1] < 0

        def non_inferior(metric: str, margin: float, against: str = Subject.CURRENT) -> bool:
            return self._gain(metric, against)[0] >= -abs(margin)

        return {"better": better, "worse": worse, "non_inferior": non_inferior}

    def _gain(self, metric: str, against: str) -> tuple[float, float]:
        """The interval of the difference, turned so that above 0 is good."""
        difference = self.differences[Subject(against)][Metric(metric)]
        if METRICS[Metric(metric)].better is Direction.HIGHER:
            return difference.low, difference.high
        return -difference.high, -difference.low

    def _numbers(self, expression: Expression) -> list[str]:
        found = [text for reading in expression.readings for text in self._reading(reading)]
        if expression.golden and (golden := self.summary.golden) is not None:
            which = f": {', '.join(golden.failed_ids)}" if golden.failed_ids else ""
            found.append(f"{golden.failed} of {golden.total} golden rows failed{which}")
        return list(dict.fromkeys(found))

    def _reading(self, reading: Reading) -> list[str]:
        subjects = [reading.subject] + ([reading.against] if reading.against else [])
        found = [
            f"{self._called(subject)}.{reading.metric} {_shown(self.metrics[subject][reading.metric])}"
            for subject in subjects
            if reading.metric in self.metrics.get(subject, {})
        ]
        if reading.against is not None:
            found.append(f"difference {_shown(self.differences[reading.against][reading.metric])}")
        return found

    def _called(self, subject: Subject) -> str:
        stands_in = self.stands_in and subject is Subject.CURRENT
        return f"{Subject.BASE} (nothing is served yet)" if stands_in else str(subject)


def _fields(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": float(interval.n)}


def _shown(interval: Interval) -> str:
    return f"{interval.value:.4g} [{interval.low:.4g} to {interval.high:.4g}, n={interval.n}]"
