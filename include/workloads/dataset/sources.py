"""The files of a dataset, brought onto the volume: downloads, a folder's files, or an image's /data.

Every file of a request is used, in the order of the request (URLs) or of the paths (folder, image). Two URLs with
the same file name stay two files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.dataset.connection import shown
from include.workloads.dataset.fetch import Fetcher, sha256_of
from include.workloads.dataset.sniff import ACCEPTED, HEAD_BYTES, METADATA, PACKED_SUFFIXES, SUFFIXES

log = logging.getLogger("dataset")

_MAGIC = (b"PAR1", b"ARROW1\x00\x00")
_HELD_OUT = re.compile(r"(?:^|[-_./])(test|validation|valid|dev|eval)(?:[-_./]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class SourceFile:
    """One file to read; `url` is how it is named everywhere outside (no query, no credentials)."""

    path: Path
    url: str
    sha256: str
    bytes: int
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None

    def describe(self) -> dict[str, Any]:
        """For the report."""
        known = {"etag": self.etag, "last_modified": self.last_modified, "content_type": self.content_type}
        return {
            "url": self.url,
            "sha256": self.sha256,
            "bytes": self.bytes,
            **{key: value for key, value in known.items() if value},
        }


def named_files(urls: Sequence[str], fetcher: Fetcher) -> list[str]:
    """The URL of each file: those of a hub's dataset in the place of its own."""
    return [file for url in urls for file in fetcher.files(url)]


def download(
    urls: Sequence[str], expected: tuple[str, ...], fetcher: Fetcher, folder: Path
) -> Iterator[SourceFile]:
    """Each URL's file, downloaded when its turn comes and checked against its expected SHA-256 when there is one."""
    if expected and len(expected) != len(urls):
        raise UserConfigError(
            f"DATASET_EXPECTED_SHA256 has {len(expected)} values for {len(urls)} files; give one for each, in order."
        )
    for index, url in enumerate(urls):
        log.info("fetching %d/%d %s", index + 1, len(urls), shown(url))
        name = re.sub(r"[^A-Za-z0-9._-]", "_", shown(url).rpartition("/")[2])[-80:] or "data"
        fetched = fetcher.fetch(url, folder / f"{index:04d}-{name}")
        if expected and fetched.sha256 != expected[index]:
            fetched.path.unlink()
            raise UserDataError(
                f"{shown(url)} has SHA-256 {fetched.sha256}, not the expected {expected[index]}: "
                "the file has changed or the expectation is wrong."
            )
        log.info("  %.1f MiB, sha256 %s", fetched.bytes / (1 << 20), fetched.sha256)
        yield SourceFile(
            fetched.path,
            shown(url),
            fetched.sha256,
            fetched.bytes,
            fetched.etag,
            fetched.last_modified,
            fetched.content_type,
        )


def walk(folder: Path, max_bytes: int, name: str, ours: Sequence[Path] = ()) -> list[SourceFile]:
    """The dataset files under a folder in path order; `name` stands for the folder in messages and reports.
    `ours` are files that an earlier run wrote.

    A file counts by its suffix or, without a known one, by Parquet's or Arrow's magic. Hidden files and tools'
    metadata do not. Links that lead out of the folder are refused.
    """
    if not folder.is_dir():
        raise UserConfigError(f"{name} is not a folder in this pod.")
    root = folder.resolve()
    files: list[SourceFile] = []
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path in ours or relative.name in METADATA or not _is_candidate(path):
            continue
        if not path.resolve().is_relative_to(root):
            raise UserDataError(f"{name}/{relative} is a link that leads out of the folder.")
        total += path.stat().st_size
        if total > max_bytes:
            raise UserDataError(f"{name} holds more than {max_bytes >> 20} MiB of data (DATASET_MAX_BYTES).")
        files.append(SourceFile(path, f"{name}/{relative}", sha256_of(path), path.stat().st_size))
    if not files:
        raise UserDataError(f"{name} holds no dataset file; accepted are {ACCEPTED}.")
    _warn_of_held_out(files, name)
    return files


def _is_candidate(path: Path) -> bool:
    named = path.with_suffix("") if path.suffix.lower() in PACKED_SUFFIXES else path
    if named.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(HEAD_BYTES).startswith(_MAGIC)


def _warn_of_held_out(files: list[SourceFile], name: str) -> None:
    held_out = [file.url for file in files if _HELD_OUT.search(file.url.removeprefix(name))]
    if held_out and len(held_out) < len(files):
        log.warning("warning: all files are used for tuning, also %s", ", ".join(held_out))
