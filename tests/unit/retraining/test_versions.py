"""Names of versions, what is kept of them, and which one a rollback means."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.image_reference import parse_reference
from include.retraining import versions
from include.retraining.versions import State, candidate_name, expired, find, kept, next_version, with_entry

NOW = datetime(2026, 11, 28, 23, 30, tzinfo=UTC)
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def entry(version: str, digest: str = "", state: State = State.REFUSED, promoted: str = "") -> dict[str, str]:
    found = {"version": version, "state": state}
    if digest:
        found |= {"digest": digest, "reference": f"r.io/x@{digest}"}
    return found | ({"promotedAt": promoted} if promoted else {})


def test_versions_count_within_a_day_of_utc() -> None:
    assert next_version(NOW, []) == "20261128.1"
    assert next_version(NOW, ["20261127.4", "20261128.1", "20261128.9", "no version"]) == "20261128.10"


def test_a_version_is_a_tag_of_the_same_repository() -> None:
    assert versions.image("reg.io/a/b:0.0.1", "20261128.1") == "reg.io/a/b:0.0.1-20261128.1"
    assert versions.image("reg.io/a/b", "20261128.1") == "reg.io/a/b:latest-20261128.1"
    assert versions.image(f"reg.io/a/b:1@{A}", "20261128.1") == "reg.io/a/b:1-20261128.1"
    assert versions.image("reg.io/a/b:1-20261127.3", "20261128.1") == "reg.io/a/b:1-20261128.1"


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True))
def test_every_tag_has_a_version(tag: str) -> None:
    found = parse_reference(versions.image(f"reg.io/a/b:{tag}", "20261128.12"))
    tag_now = str(found.tag)
    assert tag_now.endswith("-20261128.12")
    assert len(tag_now) <= versions.TAG_LENGTH


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", fullmatch=True), st.integers(1, 999))
def test_a_candidate_has_a_short_dns_label_of_its_own(name: str, number: int) -> None:
    found = candidate_name(name, f"20261128.{number}")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", found)
    assert len(found) <= versions.NAME_LENGTH
    assert found != candidate_name(name, f"20261128.{number + 1}")
    assert found != candidate_name(name + "x", f"20261128.{number}")


HISTORIES = st.lists(
    st.builds(
        entry,
        version=st.integers(1, 40).map(lambda n: f"20261128.{n}"),
        digest=st.sampled_from([A, B, C]),
        state=st.sampled_from(list(State)),
        promoted=st.sampled_from(["", "2026-11-28T10:00:00Z"]),
    ),
    max_size=12,
)


@given(HISTORIES, st.integers(1, 6), st.sampled_from(["", A, B]))
def test_what_was_promoted_is_served_or_is_under_way_is_never_removed(
    history: list[dict[str, str]], keep: int, served: str
) -> None:
    gone = expired(history, keep, served)
    assert sorted(map(str, gone + kept(history, keep, served))) == sorted(map(str, history))
    for one in gone:
        assert not one.get("promotedAt")
        assert one.get("digest") != served or not served
        assert one["state"] not in (State.TRAINING, State.CANDIDATE)
    assert len(kept(history, keep, served)) >= min(keep, len(history))


def test_a_version_is_written_once_and_then_brought_up_to_date() -> None:
    history = with_entry([], entry("20261128.1", state=State.TRAINING))
    history = with_entry(history, entry("20261128.2", B))
    history = with_entry(history, {"version": "20261128.1", "state": State.PROMOTED, "digest": A})
    assert [(one["version"], one["state"]) for one in history] == [
        ("20261128.1", State.PROMOTED),
        ("20261128.2", State.REFUSED),
    ]


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("previous", "20261128.1"),
        ("20261128.2", "20261128.2"),
        (B, "20261128.2"),
        ("b" * 12, "20261128.2"),
        ("b" * 11, None),
        ("20261128.9", None),
        ("20261128.4", None),
    ],
)
def test_a_rollback_names_a_version_that_is_in_the_registry(wanted: str, version: str | None) -> None:
    history = [
        entry("20261128.1", A, State.PROMOTED, "2026-11-28T10:00:00Z"),
        entry("20261128.2", B, State.REFUSED),
        entry("20261128.3", C, State.PROMOTED, "2026-11-28T12:00:00Z"),
        entry("20261128.4", state=State.FAILED),
    ]
    assert (find(history, wanted, C) or {}).get("version") == version
