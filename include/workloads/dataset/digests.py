"""What a dataset and each of its rows are known by: digests over the values of the normalised rows.

They are taken from the columns as Arrow holds them, so that no row has to be written out for them, and they are the
same however the rows came: in which blocks, files or formats. Each column of the output gives streams of bytes:

* `COLUMN.rows`: how many cells each row has in it, as little-endian numbers of 8 bytes.
* `COLUMN.cells`: for each value that is not null, row by row and message by message, a number of 8 bytes: which field
  it is of (the column's place times 32, plus the field's) in the highest byte, and in the others a text's length in
  bytes, or the value of what is no text.
* `COLUMN.FIELD`: the bytes of all texts of a field, in UTF-8, one after the other.

The dataset's digest is the SHA-256 of the streams' list, a line each: name, a space, its SHA-256; it begins with its
form (`include.contracts.dataset_digest`). A row's digest has
8 bytes: XXH3 (64 bits) of the row's part of each stream, except `rows` and those of which it has nothing, in their
order, where each is begun with the one before it as its seed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from include.contracts import dataset_digest
from include.workloads.dataset.usable_rows import strings_of

_FIELDS, _PLACE_BITS = 32, 56
_CELL = np.dtype("<u8")


class Digests:
    """The digests of rows that come batch by batch, in their order."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}
        #: The digest of each row.
        self.rows = array("Q")

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch of one of the writer's schemas."""
        rows = [0] * batch.num_rows
        for place, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
            sizes, streams = _streams(column, place, name)
            self._take(f"{name}.rows", sizes.astype(_CELL).tobytes())
            for stream, content, bounds in streams:
                self._take(stream, content)
                rows = [
                    xxhash.xxh3_64_intdigest(content[start:end], seed) if start < end else seed
                    for seed, (start, end) in zip(rows, pairwise(bounds.tolist()), strict=True)
                ]
        self.rows.extend(rows)

    def _take(self, stream: str, content: Any) -> None:
        self._streams.setdefault(stream, hashlib.sha256()).update(content)

    @property
    def dataset(self) -> str:
        """The digest of all of them."""
        told = "".join(f"{name} {found.hexdigest()}\n" for name, found in sorted(self._streams.items()))
        return dataset_digest.written(hashlib.sha256(told.encode()).hexdigest())


#: A stream: its name, its bytes, and where each row's part begins, with the end of the last.
_Stream = tuple[str, Any, Any]


def _streams(column: pa.Array, place: int, name: str) -> tuple[Any, Iterator[_Stream]]:
    """How many cells each row has in a column, and the streams that have something in them."""
    bounds, fields = np.arange(len(column) + 1), {name: column}
    if pa.types.is_list(column.type):
        bounds = np.concatenate(([0], np.cumsum(column.value_lengths().to_numpy())))
        messages = column.flatten()
        names = [f"{name}.{field.name}" for field in messages.type]
        fields = dict(zip(names, messages.flatten(), strict=True))
    told, known, texts = [], [], []
    for number, (field, values) in enumerate(fields.items()):
        if values.null_count == len(values):
            continue
        known.append(values.is_valid().to_numpy(zero_copy_only=False))
        if pa.types.is_string(values.type):
            content, places = strings_of(values.fill_null("") if values.null_count else values)
            texts.append((field, content, places[bounds]))
            cells = np.diff(places).astype(_CELL)
        else:
            cells = values.cast(pa.uint8()).fill_null(0).to_numpy().astype(_CELL)
        told.append(cells | _CELL.type(place * _FIELDS + number << _PLACE_BITS))
    if not told:
        return np.zeros(len(column)), iter(())
    which = np.stack(known, axis=1)
    ends = np.concatenate(([0], np.cumsum(which.sum(axis=1))))[bounds]
    cells = memoryview(np.stack(told, axis=1)[which].tobytes())
    return np.diff(ends), iter([(f"{name}.cells", cells, ends * _CELL.itemsize), *texts])
