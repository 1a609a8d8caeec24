"""Keeps the adapters of a live service as its Workspace lists them: pull, load, move the name, let the old one go.

Two commands of one container image: `prepare` runs before the server and pulls what is wanted, `follow` runs beside it
for as long as the pod lives. The server is never restarted, and a version that cannot be had leaves what is served as
it was. It must never load a version under a name that another one had.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from include.workloads.adapter.check import check_adapter
from include.workloads.adapter.engine import Engine, EngineAway, EngineRefused, VllmEngine
from include.workloads.adapter.layout import FILES
from include.workloads.adapter.pull import MAX_ADAPTER_BYTES, pull_image, trusted_keys
from include.workloads.adapter.versions import (
    FAILED,
    LOADING,
    Canary,
    Names,
    Pending,
    Version,
    Wanted,
    read_wanted,
    target_of,
)
from include.workloads.contract import TryAgain, UserConfigError, WorkloadError, atomic_write, required
from include.workloads.oci.session import connect, read_reference

log = logging.getLogger("adapter")

LOOK_SECONDS = 0.5
#: A request that was given the old version's name just before the change must still find it.
DRAIN_SECONDS = 5.0
#: An answer under way may make the engine read the old version's files once more.
KEEP_SECONDS = 900.0
RETRY_FIRST, RETRY_MOST = 2.0, 60.0

Pull = Callable[[str, Path], str]


def pull_version(image: str, folder: Path) -> str:
    """Fill an empty folder with an adapter image's files; returns the image's digest. Raises the contract's errors."""
    reference = read_reference(image)
    pulled = pull_image(
        connect(reference), folder, lambda path: str(path) in FILES, MAX_ADAPTER_BYTES, trusted_keys()
    )
    check_adapter(folder, f"The adapter image {reference}")
    return pulled.digest


