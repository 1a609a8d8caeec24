"""Container logs: the node agent's CRI files, as `pods/log` and `attach` show them.

A line is `2026-11-23T13:00:00.000000000Z stdout F text`; P instead of F means that the line goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sandbox.api.errors import INVALID, FieldError, bad_request, invalid
from sandbox.api.http.negotiation import flag
from sandbox.api.meta import now, parsed_time

Json = dict[str, Any]

_POLL_SECONDS = 0.1
_CHUNK = 256 * 1024


@dataclass(frozen=True)
class LogOptions:
    """PodLogOptions as far as they filter."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None
    limit: int | None = None
    stream: str = "All"

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> LogOptions:
        """From the query; raises ApiError (400, 422)."""
        since = None
        if (seconds := _number(query, "sinceSeconds", least=1)) is not None:
            since = now() - timedelta(seconds=seconds)
        elif text := query.get("sinceTime"):
            try:
                since = parsed_time(text)
            except ValueError as error:
                raise bad_request(f"sinceTime: {error}") from error
        return cls(
            follow=flag(query, "follow"),
            timestamps=flag(query, "timestamps"),
            tail=_number(query, "tailLines", least=0),
            since=since,
            limit=_number(query, "limitBytes", least=1),
            stream=query.get("stream") or "All",
        )


def _number(query: Mapping[str, str], name: str, least: int) -> int | None:
    if not query.get(name):
        return None
    try:
        value = int(query[name])
    except ValueError as error:
        raise bad_request(f'{name}: "{query[name]}" is not a whole number') from error
    if value < least:
        rule = "must be greater than 0" if least else "must be greater than or equal to 0"
        raise invalid("PodLogOptions", "", "", [FieldError(name, INVALID, value, rule)])
    return value


@dataclass(frozen=True)
class Line:
    time: bytes
    stream: bytes
    text: bytes  # with its newline, if it is complete


def parsed(raw: bytes) -> Line:
    """One line of a CRI file; a line in no such form is taken as it is."""
    parts = raw.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return Line(b"", b"stdout", raw)
    text = parts[3] if len(parts) > 3 else b""
    return Line(parts[0], parts[1], text if parts[2].startswith(b"P") else text + b"\n")


class LogReader:
    """One log file, read to its end and then, when following, on until its container has ended."""

    def __init__(self, path: Path, options: LogOptions, ended: Callable[[], bool]) -> None:
        self._path = path
        self._options = options
        self._ended = ended
        self._offset = 0
        self._rest = b""

    async def lines(self) -> AsyncIterator[list[Line]]:
        """Batches of lines that fit the options."""
        first = await asyncio.to_thread(self._all_lines)
        if first:
            yield first
        while self._options.follow:
            ended = self._ended()  # asked before reading: what was written until then is read
            fresh = [line for line in self._fresh() if self._wanted(line)]
            if fresh:
                yield fresh
            elif ended:
                return
            else:
                await asyncio.sleep(_POLL_SECONDS)

    def _all_lines(self) -> list[Line]:
        kept: deque[Line] = deque(maxlen=self._options.tail)
        before = -1
        while self._offset != before:
            before = self._offset
            kept.extend(line for line in self._fresh() if self._wanted(line))
        return list(kept)

    def _fresh(self) -> list[Line]:
        """Whole lines that were written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_CHUNK)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [parsed(raw + b"\n") for raw in whole]

    def _wanted(self, line: Line) -> bool:
        if self._options.stream != "All" and line.stream != self._options.stream.lower().encode():
            return False
        if self._options.since is None or not line.time:
            return True
        try:
            return parsed_time(_microseconds(line.time.decode())) >= self._options.since
        except ValueError:
            return True


def _microseconds(text: str) -> str:
    """Nanoseconds cut to what datetime holds."""
    head, dot, fraction = text.partition(".")
    return f"{head}.{fraction.rstrip('Z')[:6]}Z" if dot else text


def shown(lines: list[Line], options: LogOptions) -> bytes:
    if not options.timestamps:
        return b"".join(line.text for line in lines)
    return b"".join(line.time + b" " + line.text for line in lines)
