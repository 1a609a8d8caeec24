"""What a request must bring before any model sees it: a key, a body of bounded size within a bounded time, JSON.

Bytes are bounded before memory is taken, and time before a slot is. It must never log or show a key.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from include.workloads.serving.gateway.asgi import Receive, Refusal, Scope, header

MIB = 1 << 20
MAX_BODY = 16 * MIB  # a context of a million tokens is some 6 MiB of text
BODIES_AT_ONCE = 16  # whole bodies of that size that may lie in memory together
BODY_SECONDS = 30.0
DRAIN_BYTES, DRAIN_SECONDS = 8 * MAX_BODY, 5.0  # of a refused body, read and thrown away
MAX_KEY_BYTES = 4096


class WatchedFile:
    """A small file that is read again when it changed: a Secret or ConfigMap that the kubelet keeps up to date."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._content: bytes | None = None

    def read(self, limit: int = MIB) -> bytes | None:
        """The content, None before the file has ever been there; a file that cannot be read leaves the last content."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen and status.st_size <= limit:
                self._content = self._path.read_bytes()
                self._seen = seen
        except OSError:
            pass
        return self._content


def key_of_file(path: Path) -> Callable[[], str]:
    """Reads the key at each call. Raises ValueError when the file holds none at the start: better none than open."""
    file = WatchedFile(path)

    def key() -> str:
        return (file.read(MAX_KEY_BYTES) or b"").decode("utf-8", "replace").strip()

    if not key():
        raise ValueError(f"{path} holds no API key; the server would be open to everybody")
    return key


def bearer(scope: Scope) -> str | None:
    """The token of `Authorization: Bearer`, whose scheme may be written in any case."""
    scheme, _, token = (header(scope, "authorization") or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def check_key(given: str | None, key: str) -> None:
    """Raises Refusal 401 unless the key was given.

    Clients send it as `Authorization: Bearer`, or as `X-Api-Key` where a proxy on the way keeps Authorization for
    itself (the Kubernetes API server does).
    """
    if not key or not hmac.compare_digest((given or "").encode("utf-8", "replace"), key.encode()):
        raise Refusal(
            401,
            "This server wants its key: Authorization: Bearer <key>.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class Intake:
    """Reads whole bodies and knows how many bytes of those being read lie in memory."""

    def __init__(
        self, limit: int = MAX_BODY, seconds: float = BODY_SECONDS, together: int | None = None
    ) -> None:
        """`limit` bytes a body, `seconds` from first to last byte, `together` bytes of all bodies at once."""
        self._limit, self._seconds = limit, seconds
        self._together = together or limit * BODIES_AT_ONCE
        self._held = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the client went away. Raises Refusal: 413 too long, 408 too slow, 503 too many."""
        if self._told_too_long(header(scope, "content-length")):
            await self._drain(receive)
            raise self._too_long()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    self._held += len(part)
                    if size > self._limit:
                        parts.clear()
                        await self._drain(receive)
                        raise self._too_long()
                    if self._held > self._together:
                        raise Refusal(
                            503,
                            "Too many large requests are being read; try again in a moment.",
                            headers={"retry-after": "5", "connection": "close"},
                        )
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(
                408,
                f"The request's body did not arrive within {self._seconds:g} s.",
                code="request_timeout",
                headers={"connection": "close"},
            ) from None
        finally:
            self._held -= size

    def _told_too_long(self, told: str | None) -> bool:
        return told is not None and told.isascii() and told.isdigit() and int(told[-18:]) > self._limit

    async def _drain(self, receive: Receive) -> None:
        """Let a client finish sending, within bounds: one whose connection is cut while it sends never sees why."""
        left = DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return

    def _too_long(self) -> Refusal:
        limit = f"{self._limit / MIB:g} MiB" if self._limit >= MIB else f"{self._limit} bytes"
        return Refusal(
            413,
            f"The request's body is longer than the {limit} that this server reads.",
            code="request_too_large",
            headers={"connection": "close"},
        )


def parse(body: bytes) -> dict[str, Any]:
    """A body as a JSON object. Raises Refusal 400 for anything else, numbers beyond floating point among it."""
    try:
        found = json.loads(body, parse_constant=_no_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body must be a JSON object.", code="invalid_json")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    if not math.isfinite(found := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return found
