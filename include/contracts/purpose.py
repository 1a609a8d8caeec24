"""What machines, plans and pools are for. A Workspace may have one pool for each purpose."""

from __future__ import annotations

from enum import StrEnum


class Purpose(StrEnum):
    """As labels, plans, `status.cost` and the tasks' arguments spell it."""

    TUNING = "tuning"
    SERVING = "serving"
