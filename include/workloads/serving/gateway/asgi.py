"""The few ASGI moves that the gateway needs: headers, whole answers, a body given again, an answer caught."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {401: "authentication_error", 403: "permission_error", 429: "requests"}


class Refusal(Exception):
    """An answer other than the model's, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})
        self.counted = False  # whether the metrics know of it

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def header(scope: Scope, name: str) -> str | None:
    """The first header of this name (lower case); None when there is none."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), None)


async def answer(
    send: Send,
    status: int,
    content: Any,
    headers: Mapping[str, str] | None = None,
    kind: str = "application/json",
) -> None:
    """A whole answer; `content` is bytes, or a value for JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
    lines = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(key.encode(), value.encode()) for key, value in lines.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def given_again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body that was read once more, then the connection's own messages.

    The real ones must follow: a disconnect made up here would end the generation at once.
    """
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def asked(scope: Scope, method: str, path: str, body: bytes = b"", without: Iterable[str] = ()) -> Scope:
    """The scope of another question to the same application on behalf of the same client."""
    left = {"content-length", "content-type", "transfer-encoding", *without}
    headers = [(key, value) for key, value in scope["headers"] if key.decode("latin-1") not in left]
    if body:
        headers += [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
    return {
        **scope,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


def sized(scope: Scope, body: bytes) -> Scope:
    """The scope with the length of another body."""
    left = (b"content-length", b"transfer-encoding")
    headers = [(key, value) for key, value in scope["headers"] if key not in left]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


@dataclass
class Caught:
    """An answer that was not sent on."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers") or [])
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def json(self) -> Any:
        """The body's value; None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    async def send_on(self, send: Send, body: bytes | None = None) -> None:
        """Send it as it came, or with another body."""
        headers = self.headers
        if body is not None:
            headers = [(key, value) for key, value in headers if key.lower() != b"content-length"]
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body if body is None else body})


async def catch(app: App, scope: Scope, receive: Receive) -> Caught:
    """The application's answer to one question, held back."""
    caught = Caught()
    await app(scope, receive, caught.send)
    return caught
