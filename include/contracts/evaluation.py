"""What an evaluation reports: its subjects, metrics and matchers by name, the report and its summary.

The evaluation pod writes the report, the gate, the pipeline and the user's policy speak of it. Each name stands here
once. A metric's value never goes without its confidence interval and its sample size: a difference that is noise must
be recognizable as noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

SCHEMA_VERSION: Literal["kaito.sh/evaluation/v1"] = "kaito.sh/evaluation/v1"
#: Media types of the report in a registry.
REPORT_ARTIFACT_TYPE = "application/vnd.kaito.evaluation.v1+json"
PAGE_MEDIA_TYPE = "text/html"
#: File names on the work volume, in the evaluation's folder.
REPORT_FILE, PAGE_FILE = "report.json", "report.html"
#: What the tuning writes beside its adapter: the digests of the rows that it learnt from, and that it held out.
TRAINED_ROWS_FILE, HELD_OUT_ROWS_FILE = "trained-rows.txt", "held-out-rows.txt"

CONFIDENCE = 0.95
#: Longest text of a model or of the golden set that the report repeats, in characters.
SHOWN_CHARACTERS = 2000
#: Failed golden rows that the summary names, and the length of an id there.
FAILED_SHOWN, ID_SHOWN = 5, 32
#: Significant digits of a number in the summary, which has little room; the report has all of them.
_DIGITS = 4


class Subject(StrEnum):
    """What is evaluated: the base model alone, or with the adapter that is served now, or with the new one."""

    BASE = "base"
    CURRENT = "current"
    CANDIDATE = "candidate"


class Matcher(StrEnum):
    """How an answer to a golden prompt is judged."""

    EXACT = "exact"
    CONTAINS = "contains"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    ROUGE_L = "rouge_l"
    JUDGE = "judge"


class Metric(StrEnum):
    """What is measured of each subject."""

    GOLDEN = "golden"
    EXACT_MATCH = "exact_match"
    CONTAINS = "contains"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    ROUGE_L = "rouge_l"
    JUDGE = "judge"
    LM_EVAL = "lm_eval"
    PERPLEXITY = "perplexity"
    HELD_OUT_EXACT_MATCH = "held_out_exact_match"
    HELD_OUT_ROUGE_L = "held_out_rouge_l"
    P50_TTFT = "p50_ttft"
    P95_TTFT = "p95_ttft"
    TOKENS_PER_SECOND = "tokens_per_second"


class Direction(StrEnum):
    """Which way a metric is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class MetricFacts:
    """What a metric means. `unit` is "share" (0 to 1), "s", "tokens/s" or "" for a plain number."""

    title: str
    better: Direction
    unit: str


_HIGHER, _LOWER = Direction.HIGHER, Direction.LOWER
METRICS: Mapping[Metric, MetricFacts] = {
    Metric.GOLDEN: MetricFacts("golden rows that pass, whatever their matcher", _HIGHER, "share"),
    Metric.EXACT_MATCH: MetricFacts("golden rows of matcher exact that pass", _HIGHER, "share"),
    Metric.CONTAINS: MetricFacts("golden rows of matcher contains that pass", _HIGHER, "share"),
    Metric.REGEX: MetricFacts("golden rows of matcher regex that pass", _HIGHER, "share"),
    Metric.JSON_SCHEMA: MetricFacts("golden rows of matcher json_schema that pass", _HIGHER, "share"),
    Metric.ROUGE_L: MetricFacts("mean ROUGE-L F1 of the golden rows of matcher rouge_l", _HIGHER, "share"),
    Metric.JUDGE: MetricFacts("mean score that the judge gives, from 0 to 1", _HIGHER, "share"),
    Metric.LM_EVAL: MetricFacts("mean score of the rows of the lm-eval tasks", _HIGHER, "share"),
    Metric.PERPLEXITY: MetricFacts("perplexity of the answers in the held-out rows", _LOWER, ""),
    Metric.HELD_OUT_EXACT_MATCH: MetricFacts(
        "held-out answers that are given word for word", _HIGHER, "share"
    ),
    Metric.HELD_OUT_ROUGE_L: MetricFacts("mean ROUGE-L F1 of the held-out answers", _HIGHER, "share"),
    Metric.P50_TTFT: MetricFacts("time to first token, median of requests one by one", _LOWER, "s"),
    Metric.P95_TTFT: MetricFacts("time to first token, 95th percentile", _LOWER, "s"),
    Metric.TOKENS_PER_SECOND: MetricFacts("tokens of one request after another", _HIGHER, "tokens/s"),
}
METRIC_OF_MATCHER: Mapping[Matcher, Metric] = {
    Matcher.EXACT: Metric.EXACT_MATCH,
    Matcher.CONTAINS: Metric.CONTAINS,
    Matcher.REGEX: Metric.REGEX,
    Matcher.JSON_SCHEMA: Metric.JSON_SCHEMA,
    Matcher.ROUGE_L: Metric.ROUGE_L,
    Matcher.JUDGE: Metric.JUDGE,
}
SPEED = (Metric.P50_TTFT, Metric.P95_TTFT, Metric.TOKENS_PER_SECOND)
HELD_OUT_CHAT = (Metric.PERPLEXITY, Metric.HELD_OUT_EXACT_MATCH, Metric.HELD_OUT_ROUGE_L)


