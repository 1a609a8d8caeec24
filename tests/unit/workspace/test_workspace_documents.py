"""Hostile YAML: refused with a sentence, in bounded time and memory, without killing the process."""

from __future__ import annotations

import time
from typing import Any

import pytest
from workspaces import QUICK_START

from include.workspace import WorkspaceInvalid, parse_workspace
from include.workspace.documents import MAX_BYTES, BadDocument, check_depth, load_all, load_one

ALIAS_BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ALIAS_BOMB, "expands to more than"),
        ("[" * 100_000, "nests deeper"),  # libyaml alone overflows the C stack here
        ("{a: " * 100_000, "nests deeper"),
        ("a: &x [*x]", r"\*x stands for nothing complete"),
        ("a: &x 1\nb: &x [*x]", r"\*x stands for nothing complete"),
        ("b: *nowhere", "stands for nothing"),
        ("a: 1\na: 2", "line 2: the key 'a' is given twice"),
        ("a: {b: 1, 'b': 2}", "the key 'b' is given twice"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: [1", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: !!python/object/apply:os.system [id]", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("# " + "x" * MAX_BYTES, "at most"),
        ("- a\n" * 120_000, "more than"),
        (b"a: \xff\xfe", "not UTF-8"),
        ("a: \ud800", "not UTF-8"),
    ],
)
def test_refused(text: Any, words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadDocument, match=words):
        load_one(text)
    assert time.perf_counter() - started < 5
    with pytest.raises(WorkspaceInvalid):
        parse_workspace(text)


def test_values_are_json_s() -> None:
    loaded = load_one("d: 2026-11-23\nt: 2026-11-23T10:00:00Z\nn: 1\nf: 1.5\nb: true\nz: null\n1: one\n<<: x")
    assert loaded == {
        "d": "2026-11-23",
        "t": "2026-11-23T10:00:00Z",
        "n": 1,
        "f": 1.5,
        "b": True,
        "z": None,
        "1": "one",
        "<<": "x",
    }


def test_a_few_aliases_are_fine() -> None:
    assert load_one("a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": [{"b": [1, 2]}] * 2,
    }


def test_several_documents() -> None:
    assert list(load_all("a: 1\n---\n---\nb: 2\n")) == [{"a": 1}, {"b": 2}]
    with pytest.raises(BadDocument, match="one YAML document is needed, but the text holds 2"):
        load_one("a: 1\n---\nb: 2\n")


def test_parsed_data_is_measured_too() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(BadDocument, match="nests deeper"):
        check_depth(deep)
    with pytest.raises(WorkspaceInvalid, match="nests deeper"):
        parse_workspace(deep)
    with pytest.raises(BadDocument, match="more than"):
        check_depth([[0] * 1000] * 1000)


def test_a_windows_file_is_read() -> None:
    assert parse_workspace(QUICK_START.replace("\n", "\r\n")).name == "workspace-tuning-phi-3"
    assert parse_workspace("\ufeff" + QUICK_START).name == "workspace-tuning-phi-3"
