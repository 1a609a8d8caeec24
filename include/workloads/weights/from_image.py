"""A model image into a folder: its files side by side, several at a time, each checked and each continued.

What has arrived of a file when a pod ends stays beside the others, and the next pod goes on behind it. A file gets its
name only when all of its layer had the digest that the manifest gives.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO

from include.workloads.contract import TryAgain, UserConfigError, UserDataError
from include.workloads.oci.manifests import find_manifest
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import connect, read_reference
from include.workloads.oci.transfers import get_big_blob
from include.workloads.weights.folder import Parts
from include.workloads.weights.layers import READ_BYTES, LayerFile, header_of, trailer_size
from include.workloads.weights.model_image import files_in
from include.workloads.weights.pace import Meter

log = logging.getLogger("weights")

PARALLEL = 4
#: A file whose layer arrives with another digest is fetched once more, since what lay there before may be at fault.
TRIES = 2
#: Room that a file system is to keep.
SPARE_BYTES = 64 << 20


def look_up(text: str, parts: Parts) -> tuple[RegistryClient, str, tuple[LayerFile, ...]]:
    """A model image's registry, its digest, and those of its files that `parts` takes.

    :raises UserDataError: it is not a model image, or has none of those files.
    """
    reference = read_reference(text)
    client = connect(reference)
    manifest = find_manifest(client)
    files = tuple(file for file in files_in(manifest.document, reference) if parts.belongs(file.name))
    if not files:
        raise UserDataError(f"The model image {reference} has none of the files that are wanted of it.")
    return client, manifest.digest, files


def pull_files(client: RegistryClient, files: Sequence[LayerFile], target: Path) -> None:
    """Download these files into an existing folder; those that are there whole are not asked for.

    :raises UserConfigError: the folder's disk has no room for them.
    """
    wanted = [_Pull(client, file, target) for file in sorted(files, key=lambda one: -one.size)]
    left = sum(pull.missing() for pull in wanted)
    _check_room(target, left)
    stop = threading.Event()
    with Meter(left, "the model image", guarded=True) as meter, ThreadPoolExecutor(PARALLEL) as pool:
        running = [pool.submit(pull.run, meter.add, stop.is_set) for pull in wanted]
        try:
            _, left_over = wait(running, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop.set()  # else the pool would wait for them
            raise
        if left_over:
            stop.set()
    for one in running:
        if (error := one.exception()) is not None and not isinstance(error, _Stopped):
            raise error
    for rest in target.glob(".*.part"):
        rest.unlink()


def _check_room(target: Path, wanted: int) -> None:
    free = shutil.disk_usage(target).free
    if wanted + SPARE_BYTES > free:
        raise UserConfigError(
            f"{target} has {free / (1 << 30):.1f} GiB free, but {wanted / (1 << 30):.1f} GiB of the model are still "
            "to be downloaded: give the pod a bigger disk."
        )


class _Stopped(Exception):
    """Another file has failed."""


class _Pull:
    """The download of one file."""

    def __init__(self, client: RegistryClient, file: LayerFile, target: Path) -> None:
        self.client, self.file = client, file
        self.final = target / file.name
        # The digest is in the name: what lies there of another image is not gone on with.
        self.part = target / f".{file.name}.{file.digest[7:19]}.part"
        self.header, self.trailer = header_of(file.name, file.size), bytes(trailer_size(file.size))
        # Of a pod that ended between two files; whether it is the right one, its digest says.
        if not self.part.exists() and self.final.is_file():
            self.final.replace(self.part)

    def missing(self) -> int:
        """Bytes of the file that have still to come."""
        return max(0, self.file.size - self._held())

    def _held(self) -> int:
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def run(self, progress: Callable[[int], None], stopped: Callable[[], bool]) -> None:
        for left in reversed(range(TRIES)):
            if self._once(progress, stopped):
                self.part.replace(self.final)
                return
            self.part.unlink()
            log.info(
                "%s arrived with another digest%s", self.file.name, "; fetching it again" if left else ""
            )
        raise TryAgain(
            f"{self.file.name} of {self.client.reference} did not arrive with the digest {self.file.digest}: what the "
            "registry holds may be damaged; push the image again if this stays."
        )

    def _once(self, progress: Callable[[int], None], stopped: Callable[[], bool]) -> bool:
        if self._held() > self.file.size:
            self.part.unlink()
        with self.part.open("ab+", buffering=0) as file:
            hasher = hashlib.sha256(self.header)
            held = _hash_what_is_there(file, hasher)
            sink = _Sink(file, hasher, self.file.size - held, progress, stopped)
            # A file that is there to its last byte has its zeros to come: they follow from its size.
            if held < self.file.size:
                start = len(self.header) + held if held else 0
                sink.skip = 0 if held else len(self.header)
                get_big_blob(self.client, self.file.digest, self.file.layer_size, sink.take, start)
                return sink.fits(self.header, self.trailer) and self._is_it(hasher)
            hasher.update(self.trailer)
            return self._is_it(hasher)

    def _is_it(self, hasher: Any) -> bool:
        return f"sha256:{hasher.hexdigest()}" == self.file.digest


def _hash_what_is_there(file: BinaryIO, hasher: Any) -> int:
    file.seek(0)
    count = 0
    while content := file.read(READ_BYTES):
        hasher.update(content)
        count += len(content)
    return count


class _Sink:
    """Takes a layer as it arrives: the file's bytes into the file, all of them into the digest."""

    def __init__(
        self,
        file: BinaryIO,
        hasher: Any,
        left: int,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> None:
        self.file, self.hasher, self.left = file, hasher, left
        self.progress, self.stopped = progress, stopped
        self.skip = 0
        self.head, self.tail = b"", b""

    def take(self, content: bytes) -> None:
        if self.stopped():
            raise _Stopped
        rest = memoryview(content)
        if self.skip:
            self.head += bytes(rest[: self.skip])
            rest, self.skip = rest[self.skip :], max(0, self.skip - len(content))
        inside = rest[: self.left]
        if inside:
            self.hasher.update(inside)
            _write(self.file, inside)
            self.left -= len(inside)
            self.progress(len(inside))
        if behind := rest[len(inside) :]:
            self.hasher.update(behind)
            self.tail += bytes(behind)

    def fits(self, header: bytes, trailer: bytes) -> bool:
        return self.head in (b"", header) and self.tail == trailer and not self.left


def _write(file: BinaryIO, content: memoryview) -> None:
    while content:
        count = file.write(content)
        if not count:
            raise OSError(errno.EIO, "nothing was written")
        content = content[count:]
