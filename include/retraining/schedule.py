"""When a retraining is due: five-field cron in a time zone, or `@data` for when the dataset changes.

A schedule is wall-clock time: in the hour that a summer time repeats it fires once, and what falls into the hour that
is left out fires right after it. However long nobody looked, a missed time is due once, never in a burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from include.contracts.faults import nearest

DATA = "@data"
#: Of a schedule that names no time zone.
DEFAULT_ZONE = "UTC"
#: A cron that has no time in so many years has none.
YEARS = 8
FIELDS = 5
ALLOWED = f"write five fields of cron such as '0 3 * * 1', a word such as @weekly, or {DATA}"


class BadSchedule(ValueError):
    """A schedule that cannot be used; str() is the end of a sentence, `hint` is what would be right."""

    def __init__(self, reason: str, hint: str = ALLOWED) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to retrain. `cron` is "" where the dataset decides (`@data`)."""

    cron: str
    zone: ZoneInfo

    @property
    def on_data(self) -> bool:
        return not self.cron

    def next_after(self, moment: datetime) -> datetime:
        """The first time after a moment, in UTC. Raises BadSchedule when there is none."""
        if self.on_data:
            raise BadSchedule("follows the dataset, so no time can be told")
        from croniter import CroniterBadDateError, croniter  # `check` starts without it

        wall = moment.astimezone(self.zone).replace(tzinfo=None)
        times = croniter(self.cron, wall, max_years_between_matches=YEARS)
        while True:
            try:
                local: datetime = times.get_next(datetime)
            except CroniterBadDateError:
                raise BadSchedule("never fires: no day is like that", "use a day that exists") from None
            # A time that the clocks leave out becomes the same distance after the jump, by way of UTC.
            found = local.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            if found > moment:
                return found

    def last_until(self, moment: datetime, since: datetime) -> datetime:
        """The latest time up to `moment`, `since` where there is none after it: what a run that is late is for."""
        from croniter import CroniterBadDateError, croniter

        wall = moment.astimezone(self.zone).replace(tzinfo=None) + timedelta(seconds=1)
        times = croniter(self.cron, wall, max_years_between_matches=YEARS)
        while True:
            try:
                local: datetime = times.get_prev(datetime)
            except CroniterBadDateError:
                return since
            found = local.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
            if found <= moment:
                return max(found, since)


@lru_cache(maxsize=1024)
def parse(text: str, zone: str = DEFAULT_ZONE) -> Schedule:
    """A schedule from its text. Raises BadSchedule: no cron, a cron that never fires, an unknown time zone."""
    from croniter import CroniterError, croniter

    known = zone_of(zone)
    text = text.strip()
    if text == DATA:
        return Schedule("", known)
    if not text.startswith("@") and len(text.split()) != FIELDS:
        raise BadSchedule(f"is no cron expression of {FIELDS} fields")
    try:
        croniter(text)
    except (CroniterError, ValueError, KeyError) as error:
        raise BadSchedule(
            f"is no cron expression: {str(error).splitlines()[0] if str(error) else text}"
        ) from None
    found = Schedule(text, known)
    found.next_after(datetime(2026, 1, 1, tzinfo=UTC))
    return found


def zone_of(name: str) -> ZoneInfo:
    """A time zone of the IANA database. Raises BadSchedule with the nearest name."""
    names = _zones()
    if name in names:
        return ZoneInfo(name)
    close = nearest(name, names)
    hint = (
        f"did you mean {close}?" if close else "name one of the IANA database, such as Europe/Berlin or UTC"
    )
    raise BadSchedule("is no time zone", hint)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


@dataclass(frozen=True, slots=True)
class Due:
    """What a look at the clock says: `at` is the time that is due now (None: none), `next` when to look again."""

    at: datetime | None
    next: datetime


def due(schedule: Schedule, planned: datetime | None, now: datetime) -> Due:
    """Whether a time has come, and the next one.

    `planned` is the next time as it was recorded, None where none was: then the schedule begins now, and nothing is
    due at once. Times that were missed (a paused Workspace, a lost scheduler) are one.
    """
    if planned is None:
        return Due(None, schedule.next_after(now))
    if now < planned:
        return Due(None, planned)
    return Due(schedule.last_until(now, planned), schedule.next_after(now))
