"""Container logs in the CRI format: `2026-11-23T13:00:00.000000000Z stdout F text`, one file per restart.

The API server reads these files while they are written, so every line is written whole and at once.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE = 16 * 1024  # the CRI's own limit; a longer line comes as partial (P) records
MESSAGE_BYTES, MESSAGE_LINES = 2048, 80  # FallbackToLogsOnError


def timestamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def record(stream: str, text: bytes, *, partial: bool = False) -> bytes:
    tag = b"P" if partial else b"F"
    return b" ".join((timestamp(time.time_ns()).encode(), stream.encode(), tag, text)) + b"\n"


class LogFile:
    """One container run's log."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    async def take(self, stream: str, reader: asyncio.StreamReader) -> None:
        """Copy a stream until it ends."""
        rest = b""
        while chunk := await reader.read(LONGEST_LINE):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            records = [part for line in lines for part in self._split(stream, line)]
            while len(rest) >= LONGEST_LINE:
                records.append(record(stream, rest[:LONGEST_LINE], partial=True))
                rest = rest[LONGEST_LINE:]
            if records:
                self._file.write(b"".join(records))
        if rest:
            self._file.write(record(stream, rest))

    @staticmethod
    def _split(stream: str, line: bytes) -> list[bytes]:
        parts = [line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE)] or [b""]
        return [record(stream, part, partial=i < len(parts) - 1) for i, part in enumerate(parts)]


def tail(path: Path) -> str:
    """The last lines of a log as a termination message: at most 2048 bytes or 80 lines."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4 * MESSAGE_BYTES))
            lines = file.read().splitlines()[-MESSAGE_LINES:]
    except OSError:
        return ""
    text = b"\n".join(line.split(b" ", 3)[-1] for line in lines if line.count(b" ") >= 3)
    return text[-MESSAGE_BYTES:].decode(errors="replace")
