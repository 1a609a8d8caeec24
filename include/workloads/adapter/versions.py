"""The adapters of a live service as files: what is wanted, what each name stands for now, and where versions lie.

A version of an adapter never changes its folder or its name in the engine, `<name>@<first 12 of the digest>`; the
public name moves to another version by one rename of the names file, which the gateway reads
(include/workloads/serving/gateway/aliases.py). It must never ask a registry or an engine.

    wanted   {"adapters": [{"name": "mine", "image": "r.example.com/a@sha256:0123...",
                            "canary": {"image": "r.example.com/a@sha256:4567...", "percent": 10}}]}
    names    {"adapters": {"mine": {"target": "mine@0123456789ab", "digest", "image", "since",
                                     "canary": {"target", "digest", "image", "since", "percent"}}},
              "pending": {"mine": {"image", "state": "Loading"|"Failed", "message", "since"}}, "default": "mine"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from include.workloads.contract import atomic_write

DIGEST_CHARACTERS = 12
LOADING, FAILED = "Loading", "Failed"


@dataclass(frozen=True)
class Share:
    """A version that is to answer some of the requests for a name."""

    image: str
    percent: float


@dataclass(frozen=True)
class Wanted:
    """One adapter as the Workspace lists it, and what is tried beside it."""

    name: str
    image: str
    canary: Share | None = None


@dataclass(frozen=True)
class Canary:
    """A version that answers `percent` of the requests for a name."""

    target: str
    digest: str
    image: str
    since: str
    percent: float


@dataclass(frozen=True)
class Version:
    """What a public name stands for."""

    target: str
    digest: str
    image: str
    since: str
    canary: Canary | None = None


@dataclass(frozen=True)
class Pending:
    """A version that is not served (yet), and why."""

    image: str
    state: str
    message: str
    since: str


@dataclass
class Names:
    """The content of the names file."""

    adapters: dict[str, Version] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """In one step, so that a reader sees the old content or the new."""
        only = next(iter(self.adapters)) if len(self.adapters) == 1 else None
        content = {
            "adapters": {name: asdict(one) for name, one in sorted(self.adapters.items())},
            "pending": {name: asdict(one) for name, one in sorted(self.pending.items())},
            "default": only,
        }
        atomic_write(file, json.dumps(content).encode())

    @classmethod
    def read(cls, file: Path) -> Names:
        """What a former life of this container wrote; empty when there is none."""
        try:
            content = json.loads(file.read_bytes())
            return cls(
                {name: _version(one) for name, one in content["adapters"].items()},
                {name: Pending(**one) for name, one in content["pending"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()


def _version(told: Mapping[str, Any]) -> Version:
    beside = told.get("canary")
    return Version(**{**told, "canary": Canary(**beside) if beside else None})


def read_wanted(file: Path) -> list[Wanted]:
    """The adapters that are wanted. Raises ValueError when the file is no such list, OSError when it is not there."""
    content = json.loads(file.read_bytes())
    listed = content.get("adapters") if isinstance(content, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError('must be {"adapters": [{"name", "image"}]}')
    return [_one(entry) for entry in listed]


def _one(entry: object) -> Wanted:
    if not isinstance(entry, Mapping) or not all(
        isinstance(entry.get(key), str) for key in ("name", "image")
    ):
        raise ValueError("each adapter must have the texts name and image")
    return Wanted(str(entry["name"]), str(entry["image"]), _share(entry.get("canary")))


def _share(told: object) -> Share | None:
    if told is None:
        return None
    image, percent = (told.get("image"), told.get("percent")) if isinstance(told, Mapping) else (None, None)
    if not isinstance(image, str) or not isinstance(percent, (int, float)) or not 0 < percent < 100:
        raise ValueError("a canary must have the text image and a percent between 0 and 100")
    return Share(image, float(percent))


def target_of(name: str, digest: str) -> str:
    """The engine's name and the folder of one version."""
    return f"{name}@{digest.removeprefix('sha256:')[:DIGEST_CHARACTERS]}"