@dataclass
class Follower:
    """One look after the other at what is wanted.

    :param folder: where versions lie, each in a folder of its own that the server reads.
    :param wanted: the file of wanted adapters, from the Workspace's ConfigMap.
    :param names: the file of names, which the gateway reads.
    :param pull: fills a folder with an image's files and tells its digest.
    """

    folder: Path
    wanted: Path
    names: Path
    pull: Pull = pull_version
    clock: Callable[[], float] = time.monotonic
    now: Names = field(init=False)
    _drained: dict[str, float] = field(default_factory=dict)
    _unused: dict[str, float] = field(default_factory=dict)
    _again: dict[Wanted, tuple[float, float]] = field(default_factory=dict)
    _content: str = ""

    def __post_init__(self) -> None:
        self.now = Names.read(self.names)

    def prepare(self) -> dict[str, Any]:
        """Pull everything that is wanted before the server starts. Raises the contract's errors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.now = Names()
        for one in read_wanted(self.wanted):
            version = self._pulled(one)
            self.now.adapters[one.name] = version
            log.info("adapter %s is %s", one.name, version.digest)
        self.now.write(self.names)
        return {"adapters": {name: version.digest for name, version in self.now.adapters.items()}}

    def step(self, engine: Engine) -> None:
        """One look: load what is new, move names, let go of what nobody asks for any more. Never raises."""
        try:
            listed = read_wanted(self.wanted)
        except (OSError, ValueError, RecursionError) as error:
            return self._say_once(f"The list of wanted adapters is left aside: {error}")
        names = {one.name for one in listed}
        before = (dict(self.now.adapters), dict(self.now.pending))
        for gone in [name for name in self.now.adapters if name not in names]:
            self._retire(self.now.adapters.pop(gone))
            log.info("adapter %s is no longer served", gone)
        self.now.pending = {name: one for name, one in self.now.pending.items() if name in names}
        if before != (self.now.adapters, self.now.pending):
            self.now.write(self.names)
        for one in listed:
            self._one(one, engine)
        self._let_go(engine)

    def _one(self, one: Wanted, engine: Engine) -> None:
        served = self.now.adapters.get(one.name)
        if served is None or served.image != one.image:
            if version := self._loaded(Wanted(one.name, one.image), engine):
                self._moved(one.name, version)
            return
        wanted, tried = one.canary, served.canary
        if wanted is not None and (tried is None or tried.image != wanted.image):
            if version := self._loaded(Wanted(one.name, wanted.image), engine):
                found = Canary(version.target, version.digest, version.image, version.since, wanted.percent)
                self._share(one.name, found)
            return
        if self.now.pending.pop(one.name, None):  # the list went back to what is served
            self.now.write(self.names)
        share = replace(tried, percent=wanted.percent) if tried and wanted else None
        if share != tried:
            self._share(one.name, share)

    def _loaded(self, one: Wanted, engine: Engine) -> Version | None:
        """The version, when the engine has it; None while it has not, with the reason in `pending`."""
        last = self.now.pending.get(one.name)
        if last is not None and last.image == one.image and self.clock() < self._due(one):
            return None
        self._tell(one, LOADING, "")
        target = ""
        try:
            version = self._pulled(one)
            target = version.target
            engine.load(target, str(self.folder / target))
        except EngineAway as error:
            self._later(one, f"The server is not up: {error}")
        except EngineRefused as error:
            self._tell(one, FAILED, f"The server does not take {one.image}: {error}{_way_out(error)}")
            self._again[one] = (float("inf"), 0)
            self._discard(target)
        except TryAgain as error:
            self._later(one, str(error))
        except (WorkloadError, OSError) as error:
            self._tell(one, FAILED, str(error))
            self._again[one] = (float("inf"), 0)
        else:
            self._again.pop(one, None)
            return version
        return None

    def _moved(self, name: str, version: Version) -> None:
        before = self.now.adapters.get(name)
        self._served(name, version, version.target)
        log.info("adapter %s is %s from now on", name, version.digest)
        if before is not None:
            self._retire(before, but=version.target)

    def _share(self, name: str, canary: Canary | None) -> None:
        """Give a share of a name's requests to another version, or all of them back to the one that it stands for."""
        before = self.now.adapters[name]
        self._served(name, replace(before, canary=canary), canary.target if canary else "")
        if canary is None:
            log.info("adapter %s is %s for all requests", name, before.digest)
        else:
            log.info("adapter %s is %s for %g %% of the requests", name, canary.digest, canary.percent)
        if before.canary and before.canary.target not in (before.target, canary and canary.target):
            self._drain(before.canary.target)

    def _served(self, name: str, version: Version, used: str) -> None:
        self.now.adapters[name] = version
        self.now.pending.pop(name, None)
        self._drained.pop(used, None)
        self._unused.pop(used, None)
        self.now.write(self.names)

    def _pulled(self, one: Wanted) -> Version:
        """The version of an image, in its folder; one that is there by this digest is not pulled again."""
        digest = one.image.partition("@")[2]
        target = target_of(one.name, digest) if digest else ""
        if not target or not (self.folder / target).is_dir():
            digest, target = self._fetched(one)
        return Version(target, digest, one.image, _moment())

    def _fetched(self, one: Wanted) -> tuple[str, str]:
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{one.name}-"))
        try:
            fresh = work / "new"
            fresh.mkdir()
            digest = self.pull(one.image, fresh)
            target = target_of(one.name, digest)
            if not (self.folder / target).is_dir():
                fresh.replace(self.folder / target)
            return digest, target
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _discard(self, target: str) -> None:
        """Take the files of a refused version away: a server that starts again loads all it finds, and would die."""
        served = {
            one.target for version in self.now.adapters.values() for one in (version, version.canary) if one
        }
        if target not in served | set(self._drained) | set(self._unused):
            shutil.rmtree(self.folder / target, ignore_errors=True)

    def _retire(self, version: Version, but: str = "") -> None:
        for one in (version, version.canary):
            if one is not None and one.target != but:
                self._drain(one.target)

    def _drain(self, target: str) -> None:
        self._drained[target] = self.clock() + DRAIN_SECONDS

    def _let_go(self, engine: Engine) -> None:
        now = self.clock()
        for target in [target for target, due in self._drained.items() if due <= now]:
            try:
                engine.unload(target)
            except EngineAway:
                continue
            del self._drained[target]
            self._unused[target] = now + KEEP_SECONDS
        for target in [target for target, due in self._unused.items() if due <= now]:
            del self._unused[target]
            shutil.rmtree(self.folder / target, ignore_errors=True)

    def _tell(self, one: Wanted, state: str, message: str) -> None:
        last = self.now.pending.get(one.name)
        if last is not None and (last.image, last.state, last.message) == (one.image, state, message):
            return
        self.now.pending[one.name] = Pending(one.image, state, message, _moment())
        self.now.write(self.names)
        if message:
            log.error("adapter %s: %s", one.name, message)

    def _later(self, one: Wanted, message: str) -> None:
        wait = min(self._again.get(one, (0, RETRY_FIRST / 2))[1] * 2, RETRY_MOST)
        self._again[one] = (self.clock() + wait, wait)
        self._tell(one, LOADING, message)

    def _due(self, one: Wanted) -> float:
        return self._again.get(one, (0.0, 0.0))[0]

    def _say_once(self, text: str) -> None:
        if text != self._content:
            self._content = text
            log.error("%s", text)


def _way_out(error: EngineRefused) -> str:
    """What helps against a refusal; a server has room for the ranks of the adapters that it started with."""
    if "max_lora_rank" not in str(error):
        return ""
    return " A new pod makes room for it: delete this one, or set max-lora-rank in the inference config."


def _moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def follower() -> Follower:
    """As this pod's environment says (include/manifests/serving_adapters.py)."""
    return Follower(
        Path(os.environ.get("ADAPTERS_DIR") or "/mnt/adapter"),
        Path(required("ADAPTERS_WANTED")),
        Path(required("KAITO_ADAPTERS_FILE")),
    )


def prepare() -> dict[str, Any]:
    """The `prepare` command: pull what is wanted before the server starts."""
    token = Path(required("KAITO_ADMIN_TOKEN_FILE"))
    atomic_write(token, secrets.token_urlsafe(32).encode())
    token.chmod(0o444)
    try:
        return follower().prepare()
    except (ValueError, RecursionError) as error:
        raise UserConfigError(f"The list of wanted adapters cannot be read: {error}.") from None


def follow() -> None:
    """The `follow` command: for as long as the pod lives."""
    known = follower()
    token = Path(required("KAITO_ADMIN_TOKEN_FILE")).read_text(encoding="utf-8").strip()
    # A server that listens on all addresses listens on this pod's own.
    host = os.environ.get("POD_IP") or "127.0.0.1"
    engine = VllmEngine(host, int(os.environ.get("PORT") or 5000), token)
    log.info("following %s", json.dumps({name: one.digest for name, one in known.now.adapters.items()}))
    while True:
        try:
            known.step(engine)
        except Exception:  # the pod's readiness hangs on this container: it must not end
            log.exception("one look failed; the next follows")
        time.sleep(LOOK_SECONDS)
