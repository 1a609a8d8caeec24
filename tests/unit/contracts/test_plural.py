"""Nothing that a person reads leaves the plural to the reader."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from include.contracts.plural import plural

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes"), ("1", "1 node"), ("0.5", "0.5 nodes")],
)
def test_one_is_one_and_more_are_more(number: object, words: str) -> None:
    assert plural(number, "node") == words


def test_what_ends_with_a_hiss_takes_another_ending() -> None:
    assert [plural(number, "process") for number in (1, 3)] == ["1 process", "3 processes"]
    assert plural("1,200", "batch") == "1,200 batches"


def test_nobody_spells_a_plural_by_hand() -> None:
    """`{n} node{"s" if n != 1 else ""}` and its kin: there is one word for it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("include", "plugins", "dags", "demo")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if path.name != "plural.py" and isinstance(node, ast.IfExp)
        if isinstance(node.body, ast.Constant) and isinstance(node.orelse, ast.Constant)
        if re.search(r"\b(\d+|len)\b", ast.unparse(node.test))
        if isinstance(node.body.value, str) and isinstance(node.orelse.value, str)
        if _differ_by_an_ending(node.body.value, node.orelse.value)
    ]
    assert found == []


def _differ_by_an_ending(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long in (f"{short}s", f"{short}es")


def test_no_sentence_of_ours_says_node_s_in_brackets() -> None:
    """`fault(s)`, `node(s)`: the number is known wherever the sentence is made. http(s) is another matter."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("include", "plugins", "dags", "demo")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(?<=[A-Za-z])(?<!http)\(s\)", node.value)
    ]
    assert found == []
