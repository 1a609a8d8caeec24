"""A golden set is read whole or refused whole, with every broken row by its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts.evaluation import Matcher
from include.contracts.golden_set import MAX_ROWS, GoldenSetInvalid, read

ROWS = [
    {"id": "capital", "prompt": "Capital of France?", "expected": "Paris", "ignoreCase": True},
    {"prompt": "Any of both?", "expected": ["one", "two"], "matcher": "contains"},
    {"prompt": "A date", "expected": r"\d{4}-\d\d-\d\d", "matcher": "regex", "maxTokens": 20},
    {"prompt": "As JSON", "expected": {"type": "object", "required": ["a"]}, "matcher": "json_schema"},
    {"prompt": "Summarize", "expected": "The fox jumps.", "matcher": "rouge_l", "threshold": 0.3},
    {
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}],
        "expected": "Is polite",
        "matcher": "judge",
    },
]
YAML = """
- id: capital
  prompt: Capital of France?
  expected: Paris
- prompt: |
    Two
    lines
  expected: "42"
  matcher: contains
"""


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        "\n".join(map(json.dumps, ROWS)) + "\n",
        "\n\n".join(map(json.dumps, ROWS)),
        json.dumps({"golden": ROWS}),
    ],
)
def test_lists_and_lines_are_the_same_rows(text: str) -> None:
    found = read(text)
    assert [row.matcher for row in found.rows] == list(Matcher)
    assert found.matchers == set(Matcher)
    assert [row.id for row in found.rows] == ["capital", "row-2", "row-3", "row-4", "row-5", "row-6"]
    assert found.rows[0].ignore_case
    assert found.rows[2].max_tokens == 20
    assert found.rows[4].threshold == 0.3
    assert found.rows[5].prompt == "Why?"


def test_yaml_as_people_write_it() -> None:
    found = read(YAML)
    assert [row.prompt for row in found.rows] == ["Capital of France?", "Two\nlines\n"]
    assert read(YAML).digest == found.digest != read(YAML + "\n").digest


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"matcher": "exakt"}, "matcher", "did you mean exact?"),
        ({"expected": None}, "expected", "missing"),
        ({"expected": 42}, "expected", "in quotes"),
        ({"expected": "["}, None, None),
        ({"matcher": "regex", "expected": "(a"}, "expected", "regular expression"),
        ({"matcher": "json_schema", "expected": "{"}, "expected", "JSON schema"),
        ({"matcher": "json_schema", "expected": {"type": "objekt"}}, "expected", "JSON schema"),
        ({"matcher": "json_schema", "expected": {"pattern": "(a"}}, "expected", "'regex'"),
        ({"matcher": "json_schema", "expected": {"$ref": "http://10.0.0.1/"}}, "expected", "another schema"),
        ({"matcher": "json_schema", "expected": {"properties": {"pattern": {"type": "string"}}}}, None, None),
        ({"prompt": " "}, "prompt", "is empty"),
        ({"prompt": None}, "", "neither or both"),
        ({"messages": [{"role": "user", "content": "?"}]}, "", "neither or both"),
        (
            {"prompt": None, "messages": [{"role": "usr", "content": "?"}]},
            "messages[0].role",
            "one of system",
        ),
        (
            {"prompt": None, "messages": [{"role": "assistant", "content": "x"}]},
            "messages[0].role",
            "question",
        ),
        ({"threshold": 0.5}, "threshold", "no sense for exact"),
        ({"matcher": "rouge_l", "threshold": 50}, "threshold", "at most 1"),
        ({"matcher": "judge", "ignoreCase": True}, "ignoreCase", "no sense"),
        ({"maxTokens": 0}, "maxTokens", "whole number"),
        ({"id": 7}, "id", "is not a name"),
        ({"promt": "?"}, "promt", "did you mean prompt?"),
    ],
)
def test_a_broken_row_is_named(change: dict[str, object], path: str | None, says: str | None) -> None:
    row = {"prompt": "Why?", "expected": "Because", "matcher": "exact", **change}
    text = json.dumps([row, row | {"id": "again"}])
    if says is None:
        assert len(read(text).rows) == 2
        return
    with pytest.raises(GoldenSetInvalid) as refused:
        read(text)
    first, *_ = refused.value.faults
    assert first.path == f"[0].{path}" if path else first.path == "[0]"
    assert says in str(first)
    both = "id" in change or any(fault.path.startswith("[1]") for fault in refused.value.faults)
    assert both, "all rows at once"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        ("[]", "no rows"),
        ("golden", "not a list"),
        ('{"prompt": "a"\n', "cannot be read"),
        ('{"prompt": "a", "expected": "b"}\n{"prompt": }', "line 2"),
        ("- 5", "is not a row"),
        (json.dumps([ROWS[0], ROWS[0]]), "is the id of [0] too"),
        ("\n".join(["- {prompt: a, expected: b}"] * (MAX_ROWS + 1)), f"more than {MAX_ROWS} rows"),
        ("x" * (1 << 20) + "x", "bytes"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_what_is_no_golden_set_says_why(text: str | bytes, says: str) -> None:
    with pytest.raises(GoldenSetInvalid, match=says.replace("[", r"\[")):
        read(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
rows = st.dictionaries(
    st.sampled_from(
        ["id", "prompt", "messages", "expected", "matcher", "threshold", "ignoreCase", "maxTokens"]
    ),
    values | st.sampled_from([str(one) for one in Matcher]),
)


@settings(max_examples=150)
@given(st.lists(rows, max_size=3))
def test_any_rows_are_a_golden_set_or_faults(items: list[object]) -> None:
    try:
        found = read(json.dumps(items))
    except GoldenSetInvalid as refused:
        assert refused.faults  # noqa: PT017 - either outcome is right
    else:
        assert len(found.rows) == len(items)
