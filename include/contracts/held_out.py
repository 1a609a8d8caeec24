"""Which rows of a dataset are held out of the training: decided by each row's own content, and by nothing else.

A row that is held out today is held out of every later version of the dataset too, in whatever order it comes, so that
the adapter that is served now and its successor are compared on rows that neither has learnt from. Equal rows are
always on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

#: Above it too little would be left to train on.
MAX_SHARE = 0.9
_RANGE = 1 << 64


def row_digest(row: object) -> str:
    """The sha256 (hex) of a row as canonical JSON: a text, or a mapping with messages and tools."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def set_digest(digests: Iterable[str]) -> str:
    """The digest of a set of rows, whatever their order: `sha256:...` of their sorted distinct digests."""
    lines = "\n".join(sorted(set(digests)))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def held_out(digests: Sequence[str], share: float) -> list[bool]:
    """For each row whether it is held out.

    :param digests: of the rows, by `row_digest`.
    :param share: of the rows that are held out, 0 to 1. It is kept on average, not exactly. Above 0 at least one row is
        held out, and one is always left to train on, where there are two different rows.
    """
    different = sorted(set(digests), key=_place)
    if share <= 0 or len(different) < 2:
        return [False] * len(digests)
    chosen = {digest for digest in different if is_held_out(digest, share)}
    if not chosen:
        chosen = {different[0]}
    elif len(chosen) == len(different):
        chosen.discard(different[-1])
    return [digest in chosen for digest in digests]


def is_held_out(digest: str, share: float) -> bool:
    """Whether a row with this digest is held out, as `held_out` decides it for all but tiny datasets."""
    return _place(digest) < share * _RANGE


def _place(digest: str) -> int:
    return int(digest[:16], 16)
