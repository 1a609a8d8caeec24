"""The page about datasets is the table that the code uses."""

from __future__ import annotations

from pathlib import Path

from include.workloads.dataset import layouts
from include.workloads.dataset.document import page

ROOT = Path(__file__).parents[4]


def test_the_page_is_the_code_s_table():
    written = (ROOT / "docs/datasets.md").read_text()
    assert written == page(), "python -m include.workloads.dataset.document > docs/datasets.md"


def test_every_name_of_the_table_is_on_the_page():
    said = page()
    for names in (
        layouts.UNUSABLE,
        layouts.MESSAGE_UNUSABLE,
        layouts.ROLE_ALIASES,
        layouts.WRAPPERS,
        layouts.SYSTEM,
    ):
        for name in names:
            assert f"`{name}`" in said
    for name in (
        *layouts.MESSAGES,
        *layouts.WEAK_MESSAGES,
        *layouts.QUESTIONS,
        *layouts.CONTEXTS,
        *layouts.ANSWERS,
    ):
        assert name in said
