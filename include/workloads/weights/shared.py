"""One folder of a shared volume that several pods may want to fill: one of them does, the others wait for it.

The folder is filled under another name and renamed when it is whole, so whoever sees it sees all of it. That alone
keeps it right: each pod fills a folder of its own. The lock only saves the others the download, so that a file system
without good clocks costs traffic and never a broken model.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from include.workloads.contract import TryAgain, UserDataError
from include.workloads.weights.folder import check_harmless, is_complete
from include.workloads.weights.pace import asked_pace

log = logging.getLogger("weights")

BEAT_SECONDS, LOOK_SECONDS, TELL_SECONDS = 5.0, 1.0, 10.0
#: A lock that nobody has touched for so long is that of a pod that is gone.
STALE_SECONDS = 60.0
#: What was not written to for so long is what such a pod has left.
LEFT_SECONDS = 900.0


def fill(target: Path, identity: Mapping[str, Any], make: Callable[[Path], object], owner: str) -> bool:
    """Make sure that `target` is there and whole; whether this pod has made it.

    :param make: fills an empty or half-filled folder, and marks it complete with this identity.
    :param owner: a name that only this pod has, and keeps when its container is started again.
    :raises UserDataError: there is something else in its place.
    """
    if not is_complete(target, identity):
        _must_be_free(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _turn(target, identity, owner) as mine:
            if mine:
                part = _beside(target, f"part-{owner}")
                part.mkdir(exist_ok=True)
                make(part)
                _take_place(part, target, identity)
                _clean_up(target)
                return True
    check_harmless(target)  # other pods can write to the volume
    log.info("%s is in the shared volume already", target.name)
    return False


def _beside(target: Path, what: str) -> Path:
    return target.parent / f".{target.name}.{what}"


def _must_be_free(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise UserDataError(
            f"The folder {target.parent.name}/{target.name} of the shared volume is not what its name says, or not "
            "whole: delete it, then it is downloaded again."
        )


def _take_place(part: Path, target: Path, identity: Mapping[str, Any]) -> None:
    try:
        part.rename(target)
    except OSError:
        if not is_complete(target, identity):
            _must_be_free(target)
            raise
        shutil.rmtree(part, ignore_errors=True)  # another pod was first


def _clean_up(target: Path) -> None:
    """Take away what pods have left that are gone."""
    now = target.stat().st_ctime  # of the rename, by the volume's own clock
    for left in target.parent.glob(f".{target.name}.part-*"):
        with suppress(OSError):
            newest = max((path.stat().st_mtime for path in left.rglob("*")), default=left.stat().st_mtime)
            if now - newest > LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _turn(target: Path, identity: Mapping[str, Any], owner: str) -> Iterator[bool]:
    """Hold the lock (True), or wait until another pod has filled the folder (False)."""
    lock = _beside(target, "lock")
    if not _acquire(lock, target, identity, owner):
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, owner, over), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        if _holder(lock) == owner:
            lock.unlink(missing_ok=True)


def _acquire(lock: Path, target: Path, identity: Mapping[str, Any], owner: str) -> bool:
    clock = _beside(target, f"clock-{owner}")
    begun = told = time.monotonic()
    try:
        while not is_complete(target, identity):
            if _create(lock, owner) or _holder(lock) == owner:
                if not is_complete(target, identity):  # now that nobody else can finish it
                    return True
                lock.unlink(missing_ok=True)
                return False
            if _age(lock, clock) > STALE_SECONDS:
                log.info("The pod that was downloading %s is gone: going on in its place.", target.name)
                _set_aside(lock, owner)
                continue
            now = time.monotonic()
            if now - begun > asked_pace(begun).max_seconds:
                raise TryAgain(
                    f"Another pod has not finished the download of {target.name} in {now - begun:.0f} s."
                )
            if now - told > TELL_SECONDS:
                told = now
                log.info("  waiting for another pod, which downloads it to the shared volume")
            time.sleep(LOOK_SECONDS)
    finally:
        clock.unlink(missing_ok=True)
    return False


def _create(lock: Path, owner: str) -> bool:
    try:
        with lock.open("x") as file:
            file.write(owner)
    except FileExistsError:
        return False
    return True


def _holder(lock: Path) -> str:
    with suppress(OSError):
        return lock.read_text()
    return ""


def _age(lock: Path, clock: Path) -> float:
    """Seconds since the lock was touched last, by the clock of the volume's server."""
    clock.touch()
    try:
        return clock.stat().st_mtime - lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _set_aside(lock: Path, owner: str) -> None:
    """Take a lock away; of several pods that want to, one can."""
    aside = lock.with_name(f"{lock.name}-{owner}")
    with suppress(FileNotFoundError):
        lock.replace(aside)
        aside.unlink()


def _beat(lock: Path, owner: str, over: threading.Event) -> None:
    while not over.wait(BEAT_SECONDS):
        with suppress(OSError):
            if _holder(lock) == owner:
                os.utime(lock)
