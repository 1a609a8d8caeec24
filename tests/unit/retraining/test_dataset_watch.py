"""What a server's marks and the digest of the rows say about a change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.row_changes import RowChanges
from include.retraining.dataset_watch import (
    Mark,
    Rows,
    Seen,
    change,
    compare,
    cools_down,
    next_look,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TEXTS = st.sampled_from(["", "a", "b"])
MARKS = st.builds(Mark, **dict.fromkeys(Mark.__slots__, TEXTS))


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        (Mark(etag='"a"'), Mark(etag='"a"'), Seen.SAME),
        (Mark(etag='"a"'), Mark(etag='W/"a"'), Seen.SAME),
        (Mark(etag='"a"'), Mark(etag='"b"'), Seen.CHANGED),
        (Mark(modified="m", size="1"), Mark(modified="m", size="1"), Seen.SAME),
        (Mark(modified="m", size="1"), Mark(modified="m", size="2"), Seen.CHANGED),
        (Mark(etag='"a"', modified="m"), Mark(modified="m"), Seen.SAME),
        (Mark(digest="sha256:a", etag='"a"'), Mark(digest="sha256:a", etag='"b"'), Seen.SAME),
        (Mark(digest="sha256:a"), Mark(digest="sha256:b"), Seen.CHANGED),
        (Mark(), Mark(), Seen.UNKNOWN),
        (Mark(size="1"), Mark(size="1"), Seen.UNKNOWN),
        (Mark(size="1"), Mark(size="2"), Seen.CHANGED),
        (Mark(etag='"a"'), Mark(modified="m"), Seen.UNKNOWN),
        (Mark(commit="a", etag='"a"'), Mark(commit="a", etag='"b"'), Seen.SAME),
        (Mark(commit="a", etag='"a"'), Mark(commit="b", etag='"a"'), Seen.SAME),
        (Mark(commit="a", etag='"a"'), Mark(commit="b", etag='"b"'), Seen.CHANGED),
        (Mark(commit="a"), Mark(commit="b"), Seen.CHANGED),
        (Mark(commit="a"), Mark(), Seen.UNKNOWN),
        (Mark(version="1", modified="m"), Mark(version="1", modified="n"), Seen.SAME),
        (Mark(version="1", modified="m", size="1"), Mark(version="2", modified="m", size="1"), Seen.CHANGED),
        (Mark(version="1", etag='"a"'), Mark(version="2", etag='"a"'), Seen.SAME),
    ],
)
def test_one_source(old: Mark, new: Mark, seen: Seen) -> None:
    assert compare([old], [new]) is seen


@given(st.lists(MARKS, max_size=4))
def test_a_look_at_the_same_marks_never_says_that_they_changed(marks: list[Mark]) -> None:
    assert compare(marks, marks) is not Seen.CHANGED
    assert [Mark.of(mark.as_dict()) for mark in marks] == marks


@given(st.lists(MARKS, max_size=4), MARKS)
def test_another_number_of_sources_is_a_change(marks: list[Mark], more: Mark) -> None:
    assert compare(marks, [*marks, more]) is Seen.CHANGED


def test_a_changed_mark_with_the_same_rows_is_not_worth_a_training() -> None:
    same = change(Rows("sha256:a", 10), Rows("sha256:a", 10))
    assert (same.worth, same.new) == (False, False)
    assert "same 10 rows" in same.why


@pytest.mark.parametrize(
    ("rows", "share", "worth", "why"),
    [
        (0, 0.0, True, "100 rows have become 104"),
        (5, 0.0, False, "4 of them changed, and the policy asks for 5"),
        (4, 0.0, True, "104"),
        (0, 0.05, False, "4.0%, and the policy asks for 5.0%"),
        (0, 0.04, True, "104"),
    ],
)
def test_a_small_change_may_wait(rows: int, share: float, worth: bool, why: str) -> None:
    found = change(Rows("sha256:a", 100), Rows("sha256:b", 104), rows=rows, share=share)
    assert found.worth is worth
    assert found.new
    assert why in found.why


@pytest.mark.parametrize(
    ("moved", "rows", "share", "worth", "why"),
    [
        (RowChanges(6, 2), 0, 0.0, True, "100 rows have become 104 (+6 \u22122 rows)"),
        (RowChanges(6, 2), 9, 0.0, False, "8 of them changed, and the policy asks for 9"),
        (RowChanges(6, 2), 8, 0.0, True, "104"),
        (RowChanges(6, 2), 0, 0.09, False, "8.0%, and the policy asks for 9.0%"),
        (RowChanges(6, 2), 0, 0.08, True, "104"),
        (RowChanges(0, 0), 0, 0.0, False, "the same 104 rows as before in another order"),
    ],
)
def test_rows_that_are_known_one_by_one_count_where_their_number_says_nothing(
    moved: RowChanges, rows: int, share: float, worth: bool, why: str
) -> None:
    found = change(Rows("sha256:a", 100), Rows("sha256:b", 104), moved, rows=rows, share=share)
    assert found.worth is worth
    assert why in found.why


@pytest.mark.parametrize("rows", [100, 104])
def test_a_digest_of_an_earlier_release_tells_nothing_of_the_rows(rows: int) -> None:
    before, now = Rows("sha256:a", 100), Rows("sha256+columns:b", rows)
    found = change(before, now)
    assert found.worth, "an edit of a row must not be passed over for good"
    assert f"{rows} rows, and the digest of the 100 rows before is of an earlier release" in found.why
    assert not change(before, now, RowChanges(0, 0)).worth, "the rows' own digests tell"
    assert not change(before, now, rows=5).worth


def test_changed_rows_are_known_only_both_ways() -> None:
    assert RowChanges.of(0, 0) == RowChanges(0, 0)
    assert RowChanges.of(None, 3) is None
    assert RowChanges.of(3, None) is None


def test_without_an_earlier_version_there_is_something_to_learn() -> None:
    assert change(None, Rows("sha256:a", 1)).worth


@given(st.timedeltas(timedelta(0), timedelta(days=9)), st.timedeltas(timedelta(0), timedelta(days=9)))
def test_no_server_is_asked_sooner_than_the_policy_says(every: timedelta, since: timedelta) -> None:
    assert (next_look(NOW - since, every, NOW) <= NOW) == (since >= every)
    assert (cools_down(NOW - since, every, NOW) is None) == (since >= every)


def test_the_first_look_is_at_once() -> None:
    assert next_look(None, timedelta(hours=1), NOW) == NOW
    assert cools_down(None, timedelta(hours=1), NOW) is None
