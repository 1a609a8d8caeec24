"""Layers of an image, laid over each other into a folder: regular files under `data/` only.

A layer is somebody else's archive. Links, devices and paths that climb are never created; bytes read, bytes written,
headers, members and the depth of paths are each bounded before memory or disk is taken; and the uncompressed content
must have the digest that the image's config gives.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from include.workloads.contract import UserDataError

CHUNK = 1 << 20
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
DATA = PurePosixPath("data")
# Of one extended header: the names and attributes of one file. tarfile holds it in memory.
MAX_HEADER_BYTES = 256 << 10
MAX_MEMBERS = 1_000_000
MAX_PATH_BYTES, MAX_NAME_BYTES, MAX_DEPTH = 1024, 255, 32

Wanted = Callable[[PurePosixPath], bool]


class _Member(tarfile.TarInfo):
    """A header that is refused before tarfile reads what it announces."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> Any:
        found = super().frombuf(*args, **options)
        if found.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse()
        if found.type in _HEADERS and found.size > MAX_HEADER_BYTES:
            raise UserDataError(
                f"the archive has a header of {found.size} bytes; at most {MAX_HEADER_BYTES} are read"
            )
        return found

    def _refuse_sparse(self, *args: Any, **options: Any) -> Any:
        raise _sparse()

    # The three ways in which pax headers make a file sparse; tarfile has no public switch.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _sparse() -> UserDataError:
    return UserDataError(
        "the archive has a sparse file, which may unpack to any size; pack it without --sparse"
    )


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
            with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Member) as tar:
                number = 0
                while (member := tar.next()) is not None:
                    number += 1
                    if number > MAX_MEMBERS:
                        raise UserDataError(f"the archive has more than {MAX_MEMBERS} members")
                    _apply(tar, member, target, wanted)
                    # A stream never goes back, and tarfile would keep every header it has seen.
                    tar.members = []  # type: ignore[attr-defined]
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
        raise UserDataError(f"the archive has the path {name[:60]!r}, which leads out of it")
    path = PurePosixPath(*parts)
    if path.parts[:1] != DATA.parts:
        return None
    _check_path(path)
    return path.relative_to(DATA)


def _check_path(path: PurePosixPath) -> None:
    """Refuse what a file system would, and what a tree of folders should not be asked for."""
    text = str(path)
    long = len(os.fsencode(text)) > MAX_PATH_BYTES
    if long or len(path.parts) > MAX_DEPTH or any(len(os.fsencode(p)) > MAX_NAME_BYTES for p in path.parts):
        raise UserDataError(
            f"the archive has the path {text[:60]!r}..., which is too long or too deep (at most {MAX_DEPTH} "
            f"folders, {MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} bytes a name)"
        )
    if "\x00" in text:
        raise UserDataError("the archive has a path with a zero byte in it")


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
            raise UserDataError(f"the archive has the white-out {member.name[:60]!r}, which leads out of it")
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
