"""Whether a dataset has changed: first by what its server says about it, then by its content.

Servers say little and sometimes too much: an ETag may change while the bytes stay, and a server may say nothing at
all. So marks only decide whether to look; the digest of the rows decides whether there is anything new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from include.contracts.dataset_digest import comparable, short
from include.contracts.row_changes import RowChanges


@dataclass(frozen=True, slots=True)
class Mark:
    """What a server says of one source without sending it; "" for what it does not say.

    `digest` is that of an image. `commit` (a hub's) and `version` (an object's) stand for one content for good, but
    the next one may hold the same: a commit is of a whole repository.
    """

    etag: str = ""
    modified: str = ""
    size: str = ""
    digest: str = ""
    commit: str = ""
    version: str = ""

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> Mark:
        """From what `as_dict` gave; unknown keys are left out."""
        return cls(**{key: str(known[key]) for key in cls.__slots__ if known.get(key)})

    def as_dict(self) -> dict[str, str]:
        return {key: value for key in self.__slots__ if (value := getattr(self, key))}

    @property
    def says_nothing(self) -> bool:
        return not (self.etag or self.modified or self.digest or self.commit or self.version)


class Seen(StrEnum):
    """What a look at the marks says."""

    SAME = "same"
    CHANGED = "changed"
    #: A server that says nothing: only the content can tell.
    UNKNOWN = "unknown"


def compare(known: Sequence[Mark], seen: Sequence[Mark]) -> Seen:
    """What has become of a dataset's sources, in their order."""
    if len(known) != len(seen):
        return Seen.CHANGED
    told = [_one(old, new) for old, new in zip(known, seen, strict=True)]
    if Seen.CHANGED in told:
        return Seen.CHANGED
    return Seen.UNKNOWN if Seen.UNKNOWN in told else Seen.SAME


def _one(old: Mark, new: Mark) -> Seen:
    fixed = [
        (before, now)
        for name in ("commit", "version")
        if (before := getattr(old, name)) and (now := getattr(new, name))
    ]
    if any(before == now for before, now in fixed):
        return Seen.SAME
    for name in ("digest", "etag"):
        before, now = getattr(old, name), getattr(new, name)
        if before and now:
            return Seen.SAME if _strong(before) == _strong(now) else Seen.CHANGED
    if fixed:
        return Seen.CHANGED
    if old.modified and new.modified:
        return Seen.SAME if (old.modified, old.size) == (new.modified, new.size) else Seen.CHANGED
    if old.size and new.size and old.size != new.size:
        return Seen.CHANGED
    return Seen.UNKNOWN


def _strong(tag: str) -> str:
    """An ETag without its mark of weakness: a server may turn one into the other for compression alone."""
    return tag.removeprefix("W/")


@dataclass(frozen=True, slots=True)
class Rows:
    """A dataset version: the digest of its rows and how many there are."""

    digest: str
    rows: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a dataset is against the one that was learnt from last; `worth` says whether to train, `why` in words."""

    worth: bool
    why: str
    new: bool


def change(
    before: Rows | None, now: Rows, moved: RowChanges | None = None, *, rows: int = 0, share: float = 0.0
) -> Change:
    """Whether a dataset is worth a training.

    :param before: what was learnt from last, None where that is not known.
    :param moved: the rows that were added and removed since; None: only the numbers of rows can be compared.
    :param rows: the least number of rows that must be added or removed, 0 for any change at all.
    :param share: the same as a share of the rows before.
    """
    if before is None:
        return Change(True, f"{now.rows} rows, and nothing is known of an earlier training", True)
    if before.digest == now.digest:
        return Change(False, f"the same {now.rows} rows as before (digest {short(now.digest)})", False)
    if moved is None and not comparable(before.digest, now.digest) and not (rows or share):
        # Rows may have changed under the same number of them: what is not trained on now would never be.
        why = f"the digest of the {before.rows} rows before is of an earlier release and cannot be compared"
        return Change(True, f"{now.rows} rows, and {why}", True)
    by = moved.added + moved.removed if moved else abs(now.rows - before.rows)
    told = f"{before.rows} rows have become {now.rows} ({moved or 'which ones is not known'})"
    if moved and not by:
        return Change(False, f"the same {now.rows} rows as before in another order", False)
    if by < rows:
        return Change(False, f"{told}: {by} of them changed, and the policy asks for {rows}", True)
    if before.rows and by / before.rows < share:
        return Change(False, f"{told}: {by / before.rows:.1%}, and the policy asks for {share:.1%}", True)
    return Change(True, told, True)


def next_look(checked: datetime | None, every: timedelta, now: datetime) -> datetime:
    """When the dataset's server may be asked again: never sooner than the policy says."""
    return now if checked is None else checked + every


def cools_down(last: datetime | None, pause: timedelta, now: datetime) -> datetime | None:
    """Until when no training may start after the last one, None when one may start now."""
    if last is None or now >= last + pause:
        return None
    return last + pause
