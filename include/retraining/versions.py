"""How versions of an adapter are called, which of them are kept, and which one a rollback means.

A version is `yyyymmdd.n`: the day (UTC) on which its training began, and the n-th of that day. Tags are for people;
everything that is done is done by digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from include.contracts.image_reference import parse_reference

TAG_LENGTH = 128
#: A child's own names (volume, pods) are longer than it.
NAME_LENGTH = 45
PREVIOUS = "previous"
#: The version that the Workspace's own tuning made.
ORIGINAL = "original"
_VERSION = re.compile(r"(?P<day>\d{8})\.(?P<number>[1-9]\d*)")


class State(StrEnum):
    """What has become of a version."""

    TRAINING = "training"
    #: It is in the registry and waits for its approval or its rollout.
    CANDIDATE = "candidate"
    PROMOTED = "promoted"
    #: The gate or a person said no.
    REFUSED = "refused"
    #: It was promoted and taken back.
    ROLLED_BACK = "rolledBack"
    FAILED = "failed"


def next_version(now: datetime, taken: Iterable[str]) -> str:
    """The next version of this day."""
    day = now.astimezone(UTC).strftime("%Y%m%d")
    numbers = [
        int(found["number"]) for one in taken if (found := _VERSION.fullmatch(one)) and found["day"] == day
    ]
    return f"{day}.{max(numbers, default=0) + 1}"


def image(reference: str, version: str) -> str:
    """Where a version is pushed: the Workspace's own image with `<tag>-<version>`. Raises InvalidReference.

    A version in the tag is replaced, so that a version of a version has one, and a tag that is too long is cut.
    """
    parsed = parse_reference(reference)
    tag = re.sub(rf"-{_VERSION.pattern}$", "", parsed.tag or "latest")
    return f"{parsed.name}:{tag[: TAG_LENGTH - len(version) - 1]}-{version}"


def candidate_name(workspace: str, version: str) -> str:
    """The name of the Workspace that trains a version: a DNS label that depends on these two alone."""
    ending = f"-r{version.replace('.', '-')}"
    if len(workspace) + len(ending) <= NAME_LENGTH:
        return workspace + ending
    digest = hashlib.sha256(workspace.encode()).hexdigest()[:6]
    return f"{workspace[: NAME_LENGTH - len(ending) - 7].rstrip('-')}-{digest}{ending}"


Entry = Mapping[str, Any]


def with_entry(history: Sequence[Entry], entry: Entry) -> list[dict[str, Any]]:
    """The history with one version written: new ones go last, a known one is brought up to date."""
    found = [dict(one) for one in history]
    for one in found:
        if one.get("version") == entry.get("version"):
            one.update(entry)
            return found
    return [*found, dict(entry)]


def kept(history: Sequence[Entry], keep: int, served: str) -> list[dict[str, Any]]:
    """The history as far as it is kept: the last `keep`, every one that was promoted, and what is served or under way.

    :param served: digest of what answers now, "" for none.
    """
    return [dict(one) for index, one in enumerate(history) if not _goes(history, index, keep, served)]


def expired(history: Sequence[Entry], keep: int, served: str) -> list[dict[str, Any]]:
    """The versions that are no longer kept, oldest first."""
    return [dict(one) for index, one in enumerate(history) if _goes(history, index, keep, served)]


def _goes(history: Sequence[Entry], index: int, keep: int, served: str) -> bool:
    one = history[index]
    if index >= len(history) - keep or one.get("promotedAt") or (served and one.get("digest") == served):
        return False
    return one.get("state") not in (State.TRAINING, State.CANDIDATE)


def entry_of(history: Iterable[Entry] | None, version: str) -> dict[str, Any]:
    """What the history says of one version, {} where it does not know it."""
    return next((dict(one) for one in history or () if one.get("version") == version), {})


def find(history: Sequence[Entry], wanted: str, served: str) -> dict[str, Any] | None:
    """The version that a rollback means, None where there is none.

    :param wanted: a digest (or its beginning, of at least 12 hexadecimal digits), a version, or `previous`: the one
        that was promoted before the one that answers now.
    :param served: digest of what answers now.
    """
    usable: list[dict[str, Any]] = [dict(one) for one in history if one.get("reference")]
    if wanted == PREVIOUS:
        usable = [one for one in usable if one.get("promotedAt") and one.get("digest") != served]
        usable.sort(key=lambda one: str(one["promotedAt"]))
        return usable[-1] if usable else None
    bare = wanted.removeprefix("sha256:")
    return next((one for one in reversed(usable) if _means(one, wanted, bare)), None)


def _means(one: Entry, wanted: str, bare: str) -> bool:
    digest = str(one.get("digest") or "").removeprefix("sha256:")
    return one.get("version") == wanted or (len(bare) >= 12 and digest.startswith(bare))
