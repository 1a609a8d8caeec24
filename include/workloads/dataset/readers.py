"""Rows of one file, one after the other, in bounded memory whatever the file's size.

Readers only read: they judge nothing but whether a row can be read at all. None of them opens a format that can
carry code.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from include.workloads.contract import UserDataError
from include.workloads.dataset.columns import NO_COLUMNS, Dropped, map_columns
from include.workloads.dataset.json_rows import json_array, json_lines
from include.workloads.dataset.sniff import Format
from include.workloads.dataset.text import MAX_ROW_CHARS, lines, open_text

Row = dict[str, Any]
Names = dict[str, None]

BATCH_ROWS = 1024
# Uncompressed bytes that one row group may hold in the columns we read: a reader needs memory for about that.
MAX_ROW_GROUP_BYTES = 4 << 30
MAX_NAMES = 200
DELIMITERS = ",;\t|"


def read_rows(path: Path, form: Format, shown: str, names: Names) -> Iterator[Row | Dropped]:
    """Each row as a dict, or why it could not be read; the column names met are added to `names`.

    UserDataError when the file as a whole cannot be read; `shown` is how it names the file.
    """
    try:
        if form is Format.PARQUET:
            yield from _parquet(path, shown, names)
        elif form in (Format.ARROW_FILE, Format.ARROW_STREAM):
            yield from _arrow(path, form, names)
        else:
            for row in _text_rows(path, form, shown):
                if isinstance(row, dict) and len(names) < MAX_NAMES:
                    names.update(dict.fromkeys(row))
                yield row
    except UnicodeDecodeError:
        raise UserDataError(f"{shown} is not text in UTF-8; save it as UTF-8.") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserDataError(f"{shown} is damaged or cut short ({form.value}: {reason}).") from None


def _text_rows(path: Path, form: Format, shown: str) -> Iterator[Row | Dropped]:
    if form is Format.JSON_ARRAY:
        return json_array(path, shown)
    if form is Format.JSON_LINES:
        return json_lines(path, shown)
    return _csv(path, shown)


def _parquet(path: Path, shown: str, names: Names) -> Iterator[Row | Dropped]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        found = file.schema_arrow.names
        names.update(dict.fromkeys(found))
        mapped = map_columns(tuple(found))
        if mapped is None:
            yield from (Dropped(NO_COLUMNS) for _ in range(file.metadata.num_rows))
            return
        _check_row_groups(file.metadata, set(mapped.columns), shown)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=mapped.columns):
            yield from batch.to_pylist()


def _check_row_groups(metadata: Any, wanted: set[str], shown: str) -> None:
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        chunks = (group.column(column) for column in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in wanted)
        if size > MAX_ROW_GROUP_BYTES:
            raise UserDataError(
                f"{shown} has a row group of {size / (1 << 30):.1f} GiB; write it with smaller row groups "
                f"(at most {MAX_ROW_GROUP_BYTES >> 30} GiB)."
            )


def _arrow(path: Path, form: Format, names: Names) -> Iterator[Row | Dropped]:
    with pa.memory_map(str(path)) as source:
        batches: Iterable[Any]
        if form is Format.ARROW_FILE:
            file = pa.ipc.open_file(source)
            schema, batches = file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            stream = pa.ipc.open_stream(source)
            schema, batches = stream.schema, stream
        names.update(dict.fromkeys(schema.names))
        mapped = map_columns(tuple(schema.names))
        for batch in batches:
            if mapped is None:
                yield from (Dropped(NO_COLUMNS) for _ in range(batch.num_rows))
                continue
            wanted = batch.select(mapped.columns)
            for start in range(0, wanted.num_rows, BATCH_ROWS):
                yield from wanted.slice(start, BATCH_ROWS).to_pylist()


def _csv(path: Path, shown: str) -> Iterator[Row | Dropped]:
    csv.field_size_limit(MAX_ROW_CHARS)
    with open_text(path) as file:
        first = next(lines(file, shown), "")
        delimiter = max(DELIMITERS, key=first.count)
        file.seek(0)
        rows = csv.reader(lines(file, shown), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows)]
            for cells in rows:
                if cells:
                    yield _csv_row(header, cells)
        except csv.Error as error:
            raise UserDataError(f"{shown}, line {rows.line_num}, is not CSV: {error}.") from None


def _csv_row(header: list[str], cells: list[str]) -> Row | Dropped:
    if len(cells) != len(header):
        return Dropped("a CSV row has another number of cells than the header")
    return dict(zip(header, cells, strict=True))
