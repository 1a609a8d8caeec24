"""Rows in every layout people publish: used with all that changes what is learnt, or refused with the field's name."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.workloads.chat import Conversation, from_columns, to_columns
from include.workloads.dataset import layouts
from include.workloads.dataset.columns import Dropped, Kind, Preference, Usable, normalise
from include.workloads.dataset.values import load

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CHAT = [USER, ASSISTANT]
SYSTEM = {"role": "system", "content": "s"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
OPENAI_CALL = {**CALL, "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add"}}


def used(row: Mapping[str, Any], preference: Preference = Preference.REFUSE) -> Any:
    found = normalise(row, preference)
    assert isinstance(found, Usable), found
    return found.value if isinstance(found.value, str) else found.value.messages


def refused(row: Mapping[str, Any], preference: Preference = Preference.REFUSE) -> str:
    found = normalise(row, preference)
    assert isinstance(found, Dropped), found
    return found.reason


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": CHAT, "text": "x"}, CHAT),
        ({"Prompt": "q", "COMPLETION": "a"}, CHAT),
        ({"instruction": "q", "input": "", "output": "a"}, CHAT),
        ({"instruction": "q", "context": None, "response": "a"}, CHAT),
        (
            {"instruction": "i", "context": "c", "response": "a"},
            [{"role": "user", "content": "i\n\nc"}, ASSISTANT],
        ),
        (
            {"instruction": "i", "input": "c", "output": "a"},
            [{"role": "user", "content": "i\n\nc"}, ASSISTANT],
        ),
        ({"instruction": "i", "input": 7, "output": "a"}, [{"role": "user", "content": "i\n\n7"}, ASSISTANT]),
        ({"question": "q", "answer": "a", "id": 7}, CHAT),
        ({"query": "q", "response": "a"}, CHAT),
        ({"input": "q", "output": "a"}, CHAT),
        ({"prompt": [USER], "completion": [ASSISTANT]}, CHAT),
        ({"prompt": "q", "completion": [ASSISTANT]}, CHAT),
        ({"messages": json.dumps(CHAT)}, CHAT),
        ({"messages": None, "question": "q", "answer": "a"}, CHAT),
        ({"messages": [{"role": "User ", "content": [{"type": "text", "text": "q"}]}, ASSISTANT]}, CHAT),
        ({"messages": [{"role": "developer", "content": "s"}, *CHAT]}, [SYSTEM, *CHAT]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, CHAT),
        ({"data": CHAT}, CHAT),
        ({"dialogue": [{"role": "human", "text": "q"}, {"role": "bot", "text": "a"}]}, CHAT),
        ({"text": "plain"}, "plain"),
        # An answer is text, whatever it looks like.
        (
            {"question": "q", "answer": "[2, 3, 5, 7]"},
            [USER, {"role": "assistant", "content": "[2, 3, 5, 7]"}],
        ),
        (
            {"prompt": "q", "completion": '[{"role":"system","content":"x"}]'},
            [USER, {"role": "assistant", "content": '[{"role":"system","content":"x"}]'}],
        ),
        ({"question": "q", "answer": 7}, [USER, {"role": "assistant", "content": "7"}]),
        # What goes before the question.
        ({"instruction": "q", "output": "a", "system": "s"}, [SYSTEM, *CHAT]),
        ({"question": "q", "answer": "a", "system_prompt": "s"}, [SYSTEM, *CHAT]),
        ({"messages": CHAT, "system": "s"}, [SYSTEM, *CHAT]),
        ({"messages": [SYSTEM, *CHAT], "system": "s"}, [SYSTEM, *CHAT]),
        ({"instruction": "q", "output": "a", "history": [["q", "a"]]}, [*CHAT, *CHAT]),
        ({"instruction": "q", "output": "a", "history": '[["q", "a"]]'}, [*CHAT, *CHAT]),
        # What a message may carry.
        (
            {"messages": [USER, {**ASSISTANT, "reasoning_content": "r"}]},
            [USER, {**ASSISTANT, "reasoning_content": "r"}],
        ),
        (
            {"question": "q", "answer": "a", "reasoning_content": "r"},
            [USER, {**ASSISTANT, "reasoning_content": "r"}],
        ),
        (
            {"messages": [USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1}]},
            [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT],
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
                    {"role": "tool", "tool_call_id": "c1", "content": "1"},
                    ASSISTANT,
                ],
                "tools": [TOOL],
                "parallel_tool_calls": False,
            },
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "1", "tool_call_id": "c1"},
                ASSISTANT,
            ],
        ),
        # A column of another layout that says the same changes nothing.
        ({"messages": CHAT, "prompt": "q"}, CHAT),
        ({"messages": CHAT, "context": "q"}, CHAT),
        ({"output": "a", "response": "a", "instruction": "q"}, CHAT),
        ({"question": "q", "answer": "a", "train": True, "weight": 1, "images": []}, CHAT),
    ],
)
def test_rows_are_mapped(row, expected):
    assert used(row) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"foo": 1}, "no usable columns"),
        ({"question": "q"}, "no usable columns"),
        ({"messages": None}, "messages is empty"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hello"}, "messages is not a list"),
        ({"messages": [3]}, "messages is a list without messages"),
        ({"messages": [USER, 3]}, "not an object"),
        ({"data": ["q", "a"]}, "data is a list of texts without roles"),
        (
            {"prompt": "q", "completion": [2, 3, 5, 7]},
            "completion is a list without messages; where it is an answer",
        ),
        ({"messages": [{"content": "x"}]}, "no role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role"),
        ({"messages": [USER]}, "no assistant message"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "no assistant message"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "assistant is empty"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "assistant is empty"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}, ASSISTANT]},
            "not text",
        ),
        ({"messages": [{**USER, "from": "gpt"}, ASSISTANT]}, "two different roles"),
        ({"messages": [{**USER, "value": "other"}, ASSISTANT]}, "two different texts, in content and value"),
        ({"question": "q", "answer": ""}, "answer is empty"),
        ({"question": None, "answer": "a"}, "question is empty"),
        ({"question": "q", "answer": True}, "answer is not text"),
        ({"question": "q", "answer": {"text": "a"}}, "answer is not text"),
        ({"question": "q", "answer": float("nan")}, "answer is not text"),
        ({"text": ""}, "text is empty"),
        ({"text": 5}, "text is not a string"),
        # What changes what is learnt and has no place.
        ({"question": "q", "answer": "a", "context": ["x"]}, "context is not text"),
        ({"question": "q", "answer": "a", "context": "c", "input": "d"}, "context and input say different"),
        ({"instruction": "q", "output": "a", "response": "b"}, "output and response say different"),
        ({"text": "t", "answer": "a"}, "answer beside plain text"),
        ({"text": "t", "system": "s"}, "system beside plain text"),
        ({"messages": CHAT, "context": "c"}, "context beside messages"),
        ({"messages": [SYSTEM, *CHAT], "system": "other"}, "system and the first message"),
        ({"question": "q", "answer": "a", "history": "x"}, "history is not a list of pairs"),
        ({"question": "q", "answer": "a", "history": [["x"]]}, "history is not a list of pairs"),
        ({"question": "q", "answer": "a", "rationale": "r"}, "rationale: give it as reasoning_content"),
        ({"question": "q", "answer": "a", "images": ["x"]}, "images: only text"),
        ({"question": "q", "answer": "a", "weight": 0.5}, "weight: "),
        ({"question": "q", "answer": "a", "train": False}, "train: "),
        ({"question": "q", "answer": "a", "tools": "add"}, "tools is not a list"),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, "functions: the old form"),
        ({"messages": [USER, {**ASSISTANT, "function_call": {"name": "f"}}]}, "function_call: the old form"),
        ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "weight is neither 0 nor 1"),
        ({"messages": [{**USER, "weight": 0}, ASSISTANT]}, "weight 0"),
        ({"messages": [USER, {**ASSISTANT, "refusal": "no"}]}, "refusal: "),
        ({"messages": [USER, {**ASSISTANT, "train": False}]}, "train: "),
        ({"messages": [{**USER, "tool_calls": [CALL]}, ASSISTANT]}, "user has tool_calls"),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f"}]}]},
            "tool_calls has an entry without",
        ),
        (
            {
                "messages": [
                    USER,
                    {**ASSISTANT, "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]},
                ]
            },
            "tool_calls has arguments that are not a JSON object",
        ),
        ({"Text": "a", "text": "b"}, "the column text stands twice"),
        (load('{"question": "q", "answer": "a", "answer": "b"}'), "a column stands twice"),
        (load('{"messages": [{"role": "user", "content": "q", "content": "r"}]}'), "a field twice"),
    ],
)
def test_rows_that_cannot_be_used_say_why(row, reason):
    assert reason in refused(row)


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
PREFERENCES: list[dict[str, Any]] = [
    PAIR,
    {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{**ASSISTANT, "content": "b"}]},
    {"chosen": CHAT, "rejected": [USER, {**ASSISTANT, "content": "b"}]},
    {"prompt": "q", "chosen": CHAT, "rejected": CHAT, "messages": CHAT},
    {"prompt": "q", "completion": "a", "label": True},
    {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [ASSISTANT]},
]


@pytest.mark.parametrize("row", PREFERENCES)
def test_preference_data_is_used_for_its_good_side_only_when_asked(row):
    assert "DatasetConfig.preference_data: chosen" in refused(row)
    assert used(row, Preference.CHOSEN) == CHAT


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, "label is false"),
        ({"prompt": "q", "completion": "a", "label": 3}, "label is neither"),
        ({"prompt": "q", "rejected": "b", "completion": "a"}, "rejected without chosen"),
        ({**PAIR, "completion": "other"}, "completion and chosen say different things"),
        (
            {"prompt": "other", "chosen": CHAT, "rejected": CHAT},
            "does not begin with a message of the assistant",
        ),
    ],
)
def test_a_preference_that_is_not_clear_is_refused(row, reason):
    assert reason in refused(row, Preference.CHOSEN)


def test_a_number_is_learnt_as_it_was_written():
    for text in ("1.10", "1e400", "-0", "2.50", "9" * 5000, "3"):
        row = load(f'{{"question": "q", "answer": {text}}}')
        assert used(row)[1]["content"] == text


def test_every_row_of_the_table_is_what_the_table_says():
    for layout in layouts.LAYOUTS:
        row = load(json.dumps(layout.example))
        if layout.name == "preference data":
            assert "preference" in refused(row)
            assert used(row, Preference.CHOSEN)
        else:
            assert used(row)
        assert layouts.read_columns(tuple(row)) == tuple(row)


def test_names_without_a_meaning_are_told():
    found = normalise({"question": "q", "answer": "a", "id": 7, "text": "q a", "source": ""})
    assert isinstance(found, Usable)
    assert found.unread == {"id", "text"}
    found = normalise({"messages": [USER, {**ASSISTANT, "score": 3}]})
    assert isinstance(found, Usable)
    assert found.unread == {"message.score"}


def test_the_order_of_columns_does_not_matter():
    row = {"output": "a", "input": "c", "instruction": "q", "text": "t", "id": "7"}
    for seed in range(10):
        names = list(row)
        random.Random(seed).shuffle(names)
        assert used({name: row[name] for name in names})[0]["content"] == "q\n\nc"


# Everything that can change what is learnt, each with a mark that must turn up again or be spoken of.

MARK = "MARK{}"
VALUES = st.sampled_from(
    [
        lambda mark: mark,
        lambda mark: [mark],
        lambda mark: {"x": mark},
        lambda mark: [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}],
        lambda mark: [["q", mark]],
        lambda mark: [{"type": "function", "function": {"name": mark, "arguments": {}}}],
        lambda mark: json.dumps([{"from": "human", "value": mark}, {"from": "gpt", "value": "a"}]),
        lambda mark: None,
        lambda mark: "",
        lambda mark: 12.5,
        lambda mark: False,
    ]
)
NAMES = sorted(
    {
        *layouts.MESSAGES, *layouts.WEAK_MESSAGES, *layouts.QUESTIONS, *layouts.CONTEXTS, *layouts.ANSWERS, "text",
        *layouts.SYSTEM, "history", "tools", "reasoning_content", *layouts.CHOSEN, *layouts.REJECTED, "label",
        *layouts.UNUSABLE,
    }
)  # fmt: skip
COLUMNS = st.lists(
    st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=6, unique_by=lambda c: c[0]
)


@settings(max_examples=600, deadline=None)
@given(columns=COLUMNS, chosen=st.booleans(), pair=st.booleans())
def test_no_column_that_changes_what_is_learnt_is_lost_in_silence(columns, chosen, pair):
    row: dict[str, Any] = {"question": "MARKq", "answer": "MARKa"} if pair else {}
    row |= {name: make(MARK.format(number)) for number, (name, make) in enumerate(columns)}
    found = normalise(row, Preference.CHOSEN if chosen else Preference.REFUSE)
    if isinstance(found, Dropped):
        assert found.reason
        assert "MARK" not in found.reason
        return
    learnt = json.dumps(
        [found.value.messages, found.value.tools] if isinstance(found.value, Conversation) else found.value
    )
    bad_side = {*layouts.REJECTED} if chosen else set()
    for name, value in row.items():
        marks = [f"MARK{n}" for n in (*range(6), "q", "a") if f"MARK{n}" in json.dumps(value)]
        for mark in marks:
            assert mark in learnt or name in found.unread or name in bad_side, (name, found)
        # Only what stands whole in another column, or is no part of any layout in use, may be left unread.
        if name in found.unread:
            assert name not in {*layouts.SYSTEM, "history", "tools", "reasoning_content", *layouts.CONTEXTS[:1],
                                *layouts.CHOSEN, "label", *layouts.UNUSABLE}  # fmt: skip


FIELDS = sorted(
    {*layouts.ROLE_KEYS, *layouts.CONTENT_KEYS, *layouts.MESSAGE_FIELDS, *layouts.MESSAGE_UNUSABLE}
)
MESSAGE = st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=4, unique_by=lambda c: c[0])


@settings(max_examples=600, deadline=None)
@given(fields=MESSAGE, role=st.sampled_from(["system", "user", "assistant", "tool", "gpt"]))
def test_no_field_of_a_message_that_changes_what_is_learnt_is_lost_in_silence(fields, role):
    message = {"role": role, "content": "MARKc"} | {
        name: make(MARK.format(n)) for n, (name, make) in enumerate(fields)
    }
    found = normalise({"messages": [USER, message, ASSISTANT]})
    if isinstance(found, Dropped):
        assert found.reason
        assert "MARK" not in found.reason
        return
    assert isinstance(found.value, Conversation)
    learnt = json.dumps(found.value.messages[1])
    for name, value in message.items():
        for mark in (m for m in ("MARKc", *map(MARK.format, range(4))) if m in json.dumps(value)):
            assert mark in learnt, (name, found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, "x"]), JSON), st.sampled_from(Preference))
def test_no_row_whatsoever_breaks_the_mapping(row, preference):
    found = normalise(row, preference)
    if isinstance(found, Usable) and found.kind is Kind.MESSAGES:
        assert isinstance(found.value, Conversation)
        assert "assistant" in found.value.roles
        assert all(isinstance(message["content"], str) for message in found.value.messages)


def test_a_conversation_comes_back_from_the_file_as_it_was():
    talk = Conversation(
        [
            USER,
            {**ASSISTANT, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "content": "1", "name": "add"},
        ],
        [TOOL],
    )
    messages, tools = to_columns(talk)
    filled = [{**dict.fromkeys(("name", "weight", "reasoning_content")), **message} for message in messages]
    assert from_columns(filled, tools) == talk
