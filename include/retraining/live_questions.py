"""Golden questions to a version that has just been rolled out: does what answers know what the candidate knew?

They find a service that answers with something else than was measured: another adapter, a broken template, a quantised
base. They measure nothing again, so only a plain failure counts: most of what the candidate has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts.evaluation import Matcher, Summary
from include.contracts.golden_set import GoldenPrompt, GoldenSet

#: Matchers that judge an answer without a model and without a doubt.
PLAIN = (Matcher.EXACT, Matcher.CONTAINS, Matcher.REGEX)


def chosen(golden: GoldenSet, report: Mapping[str, Any], count: int) -> list[GoldenPrompt]:
    """The first questions that the candidate has passed in its evaluation.

    :param report: the evaluation's summary; a golden row is left out where it does not say that the row passed.
    :param count: how many at most.
    """
    try:
        told = Summary.from_json(report).golden
    except ValueError:
        return []
    if told is None or len(told.failed_ids) < told.failed:
        return []  # more have failed than are named
    # Names are cut in the summary: what begins like a failed one may be it.
    failed = tuple(told.failed_ids)
    passed = (row for row in golden.rows if not row.id.startswith(failed or ("\0",)))
    return [row for row in passed if row.matcher in PLAIN][:count]


def breach(results: Sequence[tuple[str, bool]]) -> str:
    """Why a version has to be taken back, "" while it knows at least half of what it was asked.

    :param results: by a question's id, whether its answer passes.
    """
    wrong = [name for name, passed in results if not passed]
    if 2 * len(wrong) <= len(results):
        return ""
    return (
        f"the service answers {len(wrong)} of {len(results)} golden questions wrongly that the candidate has passed in "
        f"its evaluation: {', '.join(wrong[:5])}"
    )
