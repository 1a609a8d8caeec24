"""Where objects live: in memory for speed, in SQLite against `kill -9`, and in a log so that watches resume.

One counter numbers every change, as etcd's revision does. Stored objects are shared and must never be changed.
Not thread-safe by design: everything runs on one event loop.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sandbox.api.errors import expired

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
Key = tuple[str, str]  # namespace ("" for cluster scope), name

HISTORY = 5_000  # changes remembered per resource; a real server keeps about five minutes' worth

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Entry:
    """One version of one object, with its JSON text made once and shared by every list and watch."""

    obj: Json
    revision: int
    _text: bytes | None = None

    def text(self) -> bytes:
        if self._text is None:
            self._text = json.dumps(self.obj, ensure_ascii=False, separators=(",", ":")).encode()
        return self._text

    def copy(self) -> Json:
        """A private copy of the object."""
        return cast("Json", json.loads(self.text()))


@dataclass(slots=True, frozen=True)
class Change:
    """One line of a resource's log. For DELETED, `entry` is the last state under the deletion's revision."""

    type: str
    key: Key
    entry: Entry
    previous: Entry | None
    revision: int


@dataclass(slots=True)
class Log:
    """The recent changes of one resource; `floor` is the newest revision that has been forgotten."""

    floor: int
    changes: list[Change] = field(default_factory=list)
    waiting: set[asyncio.Future[None]] = field(default_factory=set)

    def append(self, change: Change) -> None:
        self.changes.append(change)
        if len(self.changes) > 2 * HISTORY:
            self.forget(len(self.changes) - HISTORY)
        self.wake()

    def forget(self, count: int) -> None:
        if count > 0:
            self.floor = self.changes[count - 1].revision
            del self.changes[:count]

    def after(self, revision: int) -> list[Change]:
        """The changes newer than a revision; raises ApiError (410) when some of them are forgotten."""
        if revision < self.floor:
            raise expired(f"too old resource version: {revision} ({self.floor})")
        return self.changes[bisect_right(self.changes, revision, key=lambda change: change.revision) :]

    def wake(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()

    async def changed(self, timeout: float | None) -> None:
        """Return at the next change or when the seconds have passed."""
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            self.waiting.discard(waiter)


class Storage:
    """All objects by resource (`pods`, `workspaces.kaito.sh`) and key."""

    def __init__(self, path: Path | None) -> None:
        self.revision = 0
        self._objects: dict[str, dict[Key, Entry]] = {}
        self._logs: dict[str, Log] = {}
        self._uids: dict[str, tuple[str, Key]] = {}
        self._dependents: dict[str, set[tuple[str, Key]]] = {}  # owner's uid -> objects that name it
        self._database = self._open(path)
        self._load()

    @staticmethod
    def _open(path: Path | None) -> sqlite3.Connection:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path or ":memory:", isolation_level=None)
        # WAL without fsync: a killed process loses nothing, only a power cut could, and a sandbox may forget then.
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")
        database.executescript(_TABLES)
        return database

    def _load(self) -> None:
        row = self._database.execute("SELECT value FROM counters WHERE name='revision'").fetchone()
        self.revision = row[0] if row else 0
        for resource, namespace, name, body in self._database.execute("SELECT * FROM objects"):
            obj = json.loads(body)
            entry = Entry(obj, int(obj["metadata"]["resourceVersion"]))
            self._remember(resource, (namespace, name), entry)

    def close(self) -> None:
        for log in self._logs.values():
            log.wake()
        self._database.close()

    # reading

    def get(self, resource: str, key: Key) -> Entry | None:
        return self._objects.get(resource, {}).get(key)

    def entries(self, resource: str, namespace: str | None = None) -> Iterator[tuple[Key, Entry]]:
        """Entries in the order that etcd keeps them: by namespace, then name."""
        return self._sorted(self._objects.get(resource, {}), namespace)

    @staticmethod
    def _sorted(found: dict[Key, Entry], namespace: str | None) -> Iterator[tuple[Key, Entry]]:
        wanted = (item for item in found.items() if namespace is None or item[0][0] == namespace)
        return iter(sorted(wanted, key=lambda item: item[0]))

    def snapshot(self, resource: str, namespace: str | None, revision: int) -> Iterator[tuple[Key, Entry]]:
        """The entries as they were at a revision; raises ApiError (410) when that is forgotten."""
        state = dict(self._objects.get(resource, {}))
        for change in reversed(self.log(resource).after(revision)):
            if change.previous is None:
                state.pop(change.key, None)
            else:
                state[change.key] = change.previous
        return self._sorted(state, namespace)

    def by_uid(self, uid: str) -> tuple[str, Key] | None:
        return self._uids.get(uid)

    def dependents(self, uid: str) -> list[tuple[str, Key]]:
        """Where the objects are that name this uid as an owner."""
        return sorted(self._dependents.get(uid, ()))

    def resources(self) -> list[str]:
        return [resource for resource, result in self._objects.items() if result]

    def log(self, resource: str) -> Log:
        log = self._logs.get(resource)
        if log is None:
            log = self._logs[resource] = Log(floor=self.revision)
        return log

    # writing

    def put(self, resource: str, key: Key, obj: Json) -> Entry:
        """Store an object under the next revision, which becomes its resourceVersion. Keeps `obj`."""
        log = self.log(resource)
        previous = self.get(resource, key)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        entry = Entry(obj, self.revision)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (resource, *key, entry.text().decode())
            )
        self._remember(resource, key, entry)
        log.append(Change("MODIFIED" if previous else "ADDED", key, entry, previous, self.revision))
        return entry

    def remove(self, resource: str, key: Key) -> Entry:
        """Drop an object; the returned last state carries the deletion's own revision."""
        log = self.log(resource)
        previous = self._objects[resource].pop(key)
        self.revision += 1
        last = {
            **previous.obj,
            "metadata": {**previous.obj["metadata"], "resourceVersion": str(self.revision)},
        }
        with self._transaction() as database:
            database.execute(
                "DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", (resource, *key)
            )
        self._uids.pop(previous.obj["metadata"].get("uid", ""), None)
        self._forget_owners(resource, key, previous.obj)
        entry = Entry(last, self.revision)
        log.append(Change("DELETED", key, entry, previous, self.revision))
        return entry

    def _forget_owners(self, resource: str, key: Key, obj: Json) -> None:
        for owner in obj["metadata"].get("ownerReferences") or ():
            named = self._dependents.get(owner["uid"], set())
            named.discard((resource, key))
            if not named:
                self._dependents.pop(owner["uid"], None)

    def _remember(self, resource: str, key: Key, entry: Entry) -> None:
        if previous := self.get(resource, key):
            self._forget_owners(resource, key, previous.obj)
        for owner in entry.obj["metadata"].get("ownerReferences") or ():
            self._dependents.setdefault(owner["uid"], set()).add((resource, key))
        self._objects.setdefault(resource, {})[key] = entry
        if uid := entry.obj["metadata"].get("uid"):
            self._uids[uid] = (resource, key)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._database, self.revision)


class _Transaction:
    """An object's change and the counter, together or not at all."""

    def __init__(self, database: sqlite3.Connection, revision: int) -> None:
        self._database = database
        self._revision = revision

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN")
        return self._database

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._database.execute("ROLLBACK")
            return
        self._database.execute("INSERT OR REPLACE INTO counters VALUES ('revision', ?)", (self._revision,))
        self._database.execute("COMMIT")
