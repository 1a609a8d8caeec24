"""Writes train.parquet and counts what goes into it, row by row.

The same rows in the same order give the same digest with any version of pyarrow, because it is computed over the
values (`include.workloads.dataset.digests`), and the same bytes with one version, because nothing about time or machine
is written.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.workloads import chat
from include.workloads.contract import UserDataError
from include.workloads.dataset.beside import Beside
from include.workloads.dataset.columns import Dropped, Kind, Usable
from include.workloads.dataset.digests import Digests
from include.workloads.dataset.usable_rows import UsableRows

GROUP_ROWS = 4096
GROUP_CHARS = 32 << 20

_MESSAGE = pa.struct(
    [
        *(pa.field(name, pa.string()) for name in ("role", "content", *chat.TEXT_FIELDS)),
        pa.field(chat.WEIGHT, pa.int8()),
    ]
)
SCHEMAS = {
    Kind.MESSAGES: pa.schema(
        [pa.field(chat.MESSAGES, pa.list_(_MESSAGE)), pa.field(chat.TOOLS, pa.string())]
    ),
    Kind.PAIRS: pa.schema(
        [
            pa.field(chat.MESSAGES, pa.list_(_MESSAGE)),
            pa.field(chat.TOOLS, pa.string()),
            pa.field(chat.REJECTED, pa.list_(_MESSAGE)),
        ]
    ),
    Kind.MARKED: pa.schema(
        [
            pa.field(chat.MESSAGES, pa.list_(_MESSAGE)),
            pa.field(chat.TOOLS, pa.string()),
            pa.field(chat.GOOD, pa.bool_()),
        ]
    ),
    Kind.TEXT: pa.schema([pa.field("text", pa.string())]),
}


class RowWriter:
    """Collects rows into row groups of a Parquet file; use as a context manager, `path` is complete after it.

    Groups are hashed and written in two threads, while the next one is made. Where they end hangs on the rows alone,
    not on how these came.
    """

    def __init__(self, path: Path, max_chars: int) -> None:
        self.path, self.max_chars = path, max_chars
        self.kind: Kind | None = None
        self.rows = self.chars = 0
        self.roles: Counter[str] = Counter()
        #: Of preference data: rows whose answer is good, and pairs whose better answer is the longer one.
        self.good = self.longer = 0
        self._digests = Digests()
        self._lengths = array("Q")
        self._group: list[Any] = []
        self._tables: list[pa.Table] = []
        self._group_rows = self._group_chars = 0
        self._writer: Any = None
        self._threads = ExitStack()
        self._writing = self._threads.enter_context(Beside("parquet"))
        self._hashing = self._threads.enter_context(Beside("digest"))

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._writing.wait()
                self._hashing.wait()
        finally:
            self._threads.close()
            if self._writer is not None:
                self._writer.close()

    def add(self, row: Usable, shown: str) -> Dropped | None:
        """Take one row, or say why not. UserDataError when it is of the other kind than the rows before it."""
        try:
            columns = (row.value,) if isinstance(row.value, str) else chat.to_columns(row.value)
            json.dumps(columns, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return Dropped("text that is not valid Unicode")
        except ValueError:
            return Dropped("tools or tool_calls with a number that JSON cannot hold")
        self._take_kind(row.kind, shown)
        length = self._count(row)
        self._lengths.append(length)
        self._counted(1, length, shown)
        self._group.append(columns)
        self._group_rows += 1
        self._group_chars += length
        self._flush_if_full()
        return None

    def add_rows(self, rows: UsableRows, shown: str) -> None:
        """Take many rows. UserDataError as for one."""
        self._take_kind(rows.kind, shown)
        self._lengths.frombytes(rows.lengths.astype(np.uint64).tobytes())
        self.roles.update(rows.role_counts)
        self._counted(len(rows), int(rows.lengths.sum()), shown)
        table, ends, done = rows.table(SCHEMAS[rows.kind]), np.cumsum(rows.lengths), 0
        self._close_group()
        while done < len(rows):
            before = int(ends[done - 1]) if done else 0
            full = int(np.searchsorted(ends, before + GROUP_CHARS - self._group_chars)) + 1
            end = min(len(rows), done + GROUP_ROWS - self._group_rows, full)
            self._tables.append(table.slice(done, end - done))
            self._group_rows += end - done
            self._group_chars += int(ends[end - 1]) - before
            self._flush_if_full()
            done = end

    def _take_kind(self, kind: Kind, shown: str) -> None:
        if self.kind is None:
            self.kind = kind
        elif kind is not self.kind:
            raise UserDataError(
                f"{shown} has rows of the kind {kind.value!r} while the rows before it are of the kind "
                f"{self.kind.value!r}; a dataset must be one or the other."
            )

    def _counted(self, rows: int, chars: int, shown: str) -> None:
        self.rows += rows
        self.chars += chars
        if self.chars > self.max_chars:
            raise UserDataError(
                f"{shown} unpacks to more than {self.max_chars >> 20} Mi characters of text; "
                "split the dataset or raise DATASET_MAX_BYTES."
            )

    def _count(self, row: Usable) -> int:
        if isinstance(row.value, str):
            return len(row.value)
        self.roles.update(row.value.roles)
        length = _characters(row.value.messages)
        if isinstance(row.value, chat.Pair):
            other = _characters(row.value.rejected)
            self.longer += length > other
            length += other
        elif isinstance(row.value, chat.Marked):
            self.good += row.value.good
        return length

    def _flush_if_full(self) -> None:
        if self._group_rows >= GROUP_ROWS or self._group_chars >= GROUP_CHARS:
            self._flush()

    def _close_group(self) -> None:
        """Make a table of the rows that came one by one."""
        if self._group and self.kind:
            schema = SCHEMAS[self.kind]
            columns = [
                pa.array(values, type=kind.type)
                for values, kind in zip(zip(*self._group, strict=True), schema, strict=True)
            ]
            self._tables.append(pa.table(columns, schema=schema))
            self._group = []

    def _flush(self) -> None:
        self._close_group()
        if not self._tables:
            return
        [batch] = pa.concat_tables(self._tables).combine_chunks().to_batches()
        self._hashing.do(self._digests.add, batch)
        self._writing.do(self._write, pa.Table.from_batches([batch]))
        self._tables, self._group_rows, self._group_chars = [], 0, 0

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            # Texts do not repeat, and what does is made small by the compression.
            self._writer = pq.ParquetWriter(
                self.path, table.schema, compression="zstd", use_dictionary=False, version="2.6"
            )
        self._writer.write_table(table, row_group_size=table.num_rows)

    @property
    def digest(self) -> str:
        """Digest of the normalised rows."""
        self._hashing.wait()
        return self._digests.dataset

    @property
    def row_digests(self) -> array[int]:
        """The digest of each row in their order."""
        self._hashing.wait()
        return self._digests.rows

    @property
    def duplicates(self) -> int:
        """Rows that repeat an earlier row exactly (by 64 bits of a digest)."""
        # Sorted by hand: `np.unique` builds a hash table, which takes ten times as long.
        ordered = np.sort(np.frombuffer(self.row_digests, np.uint64))
        return int(np.count_nonzero(ordered[1:] == ordered[:-1]))

    def length_statistics(self) -> dict[str, int]:
        """Characters a row: median, 95th percentile (nearest rank) and maximum."""
        if not self.rows:
            return {"p50": 0, "p95": 0, "max": 0}
        ordered = np.sort(np.frombuffer(self._lengths, dtype=np.uint64))
        last = len(ordered) - 1
        return {
            "p50": int(ordered[last * 50 // 100]),
            "p95": int(ordered[last * 95 // 100]),
            "max": int(ordered[last]),
        }


def _characters(messages: Sequence[chat.Message]) -> int:
    return sum(len(m["content"]) + len(m.get("reasoning_content", "")) for m in messages)
