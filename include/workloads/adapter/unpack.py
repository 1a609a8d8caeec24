"""Layers of an image, laid over each other into a folder: regular files under `data/` only.

A layer is somebody else's archive. Links, devices and paths that climb are never created, sizes are capped while
unpacking, and the uncompressed content must have the digest that the image's config gives.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from include.workloads.contract import UserDataError

CHUNK = 1 << 20
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
DATA = PurePosixPath("data")

Wanted = Callable[[PurePosixPath], bool]


class _Hashing(io.RawIOBase):
    """A file being read that hashes what passes and stops at a cap."""

    def __init__(self, below: IO[bytes], limit: int) -> None:
        self.below, self.limit = below, limit
        self.hasher, self.count = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self.below.read(size if 0 <= size <= CHUNK else CHUNK)
        self.hasher.update(content)
        self.count += len(content)
        if self.count > self.limit:
            raise UserDataError(f"a layer unpacks to more than {self.limit >> 20} MiB")
        return content


def unpack_layer(path: Path, diff_id: str | None, target: Path, wanted: Wanted, max_bytes: int) -> int:
    """Lay one layer's files under `data/` over `target` (which stands for `data/`); the bytes unpacked.

    `wanted` says by the path inside `data/` which files to take. UserDataError for anything unsafe or damaged;
    the caller adds which image it was.
    """
    try:
        with path.open("rb") as packed:
            zipped = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            content: IO[bytes] = gzip.GzipFile(fileobj=packed) if zipped else packed  # type: ignore[assignment]
            plain = _Hashing(content, max_bytes)
            with tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    _apply(tar, member, target, wanted)
            while plain.read(CHUNK):
                pass
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise UserDataError(f"a layer is not a whole tar archive ({type(error).__name__})") from None
    if diff_id and f"sha256:{plain.hasher.hexdigest()}" != diff_id:
        raise UserDataError("a layer's content does not have the digest that the image's config gives")
    return plain.count


def _inside(name: str) -> PurePosixPath | None:
    """The member's path inside `data/`, or None when it lies elsewhere. Refuses climbing paths under any name."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    if ".." in parts:
        raise UserDataError(f"the archive has the path {name!r}, which leads out of it")
    path = PurePosixPath(*parts)
    return path.relative_to(DATA) if path.parts[:1] == DATA.parts else None


def _apply(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, wanted: Wanted) -> None:
    if PurePosixPath(member.name).name in (
        f"{WHITEOUT}{DATA}",
        OPAQUE,
    ) and "/" not in member.name.removeprefix("./"):
        _clear(target)
        return
    inside = _inside(member.name)
    if inside is None:
        return
    if not inside.parts:
        if not member.isdir():
            raise UserDataError("its /data is not a folder")
        return
    if inside.name == OPAQUE:
        _clear(target / inside.parent)
    elif inside.name.startswith(WHITEOUT):
        gone = inside.name.removeprefix(WHITEOUT)
        if gone in ("", ".", ".."):
            raise UserDataError(f"the archive has the white-out {member.name!r}, which leads out of it")
        _remove(target / inside.parent / gone)
    elif member.isdir() or not wanted(inside):
        return
    elif not member.isreg():
        raise UserDataError(f"data/{inside} is a link or a device, not a file")
    else:
        _write(tar, member, target, inside)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, inside: PurePosixPath) -> None:
    path = target / inside
    for parent in reversed(inside.parents[:-1]):
        if (target / parent).is_file():
            (target / parent).unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(path)
    content = tar.extractfile(member)
    if content is None:
        raise UserDataError(f"data/{inside} has no content")
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            _remove(path)
