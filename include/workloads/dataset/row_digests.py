"""The digests of a dataset's rows, kept so that the next version can be compared: how many rows are new or gone.

A row is known by eight bytes (`include.workloads.dataset.digests`); the file has them sorted, as little-endian numbers,
and nothing else: 16 MB for two million rows, and no text of anybody. That two different rows among twenty million share
eight bytes has a chance of 1 in 90,000, and would make a count wrong by one.

Beside adapters of earlier releases lies the first form: eight bytes of the SHA-256 of the row's JSON text. What is
compared with them is made from the rows again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from include.contracts import adapter_record
from include.contracts.row_changes import RowChanges
from include.workloads.contract import UserDataError, WorkloadError

log = logging.getLogger("dataset")

BYTES = 8
_NUMBER = np.dtype("<u8")
#: Digests that are compared at once: 64 MB of two files, whatever the dataset.
AT_ONCE = 1 << 22
FEW_ROWS = 512


def batches(parquet: Path) -> Iterator[Any]:
    """The rows of a finished dataset, a few at a time in little memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(parquet, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=FEW_ROWS, use_threads=False)


def former_digests(parquet: Path) -> bytes:
    """The digests of a finished dataset's rows in their first form, one after the other."""
    texts = (_former_text(row) for batch in batches(parquet) for row in batch.to_pylist())
    return b"".join(hashlib.sha256(text.encode()).digest()[:BYTES] for text in texts)


def _former_text(row: Mapping[str, Any]) -> str:
    """JSON of a row's text, of its messages, or of all columns where another one says something."""
    values = [
        [{key: said for key, said in message.items() if said is not None} for message in value]
        if isinstance(value, list)
        else value
        for value in row.values()
    ]
    alone = len(values) == 1 or (len(values) == 2 and not values[1])
    return json.dumps(
        values[0] if alone else values, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )


def write(digests: Any, path: Path) -> None:
    """Write digests (numbers of eight bytes, in a buffer) sorted to a file."""
    numbers = np.frombuffer(digests, _NUMBER).copy()
    numbers.sort()
    numbers.tofile(path)


def compare(now: Path, before: Path, at_once: int = AT_ONCE) -> RowChanges:
    """What two files of `write` differ by. UserDataError when one of them is no such file.

    :param at_once: how many digests of each file are in memory at once, unless one row repeats more often.
    """
    new, old = _mapped(now), _mapped(before)
    same = place = passed = 0
    while place < len(new) and passed < len(old):
        # Both parts end after the same value, so that all that could be equal to each other is in them.
        last = min(new[min(place + at_once, len(new)) - 1], old[min(passed + at_once, len(old)) - 1])
        end, ended = int(np.searchsorted(new, last, "right")), int(np.searchsorted(old, last, "right"))
        if end < place or ended < passed or (end, ended) == (place, passed):
            raise UserDataError(f"{now.name} or {before.name} is no list of row digests: it is not sorted.")
        same += _common(new[place:end], old[passed:ended])
        place, passed = end, ended
    return RowChanges(added=len(new) - same, removed=len(old) - same)


def _common(left: Any, right: Any) -> int:
    """How many rows two sorted parts share, each as often as both have it."""
    values, counts = np.unique(left, return_counts=True)
    others, times = np.unique(right, return_counts=True)
    _, mine, theirs = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[mine], times[theirs]).sum())


def _mapped(path: Path) -> Any:
    size = path.stat().st_size
    if size % BYTES:
        raise UserDataError(
            f"{path.name} is no list of row digests: its {size} bytes are no multiple of {BYTES}."
        )
    return np.memmap(path, _NUMBER, "r") if size else np.empty(0, _NUMBER)


def changes_since(known: str, now: Path, parquet: Path, most_rows: int) -> RowChanges | None:
    """What has changed since an earlier version; None where its digests cannot be had, which stops nobody.

    :param known: the referrer that has the earlier digests (`adapter_record.ROWS` or `FORMER_ROWS`), by digest.
    :param now: the digests of the rows as they are.
    :param parquet: the rows as they are.
    :param most_rows: how many rows a dataset may have.
    """
    # Only here is a registry asked: its client takes as long to import as all the rest.
    from include.workloads.oci.manifests import digest_in, find_manifest
    from include.workloads.oci.session import connect, read_reference

    try:
        client = connect(read_reference(known))
        document = find_manifest(client).document
        layers = document.get("layers")
        form, kind = document.get("artifactType"), adapter_record.ROWS.artifact_type
        if form not in (kind, adapter_record.FORMER_ROWS) or not isinstance(layers, list) or len(layers) != 1:
            raise UserDataError(f"{known} has no list of row digests ({kind})")
        with TemporaryDirectory(dir=now.parent, prefix=".rows-") as work:
            before = Path(work) / "before"
            client.get_blob_into(digest_in(layers[0], client.reference), before, most_rows * BYTES)
            if form == adapter_record.FORMER_ROWS:
                now = Path(work) / "now"
                write(former_digests(parquet), now)
            return compare(now, before)
    except (WorkloadError, OSError) as error:
        log.warning("which rows are new cannot be told, and only their number counts: %s", error)
        return None
