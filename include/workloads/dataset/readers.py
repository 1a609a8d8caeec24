"""Rows of one file, one after the other, in bounded memory whatever the file's size.

Readers only read: they judge nothing but whether a row can be read at all. None of them opens a format that can
carry code.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from include.workloads.contract import UserDataError
from include.workloads.dataset import layouts
from include.workloads.dataset.blocks import Block
from include.workloads.dataset.columnar import Columnar
from include.workloads.dataset.columns import NO_COLUMNS, Dropped
from include.workloads.dataset.json_rows import json_array, json_objects
from include.workloads.dataset.sniff import Format
from include.workloads.dataset.text import MAX_ROW_CHARS, lines, open_text

Row = dict[str, Any]
Names = dict[str, None]

MAX_NAMES = 200
DELIMITERS = ",;\t|"
COLUMNAR = frozenset({Format.PARQUET, Format.ARROW_FILE, Format.ARROW_STREAM})


def read_rows(
    path: Path, form: Format, shown: str, names: Names, named: Iterable[str] = ()
) -> Iterator[Row | Dropped]:
    """Each row as a dict, or why it could not be read; the column names met are added to `names`.

    `named` are columns to read whatever they are called (as names are compared).

    UserDataError when the file as a whole cannot be read; `shown` is how it names the file.
    """
    for part in read_parts(path, form, shown, names, named):
        if isinstance(part, Block):
            yield from part.rows()
        else:
            yield part


def read_parts(
    path: Path, form: Format, shown: str, names: Names, named: Iterable[str] = ()
) -> Iterator[Row | Dropped | Block]:
    """The same, with rows that can be read as columns in blocks."""
    if form in COLUMNAR:
        yield from _columnar(Columnar(path, form, shown, tuple(named)), names)
        return
    try:
        for row in _text_rows(path, form, shown):
            if isinstance(row, dict | Block) and len(names) < MAX_NAMES:
                names.update(dict.fromkeys(row if isinstance(row, dict) else row.names))
            yield row
    except UnicodeDecodeError:
        raise UserDataError(f"{shown} is not text in UTF-8; save it as UTF-8.") from None


def _columnar(file: Columnar, names: Names) -> Iterator[Dropped | Block]:
    for block in file:
        if not names:
            names.update(dict.fromkeys(file.names))
        yield block
    names.update(dict.fromkeys(file.names))
    if not file.usable:
        yield Dropped(NO_COLUMNS)


def _text_rows(path: Path, form: Format, shown: str) -> Iterator[Row | Dropped | Block]:
    if form is Format.JSON_ARRAY:
        return json_array(path, shown)
    if form is Format.JSON_LINES:
        return json_objects(path, shown)
    return _csv(path, shown)


class _Bounded:
    """Lines for the CSV reader, with a bound on what one row may take over all of its lines and cells."""

    def __init__(self, file: TextIO, shown: str) -> None:
        self.lines, self.shown, self.size = lines(file, shown), shown, 0

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.size += len(line)
            if self.size > MAX_ROW_CHARS:
                raise UserDataError(
                    f"{self.shown} has a row of more than {MAX_ROW_CHARS >> 20} Mi characters."
                )
            yield line


def _csv(path: Path, shown: str) -> Iterator[Row | Dropped]:
    csv.field_size_limit(MAX_ROW_CHARS)
    with open_text(path) as file:
        first = next(lines(file, shown), "")
        delimiter = max(DELIMITERS, key=first.count)
        file.seek(0)
        bounded = _Bounded(file, shown)
        rows = csv.reader(bounded, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows)]
            if name := layouts.twice(header):
                raise UserDataError(f"{shown} has two columns named {name!r}; keep one of them.")
            for cells in rows:
                bounded.size = 0
                if cells:
                    yield _csv_row(header, cells)
        except csv.Error as error:
            raise UserDataError(f"{shown}, line {rows.line_num}, is not CSV: {error}.") from None


def _csv_row(header: list[str], cells: list[str]) -> Row | Dropped:
    if len(cells) != len(header):
        return Dropped("a CSV row has another number of cells than the header")
    return dict(zip(header, cells, strict=True))
