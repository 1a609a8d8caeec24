"""Download the files of one dataset, with caps over all of them, tries, and resume of what a try left.

A file appears under its name only when it is complete. Size and time caps hold however the server behaves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import urllib3

from include.workloads.contract import (
    TryAgain,
    UserDataError,
    WorkloadError,
    atomic_write,
    file_write_error,
)
from include.workloads.dataset import ranges
from include.workloads.dataset.beside import Beside
from include.workloads.dataset.connection import PassingFault, PinnedClient, shown
from include.workloads.dataset.listing import expand
from include.workloads.dataset.ranges import (
    ANOTHER_PART,
    Parts,
    can_be_split,
    content_range,
    read_some,
)
from include.workloads.dataset.store_client import Opens
from include.workloads.deadline import Deadline

log = logging.getLogger("dataset")

Result = TypeVar("Result")

MIB = 1 << 20
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Limits:
    """Caps of a whole dataset: bytes over all files, seconds of downloading; and the tries per file."""

    max_bytes: int = 5 << 30
    max_seconds: float = 3600.0
    attempts: int = 3
    backoff_seconds: float = 2.0


@dataclass(frozen=True)
class Fetched:
    """A complete file and what identifies this version of it."""

    path: Path
    sha256: str
    bytes: int
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


@dataclass(frozen=True)
class _Version:
    """What a partial file belongs to: kept beside it so that another pod can go on."""

    url_sha256: str
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """The If-Range value. A weak ETag does not promise the same bytes."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def matches(self, headers: Mapping[str, str]) -> bool:
        """Whether an answer says that it is of this version, by what we asked for it with."""
        asked = "ETag" if self.validator == self.etag else "Last-Modified"
        return self.validator is not None and headers.get(asked) == self.validator


