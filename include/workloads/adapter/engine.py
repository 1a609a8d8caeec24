"""The engine beside this container, asked to load and unload adapters through its gateway.

The token that opens these paths is made by this container and never leaves the pod.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Protocol

SECONDS = 120.0
ADMIN_HEADER = "X-Kaito-Admin"
#: vLLM's word for a version that it has already, for example since its own start.
KNOWN_ALREADY = "already been loaded"


class EngineAway(Exception):
    """The engine is not up: it reads the folder when it starts."""


class EngineRefused(Exception):
    """The engine does not take this adapter; the text is its own."""


class Engine(Protocol):
    """What the follower asks of an engine."""

    def load(self, target: str, path: str) -> None:
        """Raises EngineAway and EngineRefused."""

    def unload(self, target: str) -> None:
        """Raises EngineAway; one that it does not have is gone."""


@dataclass(frozen=True)
class VllmEngine:
    """vLLM behind the gateway of this pod."""

    host: str
    port: int
    token: str

    def load(self, target: str, path: str) -> None:
        status, text = self._post("/v1/load_lora_adapter", {"lora_name": target, "lora_path": path})
        if status >= 500 and status != 500:
            raise EngineAway(text)
        if status != 200 and KNOWN_ALREADY not in text:
            raise EngineRefused(text)

    def unload(self, target: str) -> None:
        self._post("/v1/unload_lora_adapter", {"lora_name": target})

    def _post(self, path: str, body: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        headers = {"Content-Type": "application/json", ADMIN_HEADER: self.token}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, _sentence(answer.read(1 << 16))
        except (OSError, http.client.HTTPException) as error:
            raise EngineAway(str(error)) from None
        finally:
            connection.close()


def _sentence(body: bytes) -> str:
    """The message of an OpenAI-shaped error, else the text itself."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return str(found.get("message") or text)[:1000]
    except (ValueError, AttributeError):
        return text[:1000]
