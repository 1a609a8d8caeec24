"""Text files read with a bound on one line, so that a file without line ends cannot fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from include.workloads.contract import UserDataError

# One row of text: far more than any model's context. Taken apart, JSON takes some 20 times its size.
MAX_ROW_CHARS = 16 << 20


def open_text(path: Path) -> TextIO:
    """The file as strict UTF-8, with or without a byte order mark, line ends as they are."""
    return path.open(encoding="utf-8-sig", newline="")


def lines(file: TextIO, shown: str) -> Iterator[str]:
    """Lines with their ends; UserDataError at one that is longer than any row may be."""
    while line := file.readline(MAX_ROW_CHARS):
        if len(line) >= MAX_ROW_CHARS:
            raise UserDataError(f"{shown} has a line of more than {MAX_ROW_CHARS >> 20} Mi characters.")
        yield line
