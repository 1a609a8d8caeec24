"""An evaluation for a person who has to decide, as Markdown: what was measured of whom, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from include.contracts.evaluation import METRICS, Interval, Metric, Subject, Summary

TITLES: Mapping[Subject, str] = {
    Subject.BASE: "base model",
    Subject.CURRENT: "answers today",
    Subject.CANDIDATE: "candidate",
}


def markdown(report: Mapping[str, Any] | None) -> list[str]:
    """The lines of the report, [] where nothing was measured.

    :param report: what the evaluation left, as `Summary.to_json` writes it.
    """
    if not report:
        return []
    try:
        summary = Summary.from_json(report)
    except ValueError as error:
        return [f"The evaluation's report cannot be read: {error}"]
    return list(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    subjects = [one for one in Subject if one in summary.subjects]
    yield f"| measured | {' | '.join(TITLES[one] for one in subjects)} |"
    yield f"|---|{'---|' * len(subjects)}"
    for metric in measured(summary):
        cells = (cell(metric, summary.metrics.get(one, {}).get(metric)) for one in subjects)
        yield f"| {METRICS[metric].title} | {' | '.join(cells)} |"
    yield ""
    if summary.golden is not None and summary.golden.failed:
        named = ", ".join(f"`{one}`" for one in summary.golden.failed_ids)
        more = "" if len(summary.golden.failed_ids) == summary.golden.failed else " and others"
        yield f"Golden rows that the candidate fails: {summary.golden.failed} of {summary.golden.total}: {named}{more}."
        yield ""
    yield f"Brackets are 95% confidence intervals. The whole report is `{summary.report_digest}`, beside the image."


def measured(summary: Summary) -> list[Metric]:
    """What was measured of anybody, in the order of a report."""
    found = {metric for metrics in summary.metrics.values() for metric in metrics}
    return [metric for metric in Metric if metric in found]


def cell(metric: Metric, interval: Interval | None) -> str:
    """One value with its confidence interval, a dash where it was not measured."""
    if interval is None:
        return "-"
    if METRICS[metric].unit == "share":
        return f"{interval.value:.0%} [{interval.low:.0%} to {interval.high:.0%}], n={interval.n}"
    unit = f" {METRICS[metric].unit}" if METRICS[metric].unit else ""
    return f"{interval.value:.3g}{unit} [{interval.low:.3g} to {interval.high:.3g}]"
