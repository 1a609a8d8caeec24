"""Writes train.parquet and counts what goes into it, row by row.

The same rows in the same order give the same digest with any version of pyarrow, because it is computed over the
normalised rows, and the same bytes with one version, because nothing about time or machine is written.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.workloads import chat
from include.workloads.contract import UserDataError
from include.workloads.dataset.columns import Dropped, Kind, Usable

GROUP_ROWS = 4096
GROUP_CHARS = 32 << 20

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))

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
    Kind.TEXT: pa.schema([pa.field("text", pa.string())]),
}


class RowWriter:
    """Collects rows into row groups of a Parquet file; use as a context manager, `path` is complete after it."""

    def __init__(self, path: Path, max_chars: int) -> None:
        self.path, self.max_chars = path, max_chars
        self.kind: Kind | None = None
        self.rows = self.chars = 0
        self.roles: dict[str, int] = {}
        self._digest = hashlib.sha256()
        self._lengths = array("Q")
        self._hashes = array("Q")
        self._group: list[Any] = []
        self._group_chars = 0
        self._writer: Any = None

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Usable, shown: str) -> Dropped | None:
        """Take one row, or say why not. UserDataError when it is of the other kind than the rows before it."""
        try:
            columns, encoded = _columns(row)
        except UnicodeEncodeError:
            return Dropped("text that is not valid Unicode")
        except ValueError:
            return Dropped("tools or tool_calls with a number that JSON cannot hold")
        if self.kind is None:
            self.kind = row.kind
        elif row.kind is not self.kind:
            raise UserDataError(
                f"{shown} has rows of the kind {row.kind.value!r} while the rows before it are of the kind "
                f"{self.kind.value!r}; a dataset must be one or the other."
            )
        self._digest.update(encoded + b"\n")
        self._hashes.append(int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big"))
        length = self._count(row)
        self._lengths.append(length)
        self.rows += 1
        self.chars += length
        if self.chars > self.max_chars:
            raise UserDataError(
                f"{shown} unpacks to more than {self.max_chars >> 20} Mi characters of text; "
                "split the dataset or raise DATASET_MAX_BYTES."
            )
        self._group.append(columns)
        self._group_chars += length
        if len(self._group) >= GROUP_ROWS or self._group_chars >= GROUP_CHARS:
            self._flush()
        return None

    def _count(self, row: Usable) -> int:
        if isinstance(row.value, str):
            return len(row.value)
        for role in row.value.roles:
            self.roles[role] = self.roles.get(role, 0) + 1
        return sum(len(m["content"]) + len(m.get("reasoning_content", "")) for m in row.value.messages)

    def _flush(self) -> None:
        if not self._group or self.kind is None:
            return
        schema = SCHEMAS[self.kind]
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, schema, compression="zstd", version="2.6")
        columns = [
            pa.array(values, type=kind.type)
            for values, kind in zip(zip(*self._group, strict=True), schema, strict=True)
        ]
        self._writer.write_table(pa.table(columns, schema=schema), row_group_size=len(self._group))
        self._group, self._group_chars = [], 0

    @property
    def digest(self) -> str:
        """Digest of the normalised rows."""
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def duplicates(self) -> int:
        """Rows that repeat an earlier row exactly (by 64-bit hash)."""
        return self.rows - len(np.unique(np.frombuffer(self._hashes, dtype=np.uint64))) if self.rows else 0

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


def _columns(row: Usable) -> tuple[tuple[Any, ...], bytes]:
    """A row's values in the file, and the bytes that it is known by."""
    if isinstance(row.value, str):
        return (row.value,), _CANONICAL.encode(row.value).encode()
    messages, tools = columns = chat.to_columns(row.value)
    known: Any = [messages, tools] if tools else messages
    return columns, _CANONICAL.encode(known).encode()
