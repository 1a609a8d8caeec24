"""What lm-eval's tasks are asked with, and what of their answers is compared; the package itself is not needed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.evaluation import Metric, Subject
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.evaluation.lm_tasks import _row_scores, ended, find_tasks, learnt_row
from include.workloads.evaluation.measure import Work, measure
from include.workloads.tuning.rows import IGNORE


def test_without_names_there_are_no_tasks() -> None:
    assert find_tasks([], 5, None, 0, None) is None


def test_an_image_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserConfigError, match=r"lm-eval \(arc_easy\), and this image has no such package"):
        find_tasks(["arc_easy"], 5, None, 0, None)


IDS = st.lists(st.integers(0, 99), min_size=1, max_size=12)


@given(IDS, IDS, st.integers(2, 30))
def test_an_answer_is_judged_whole_wherever_it_fits(
    asked: list[int], answer: list[int], context: int
) -> None:
    row = learnt_row(asked, answer, context)
    ids, labels = row["input_ids"], row["labels"]
    assert len(ids) == len(labels) == min(len(asked) + len(answer), context)
    judged = [label for label in labels if label != IGNORE]
    assert judged == answer[-len(judged) :]
    assert len(judged) == min(len(answer), context - 1)
    assert labels[0] == IGNORE, "the first token has nothing before it"
    assert ids == [*asked, *answer][-context:]


@pytest.mark.parametrize(
    ("until", "text"),
    [([], "one\ntwo. three"), (["\n", "."], "one"), (".", "one\ntwo"), ([""], "one\ntwo. three")],
)
def test_an_answer_ends_at_the_first_of_its_ends(until: Any, text: str) -> None:
    assert ended("one\ntwo. three", until) == text


def row(number: int, kept: str = "none", **metrics: Any) -> dict[str, Any]:
    return {"doc_id": number, "filter": kept, "metrics": list(metrics), **metrics}


def test_the_first_score_of_a_task_counts_once_for_each_row_in_their_order() -> None:
    rows = [row(1, acc=0.0), row(0, acc=1.0), row(0, kept="strict", acc=0.0)]
    assert _row_scores("t", rows) == [1.0, 0.0]
    assert _row_scores("t", [row(0, word_perplexity=(3.2, 4), acc=True)]) == [1.0]


@pytest.mark.parametrize("rows", [[], [row(0, ppl=(1, 2))], [row(0, bleu=31.0)]])
def test_a_task_without_a_score_of_each_row_is_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserConfigError, match="no score of each row from 0 to 1"):
        _row_scores("t", rows)


def test_rows_that_miss_the_score_are_refused() -> None:
    with pytest.raises(UserDataError, match="rows without a score"):
        _row_scores("t", [row(0, acc=1.0), row(1, acc=None)])


class TwoTasks:
    def scores(self, engine: Any, subject: Subject) -> dict[str, list[float]]:
        return {"one": [1.0, 0.0], "two": [1.0, 1.0 if subject is Subject.CANDIDATE else 0.0]}


class Silent:
    """An engine that nobody has to ask."""

    name, context, tokenizer = "silent", 100, None


def test_the_rows_of_all_tasks_are_one_metric_and_each_task_is_noted() -> None:
    work = Work((Subject.BASE, Subject.CANDIDATE), None, [], [], 16, 0, tasks=TwoTasks())
    found = measure(work, Silent())  # type: ignore[arg-type]
    values = {subject: found.metrics[subject][Metric.LM_EVAL] for subject in work.subjects}
    assert (values[Subject.BASE].value, values[Subject.CANDIDATE].value) == (0.5, 0.75)
    assert values[Subject.BASE].n == 4
    assert found.differences[Subject.BASE][Metric.LM_EVAL].value == 0.25
    assert found.notes == [
        "lm-eval task one, 2 rows: base 0.5, candidate 0.5",
        "lm-eval task two, 2 rows: base 0.5, candidate 1",
    ]
