"""The data report of a page, from whatever a pod has told, and the page of an image in its registry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.views.data_report import MOST_LINES, data_report, size
from include.views.registry_page import registry_page
from tests.support.fleet import DIGEST

TOLD = {
    "rows": 1200,
    "sentence": "1200 rows in 1 file",
    "digest": DIGEST,
    "findings": ["3 of 1200 rows repeat an earlier row"],
    "format": "parquet",
    "bytes": 5_000_000,
    "dropped_rows": 7,
    "dropped": {"no answer": 7},
    "sources": [
        {"url": "https://data.example/rows.parquet?sig=SECRETSIGNATURE", "rows": 1200, "bytes": 5_000_000}
    ],
}


def test_a_report_says_what_was_learnt_from_and_no_signature() -> None:
    found = data_report(TOLD)
    assert found is not None
    facts = dict(found.facts)
    assert facts["Rows"] == "1,200"
    assert facts["Size"] == "4.8 MiB"
    assert facts["Rows not used"] == "7"
    assert found.findings == TOLD["findings"]
    assert found.unused == [("no answer", "7")]
    [(url, rows, _)] = found.sources
    assert (url.startswith("https://data.example/rows.parquet"), rows) == (True, "1,200")
    assert "SECRETSIGNATURE" not in repr(found)


@pytest.mark.parametrize("told", [None, {}, [], "text", 3])
def test_a_step_that_told_nothing_has_no_report(told: object) -> None:
    assert data_report(told) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


KEYS = (*TOLD, "tokens", "personal", "languages", "held_out", "layouts", "scanned_rows", "duplicate_rows")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, VALUES)))
def test_whatever_a_pod_says_is_shown_or_left_out(told: dict[str, Any]) -> None:
    found = data_report(told)
    if found:
        texts = [*(text for _, text in found.facts), *found.findings]
        assert all(isinstance(text, str) for text in texts)


WHOLE = {
    **TOLD,
    "duplicate_rows": 3,
    "layouts": ["question and answer"],
    "scanned_rows": 1200,
    "languages": {"en": 0.9, "de": 0.1},
    "scripts": {"latin": 1.0},
    "personal": {"email addresses": 2, "phone numbers": 0},
    "held_out": {"rows": 120, "asked_in_training": 4, "whole": True},
    "tokens": {
        **{
            "rows": 1200,
            "p50": 40,
            "p95": 90,
            "max": 99,
            "max_length": 64,
            "cut_share": 0.25,
            "lost_share": 0.0,
        },
        "histogram": {"width": 10, "rows": [0, 5, 10, 0, 0, 0, 0, 0, 0, 1]},
    },
}


def test_the_whole_report_is_there_with_its_bars_and_the_line_of_the_cut() -> None:
    found = data_report(WHOLE)
    assert found is not None
    facts = dict(found.facts)
    assert facts["Layout"] == "question and answer"
    assert facts["Rows that repeat another"] == "3"
    assert facts["Held out, and the question trained on as well"] == "120 rows, 4 of them"
    assert "Personal data or secrets" not in facts
    assert found.personal == [("email addresses", "2")]
    assert (found.languages, found.scripts) == ([("en", "90.0%"), ("de", "10.0%")], [("latin", "100.0%")])
    lengths = found.lengths
    assert lengths is not None
    assert [(bar.x, bar.height) for bar in lengths.bars][:3] == [(0.0, 0.0), (32.0, 60.0), (64.0, 120.0)]
    assert lengths.bars[1].title == "10 to 19 tokens: 5 rows"
    assert (lengths.end, lengths.most, lengths.limit) == ("100", "10", 204.8)
    assert "25.0% are longer than 64 and cut, 0.0% lose their whole answer" in lengths.sentence


def test_what_was_searched_for_and_not_seen_is_said() -> None:
    found = data_report({**WHOLE, "personal": {"email addresses": 0}})
    assert found is not None
    assert dict(found.facts)["Personal data or secrets"] == "none seen by simple patterns"
    assert found.personal == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"histogram": None},
        {"histogram": {"width": 10, "rows": []}},
        {"histogram": {"width": 10, "rows": [0, 0]}},
        {"histogram": {"width": 10, "rows": [1] * 999}},
        {"histogram": {"width": "10", "rows": [1]}},
        {"histogram": {"width": 10, "rows": [1, -1]}},
        {"p50": None},
    ],
)
def test_a_histogram_that_is_none_is_left_out(wrong: dict[str, Any]) -> None:
    found = data_report({**WHOLE, "tokens": {**WHOLE["tokens"], **wrong}})
    assert found is not None
    assert found.lengths is None


def test_rows_are_shown_with_what_is_learnt_and_without_a_signature() -> None:
    samples = [[["https://x.example/?sig=SECRETSIGNATURE ", False], ["I see.", True]]] * 9
    found = data_report(TOLD, samples)
    assert found is not None
    assert len(found.samples) == 3
    assert found.samples[0][1] == ("I see.", True)
    assert "SECRETSIGNATURE" not in repr(found)


@given(VALUES)
def test_whatever_a_pod_says_of_rows_is_shown_or_left_out(told: object) -> None:
    found = data_report(TOLD, told)
    assert found is not None
    for row in found.samples:
        assert row
        assert all(isinstance(text, str) and isinstance(learnt, bool) for text, learnt in row)


def test_long_lists_are_cut() -> None:
    found = data_report(
        {"rows": 1, "dropped": {str(n): n for n in range(99)}, "sources": [{"url": "x"}] * 99}
    )
    assert found is not None
    assert (len(found.unused), len(found.sources)) == (MOST_LINES, MOST_LINES)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1 << 50, "1024 TiB"),
        (-1, ""),
        ("x", ""),
        (None, ""),
    ],
)
def test_a_size(number: object, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("reference", "address"),
    [
        ("ghcr.io/team/support:1", "https://ghcr.io/team/support"),
        ("team/support:1", "https://hub.docker.com/r/team/support"),
        ("support", "https://hub.docker.com/r/library/support"),
        (f"docker.io/team/support@{DIGEST}", "https://hub.docker.com/r/team/support"),
        (f"quay.io/team/support:1@{DIGEST}", f"https://quay.io/repository/team/support/manifest/{DIGEST}"),
        (
            "europe-docker.pkg.dev/project/models/support:1",
            "https://europe-docker.pkg.dev/project/models/support",
        ),
        ("myregistry.azurecr.io/support:1", ""),
        ("127.0.0.1:5000/support:1", ""),
        ("ghcr.io.evil.example/team/support", ""),
        ("javascript:alert(1)", ""),
        ("ghcr.io/team/<script>", ""),
        ("", ""),
    ],
)
def test_the_page_of_an_image_in_its_registry(reference: str, address: str) -> None:
    assert registry_page(reference) == address
