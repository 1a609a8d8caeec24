"""Faults on demand: what a test or a demo breaks on purpose, in one place that every part of the sandbox asks.

The API server asks before it answers, the cloud before it boots a machine, the node agent when it is told to kill.
It never injects anything by itself: with no fault set, nothing here changes any behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any
from uuid import uuid4


class FaultKind(StrEnum):
    """What can be broken, and what `target` (a shell pattern) and `value` mean for it."""

    QUOTA = "quota"  # target: instance type or TYPE/spot; the cloud answers that the quota is used up
    NO_CAPACITY = (
        "no-capacity"  # target: instance type, TYPE@ZONE or TYPE/spot; the cloud has no such machine left
    )
    SKU = "sku"  # target: instance type or TYPE@ZONE; the cloud does not offer it to this subscription
    AUTH = "auth"  # target: "METHOD /path" of Azure; value: 403 (default) or 401, an expired token
    SLOW_BOOT = "slow-boot"  # target: instance type; value: seconds added to the boot
    NODE_LOSS = "node-loss"  # target: node; its machine vanishes at once
    SPOT_EVICTION = "spot-eviction"  # target: node; value: seconds of notice before the machine goes
    POD_KILL = "pod-kill"  # target: namespace/pod; its processes get SIGKILL
    OOM = "oom"  # target: namespace/pod; its processes are killed as if out of memory
    REGISTRY_DOWN = "registry-down"  # no target; the registry's process is stopped until cleared
    API_ERROR = "api-error"  # target: "METHOD /path"; value: HTTP status (default 500)
    API_THROTTLE = "api-throttle"  # target: "METHOD /path"; value: Retry-After seconds (429)
    API_LATENCY = "api-latency"  # target: "METHOD /path"; value: seconds before the answer
    WATCH_DROP = "watch-drop"  # target: "/path"; open watches are cut; value is not used


#: These happen once, when they are set; the others stay until they are cleared or their count is used up.
ONE_SHOT = frozenset(
    {FaultKind.NODE_LOSS, FaultKind.SPOT_EVICTION, FaultKind.POD_KILL, FaultKind.OOM, FaultKind.WATCH_DROP}
)
NEEDS_VALUE = frozenset({FaultKind.SLOW_BOOT, FaultKind.API_LATENCY})


@dataclass(frozen=True)
class Fault:
    """One thing that is broken. `count` is how often it is still injected; None means until it is cleared.

    `every` injects it at each n-th occasion only: 20 is one request in twenty.
    """

    kind: FaultKind
    target: str = "*"
    value: float | None = None
    count: int | None = None
    message: str = ""
    every: int = 1
    id: str = field(default_factory=lambda: uuid4().hex[:8])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fault:
        """Read a fault as the CLI sends it; raises ValueError with a sentence when it makes no sense."""
        known = ", ".join(kind.value for kind in FaultKind)
        try:
            kind = FaultKind(str(data.get("kind")))
        except ValueError:
            raise ValueError(f"There is no fault {data.get('kind')!r}. The sandbox knows: {known}.") from None
        value = data.get("value")
        count = data.get("count")
        if kind in NEEDS_VALUE and value is None:
            raise ValueError(f"The fault {kind} needs a value in seconds, for example --value 5.")
        return cls(
            kind=kind,
            target=str(data.get("target") or "*"),
            value=None if value is None else float(value),
            count=None if count is None else int(count),
            message=str(data.get("message") or ""),
            every=max(1, int(data.get("every") or 1)),
        )


Listener = Callable[[Fault, bool], None]


class Faults:
    """The faults that are active now. All calls come from the sandbox's one event loop, so nothing is locked."""

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self._occasions: dict[str, int] = {}
        self._listeners: list[tuple[FaultKind, Listener]] = []

    def active(self) -> list[Fault]:
        return list(self._active)

    def listen(self, kind: FaultKind, listener: Listener) -> None:
        """Call `listener(fault, True)` when such a fault is set and `listener(fault, False)` when it is cleared."""
        self._listeners.append((kind, listener))

    def set(self, fault: Fault) -> Fault:
        if fault.kind not in ONE_SHOT:
            self._active.append(fault)
        self._notify(fault, True)
        return fault

    def clear(self, *, kind: str | None = None, id: str | None = None) -> list[Fault]:
        """Clear the faults of that kind or id, or all of them; returns what was cleared."""
        gone = [f for f in self._active if (kind is None or f.kind == kind) and (id is None or f.id == id)]
        self._active = [f for f in self._active if f not in gone]
        for fault in gone:
            self._notify(fault, False)
        return gone

    def peek(self, kind: FaultKind, target: str = "") -> Fault | None:
        """The first active fault of that kind whose pattern matches, without using up its count."""
        return next((f for f in self._active if f.kind == kind and fnmatchcase(target, f.target)), None)

    def inject(self, kind: FaultKind, target: str = "") -> Fault | None:
        """Like `peek`, but only at each `every`-th call, and a fault with a count has one less left afterwards."""
        fault = self.peek(kind, target)
        if fault is not None and fault.every > 1:
            self._occasions[fault.id] = seen = self._occasions.get(fault.id, 0) + 1
            if seen % fault.every:
                return None
        if fault is None or fault.count is None:
            return fault
        left = fault.count - 1
        place = self._active.index(fault)
        if left > 0:
            self._active[place] = replace(fault, count=left)
        else:
            del self._active[place]
            self._notify(fault, False)
        return fault

    def handle(
        self, method: str, query: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        """Answer the control endpoint `/sandbox.local/faults`: GET lists, POST sets, DELETE clears (`kind`, `id`)."""
        if method == "GET":
            return 200, {"faults": [fault.to_dict() for fault in self._active]}
        if method == "DELETE":
            gone = self.clear(kind=query.get("kind"), id=query.get("id"))
            return 200, {"cleared": [fault.to_dict() for fault in gone]}
        if method == "POST":
            try:
                return 201, self.set(Fault.from_dict(body or {})).to_dict()
            except (ValueError, TypeError) as error:
                return 400, {"message": str(error)}
        return 405, {"message": f"/sandbox.local/faults answers GET, POST and DELETE, not {method}."}

    def _notify(self, fault: Fault, active: bool) -> None:
        for kind, listener in self._listeners:
            if kind == fault.kind:
                listener(fault, active)
