"""Hostile YAML: refused with a sentence, in bounded time and memory, without killing the process."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from include.contracts.yaml_documents.dumper import write_yaml
from include.contracts.yaml_documents.reader import (
    MAX_BAD,
    MAX_BYTES,
    BadDocument,
    Document,
    check_depth,
    load_all,
    load_one,
    read,
)
from include.workspace import WorkspaceInvalid, parse_workspace
from tests.support.quick_start import QUICK_START

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
    started = time.process_time()
    with pytest.raises(BadDocument, match=words):
        load_one(text)
    assert time.process_time() - started < 5
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


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e5", 100000.0),  # Python's YAML would call these two text, and a commit such as 12e45 too
        ("12e3", 12000.0),
        ("1:30", "1:30"),  # and this one ninety
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("-010", -8),
        ("08", 8.0),
        ("1_000", 1000),
        ("+1", 1),
        (".5", 0.5),
        ("1.", 1.0),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("Yes", True),
        ("off", False),
        ("~", None),
        ("y", "y"),
        ("=", "="),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("!!int '1'", 1),
        ("!!bool yes", True),
        ("!!null ''", None),
        ("'1'", "1"),
    ],
)
def test_a_plain_word_means_what_kubernetes_makes_of_it(word: str, value: Any) -> None:
    loaded = load_one(f"a: {word}")["a"]
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize(
    "word", [".inf", "-.Inf", ".nan", "1e999", "!!int x", "!!bool 1", "!!binary YQ==", "!x 1"]
)
def test_what_json_cannot_hold_is_refused(word: str) -> None:
    with pytest.raises(BadDocument, match="not YAML as Kubernetes reads it"):
        load_one(f"a: {word}")


def test_merge_keys_take_over_what_is_not_given() -> None:
    text = "base: &b {x: 1, y: 2}\na: {<<: *b, y: 3}\nb: {<<: [*b, {z: 4, x: 9}]}\nc: {'<<': *b}"
    assert load_one(text) == {
        "base": {"x": 1, "y": 2},
        "a": {"y": 3, "x": 1},
        "b": {"x": 1, "y": 2, "z": 4},
        "c": {"<<": {"x": 1, "y": 2}},
    }


def test_a_few_aliases_are_fine() -> None:
    assert load_one("a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]") == {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": [{"b": [1, 2]}] * 2,
    }


def test_several_documents() -> None:
    assert list(load_all("a: 1\n---\n---\nb: 2\n")) == [{"a": 1}, {"b": 2}]
    assert list(load_all("%YAML 1.1\n---\na: 1\n...\n---\nb: 2\n")) == [{"a": 1}, {"b": 2}]
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


def test_reading_goes_on_after_a_broken_document() -> None:
    text = "a: 1\n---\nb: [\n---\n---\n--- ]\n---\nc: {d: 1, d: 2}\nx: y\n---\ne: 1\n"
    found = list(read(text))
    assert [one.value for one in found if isinstance(one, Document)] == [{"a": 1}, {"e": 1}]
    bad = [one for one in found if isinstance(one, BadDocument)]
    assert [(one.line, one.column) for one in bad] == [(4, 1), (6, 5), (8, 11)]
    assert [one.place.line for one in found if isinstance(one, Document)] == [1, 11]


def test_broken_documents_are_bounded() -> None:
    begin = time.process_time()
    found = list(read("---\na: [\n" * 100_000))
    assert len(found) == MAX_BAD
    assert time.process_time() - begin < 5


def test_the_budget_of_values_is_the_whole_text_s() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1 or str()}'] * 10)}]\n" for i in range(1, 4)
    )
    found = list(read((bomb + "---\n") * 200))
    assert sum(isinstance(one, Document) for one in found) < 10
    assert isinstance(found[-1], BadDocument)
    assert "expands to more than" in str(found[-1])


PLACES = """\
# a comment
metadata:
  name: x
  annotations:
    kaito.sh/x: one
    a.b[0]: two
