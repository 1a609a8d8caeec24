"""What the cloud knows of agent pools and their operations, in <state>/arm.json, so that it survives a restart.

Every change is written before it is answered. It must never hold a Kubernetes object: Nodes live in the cluster.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

Json = dict[str, Any]

CREATING, UPDATING, DELETING, CANCELING = "Creating", "Updating", "Deleting", "Canceling"
STOPPING, STARTING = "Stopping", "Starting"
SUCCEEDED, FAILED, CANCELED = "Succeeded", "Failed", "Canceled"
IN_PROGRESS = "InProgress"
#: While a pool of the cluster is in one of these, no other operation may start.
BUSY = frozenset({CREATING, UPDATING, DELETING, CANCELING, STOPPING, STARTING})
#: In these, machines are added or taken until there are as many as wanted.
SCALING = frozenset({CREATING, UPDATING, STOPPING, STARTING})


def timestamp() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class VirtualMachine:
    """One machine of a pool's scale set; `since` is the time of its launch in seconds of the epoch."""

    index: int
    since: float
    zone: str = ""
    leaving: bool = False


@dataclass
class Operation:
    """A long-running operation, as its status monitor shows it."""

    pool: str
    kind: str
    id: str = field(default_factory=lambda: str(uuid4()))
    status: str = IN_PROGRESS
    start_time: str = field(default_factory=timestamp)
    end_time: str | None = None
    error: Json | None = None
    http_status: int = 500  # of the failure, for those who ask for the operation's result

    @property
    def done(self) -> bool:
        return self.status != IN_PROGRESS


@dataclass
class Pool:
    """An agent pool: `properties` are those of the wire without the read-only ones that follow from the rest."""

    name: str
    properties: Json
    state: str = CREATING
    etag: str = field(default_factory=lambda: str(uuid4()))
    operation: str | None = None
    error: Json | None = None
    next_index: int = 0
    machines: list[VirtualMachine] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        return bool((self.properties.get("powerState") or {}).get("code") == "Stopped")

    @property
    def count(self) -> int:
        """How many machines there are to be."""
        return 0 if self.stopped else int(self.properties.get("count", 1))

    @property
    def instance_type(self) -> str:
        return str(self.properties["vmSize"])

    @property
    def zones(self) -> list[str]:
        return list(self.properties.get("availabilityZones") or [])

    @property
    def spot(self) -> bool:
        return bool(self.properties.get("scaleSetPriority") == "Spot")

    def launch(self, now: float | None = None) -> list[VirtualMachine]:
        """Add the machines that are missing up to `count`, spread over the zones; returns the new ones."""
        new = []
        for _ in range(self.count - sum(not m.leaving for m in self.machines)):
            zone = self.zones[self.next_index % len(self.zones)] if self.zones else ""
            new.append(VirtualMachine(self.next_index, now or time.time(), zone))
            self.next_index += 1
        self.machines += new
        return new


class ArmState:
    """Pools and operations by name and id. All calls come from the sandbox's one event loop, so nothing is locked."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.pools: dict[str, Pool] = {}
        self.operations: dict[str, Operation] = {}
        if path is not None and path.exists():
            self._load(json.loads(path.read_text()))

    def _load(self, stored: Json) -> None:
        for entry in stored["pools"]:
            machines = [VirtualMachine(**machine) for machine in entry.pop("machines")]
            self.pools[entry["name"]] = Pool(**entry, machines=machines)
        self.operations = {entry["id"]: Operation(**entry) for entry in stored["operations"]}

    def save(self) -> None:
        if self._path is None:
            return
        stored = {
            "pools": [asdict(pool) for pool in self.pools.values()],
            "operations": [asdict(operation) for operation in list(self.operations.values())[-1000:]],
        }
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(stored))
        fresh.replace(self._path)

    def busy(self) -> Pool | None:
        """The pool that an operation is running on, if any."""
        return next((pool for pool in self.pools.values() if pool.state in BUSY), None)

    def begin(self, pool: Pool, state: str) -> Operation:
        """Start an operation that has the pool in this state; the eTag changes with it."""
        operation = Operation(pool.name, state)
        self.operations[operation.id] = operation
        pool.state, pool.operation, pool.error = state, operation.id, None
        self.touch(pool)
        return operation

    def finish(self, pool: Pool, state: str, error: Json | None = None, http_status: int = 500) -> None:
        """End the pool's operation with the state that the pool is left in."""
        self._end(pool.operation, FAILED if error else SUCCEEDED, error, http_status)
        pool.state, pool.error = state, error
        self.touch(pool)

    def cancel(self, pool: Pool) -> Operation:
        """Abort the pool's operation; returns the operation that does it."""
        error = {"code": "Canceled", "message": "The operation was aborted.", "details": []}
        self._end(pool.operation, CANCELED, error, 409)
        return self.begin(pool, CANCELING)

    def forget(self, pool: Pool) -> None:
        """The pool is deleted, and its operation with it succeeded."""
        self._end(pool.operation, SUCCEEDED, None, 200)
        self.pools.pop(pool.name, None)
        self.save()

    def touch(self, pool: Pool) -> None:
        pool.etag = str(uuid4())
        self.save()

    def _end(self, id_: str | None, status: str, error: Json | None, http_status: int) -> None:
        operation = self.operations.get(id_ or "")
        if operation is not None and not operation.done:
            operation.status, operation.end_time = status, timestamp()
            operation.error, operation.http_status = error, http_status
