"""A file of one JSON object a line in blocks of lines, which are read as columns where that says the same.

Arrow's reader takes what is no JSON for Python's, and the other way round, only in blocks that are refused here: every
line must begin and end like an object, and there must be as many rows as lines.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from include.workloads.dataset import layouts
from include.workloads.dataset.columns import Dropped
from include.workloads.dataset.text import MAX_ROW_CHARS

BLOCK_BYTES, PARSED_BYTES = 1 << 20, 1 << 20
_BOM = b"\xef\xbb\xbf"
_END, _OPENS, _CLOSES = b"\n{}"
_MESSAGE = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TURN = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


@dataclass(frozen=True)
class Block:
    """Rows of a file that follow each other: as a table, and one by one.

    :ivar rows: gives each as a dict, or why it could not be read.
    :ivar names: the columns in their order.
    """

    table: pa.Table
    rows: Callable[[], Iterator[dict[str, Any] | Dropped]]
    names: tuple[str, ...]


def line_blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes in blocks of whole lines. A line that is longer than any row may be comes in pieces."""
    with path.open("rb") as file:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        while block := file.read(BLOCK_BYTES):
            if not block.endswith(b"\n"):
                block += file.readline(4 * MAX_ROW_CHARS)  # 4 bytes are the longest character
            yield block


def text_of(block: bytes) -> io.TextIOWrapper:
    """A block as strict UTF-8, line ends as they are."""
    return io.TextIOWrapper(io.BytesIO(block), "utf-8", newline="")


#: A block's rows, and its columns in their order.
Parsed = tuple[pa.Table, tuple[str, ...]]


def json_table(block: bytes) -> Parsed | None:
    """The block's rows as a table and its columns in their order, or None where row by row it may say other things.

    :raises UnicodeDecodeError: it is not UTF-8.
    """
    if not block.isascii():
        block.decode("utf-8")
    lines = _objects(block)
    if not lines:
        return None
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return None
    schema = _schema(block.lstrip().partition(b"\n")[0])
    if schema is None:
        return None
    try:
        table = pj.read_json(
            pa.BufferReader(block),
            read_options=pj.ReadOptions(use_threads=False, block_size=PARSED_BYTES),
            parse_options=pj.ParseOptions(explicit_schema=schema[0], unexpected_field_behavior="infer"),
        )
    except (pa.ArrowException, ValueError):
        return None
    if table.num_rows != lines:
        return None
    return table, tuple(dict.fromkeys((*schema[1], *table.column_names)))


def _objects(block: bytes) -> int:
    """How many lines there are, blank ones apart; 0 where one of them does not begin and end like an object."""
    found = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(found == _END)
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    begins = np.concatenate(([0], ends[:-1] + 1))
    if (found[begins] == _OPENS).all() and (found[ends - 1] == _CLOSES).all():
        return len(ends)
    lines = [line for line in map(bytes.strip, block.split(b"\n")) if line]
    return len(lines) if all(line[0] == _OPENS and line[-1] == _CLOSES for line in lines) else 0


def _schema(line: bytes) -> tuple[pa.Schema, tuple[str, ...]] | None:
    """How the columns with a meaning must look, by the block's first row: else Arrow guesses (dates, say)."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fields = []
    for name in layouts.read_columns(tuple(row)):
        value = row[name]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            fields.append((name, _TURN if "from" in value[0] else _MESSAGE))
        else:
            fields.append((name, pa.string()))
    return pa.schema(fields), tuple(row)
