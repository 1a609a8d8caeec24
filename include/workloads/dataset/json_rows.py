"""Rows of JSON files: one object a line, or one big array that is decoded element by element.

The standard library decodes a whole document or nothing, and a dataset may be bigger than the memory, so the array
is read through a sliding window.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from include.workloads.contract import UserDataError
from include.workloads.dataset.columns import Dropped
from include.workloads.dataset.text import MAX_ROW_CHARS, lines, open_text

Row = dict[str, Any]

WINDOW = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def _row(value: object) -> Row | Dropped:
    return value if isinstance(value, dict) else Dropped("not an object with named values")


def json_lines(path: Path, shown: str) -> Iterator[Row | Dropped]:
    """One object a line; a file whose first line is no JSON is refused, later ones are dropped rows."""
    with open_text(path) as file:
        first = True
        for number, line in enumerate(lines(file, shown), start=1):
            if not line.strip():
                continue
            try:
                row = _row(json.loads(line))
            except (ValueError, RecursionError):
                if first:
                    raise UserDataError(
                        f"{shown}, line {number}, is not JSON; give one object a line, or one array of objects."
                    ) from None
                row = Dropped("a line is not JSON")
            first = False
            yield row


def json_array(path: Path, shown: str) -> Iterator[Row | Dropped]:
    """The elements of one JSON array."""
    with open_text(path) as file:
        window = _Window(file, shown)
        window.take("[")
        if window.next_char() == "]":
            return
        while True:
            yield _row(window.value())
            if window.next_char() == "]":
                return
            window.take(",")


class _Window:
    """The part of a text file that holds the value being decoded: `text` from index `at` on."""

    def __init__(self, file: TextIO, shown: str) -> None:
        self.file, self.shown = file, shown
        self.text, self.at, self.count = "", 0, 0
        self.decoder = json.JSONDecoder()

    def next_char(self) -> str:
        """The next character that is no white space; it stays in the window."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                raise self._broken("it ends too early")

    def take(self, char: str) -> None:
        """Step over one character that must come next."""
        found = self.next_char()
        if found != char:
            raise self._broken(f"{char!r} was expected and {found!r} found")
        self.at += 1

    def value(self) -> object:
        """The next whole value."""
        self.next_char()
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.text, self.at)
            except RecursionError:
                raise self._broken("values are nested too deeply") from None
            except ValueError as error:
                # Either the value goes on behind the window, or it is no JSON: only more text can tell.
                if len(self.text) - self.at > MAX_ROW_CHARS or not self._more():
                    raise self._broken(str(error).partition(":")[0]) from None
                continue
            self.count += 1
            return value

    def _more(self) -> bool:
        # Doubling keeps the retries of one long value linear in its length.
        chunk = self.file.read(max(WINDOW, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def _broken(self, why: str) -> UserDataError:
        return UserDataError(f"{self.shown} is not a whole JSON array: after {self.count} values, {why}.")
