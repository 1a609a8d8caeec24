"""What a file is, from its content: a name or a Content-Type is only what somebody says about it.

Files that could carry code when opened (pickles, archives) and files that are no dataset at all (a login page, a
Git LFS pointer) are refused here with the reason, before any reader touches them.
"""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from include.workloads.contract import UserDataError

HEAD_BYTES = 64 * 1024
ACCEPTED = "Parquet, JSON (array or one object a line), CSV or Arrow, also as .gz or .zst"


class Format(Enum):
    """File formats that have a reader."""

    PARQUET = "parquet"
    ARROW_FILE = "arrow file"
    ARROW_STREAM = "arrow stream"
    JSON_ARRAY = "json array"
    JSON_LINES = "json lines"
    CSV = "csv"


SUFFIXES = frozenset({".parquet", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".arrow", ".feather"})
PACKED_SUFFIXES = frozenset({".gz", ".zst"})
#: Files that dataset tools leave beside the data.
METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"PAR1", Format.PARQUET),
    (b"ARROW1\x00\x00", Format.ARROW_FILE),
    (b"\xff\xff\xff\xff", Format.ARROW_STREAM),
)
_UNPACK = "unpack it and give the file inside"
_SAFER = f"it can run code when it is opened; save the rows as {ACCEPTED}"
_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive (a .zip, .xlsx, .npz or PyTorch file)", f"{_UNPACK}, as {ACCEPTED}"),
    (b"\x1f\x8b", "a gzip file in a packed one", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file in a packed one", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"%PDF", "a PDF document", f"save the rows as {ACCEPTED}"),
    (b"\x89HDF", "an HDF5 file", f"save the rows as {ACCEPTED}"),
    (b"SQLite format 3", "an SQLite database", f"save the rows as {ACCEPTED}"),
    (b"GGUF", "model weights (GGUF)", f"save the rows as {ACCEPTED}"),
    (b"FEA1", "a Feather version 1 file", "save it as Parquet"),
    (b"PARE", "an encrypted Parquet file", "save it without encryption"),
    (b"\x93NUMPY", "a NumPy file", f"save the rows as {ACCEPTED}"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer", "link to the file itself (/resolve/ or /raw/lfs)"),
)
_PICKLE = re.compile(rb"\A\x80[\x02-\x05]")
_HTML = re.compile(rb"\A\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


def sniff(path: Path, shown: str) -> Format:
    """The format of a file; `shown` is how messages name it. UserDataError when it is none of ours."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip():
        raise UserDataError(f"{shown} is empty.")
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    _refuse_binary(head, shown)
    return _sniff_text(head, shown)


def _refuse_binary(head: bytes, shown: str) -> None:
    for magic, what, instead in _REFUSED:
        if head.startswith(magic):
            raise UserDataError(f"{shown} is {what}, not a dataset: {instead}.")
    if head[257:262] == b"ustar":
        raise UserDataError(f"{shown} is a tar archive, not a dataset: {_UNPACK}, as {ACCEPTED}.")
    if _PICKLE.match(head):
        raise UserDataError(f"{shown} is a Python pickle, not a dataset: {_SAFER}.")
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        raise UserDataError(
            f"{shown} answered with an HTML page, not a dataset: check that the link needs no login "
            "and leads to the file itself (on Hugging Face /resolve/ instead of /blob/)."
        )
    if b"\x00" in head:
        raise UserDataError(f"{shown} is a binary file of an unknown kind; datasets are {ACCEPTED}.")


def _sniff_text(head: bytes, shown: str) -> Format:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"["):
        return Format.JSON_ARRAY
    if text.startswith(b"{"):
        return Format.JSON_LINES
    if text.startswith(b"<"):
        raise UserDataError(f"{shown} is an XML document, not a dataset; datasets are {ACCEPTED}.")
    return Format.CSV
