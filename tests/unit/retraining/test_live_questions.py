"""A service is asked what its version has passed, and only a plain failure is held against it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.contracts import golden_set
from include.contracts.evaluation import AdapterIdentity, GoldenCount, Subject, Summary
from include.retraining.live_questions import breach, chosen

ROWS = [
    {"id": "a", "prompt": "?", "expected": "yes"},
    {"id": "b", "prompt": "?", "expected": "yes", "matcher": "contains"},
    {"id": "c", "prompt": "?", "expected": "yes", "matcher": "rouge_l"},
    {"id": "d", "prompt": "?", "expected": "yes", "matcher": "regex"},
]
GOLDEN = golden_set.read(json.dumps(ROWS))


def report(*failed: str, more: int = 0) -> dict[str, Any]:
    return Summary(
        report_digest="sha256:0",
        subjects=[Subject.CANDIDATE],
        candidate=AdapterIdentity(weights_sha256="0"),
        metrics={},
        differences={},
        golden=GoldenCount(total=4, failed=len(failed) + more, failed_ids=list(failed)),
        seconds=1,
    ).to_json()


@pytest.mark.parametrize(
    ("told", "count", "ids"),
    [
        (report(), 10, ["a", "b", "d"]),
        (report(), 2, ["a", "b"]),
        (report("a"), 2, ["b", "d"]),
        (report("a", more=1), 2, []),  # which other one has failed is not known
        ({}, 2, []),
        (report(), 0, []),
    ],
)
def test_only_what_was_passed_and_can_be_judged_is_asked(
    told: dict[str, Any], count: int, ids: list[str]
) -> None:
    assert [row.id for row in chosen(GOLDEN, told, count)] == ids


@pytest.mark.parametrize(
    ("results", "why"),
    [
        ([], ""),
        ([("a", True), ("b", False)], ""),
        ([("a", False), ("b", False), ("c", True)], "2 of 3 golden questions wrongly"),
        ([("a", False)], "evaluation: a"),
    ],
)
def test_most_must_be_wrong_to_take_a_version_back(results: list[tuple[str, bool]], why: str) -> None:
    assert why in breach(results)
    assert bool(breach(results)) is bool(why)