@dataclass
class Fetcher:
    """Downloads the files of one dataset, one after the other."""

    client: Opens = field(default_factory=PinnedClient)
    limits: Limits = field(default_factory=Limits)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    received: int = 0

    def __post_init__(self) -> None:
        self.deadline = self.clock() + self.limits.max_seconds

    def fetch(self, url: str, target: Path) -> Fetched:
        """Download `url` to `target`, going on with what an earlier pod or try left. Raises the contract's errors."""
        kept = self._kept(url, target)
        if kept is not None:
            log.info("  already here and unchanged")
            self.received += kept.bytes
            return kept
        fetched = self._tried(url, lambda: self._once(url, target))
        self.received += fetched.bytes
        return fetched

    def files(self, url: str) -> list[str]:
        """The URLs of the files that a URL means: more than itself for a hub's dataset and a folder of a store.

        Raises as `fetch`.
        """
        return self._tried(url, lambda: expand(self.client, url, self.limits.max_bytes))

    def _tried(self, url: str, work: Callable[[], Result]) -> Result:
        """What `work` gives, tried again while its faults pass."""
        for attempt in range(1, self.limits.attempts + 1):
            try:
                return work()
            except PassingFault as fault:
                wait = max(fault.wait, self.limits.backoff_seconds * 2 ** (attempt - 1))
                if attempt == self.limits.attempts or self.clock() + wait > self.deadline:
                    raise TryAgain(f"{shown(url)}: {fault} (tried {attempt} times).") from None
                log.info("%s: %s; trying again in %.0f s", shown(url), fault, wait)
                self.sleep(wait)
        raise ValueError("attempts must be at least 1")

    def unchanged(self, url: str, etag: str | None, last_modified: str | None) -> bool:
        """Whether the server says (304) that this version is still current. Any doubt is a no."""
        headers = {"If-None-Match": etag} if etag else {}
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        if not headers:
            return False
        try:
            response = self.client.open(url, headers)
        except (PassingFault, WorkloadError):
            return False
        response.close()
        return response.status == 304

    def _kept(self, url: str, target: Path) -> Fetched | None:
        """The complete file that an earlier pod downloaded, when it is still what the URL gives."""
        try:
            version = _Version(**json.loads(_note(target).read_text()))
            size = target.stat().st_size
        except (OSError, ValueError, TypeError):
            return None
        if version.url_sha256 != _url_sha256(url):
            return None
        if not self.unchanged(url, version.etag, version.last_modified):
            return None
        return Fetched(target, sha256_of(target), size, version.etag, version.last_modified)

    def _once(self, url: str, target: Path) -> Fetched:
        """One try under the deadline of the whole dataset, which ends the connection wherever it is."""
        with Deadline(self.deadline - self.clock()) as deadline:
            try:
                fetched = self._try(url, target, deadline)
            except PassingFault:
                if deadline.expired:
                    raise self._too_slow(url) from None
                raise
        return fetched

    def _try(self, url: str, target: Path, deadline: Deadline) -> Fetched:
        part, note = target.with_name(target.name + ".part"), _note(target)
        target.unlink(missing_ok=True)
        held, version = _partial(part, note, url)
        headers = {"Range": f"bytes={held}-", "If-Range": version.validator or ""} if version else {}
        response = self.client.open(url, headers)
        try:
            resumed = response.status == 206
            total = _resumed_total(response, held, version)
            if response.status == 416 or (resumed and total is None):
                part.unlink(missing_ok=True)
                raise PassingFault(ANOTHER_PART)
            _remember(note, url, response.headers)
            if resumed:
                log.info("  going on at %.1f MiB", held / MIB)
            expected = total if resumed else _length(response)
            start = held if resumed else 0
            chunks = self._chunks(url, response, start, expected)
            digest = self._receive(url, chunks, part, start, expected)
            if deadline.expired:
                # A stream without a length that was ended by the deadline looks complete.
                raise self._too_slow(url)
        finally:
            response.close()
        return _finish(url, part, target, response.headers, digest)

    def _chunks(
        self, url: str, response: urllib3.BaseHTTPResponse, start: int, total: int | None
    ) -> Generator[bytes]:
        """The bytes of the file from `start` on: of this answer, or after its first part of several connections."""
        etag = response.headers.get("ETag")
        if total is None or not can_be_split(response, etag, total - start):
            while data := read_some(response):
                yield data
            return
        here = start
        while here < start + ranges.PART_BYTES and (
            data := read_some(response, min(ranges.CHUNK, start + ranges.PART_BYTES - here))
        ):
            here += len(data)
            yield data
        response.close()
        if here == start + ranges.PART_BYTES:
            left = Parts(self.client, url, str(etag), total, lambda: self.deadline - self.clock())
            yield from left.read(here)

    def _receive(
        self, url: str, chunks: Generator[bytes], part: Path, start: int, expected: int | None
    ) -> str:
        """Append the file's bytes to the part; its SHA-256, which is taken meanwhile."""
        room = self.limits.max_bytes - self.received
        if expected is not None and expected > room:
            raise self._too_big(url)
        size, said = start, self.clock()
        digest = _digest_of(part) if start else hashlib.sha256()
        try:
            with (
                part.open("ab" if start else "wb") as file,
                contextlib.closing(chunks) as arriving,
                Beside("sha256") as hashing,
            ):
                for data in arriving:
                    size += len(data)
                    if size > room:
                        raise self._too_big(url)
                    hashing.do(digest.update, data)
                    file.write(data)
                    said = self._tick(url, size, expected, said)
        except OSError as error:
            raise file_write_error(error, "the download", part.parent) from None
        if expected is not None and size != expected:
            raise PassingFault(f"the connection ended after {size} of {expected} bytes")
        return digest.hexdigest()

    def _tick(self, url: str, size: int, expected: int | None, said: float) -> float:
        now = self.clock()
        if now > self.deadline:
            raise self._too_slow(url)
        if now - said <= PROGRESS_SECONDS:
            return said
        log.info("  %.1f%s MiB", size / MIB, f" of {expected / MIB:.1f}" if expected else "")
        return now

    def _too_slow(self, url: str) -> TryAgain:
        return TryAgain(f"{shown(url)}: downloading took longer than {self.limits.max_seconds:.0f} s.")

    def _too_big(self, url: str) -> UserDataError:
        limit = f"{self.limits.max_bytes / MIB:.4g} MiB"
        return UserDataError(f"{shown(url)} takes the dataset over the limit of {limit} (DATASET_MAX_BYTES).")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    return _digest_of(path).hexdigest()


def _digest_of(path: Path) -> hashlib._Hash:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _finish(url: str, part: Path, target: Path, headers: Mapping[str, str], digest: str) -> Fetched:
    size = part.stat().st_size
    if size == 0:
        raise UserDataError(f"{shown(url)} answered with an empty file.")
    part.replace(target)
    return Fetched(
        target, digest, size, headers.get("ETag"), headers.get("Last-Modified"), headers.get("Content-Type")
    )


def _note(target: Path) -> Path:
    return target.with_name(target.name + ".version.json")


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _resumed_total(response: urllib3.BaseHTTPResponse, held: int, version: _Version | None) -> int | None:
    """The whole file's size when a 206 holds all that was missing of the version we began, else None.

    A part that was not asked for, one of another version and one that ends early would each make a file that looks
    whole and is not.
    """
    found = content_range(response.headers)
    if version is None or found is None or not version.matches(response.headers):
        return None
    first, last, total = found
    return total if first == held and last + 1 == total else None


def _partial(part: Path, note: Path, url: str) -> tuple[int, _Version | None]:
    """How many bytes an earlier try left and of which version; (0, None) when of no use."""
    try:
        version = _Version(**json.loads(note.read_text()))
        held = part.stat().st_size
    except (OSError, ValueError, TypeError):
        return 0, None
    if held == 0 or version.url_sha256 != _url_sha256(url):
        return 0, None
    return (held, version) if version.validator else (0, None)


def _remember(note: Path, url: str, headers: Mapping[str, str]) -> None:
    version = _Version(_url_sha256(url), headers.get("ETag"), headers.get("Last-Modified"))
    atomic_write(note, json.dumps(asdict(version)).encode())


def _url_sha256(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
