from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.workloads.chat import Conversation
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.tuning.rows import (
    IGNORE,
    answer_spans,
    check_share,
    cut,
    cut_sentence,
    digests,
    read_table,
    split,
    tokenise,
)
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
    found = tokenise("messages", [Conversation(TALK)], tokenizer)
    assert found.unmasked == 0
    assert learnt(tokenizer, found.rows[0]) == "Eight.<|end|>\nH200, 141 GiB.<|end|>\n<|endoftext|>"
    assert tokenizer.decode(found.rows[0]["input_ids"]).startswith(
        "<|user|>\nHow many?<|end|>\n<|assistant|>\nEight."
    )


def test_the_whole_row_is_learnt_when_the_user_wants_it(tokenizer: Any) -> None:
    row = tokenise("messages", [Conversation(TALK)], tokenizer, answers_only=False).rows[0]
    assert row["labels"] == row["input_ids"]


def test_a_template_that_hides_the_answers_falls_back_and_is_counted(tokenizer: Any) -> None:
    import copy

    hiding = copy.deepcopy(tokenizer)
    hiding.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    found = tokenise("messages", [Conversation(TALK)], hiding)
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
        tokenise("messages", [Conversation(TALK), Conversation(TALK[:1])], tokenizer)


def test_roles_that_the_template_refuses_are_named(tokenizer: Any) -> None:
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserDataError, match=r"Row 1 does not fit .*refuses its roles.* no system role"):
        tokenise("messages", [Conversation(TALK)], strict)


def test_a_base_model_without_template_needs_one(tokenizer: Any) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(UserConfigError, match="no chat template"):
        tokenise("messages", [Conversation(TALK)], bare)


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
    rows = [{"input_ids": [index], "labels": [index]} for index in range(50)]
    row_digests = digests([str(index) for index in range(50)])
    parts = split(rows, row_digests, 0.8, True, 42)
    assert sorted(row["input_ids"][0] for row in parts.train + parts.held_out) == list(range(50))
    assert 0 < len(parts.held_out) < 25
    assert split(rows, row_digests, 0.8, True, 42) == parts
    other = split(rows, row_digests, 0.8, True, 43)
    assert other.train != parts.train
    assert other.held_out == parts.held_out, "which rows these are is a matter of their content"
    whole = split(rows, row_digests, 1.0, False, 42)
    assert (whole.train, whole.held_out) == (rows, [])
    few = split(rows[:2], row_digests[:2], 0.99, False, 42)
    assert (len(few.train), len(few.held_out)) == (1, 1)


@pytest.mark.parametrize(
    ("texts", "told"), [(["a"], "there is 1 row"), (["a"] * 5, "all 5 rows are the same")]
)
def test_a_share_that_can_hold_nothing_out_is_no_training(texts: list[str], told: str) -> None:
    """What was asked for, such as stopping early by those rows, would not be done, without a word."""
    rows = [{"input_ids": [1], "labels": [1]} for _ in texts]
    with pytest.raises(UserDataError, match=f"Rows are to be held out .*, but {told}: none would be left"):
        split(rows, digests(texts), 0.5, True, 1)
    assert split(rows, digests(texts), 1.0, True, 1).train == rows


def test_no_held_out_row_is_trained_on_however_often_it_comes() -> None:
    texts = [str(index % 20) for index in range(100)]
    rows = [{"input_ids": [int(text)], "labels": [int(text)]} for text in texts]
    parts = split(rows, digests(texts), 0.7, True, 1)
    assert not set(parts.trained_digests) & set(parts.held_out_digests)
    assert len(parts.trained_digests) + len(parts.held_out_digests) == 100


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
    assert read_table(tmp_path) == ("messages", [Conversation(TALK)])


def test_an_answer_of_weight_0_is_read_and_not_learnt(tokenizer: Any) -> None:
    silent = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    found = tokenise("messages", [Conversation(silent)], tokenizer)
    assert learnt(tokenizer, found.rows[0]) == "H200, 141 GiB.<|end|>\n<|endoftext|>"
    assert (
        found.rows[0]["input_ids"]
        == tokenise("messages", [Conversation(TALK)], tokenizer).rows[0]["input_ids"]
    )
    assert found.partly == 0
    whole = tokenise("messages", [Conversation(silent)], tokenizer, answers_only=False).rows[0]
    assert "Eight." not in learnt(tokenizer, whole)
    assert "How many?" in learnt(tokenizer, whole)


def test_answers_that_the_template_rewrites_later_are_counted(tokenizer: Any) -> None:
    import copy

    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}{{ ' last' if loop.last and m['role'] == 'assistant' }}]"
        "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant last]{% endif %}"
    )
    found = tokenise("messages", [Conversation(TALK)], rewriting)
    assert (found.unmasked, found.partly) == (0, 1)


def test_a_field_that_the_template_does_not_know_is_named(tokenizer: Any) -> None:
    talk = Conversation([TALK[0], {**TALK[1], "reasoning_content": "because"}])
    with pytest.raises(
        UserDataError, match=r"Row 1 does not fit this model: .*does not show reasoning_content"
    ):
        tokenise("messages", [talk], tokenizer)


def test_tools_and_calls_reach_a_template_that_knows_them(tokenizer: Any) -> None:
    import copy

    knowing = copy.deepcopy(tokenizer)
    knowing.chat_template = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
        "{% for c in m['tool_calls'] or [] %}{{ c['function'] | tojson }}{% endfor %};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    talk = Conversation(
        [
            TALK[0],
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "8"},
            TALK[1],
        ],
        [{"type": "function", "function": {"name": "add"}}],
    )
    row = tokenise("messages", [talk], knowing).rows[0]
    assert '"arguments": {"a": 1}' in learnt(knowing, row)
    assert knowing.decode(row["input_ids"]).startswith('[{"type": "function"')
    with pytest.raises(UserDataError, match=r"does not show (tools|the arguments of tool_calls|tool_calls)"):
        tokenise("messages", [talk], tokenizer)


def test_a_template_that_refuses_the_beginning_alone_still_shows_the_whole(tokenizer: Any) -> None:
    import copy

    picky = copy.deepcopy(tokenizer)
    picky.chat_template = "{{ messages[0]['role'] }}" + tokenizer.chat_template
    found = tokenise("messages", [Conversation(TALK[1:])], picky)
    assert (found.unmasked, found.partly) == (0, 1)
    assert "H200" in learnt(picky, found.rows[0])


def test_rows_that_the_cut_loses_are_told_and_too_many_stop_the_run() -> None:
    assert (
        cut_sentence(8, 3, 1, 512)
        == "3 of 8 rows cut to 512 tokens, 1 of them dropped, because no answer was left"
    )
    check_share(8, 4, 512, None)
    with pytest.raises(UserDataError, match=r"5 of 8 rows have no answer within 512 tokens, more than 50%"):
        check_share(8, 5, 512, None)
    with pytest.raises(UserDataError, match="max_dropped_share"):
        check_share(8, 1, 512, 0.1)
