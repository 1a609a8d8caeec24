"""No printed value shows a signature, a password or a token, whatever it looks like."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.redaction import hide, is_signed, redact, redact_url, redacted

C = "CANARY7f3a9c"


@pytest.mark.parametrize(
    "text",
    [
        f"https://h.example/a?sig={C}",
        f"HTTPS://H.EXAMPLE/a?SIG={C}",
        f"s3://bucket/key?X-Amz-Signature={C}",
        f"abfss://box@account/x?{C}",
        f"/relative/a.jsonl?sig={C}",
        f"a.jsonl?sig={C}&b",
        f"h.example/a?se=2026&sig={C}",
        f"https://h.example/a#{C}",
        f"https://h.example/a#x?sig={C}",
        f"https://user:{C}@h.example/a",
        f"https://{C}@h.example/a",
        f"HTTPS://{C}:@h.example/a",
        f"//me:{C}@h.example/a",
        f"me:{C}@registry.example/a:1",
        f"https:/h.example/a?sig={C}",
        f"sig={C}",
        f"x-goog-signature={C}",
        f"SharedAccessSignature={C}",
        f"Authorization: Bearer {C}0123456789012345",
        f"hf_{C}0123456789",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", "could not read {}: it is gone", "'{}'", '{{"url": "{}"}}', "[{}, x]"]
)
def test_canaries(text: str, around: str) -> None:
    assert C not in redact(around.format(text))


@pytest.mark.parametrize(
    "text",
    [
        "did you mean phi-4-mini-instruct?",
        "is it right? what machine",
        "see https://h.example/a for more",
        "registry.example.com:5000/adapters/phi:1@sha256:" + "a" * 64,
        "phi:1@sha256:" + "a" * 64,
        "tuning.output.image: is required (got 'h.io/a:1')",
        "learning_rate=0.0002, r=16",
        "Standard_NC24ads_A100_v4@1, Standard_NC24ads_A100_v4@2",
        "rank 16: 3 of 8 rows; 10:30 it began",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text


def test_hidden_values_go_wherever_they_are() -> None:
    hide("CANARY-of-this-test")
    assert redacted({"a CANARY-of-this-test": ["x", ("CANARY-of-this-test", 3)]}) == {
        "a ***": ["x", ["***", 3]]
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@example.com:8443/a/b?sig=1#x", "https://example.com:8443/a/b?..."),
        ("https://example.com/a", "https://example.com/a"),
        ("https://user:pw@example.com:99999/a?sig=1", "https://example.com:99999/a?..."),
        ("https://example.com/a?x='y' z", "https://example.com/a?..."),
        ("https://example.com/a?", "https://example.com/a"),
        ("h.io/a?b", "h.io/a?..."),
    ],
)
def test_a_whole_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_signed_url_never_shows_its_query(path: str, query: str) -> None:
    assert f"{C}" not in redact_url(f"https://h.example/{path}?{query}{C}")


@given(st.text(max_size=80))
def test_redacting_twice_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)
    json.dumps(redact(text))


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("https://h.example/a.jsonl", False),
        ("https://h.example/a.jsonl?download=true", False),
        ("https://h.example/a?sv=2024&sig=abc", True),
        ("HTTPS://h.example/a?X-Amz-Signature=abc", True),
        ("https://h.example/a?token=abc", True),
        ("https://user@h.example/a", True),
    ],
)
def test_which_urls_open_something(url: str, signed: bool) -> None:
    assert is_signed(url) is signed


@pytest.mark.parametrize("piece", ["x", "x.", "?a", "a:", "x=", "//", "a@", "?a=", "Bearer "])
def test_a_megabyte_takes_a_moment(piece: str) -> None:
    began = time.process_time()
    redact(piece * (1_000_000 // len(piece)))
    assert (
        time.process_time() - began < 20
    )  # it is a second at most; the square of the length would be an hour


def test_a_scheme_of_any_length_loses_its_query() -> None:
    assert redact("s" * 200 + "://host/path?sig=abc").endswith("://host/path?...")
