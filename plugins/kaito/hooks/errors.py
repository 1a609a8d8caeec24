"""How an API server or a cloud refuses, whichever client asked it."""

from __future__ import annotations

import json
import re


class ClusterError(RuntimeError):
    """The API server refused a request. ``str()`` is the server's own sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        #: Seconds that the server asks to wait before the next try.
        self.retry_after = 0.0

    @classmethod
    def from_response(cls, status: int | None, reason: str | None, body: object) -> ClusterError:
        """Read the ``Status`` object that Kubernetes answers with; fall back to the HTTP reason."""
        if isinstance(body, bytes):
            body = body.decode(errors="replace")
        try:
            answer = json.loads(body) if isinstance(body, str) else {}
        except ValueError:
            answer = {}
        answer = answer if isinstance(answer, dict) else {}
        message = answer.get("message") or (body if isinstance(body, str) and body else None) or reason
        return cls(status or 0, answer.get("reason") or reason or "", str(message or "no answer")[:2000])

    @classmethod
    def plain(cls, text: str) -> str:
        """Return the API server's own sentence out of a client's exception as text, which dumps headers and body.

        Any other text comes back as it is.
        """
        head, found, body = text.partition("HTTP response body: ")
        if not found or "HTTP response headers: " not in head:
            return text
        status = re.match(r"\((\d+)\)\s*(?:Reason: (.*))?", head.strip())
        code, reason = (int(status[1]), status[2]) if status else (0, None)
        return str(cls.from_response(code, reason, body.strip()))

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.status in (0, 429) or self.status >= 500


class CloudError(RuntimeError):
    """A cloud's own API refused, or did not answer (`status` 0). ``str()`` is a sentence with its code and words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if code else message)
        self.status = status
        self.code = code
        self.message = message
