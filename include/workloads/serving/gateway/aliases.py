"""Public names of adapters and what the engine calls them, so that an adapter can be replaced under live traffic.

The engine loads each version under a name that never changes its meaning, `<name>@<first 12 of the digest>`; clients
say `<name>`. Which version that is stands in a file that is read again when it changes: one rename moves all later
requests, those under way keep the version that they began with, and no prefix cache can mix the two.

    {"adapters": {"mine": {"target": "mine@0123456789ab", "digest": "sha256:0123..."}}, "default": "mine"}

While a canary is tried, `mine` also has {"canary": {"target", "digest", "percent"}}: that share of its requests, chosen
by their ids (include/contracts/canary.py), is the canary's.

`default` is the adapter that /chat asks; what else stands there (adapter/versions.py) is shown at /kaito/adapters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts import canary
from include.workloads.serving.gateway.walls import WatchedFile

log = logging.getLogger("workload")

DIGEST_CHARACTERS = 12
FAILED = "Failed"


@dataclass(frozen=True)
class Adapter:
    """One adapter as clients name it: the engine's name for it, and the digest of its image ("" when unknown)."""

    target: str
    digest: str = ""


@dataclass(frozen=True)
class Shared(Adapter):
    """One that gives `percent` of its requests to a canary."""

    canary: Adapter = Adapter("")
    percent: float = 0.0


def immutable_name(name: str, digest: str) -> str:
    """`<name>@<digest12>` of an image digest such as sha256:0123..."""
    return f"{name}@{digest.removeprefix('sha256:')[:DIGEST_CHARACTERS]}"


def read_aliases(content: bytes) -> dict[str, Adapter]:
    """The map that a file holds. Raises ValueError when it is not one."""
    found = json.loads(content)
    adapters = found.get("adapters") if isinstance(found, Mapping) else None
    if not isinstance(adapters, Mapping):
        raise ValueError('must be {"adapters": {name: {"target", "digest"}}}')
    return {str(name): _adapter(str(name), value) for name, value in adapters.items()}


def _adapter(name: str, value: Any) -> Adapter:
    if not isinstance(value, Mapping) or not isinstance(target := value.get("target", name), str):
        raise ValueError(f"adapters.{name} must be a mapping with the text target")
    digest, beside = str(value.get("digest") or ""), value.get("canary")
    if beside is None:
        return Adapter(target, digest)
    tried = _adapter(f"{name}.canary", beside)
    if not isinstance(percent := beside.get("percent"), (int, float)) or not 0 <= percent <= 100:
        raise ValueError(f"adapters.{name}.canary.percent must be a number from 0 to 100")
    return Shared(target, digest, Adapter(tried.target, tried.digest), float(percent))


class Aliases:
    """The current map: what the file says over what the pod was started with."""

    def __init__(self, fixed: Mapping[str, Adapter] | None = None, file: Path | None = None) -> None:
        self._fixed = dict(fixed or {})
        self._file = WatchedFile(file) if file else None
        self._content: bytes | None = None
        self._now = dict(self._fixed)

    def now(self) -> Mapping[str, Adapter]:
        """The map at this moment. A file that cannot be understood leaves the map as it was."""
        content = self._file.read() if self._file else None
        if content is not None and content != self._content:
            self._content = content
            try:
                self._now = self._fixed | read_aliases(content)
                log.info(
                    "Adapters: %s", ", ".join(f"{k} = {v.target}" for k, v in self._now.items()) or "none"
                )
            except (ValueError, RecursionError) as error:
                log.error("The file of adapter names is left aside: %s", error)
        return self._now

    def default(self) -> str | None:
        """The adapter that a question without a model's name is for; None where the file names none."""
        found = self.shown().get("default")
        return found if isinstance(found, str) else None

    def shown(self) -> dict[str, Any]:
        """The whole content of the file, or what it would say of the adapters that the pod was started with."""
        self.now()
        try:
            found = json.loads(self._content) if self._content is not None else None
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        return {
            "adapters": {
                name: {"target": one.target, "digest": one.digest} for name, one in self._now.items()
            }
        }

    def resolve(self, model: str | None, request_id: str = "") -> Adapter | None:
        """The adapter behind a public name, for the request of this id."""
        found = self.now().get(model) if model is not None else None
        if isinstance(found, Shared) and canary.answers(request_id, found.percent):
            return found.canary
        return found

    def canaries(self) -> dict[str, float]:
        """The share of its name's requests that each canary answers, in percent, by its digest."""
        return {
            one.canary.digest: one.percent
            for one in self.now().values()
            if isinstance(one, Shared) and one.canary.digest
        }

    def refused(self) -> list[str]:
        """Digests of the versions that the server was given and does not take."""
        pending = self.shown().get("pending")
        told = pending.values() if isinstance(pending, Mapping) else ()
        failed = (one for one in told if isinstance(one, Mapping) and one.get("state") == FAILED)
        return [digest for one in failed if (digest := str(one.get("image") or "").partition("@")[2])]

    def public(self, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Entries of /v1/models as clients name them: each adapter once, under its public name."""
        now = self.now()
        targets = {adapter.target for name, adapter in now.items() if adapter.target != name}
        by_id = {str(entry.get("id")): entry for entry in listed}
        # A version that is being loaded or drained is nobody's public name.
        hidden = targets | {one for one in by_id if _version_of(one) in now}
        shown = [entry for key, entry in by_id.items() if key not in hidden and key not in now]
        for name, adapter in now.items():
            if entry := by_id.get(adapter.target):
                digest = {"digest": adapter.digest} if adapter.digest else {}
                shown.append({**entry, "id": name, **digest})
        return shown


def _version_of(model: str) -> str:
    return model.rpartition("@")[0]