def produced_metrics(matchers: Iterable[str], held_out: bool, tasks: bool = False) -> frozenset[str]:
    """The metrics that an evaluation measures.

    :param matchers: the matchers that the golden set uses; none without a golden set.
    :param held_out: whether rows of the dataset are held out of the training. Of plain text, which asks nothing, only
        the perplexity is measured.
    :param tasks: whether tasks of lm-eval are run. Their rows are no measure of speed.
    """
    used = {Matcher(one) for one in matchers}
    result: set[str] = {METRIC_OF_MATCHER[one] for one in used}
    if used:
        result.add(Metric.GOLDEN)
    if held_out:
        result.update(HELD_OUT_CHAT)
    if result:
        result.update(SPEED)
    if tasks:
        result.add(Metric.LM_EVAL)
    return frozenset(map(str, result))


class _Part(BaseModel):
    """A part of the report; a reader passes over fields that a later version adds."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(_Part):
    """A value, the ends of its bootstrap confidence interval, and how many samples it is of."""

    value: float
    low: float
    high: float
    n: int = Field(ge=0)

    def compact(self) -> list[float]:
        """The four numbers at the length that a termination message has room for."""
        return [*(_short(number) for number in (self.value, self.low, self.high)), self.n]

    @classmethod
    def parse(cls, numbers: list[float]) -> Interval:
        """The interval that `compact` wrote. Raises ValueError."""
        value, low, high, n = numbers
        return cls(value=value, low=low, high=high, n=int(n))


Measures = dict[Subject, dict[Metric, Interval]]


class AdapterIdentity(_Part):
    """Which adapter a subject is: the sha256 of its weights file, and the digest of its image where it has one."""

    weights_sha256: str
    image_digest: str | None = None


class HeldOut(_Part):
    """The held-out rows, and the proof that none of them was trained on.

    Digests are of the sorted row digests (`include.contracts.held_out`). `overlap` counts held-out rows among the
    trained ones: above 0 the evaluation fails. `current_overlap` is None where nobody knows what the current adapter
    learnt from.
    """

    rows: int
    digest: str
    trained_rows: int
    trained_digest: str
    overlap: int
    current_overlap: int | None = None


class GoldenAnswer(_Part):
    """One subject's answer to a golden prompt; `score` is from 0 to 1."""

    answer: str
    score: float
    passed: bool
    why: str = ""


class GoldenRow(_Part):
    """A golden prompt with every subject's answer."""

    id: str
    prompt: str
    matcher: Matcher
    expected: str
    answers: dict[Subject, GoldenAnswer]


class GoldenResults(_Part):
    """The golden set by its digest, and its rows."""

    digest: str
    rows: list[GoldenRow]

    def failed(self, subject: Subject) -> list[str]:
        """Ids of the rows that a subject does not pass."""
        return [row.id for row in self.rows if not row.answers[subject].passed]


