"""Preference data: which rows are pairs or marked answers, and why the others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.network_policy import NetworkPolicy
from include.workloads import chat
from include.workloads.chat import Marked, Pair
from include.workloads.contract import UserDataError
from include.workloads.dataset.columns import Dropped, Kind, Usable
from include.workloads.dataset.job import run_job
from include.workloads.dataset.options import Options
from include.workloads.dataset.preferences import compared, one_sided
from include.workloads.dataset.request import Request

ASK = {"role": "user", "content": "2 + 2?"}
FOUR, FIVE = ({"role": "assistant", "content": text} for text in ("4", "5"))
SYSTEM = {"role": "system", "content": "Be short."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"Prompt ": "2 + 2?", "Chosen": "4", "REJECTED": "5", "score": 3},
        {"prompt": [ASK], "chosen": [FOUR], "rejected": [FIVE]},
        {"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"prompt": "2 + 2?", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"input": {"messages": [ASK]}, "preferred_output": [FOUR], "non_preferred_output": [FIVE]},
    ],
)
def test_a_pair_is_the_same_pair_however_it_is_written(row: dict[str, Any]) -> None:
    found = compared(row, "dpo")
    assert isinstance(found, Usable), found
    assert found.kind is Kind.PAIRS
    assert found.value == Pair([ASK, FOUR], None, [ASK, FIVE])
    assert isinstance(found.value, Pair)
    assert list(found.value.prompt) == [ASK]


def test_what_both_answers_begin_with_is_asked_and_so_is_a_system_prompt() -> None:
    early = {"role": "assistant", "content": "hm"}
    row = {"system": "Be short.", "chosen": [ASK, early, ASK, FOUR], "rejected": [ASK, early, ASK, FIVE]}
    found = compared(row, "dpo")
    assert isinstance(found, Usable)
    assert isinstance(found.value, Pair)
    assert list(found.value.prompt) == [SYSTEM, ASK, early, ASK]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "chosen": "4"}, "there is no rejected answer"),
        ({"prompt": "q", "chosen": "4", "rejected": ""}, "there is no rejected answer"),
        ({"prompt": "q", "rejected": "5"}, "there is no chosen answer"),
        ({"prompt": "q", "chosen": "4", "preferred_output": "4", "rejected": "5"}, "stand beside each other"),
        ({"prompt": "q", "completion": "4", "label": True}, "kaito.sh/tuning-objective: kto"),
        ({"prompt": "q", "chosen": "4", "rejected": "4"}, "chosen and rejected are the same"),
        ({"prompt": "", "chosen": "4", "rejected": "5"}, "chosen: prompt is empty"),
        ({"chosen": [ASK, FOUR], "rejected": [{**ASK, "content": "3?"}, FIVE]}, "answer different prompts"),
        ({"chosen": [ASK, FOUR], "rejected": [ASK, FOUR, ASK, FIVE]}, "only the beginning of the other"),
        ({"chosen": [FOUR], "rejected": [FIVE]}, "have no prompt"),
        ({"prompt": "q", "chosen": "4", "rejected": 5.5}, None),
        ({"prompt": "q", "chosen": "4", "rejected": [1]}, "rejected: "),
    ],
)
def test_what_is_no_pair_says_why(row: dict[str, Any], reason: str | None) -> None:
    found = compared(row, "dpo")
    if reason is None:
        assert isinstance(found, Usable)  # a number is an answer, as it is elsewhere
    else:
        assert isinstance(found, Dropped)
        assert reason in found.reason


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize(
    "row", [{"prompt": "2 + 2?", "completion": "4"}, {"prompt": [ASK], "completion": [FOUR]}, {"messages": [ASK, FOUR]}]
)  # fmt: skip
def test_a_label_says_whether_the_answer_is_good(row: dict[str, Any], good: bool) -> None:
    found = compared({**row, "label": good}, "kto")
    assert isinstance(found, Usable), found
    assert (found.kind, found.value) == (Kind.MARKED, Marked([ASK, FOUR], None, good))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": "4"}, "there is no label"),
        ({"prompt": "q", "completion": "4", "label": "yes"}, "neither true nor false"),
        ({"prompt": "q", "chosen": "4", "rejected": "5"}, "kaito.sh/tuning-objective: dpo"),
        ({"text": "four", "label": True}, "plain text has no prompt"),
        ({"messages": [ASK, FOUR, ASK], "label": True}, "the last message is not the assistant's"),
        ({"messages": [FOUR], "label": True}, "the answer has no prompt"),
    ],
)
def test_what_has_no_mark_says_why(row: dict[str, Any], reason: str) -> None:
    found = compared(row, "kto")
    assert isinstance(found, Dropped)
    assert reason in found.reason


NAMES = ["prompt", "completion", "chosen", "rejected", "label", "messages", "text", "input", "x"]
VALUES = st.sampled_from(
    ["", "a", "b", None, True, False, 3, [ASK], [ASK, FOUR], [FIVE], {"messages": [ASK]}, [1]]
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(["dpo", "kto"]))
def test_any_row_is_compared_or_says_why_and_is_the_same_after_the_file(
    row: dict[str, Any], objective: str
) -> None:
    found = compared(row, objective)
    if isinstance(found, Dropped):
        assert found.reason
        return
    assert isinstance(found.value, Pair | Marked)
    names = (chat.MESSAGES, chat.TOOLS, chat.REJECTED if objective == "dpo" else chat.GOOD)
    assert chat.from_row(dict(zip(names, chat.to_columns(found.value), strict=True))) == found.value


def run(tmp_path: Path, objective: str, *rows: dict[str, Any]) -> dict[str, Any]:
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = Options(objective=objective)
    run_job(Request(tmp_path / "out", folder=tmp_path / "in", network=NetworkPolicy(), options=options))
    return dict(json.loads((tmp_path / "out" / "report.json").read_text()))


def test_pairs_go_to_the_table_and_the_report_counts_them(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "a long answer", "rejected": "no"} for n in range(9)]
    report = run(tmp_path, "dpo", *rows, {"prompt": "q", "chosen": "a", "rejected": "a"})
    assert report["rows"] == 9
    assert report["compared"] == {"pairs": 9, "chosen_longer": 9}
    assert report["dropped"] == {"chosen and rejected are the same": 1}
    assert "the better answer is the longer one in 9 of 9 pairs" in " ".join(report["findings"])
    table = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert table[0]["rejected"][1]["content"] == "no"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "pairs whose better answer is the longer one" in page
    assert "rejected: " in page


def test_the_objective_is_part_of_what_was_written(tmp_path: Path) -> None:
    """The same rows, first refused by one objective, are read again for the other."""
    rows = [{"prompt": f"q{n}", "completion": "a", "label": n % 2 == 0} for n in range(4)]
    with pytest.raises(
        UserDataError, match=r"kaito\.sh/tuning-objective: kto.*Accepted: prompt, chosen, rejected"
    ):
        run(tmp_path, "dpo", *rows)
    assert run(tmp_path, "kto", *rows)["compared"] == {"good": 2, "bad": 2}
    assert Options(objective="kto").identity != Options(objective="dpo").identity != Options().identity


def test_plain_rows_are_never_taken_as_columns_for_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(UserDataError, match="there is no label"):
        run(tmp_path, "kto", *({"prompt": "q", "completion": "a"} for _ in range(3)))


@pytest.mark.parametrize(("good", "words"), [(4, "without the annotation"), (0, "give both")])
def test_answers_that_are_all_alike_are_refused(tmp_path: Path, good: int, words: str) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "label": bool(good)} for n in range(4)]
    with pytest.raises(UserDataError, match=words):
        run(tmp_path, "kto", *rows)
    assert one_sided(1, 2) == ""
