from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.tuning.rows import IGNORE, answer_spans, cut, read_table, split, tokenise
from include.workloads.tuning.standin import _tokenizer

TALK = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "Eight."},
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "H200, 141 GiB."},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _tokenizer()


def learnt(tokenizer: Any, row: dict[str, list[int]]) -> str:
    return str(tokenizer.decode([label for label in row["labels"] if label != IGNORE]))


def test_the_loss_is_on_every_answer_and_its_end_of_turn(tokenizer: Any) -> None:
    found = tokenise("messages", [TALK], tokenizer)
    assert found.unmasked == 0
    assert learnt(tokenizer, found.rows[0]) == "Eight.<|end|>\nH200, 141 GiB.<|end|>\n<|endoftext|>"
    assert tokenizer.decode(found.rows[0]["input_ids"]).startswith(
        "<|user|>\nHow many?<|end|>\n<|assistant|>\nEight."
    )


def test_the_whole_row_is_learnt_when_the_user_wants_it(tokenizer: Any) -> None:
    row = tokenise("messages", [TALK], tokenizer, answers_only=False).rows[0]
    assert row["labels"] == row["input_ids"]


def test_a_template_that_hides_the_answers_falls_back_and_is_counted(tokenizer: Any) -> None:
    import copy

    hiding = copy.deepcopy(tokenizer)
    hiding.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    found = tokenise("messages", [TALK], hiding)
    assert found.unmasked == 1
    assert found.rows[0]["labels"] == found.rows[0]["input_ids"]


def test_a_template_that_rewrites_earlier_turns_still_shows_the_last_answer() -> None:
    def render(turns: Any, ask: bool) -> str:
        shown = [
            "" if turn["role"] == "assistant" and index < len(turns) - 1 else turn["content"] + "."
            for index, turn in enumerate(turns)
        ]
        return "".join(shown) + (">" if ask else "")

    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"))]
    full = "a.>b."
    assert answer_spans(full, turns, lambda part, ask: render(part, ask)) == [(3, 5)]


def test_plain_text_is_learnt_whole_and_ends(tokenizer: Any) -> None:
    row = tokenise("text", ["abc"], tokenizer).rows[0]
    assert row["input_ids"][-1] == tokenizer.eos_token_id
    assert row["labels"] == row["input_ids"]


def test_a_row_without_an_answer_is_named(tokenizer: Any) -> None:
    with pytest.raises(UserDataError, match="Row 2 has no assistant message"):
        tokenise("messages", [TALK, TALK[:1]], tokenizer)


def test_roles_that_the_template_refuses_are_named(tokenizer: Any) -> None:
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserDataError, match=r"Row 1 does not fit .* no system role"):
        tokenise("messages", [TALK], strict)


def test_a_base_model_without_template_needs_one(tokenizer: Any) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserConfigError, match="no chat template"):
        tokenise("messages", [TALK], bare)


def test_long_rows_are_cut_and_rows_without_answer_dropped() -> None:
    rows = [
        {"input_ids": [1, 2, 3, 4], "labels": [IGNORE, IGNORE, 3, 4]},
        {"input_ids": [1, 2, 3, 4], "labels": [IGNORE, IGNORE, IGNORE, 4]},
        {"input_ids": [1, 2], "labels": [1, 2]},
    ]
    kept, shortened, dropped = cut(rows, 3)
    assert kept == [
        {"input_ids": [1, 2, 3], "labels": [IGNORE, IGNORE, 3]},
        {"input_ids": [1, 2], "labels": [1, 2]},
    ]
    assert (shortened, dropped) == (2, 1)
    with pytest.raises(UserDataError, match="within 2 tokens"):
        cut(rows[:2], 2)


def test_the_split_keeps_every_row_once_and_repeats_with_its_seed() -> None:
    rows = [{"input_ids": [number], "labels": [number]} for number in range(10)]
    train, held = split(rows, 0.8, True, 42)
    assert (len(train), len(held)) == (8, 2)
    assert sorted(row["input_ids"][0] for row in train + held) == list(range(10))
    assert split(rows, 0.8, True, 42) == (train, held)
    assert split(rows, 0.8, True, 43) != (train, held)
    assert split(rows, 1.0, False, 42) == (rows, [])
    assert [len(part) for part in split(rows[:2], 0.99, False, 42)] == [1, 1]


def test_the_table_is_read_or_its_fault_named(tmp_path: Path) -> None:
    with pytest.raises(UserDataError, match=r"no train\.parquet"):
        read_table(tmp_path)
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"label": [1]}), path)
    with pytest.raises(UserDataError, match="no column messages or text, only label"):
        read_table(tmp_path)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(UserDataError, match="no rows"):
        read_table(tmp_path)
    pq.write_table(pa.Table.from_pylist([{"messages": TALK}]), path)
    assert read_table(tmp_path) == ("messages", [TALK])
