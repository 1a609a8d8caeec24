"""When each orphan was first seen as one, from one look to the next.

Losing it costs time and nothing else: everything is seen for the first time again. An orphan counts as seen only while
*every* look sees it as one, and no look is left out: after a longer pause nobody knows what happened in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from include.janitor.orphans import Verdict

#: Two looks that are further apart are strangers.
LONGEST_PAUSE = timedelta(minutes=45)
#: Airflow wants a stored value below 64 KiB. Whoever does not fit is remembered when others have gone.
MOST = 1000


@dataclass(frozen=True, slots=True)
class Memory:
    """`at`: the last look; `seen`: `Thing.key` to when it was first seen as an orphan."""

    at: datetime | None = None
    seen: Mapping[str, datetime] = field(default_factory=dict)

    @classmethod
    def load(cls, stored: Any, now: datetime) -> Memory:
        """Read what `dump` wrote; what is unreadable, from the future or too old is forgotten."""
        try:
            at = datetime.fromtimestamp(stored["at"], UTC)
            seen = {str(key): datetime.fromtimestamp(since, UTC) for key, since in stored["seen"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError):
            return cls()
        if not timedelta(0) <= now - at <= LONGEST_PAUSE:
            return cls()
        return cls(at, {key: since for key, since in seen.items() if since <= at})

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], now: datetime) -> Memory:
        """What this look saw."""
        orphans = sorted((v.since, v.thing.key) for v in verdicts if v.since is not None)
        return cls(now, {key: since for since, key in orphans[:MOST]})

    def dump(self) -> dict[str, Any]:
        """Plain numbers and texts: unix seconds."""
        at = int(self.at.timestamp()) if self.at else 0
        return {"at": at, "seen": {key: int(since.timestamp()) for key, since in self.seen.items()}}
