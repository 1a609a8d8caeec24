"""What an evaluation has measured of base model, present adapter and candidate: the table of a Workspace's page.

It is read from what the evaluation's step told. Each value has its confidence interval, and a difference is called one
only where it is beyond noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.contracts.evaluation import METRICS, Direction, Metric, Subject, Summary
from include.contracts.redaction import redact
from include.retraining.report_text import TITLES, cell, measured

BETTER, WORSE, SAME = "better", "worse", "no difference beyond noise"


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric: its name, a text for each column, and how the candidate stands against what it would replace."""

    title: str
    cells: Sequence[str]
    verdict: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A table.

    :param heads: who was measured.
    :param against: what the candidate is compared with, "" for nothing.
    :param notes: sentences below the table.
    """

    heads: Sequence[str]
    against: str
    rows: Sequence[Measured]
    notes: Sequence[str]


def evaluation(told: object) -> Evaluation | None:
    """The table of an evaluation's result, None where it has none that can be read."""
    if not isinstance(told, dict):
        return None
    try:
        summary = Summary.from_json(told)
    except (ValueError, TypeError, AttributeError):
        return None
    subjects = [one for one in Subject if one in summary.subjects]
    against = next((one for one in (Subject.CURRENT, Subject.BASE) if summary.differences.get(one)), None)
    rows = [
        Measured(
            METRICS[metric].title,
            [cell(metric, summary.metrics.get(one, {}).get(metric)) for one in subjects],
            _verdict(summary, against, metric),
        )
        for metric in measured(summary)
    ]
    heads = [TITLES[one] for one in subjects]
    return Evaluation(heads, TITLES[against] if against else "", rows, _notes(summary)) if rows else None


def _verdict(summary: Summary, against: Subject | None, metric: Metric) -> str:
    """The paired difference of the candidate, whose interval is narrower than those of the values."""
    found = summary.differences.get(against, {}).get(metric) if against else None
    if found is None:
        return ""
    if found.low <= 0 <= found.high:
        return SAME
    return BETTER if (found.low > 0) == (METRICS[metric].better is Direction.HIGHER) else WORSE


def _notes(summary: Summary) -> list[str]:
    notes = ["Brackets are 95% confidence intervals."]
    golden, held = summary.golden, summary.held_out
    if golden is not None and golden.failed:
        named = ", ".join(golden.failed_ids)
        notes.append(
            f"Golden rows that the candidate fails: {golden.failed} of {golden.total}, such as {named}."
        )
    if held is not None:
        notes.append(
            f"{held.rows:,} rows were held out of the training; {held.overlap} of them were trained on."
        )
    notes.append(f"The whole report is {summary.report_digest}, beside the image.")
    return [redact(one) for one in notes]
