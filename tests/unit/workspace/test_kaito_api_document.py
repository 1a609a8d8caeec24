"""docs/kaito-api.md: its rules are those that faults carry, and whatever the code cites of it is there."""

from __future__ import annotations

import re
from pathlib import Path

from include.cli.rule_texts import SENTENCES, in_document

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "kaito-api.md"
FOLDERS = ("include", "plugins", "dags", "tests")


def test_the_rules_are_those_of_the_rules_verb() -> None:
    text = DOCUMENT.read_text()
    assert in_document(text) == text, "run: python -m include.cli.rule_texts docs/kaito-api.md"
    rows = re.findall(r"^\| ([A-Z]\d+) \| (.*) \|$", text, re.MULTILINE)
    assert dict(rows) == dict(SENTENCES)


def test_what_is_cited_is_a_heading() -> None:
    headings = {
        re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        for title in re.findall(r"^##+ (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    }
    cited = {
        (str(file.relative_to(ROOT)), anchor)
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        for anchor in re.findall(r"kaito-api\.md#([a-z0-9-]+)", file.read_text())
    }
    assert len(cited) > 20, "the code cites the document"
    assert not [(file, anchor) for file, anchor in cited if anchor not in headings]


def test_nothing_cites_a_document_that_is_not_here() -> None:
    numbered = re.compile(r"\bcontract \d+(\.\d+)*\b")
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    assert not [str(file) for file in files if numbered.search(file.read_text())]
