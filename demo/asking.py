"""Somebody who goes on asking the service while its version changes, and counts what went wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx

DIGEST_HEADER = "x-kaito-adapter-digest"
PAUSE_SECONDS = 0.3


@dataclass
class Asking:
    """Asks one short question after the other, from the moment that `begins` says yes until the end.

    :param url: the Service's `/chat`.
    :param connect: makes a client; each of these threads needs one of its own.
    :param begins: whether it is time; asked again and again.
    """

    url: str
    connect: Callable[[], httpx.Client]
    begins: Callable[[], bool]
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Asking:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=130)

    def to_dict(self) -> dict[str, Any]:
        """Return what came of it, as JSON: how many questions, what failed, which adapters answered in turn."""
        return {"asked": self.asked, "failures": self.failures, "digests": self.digests}

    def _run(self) -> None:
        while not self.begins():
            if self._stop.wait(PAUSE_SECONDS):
                return
        with closing(self.connect()) as http:  # it may have asked before, and then is no context any more
            while not self._stop.wait(PAUSE_SECONDS):
                self._ask(http)

    def _ask(self, http: httpx.Client) -> None:
        body = {"prompt": "What is 2 + 3?", "generate_kwargs": {"max_new_tokens": 8}}
        self.asked += 1
        begin = time.monotonic()
        try:
            reply = http.post(self.url, json=body, timeout=120)
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__} after {time.monotonic() - begin:.1f} s")
            return
        if reply.is_error:
            self.failures.append(f"HTTP {reply.status_code}")
        digest = reply.headers.get(DIGEST_HEADER, "")
        if digest and digest not in self.digests[-1:]:
            self.digests.append(digest)
