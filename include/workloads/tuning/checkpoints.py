"""Finds the checkpoint that a retry may trust, and marks the ones that it may.

The trainer writes a checkpoint file by file, so a killed pod leaves half of one. The mark, written last, lists every
file with its size and digest, and what the run was (configuration and data): without a mark that fits, a
checkpoint is passed over. Nothing here deletes anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from include.workloads.contract import atomic_write

MARK = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Choice:
    """The checkpoint to resume from (None: start anew) and why others were passed over."""

    path: Path | None
    step: int
    skipped: tuple[str, ...]


def file_sha256(path: Path) -> str:
    """Hex digest of one file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark_complete(folder: Path, identity: str) -> None:
    """Declare a checkpoint complete; `identity` is a digest of what was trained on what."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARK
    }
    atomic_write(folder / MARK, json.dumps({"identity": identity, "files": files}, indent=1).encode())


def latest_complete(root: Path, identity: str) -> Choice:
    """The newest checkpoint under `root` that is whole and belongs to this very run."""
    found = [
        (int(match[1]), path)
        for path in (root.iterdir() if root.is_dir() else ())
        if (match := _NAME.fullmatch(path.name)) and path.is_dir()
    ]
    skipped: list[str] = []
    for step, path in sorted(found, reverse=True):
        fault = _fault(path, identity)
        if fault is None:
            return Choice(path, step, tuple(skipped))
        skipped.append(f"{path.name}: {fault}")
    return Choice(None, 0, tuple(skipped))


def _fault(folder: Path, identity: str) -> str | None:
    try:
        mark = json.loads((folder / MARK).read_text())
        files, owner = dict(mark["files"]), mark["identity"]
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, KeyError, TypeError, OSError):
        return "its mark cannot be read"
    if owner != identity:
        return "it was made from another configuration or other data"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"]:
            return f"{name} is missing or has another size"
        if file_sha256(path) != expected["sha256"]:
            return f"{name} is damaged"
    return None