tuning: {method: lora, "input": {urls: [a, b]}}
list:
  - first
  -
    deep: 1
anchored: &here
  key: 1
alias: *here
"""


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("", 2, 1),
        ("metadata", 2, 1),
        ("metadata.name", 3, 3),
        ("metadata.namespace", 2, 1),  # missing: its parent
        ("metadata.annotations[kaito.sh/x]", 5, 5),
        ("metadata.annotations.kaito.sh/x", 5, 5),
        ("metadata.annotations[a.b[0]]", 6, 5),
        ("metadata.annotations[nothing]", 4, 3),
        ("tuning.method", 7, 10),
        ("tuning.input.urls[1]", 7, 44),
        ("tuning.input.urls[2]", 7, 34),
        ("tuning.output.imagePushSecret", 7, 1),
        ("list[0]", 9, 5),
        ("list[1].deep", 11, 5),
        ("list[one]", 8, 1),
        ("alias", 14, 1),
        ("alias.key", 13, 3),  # where the value is written
        ("no.such[0].path", 2, 1),
        ("." * 5000, 2, 1),
        ("[" * 5000, 2, 1),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_field_is_found_where_it_is_written(path: str, line: int, column: int, ends: str) -> None:
    (found,) = read(PLACES.replace("\n", ends))
    assert isinstance(found, Document)
    place = found.place.find(path)
    assert (place.line, place.column) == (line, column)


def test_json_has_places_too() -> None:
    (found,) = read('{\n  "a": [\n    1,\n    {"b": true}\n  ]\n}\n')
    assert isinstance(found, Document)
    place = found.place.find("a[1].b")
    assert (place.line, place.column) == (4, 6)


@pytest.mark.parametrize(
    ("block", "line", "column"),
    [
        ("|\n    one: 1\n    two: 2\n", 4, 5),
        ("|-  # a remark\n\n    one: 1\n    two: 2\n", 5, 5),
        ("|2\n      one: 1\n      two: 2\n", 4, 7),
        (">\n    one: 1\n\n    two: 2\n", 2, 3),  # folded: the key is as near as it gets
        ('"one: 1\\ntwo: 2"\n', 2, 3),
    ],
)
def test_text_in_a_literal_block_has_places_of_the_whole_file(block: str, line: int, column: int) -> None:
    (found,) = read(f"data:\n  file.yaml: {block}")
    assert isinstance(found, Document)
    (inner,) = read(found.value["data"]["file.yaml"])
    assert isinstance(inner, Document)
    place = found.place.find("data[file.yaml]").within(inner.place.find("two"))
    assert (place.line, place.column) == (line, column)


yaml_like = st.text(st.sampled_from("ab:-[]{},&*!|>'\"#%?<\n \t0.\x00\ufeff\u2028é"), max_size=80)


@given(st.one_of(yaml_like, st.binary(max_size=80), st.text(max_size=80)))
@settings(max_examples=400, deadline=None)
def test_anything_is_read_or_refused_with_a_place_that_exists(data: str | bytes) -> None:
    lines = 1 + (
        data.count(b"\n") if isinstance(data, bytes) else len(re.findall("\r\n|[\n\r\x85\u2028\u2029]", data))
    )
    for one in read(data):
        place = one.place.find("a.b[0]") if isinstance(one, Document) else one
        assert isinstance(data, bytes) or 0 <= place.line <= lines + 1
        assert "\n" not in str(one) or isinstance(one, Document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | st.from_regex(r"[-+0-9._eExX:~yn]{1,8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
@settings(max_examples=120, deadline=None)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    assert load_one(write_yaml({"v": value})) == {"v": value}
    assert yaml.safe_load(write_yaml({"v": value})) == {"v": value}
    assert load_one(json.dumps({"v": value}, ensure_ascii=True)) == {"v": value}