class Report(_Part):
    """Everything that an evaluation has measured.

    `differences` are the candidate's values minus the named subject's, on the same rows (paired bootstrap): their
    intervals are much narrower than those of the values, and are what decides whether a difference is noise.
    """

    schema_version: Literal["kaito.sh/evaluation/v1"] = SCHEMA_VERSION
    model: str
    revision: str
    engine: str
    device: str
    dtype: str
    seed: int
    bootstrap_samples: int
    confidence: float = CONFIDENCE
    adapters: dict[Subject, AdapterIdentity]
    dataset_digest: str | None = None
    held_out: HeldOut | None = None
    golden: GoldenResults | None = None
    metrics: Measures
    differences: Measures
    notes: list[str] = Field(default_factory=list)
    seconds: float

    def content(self) -> bytes:
        """The report as it is stored: one form only, so that its digest is its identity."""
        document = self.model_dump(mode="json")
        return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    def summary(self, report: str | None = None, report_digest: str | None = None) -> Summary:
        """What the control plane keeps of this report.

        :param report: where the full report lies, on the work volume.
        :param report_digest: of that file, `sha256:...`.
        """
        golden = None
        if self.golden is not None:
            failed = self.golden.failed(Subject.CANDIDATE)
            golden = GoldenCount(
                total=len(self.golden.rows),
                failed=len(failed),
                failed_ids=[name[:ID_SHOWN] for name in failed[:FAILED_SHOWN]],
            )
        return Summary(
            report=report,
            report_digest=report_digest or digest_of(self.content()),
            subjects=sorted(self.metrics, key=list(Subject).index),
            candidate=self.adapters[Subject.CANDIDATE],
            metrics=self.metrics,
            differences=self.differences,
            golden=golden,
            held_out=self.held_out,
            seconds=self.seconds,
        )


class GoldenCount(_Part):
    """How the candidate did on the golden set."""

    total: int
    failed: int
    failed_ids: list[str] = Field(default_factory=list)


class Summary(_Part):
    """A report without its texts, at most 4 KiB as `to_json`: the pod's termination message, and the gate's input."""

    schema_version: Literal["kaito.sh/evaluation/v1"] = SCHEMA_VERSION
    report: str | None = None
    report_digest: str
    subjects: list[Subject]
    candidate: AdapterIdentity
    metrics: Measures
    differences: Measures
    golden: GoldenCount | None = None
    held_out: HeldOut | None = None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object: by metric one interval for each of `subjects` as [value, low, high, n], or null.

        Nulls at the end of a row are left out.
        """
        document = self.model_dump(mode="json", exclude={"metrics", "differences"}, exclude_none=True)
        columns = {"metrics": self.metrics, "differences": self.differences}
        return document | {name: _compact(found, self.subjects) for name, found in columns.items()}

    def values(self) -> dict[str, dict[str, float]]:
        """What was measured by subject and metric, without the noise."""
        return {
            str(subject): {str(metric): interval.value for metric, interval in found.items()}
            for subject, found in self.metrics.items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Summary:
        """The summary that `to_json` wrote. Raises ValueError where it is none."""
        try:
            subjects = list(map(Subject, document["subjects"]))
            expanded = {name: _expand(document[name], subjects) for name in ("metrics", "differences")}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no summary of an evaluation: {error}") from None
        return cls.model_validate({**document, **expanded})


def digest_of(content: bytes) -> str:
    """The sha256 of some bytes in OCI's spelling."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _compact(measures: Measures, subjects: Sequence[Subject]) -> dict[str, list[list[float] | None]]:
    used = sorted({metric for found in measures.values() for metric in found}, key=list(Metric).index)
    return {str(metric): _row([measures.get(one, {}).get(metric) for one in subjects]) for metric in used}


def _row(intervals: Sequence[Interval | None]) -> list[list[float] | None]:
    numbers = [interval.compact() if interval else None for interval in intervals]
    while numbers and numbers[-1] is None:
        numbers.pop()
    return numbers


def _expand(columns: Mapping[str, Sequence[list[float] | None]], subjects: Sequence[Subject]) -> Measures:
    result: Measures = {}
    for metric, row in columns.items():
        for subject, numbers in zip(subjects, row, strict=False):
            if numbers is not None:
                result.setdefault(subject, {})[Metric(metric)] = Interval.parse(numbers)
    return result


def _short(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
