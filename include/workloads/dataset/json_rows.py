"""Rows of JSON files: objects a line, objects laid out over lines, one big array, or an object that holds the array.

The standard library decodes a whole document or nothing, and a dataset may be bigger than the memory, so arrays and
objects are read through a sliding window. Nothing behind the end of what was read is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from include.workloads.contract import UserDataError
from include.workloads.dataset import layouts, text
from include.workloads.dataset.blocks import Block, Parsed, json_table, line_blocks, text_of
from include.workloads.dataset.columns import Dropped
from include.workloads.dataset.text import lines, open_text
from include.workloads.dataset.values import decoder, is_empty, load

Row = dict[str, Any]

WINDOW = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def _row(value: object) -> Row | Dropped:
    return value if isinstance(value, dict) else Dropped("not an object with named values")


def json_objects(path: Path, shown: str) -> Iterator[Row | Dropped | Block]:
    """The rows of a file that begins with an object: it may be a row, or hold the rows."""
    with open_text(path) as file:
        first = _first_line(file)
    whole = _loaded(first)
    names = whole if isinstance(whole, Mapping) else ()
    if layouts.has_layout(name for name in names if layouts.fold(name) not in layouts.WRAPPERS):
        return _json_lines(path, shown)
    if (member := _wrapper(path, shown)) is not None:
        return _unwrapped(path, shown, member)
    a_row_a_line = whole is not None or len(first) >= text.MAX_ROW_CHARS
    return _json_lines(path, shown) if a_row_a_line else _json_values(path, shown)


def _first_line(file: TextIO) -> str:
    while line := file.readline(text.MAX_ROW_CHARS):
        if line.strip():
            return line
    return ""


def _loaded(line: str) -> Any:
    try:
        return load(line)
    except (ValueError, RecursionError):
        return None


def _json_lines(path: Path, shown: str) -> Iterator[Row | Dropped | Block]:
    """One object a line, in blocks where a block can be read as columns; a line that is no JSON is a dropped row.

    The next block is parsed in a thread while the one before it is used.
    """
    with ThreadPoolExecutor(1, "json") as ahead:
        before: tuple[bytes, Future[Parsed | None]] | None = None
        for part in line_blocks(path):
            after = part, ahead.submit(json_table, part)
            if before is not None:
                yield from _block(*before, shown)
            before = after
        if before is not None:
            yield from _block(*before, shown)


def _block(part: bytes, parsing: Future[Parsed | None], shown: str) -> Iterator[Row | Dropped | Block]:
    found = parsing.result()
    if found is None:
        yield from _rows_of(part, shown)
    else:
        yield Block(found[0], partial(_rows_of, part, shown), found[1])


def _rows_of(part: bytes, shown: str) -> Iterator[Row | Dropped]:
    with text_of(part) as file:
        for line in lines(file, shown):
            if not line.strip():
                continue
            try:
                yield _row(load(line))
            except (ValueError, RecursionError):
                yield Dropped("a line is not JSON")


def _json_values(path: Path, shown: str) -> Iterator[Row | Dropped]:
    """Objects one after the other, each over several lines."""
    with open_text(path) as file:
        window = _Window(file, shown, "JSON")
        while not window.at_end():
            yield _row(window.value())


def json_array(path: Path, shown: str) -> Iterator[Row | Dropped]:
    """The elements of one JSON array, which must be all that the file holds."""
    with open_text(path) as file:
        window = _Window(file, shown, "a whole JSON array")
        yield from _elements(window)
        _check_end(window)


def _elements(window: _Window) -> Iterator[Row | Dropped]:
    window.take("[")
    if window.next_char() == "]":
        window.take("]")
        return
    while True:
        yield _row(window.value())
        if window.next_char() == "]":
            window.take("]")
            return
        window.take(",")


def _check_end(window: _Window) -> None:
    if not window.at_end():
        raise window.broken("something follows its end; give one array, or one object a line")


def _members(window: _Window) -> Iterator[str]:
    """The names of an object's members; whoever iterates reads the value before the next name."""
    window.take("{")
    while window.next_char() != "}":
        name = window.value()
        window.take(":")
        yield str(name)
        if window.next_char() != "}":
            window.take(",")
    window.take("}")


def _wrapper(path: Path, shown: str) -> str | None:
    """The member of the file's one object that holds the rows as a list, by its first element, or None."""
    with open_text(path) as file:
        window = _Window(file, shown, "JSON")
        try:
            for name in _members(window):
                if window.next_char() == "[" and layouts.fold(name) in layouts.WRAPPERS:
                    window.take("[")
                    first = window.value() if window.next_char() == "{" else None
                    row = isinstance(first, Mapping) and not set(layouts.ROLE_KEYS) & set(
                        map(layouts.fold, first)
                    )
                    return name if row else None
                window.value()
        except UserDataError:
            return None
    return None


def _unwrapped(path: Path, shown: str, member: str) -> Iterator[Row | Dropped]:
    with open_text(path) as file:
        window = _Window(file, shown, "JSON")
        for name in _members(window):
            if name == member:
                yield from _elements(window)
                continue
            other = window.value()
            if isinstance(other, list | dict) and not is_empty(other) and layouts.fold(name) in _SPLITS:
                raise UserDataError(
                    f"{shown} holds rows in {member!r} and in {name!r}: give each as a file of its own."
                )
        _check_end(window)


_SPLITS = frozenset((*layouts.WRAPPERS, "test", "validation", "valid", "dev", "eval"))


class _Window:
    """The part of a text file that holds the value being decoded: `text` from index `at` on."""

    def __init__(self, file: TextIO, shown: str, what: str) -> None:
        self.file, self.shown, self.what = file, shown, what
        self.text, self.at, self.count = "", 0, 0

    def at_end(self) -> bool:
        """Whether only white space is left."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return False
            if not self._more():
                return True

    def next_char(self) -> str:
        """The next character that is no white space; it stays in the window."""
        if self.at_end():
            raise self.broken("it ends too early")
        return self.text[self.at]

    def take(self, char: str) -> None:
        """Step over one character that must come next."""
        if self.next_char() != char:
            raise self.broken(f"{char!r} was expected")
        self.at += 1

    def value(self) -> object:
        """The next whole value."""
        self.next_char()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except RecursionError:
                raise self.broken("values are nested too deeply") from None
            except ValueError as error:
                # Either the value goes on behind the window, or it is no JSON: only more text can tell.
                if len(self.text) - self.at > text.MAX_ROW_CHARS or not self._more():
                    raise self.broken(str(error).partition(":")[0]) from None
                continue
            # A number at the window's end may go on behind it.
            if end == len(self.text) and isinstance(value, int | float) and self._more():
                continue
            self.at, self.count = end, self.count + 1
            return value

    def _more(self) -> bool:
        # Doubling keeps the retries of one long value linear in its length.
        chunk = self.file.read(max(WINDOW, len(self.text) - self.at))
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def broken(self, why: str) -> UserDataError:
        """The fault of the whole file, with how far it was read."""
        return UserDataError(f"{self.shown} is not {self.what}: after {self.count} values, {why}.")
