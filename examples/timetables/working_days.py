"""Every working day at three, and on the first of each month at noon, which no single cron expression says.

timetable: "examples.timetables.working_days:timetable"
"""

from __future__ import annotations

from airflow.sdk import MultipleCronTriggerTimetable


def timetable() -> MultipleCronTriggerTimetable:
    """Return a new timetable."""
    return MultipleCronTriggerTimetable("0 3 * * 1-5", "0 12 1 * *", timezone="Europe/Berlin")
