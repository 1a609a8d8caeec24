"""Unpacks a gzip or zstd file next to itself, never further than a limit of bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from include.workloads.contract import UserDataError

CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def unzipped(path: Path, work: Path, shown: str, limit: int) -> Iterator[tuple[Path, str]]:
    """The file to read and what it was packed with, "" when it was not; what was unpacked goes again.

    UserDataError when it is damaged or unpacks to more than `limit` bytes.
    """
    with path.open("rb") as file:
        head = file.read(4)
    packed = "gzip" if head.startswith(_GZIP) else "zstd" if head == _ZSTD else ""
    if not packed:
        yield path, ""
        return
    work.mkdir(parents=True, exist_ok=True)
    plain = work / "unpacked"
    try:
        try:
            with _opened(path, packed) as source, plain.open("wb") as target:
                _copy(source, target, shown, limit)
        except (zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise _damaged(shown, packed, error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise _damaged(shown, packed, error) from None
        yield plain, packed
    finally:
        plain.unlink(missing_ok=True)


def _opened(path: Path, packed: str) -> Any:
    if packed == "gzip":
        return gzip.open(path, "rb")
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


def _copy(source: Any, target: IO[bytes], shown: str, limit: int) -> None:
    size = 0
    while content := source.read(CHUNK):
        size += len(content)
        if size > limit:
            raise UserDataError(
                f"{shown} unpacks to more than {limit >> 20} MiB; split the dataset or raise DATASET_MAX_BYTES."
            )
        target.write(content)


def _damaged(shown: str, packed: str, error: Exception) -> UserDataError:
    return UserDataError(f"{shown} is damaged or cut short ({packed}: {type(error).__name__}).")
