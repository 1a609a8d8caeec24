"""Requests a second of services, from the counters of their servers at several looks.

Nobody asks on a schedule: a rate is known where somebody looked twice. No clock and no I/O here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

Key = tuple[str, str]
#: A rate is that of the last minute, or of the time since the look before; what is older than `STALE` is not known.
WINDOW_SECONDS, STALE_SECONDS = 60.0, 900.0


@dataclass
class _Heard:
    """What the servers of one service told: their counters, and at each look the sum of all that was new since."""

    counts: Mapping[str, float] = field(default_factory=dict)
    looks: deque[tuple[float, float]] = field(default_factory=deque)
    asked: float | None = None


class Traffic:
    """The rates of services, by namespace and name. Moments are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self._services: dict[Key, _Heard] = {}

    def due(self, keys: Iterable[Key], now: float, pause: float, most: int) -> list[Key]:
        """The services to look at now: unasked for `pause` seconds, the longest unasked first, at most so many."""
        waits = [(self._services.get(key, _Heard()).asked, key) for key in keys]
        open_ = [(asked, key) for asked, key in waits if asked is None or now - asked >= pause]
        open_.sort(key=lambda one: (one[0] is not None, one[0] or 0.0, one[1]))
        return [key for _, key in open_[:most]]

    def asked(self, key: Key, now: float) -> None:
        """A service is being asked."""
        self._services.setdefault(key, _Heard()).asked = now

    def heard(self, key: Key, counts: Mapping[str, float], now: float) -> None:
        """The servers of a service told how many requests each has answered since it started, by its pod's uid.

        A server that tells less than before, or is new, has started since: all that it counts is new.
        """
        known = self._services.setdefault(key, _Heard())
        if known.looks and now - known.looks[-1][0] > STALE_SECONDS:
            known.looks.clear()
        if not known.looks:
            known.looks.append((now, 0.0))
        else:
            before = {uid: known.counts.get(uid, 0.0) for uid in counts}
            more = sum(told - before[uid] if told >= before[uid] else told for uid, told in counts.items())
            known.looks.append((now, known.looks[-1][1] + more))
        known.counts = dict(counts)
        while len(known.looks) > 2 and now - known.looks[1][0] >= WINDOW_SECONDS:
            known.looks.popleft()

    def per_second(self, key: Key, now: float) -> float | None:
        """Requests a second, None where nobody has looked twice lately."""
        looks = self._services.get(key, _Heard()).looks
        if len(looks) < 2 or now - looks[-1][0] > STALE_SECONDS:
            return None
        (begin, first), (end, last) = looks[0], looks[-1]
        return (last - first) / (end - begin) if end > begin else None

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all services but these."""
        self._services = {key: one for key, one in self._services.items() if key in keys}
