"""What a person reads before deciding has every number with its noise, and the rows that failed by name."""

from __future__ import annotations

from include.contracts.evaluation import AdapterIdentity, GoldenCount, Interval, Metric, Subject, Summary
from include.retraining.report_text import markdown


def measured(**metrics: float) -> dict[Metric, Interval]:
    return {Metric(name): Interval(value=v, low=v - 0.1, high=v + 0.1, n=10) for name, v in metrics.items()}


SUMMARY = Summary(
    report_digest="sha256:0",
    subjects=[Subject.BASE, Subject.CURRENT, Subject.CANDIDATE],
    candidate=AdapterIdentity(weights_sha256="0"),
    metrics={
        Subject.BASE: measured(golden=0.2),
        Subject.CURRENT: measured(golden=0.5, p50_ttft=0.4),
        Subject.CANDIDATE: measured(golden=0.9, p50_ttft=0.3),
    },
    differences={},
    golden=GoldenCount(total=10, failed=7, failed_ids=["capital", "river"]),
    seconds=1,
)


def test_a_table_with_a_column_for_each_subject() -> None:
    lines = markdown(SUMMARY.to_json())
    assert lines[0] == "| measured | base model | answers today | candidate |"
    assert lines[2].endswith("| 20% [10% to 30%], n=10 | 50% [40% to 60%], n=10 | 90% [80% to 100%], n=10 |")
    assert "| - | 0.4 s [0.3 to 0.5] | 0.3 s [0.2 to 0.4] |" in lines[3]
    assert "7 of 10: `capital`, `river` and others" in "\n".join(lines)
    assert all(line.count("|") == 5 for line in lines if line.startswith("|"))


def test_where_nothing_was_measured_there_is_nothing_to_show() -> None:
    assert markdown({}) == markdown(None) == []
    assert "cannot be read" in markdown({"subjects": 3})[0]
