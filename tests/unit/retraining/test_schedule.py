"""When a retraining is due: cron in a time zone, missed times once, and what can never be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.retraining.schedule import BadSchedule, Due, due, parse

MONDAY_3 = "0 3 * * 1"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CRONS = st.sampled_from(
    [MONDAY_3, "*/7 * * * *", "30 2 * * *", "0 0 29 2 *", "@weekly", "15 14 1 * *", "5 4 * * 0"]
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
MOMENTS = st.integers(1_700_000_000, 1_950_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def test_a_time_is_wall_clock_time_of_its_zone() -> None:
    assert parse(MONDAY_3, "Europe/Berlin").next_after(NOW) == datetime(2026, 11, 30, 2, 0, tzinfo=UTC)
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert parse(MONDAY_3, "Europe/Berlin").next_after(summer) == datetime(2026, 7, 6, 1, 0, tzinfo=UTC)


def test_the_hour_that_clocks_leave_out_fires_after_the_jump_and_the_one_they_repeat_fires_once() -> None:
    daily = parse("30 2 * * *", "Europe/Berlin")
    spring = daily.next_after(datetime(2026, 3, 29, 0, 0, tzinfo=UTC))
    assert spring == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # 02:30 is 03:30 that day
    autumn = daily.next_after(datetime(2026, 10, 25, 0, 0, tzinfo=UTC))
    assert autumn == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert daily.next_after(autumn) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@given(CRONS, ZONES, MOMENTS)
def test_the_next_time_lies_after_the_moment_and_times_only_rise(
    cron: str, zone: str, moment: datetime
) -> None:
    schedule = parse(cron, zone)
    first = schedule.next_after(moment)
    assert first > moment
    assert schedule.next_after(first) > first
    assert schedule.last_until(first, moment) == first


@given(CRONS, ZONES, MOMENTS, st.timedeltas(timedelta(0), timedelta(days=900)))
def test_however_long_nobody_looked_a_missed_time_is_due_once(
    cron: str, zone: str, begin: datetime, away: timedelta
) -> None:
    schedule = parse(cron, zone)
    first = due(schedule, None, begin)
    assert first.at is None  # a new schedule never starts at once
    assert first.next > begin
    now = begin + away
    seen = due(schedule, first.next, now)
    assert (seen.at is not None) == (now >= first.next)
    assert seen.next > now
    if seen.at:
        assert first.next <= seen.at <= now
    assert due(schedule, seen.next, now) == Due(None, seen.next)


@pytest.mark.parametrize(
    ("text", "zone", "reason", "hint"),
    [
        ("0 0 30 2 *", "UTC", "never fires", "a day that exists"),
        ("0 0 31 4,6,9,11 *", "UTC", "never fires", "a day that exists"),
        ("61 * * * *", "UTC", "no cron expression", "five fields"),
        ("* * * *", "UTC", "no cron expression", "five fields"),
        ("* * * * * *", "UTC", "no cron expression of 5 fields", "five fields"),
        ("@fortnightly", "UTC", "no cron expression", "@weekly"),
        ("", "UTC", "no cron expression", "five fields"),
        (MONDAY_3, "Europe/Berln", "is no time zone", "did you mean Europe/Berlin?"),
        (MONDAY_3, "", "is no time zone", "IANA"),
        ("@data", "Mars/Base", "is no time zone", ""),
    ],
)
def test_what_cannot_be_says_why_and_what_would_be_right(
    text: str, zone: str, reason: str, hint: str
) -> None:
    with pytest.raises(BadSchedule, match=reason) as raised:
        parse(text, zone)
    assert hint in raised.value.hint


@settings(max_examples=40)
@given(st.text(max_size=20), st.sampled_from(["UTC", "Europe/Berln", "", "x/../y"]))
def test_any_text_is_a_schedule_or_a_bad_one(text: str, zone: str) -> None:
    try:
        found = parse(text, zone)
    except BadSchedule:
        return
    assert found.on_data or found.next_after(NOW) > NOW


def test_data_has_no_times() -> None:
    assert parse("@data").on_data
    with pytest.raises(BadSchedule):
        parse("@data").next_after(NOW)
