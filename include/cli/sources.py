"""The texts that a command line names: files, folders, standard input.

It must never read more of a file than a document may have, nor follow a link out of a folder it walks, and a file that
cannot be read is a result like any other: the rest is read all the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from include.contracts.yaml_documents.reader import MAX_BYTES

STDIN = "-"
SUFFIXES = (".yaml", ".yml", ".json")


class Source(NamedTuple):
    """One text by the name that its author knows; `error` is a sentence when it could not be read.

    `walked` tells a file that was found in a folder from one that was asked for by name.
    """

    name: str
    data: bytes = b""
    error: str = ""
    walked: bool = False


def read_sources(names: Iterable[str]) -> Iterator[Source]:
    """The texts of these files and folders, each file once. Never raises for what it meets there."""
    seen: set[str] = set()
    for name in names:
        for source in _walk(name) if name != STDIN and Path(name).is_dir() else [_read(name)]:
            key = source.name if source.name == STDIN else os.path.realpath(source.name)
            if key not in seen:
                seen.add(key)
                yield source


def _walk(folder: str) -> Iterator[Source]:
    """Every YAML and JSON file below a folder, in order; hidden folders are left out."""
    found = 0
    errors: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.endswith(SUFFIXES):
                found += 1
                yield _read(os.path.join(place, file), walked=True)  # noqa: PTH118 - as the author wrote it, "./" and all
    for error in errors:
        yield Source(str(error.filename), error=_sentence(error))
    if not found and not errors:
        yield Source(folder, error=f"the folder holds no file named *{', *'.join(SUFFIXES)}")


def _read(name: str, walked: bool = False) -> Source:
    try:
        if name == STDIN:
            return Source(name, sys.stdin.buffer.read(MAX_BYTES + 1))
        with Path(name).open("rb") as file:
            return Source(name, file.read(MAX_BYTES + 1), walked=walked)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        return Source(name, error=_sentence(error))


def _sentence(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "cannot be read: there is no such file or folder"
    if isinstance(error, PermissionError):
        return "cannot be read: this user may not read it (permission denied)"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
