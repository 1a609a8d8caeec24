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


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*TOLD, "other"), VALUES)))
def test_whatever_a_pod_says_is_shown_or_left_out(told: dict[str, Any]) -> None:
    found = data_report(told)
    if found:
        texts = [*(text for _, text in found.facts), *found.findings]
        assert all(isinstance(text, str) for text in texts)


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
