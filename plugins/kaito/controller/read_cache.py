"""Reads each object of the cluster once, however many Workspaces name it.

Two hundred Workspaces that push with the same Secret are one question to the API server, not two hundred. What is read
holds for one pass and no longer: a Secret that appears is seen by the next one. It never writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from kaito.hooks.api import Kind

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import AsyncKaitoClusterHook


class ReadingOnce:
    """The reads of a hook, remembered, those under way included; errors are not remembered."""

    def __init__(self, hook: AsyncKaitoClusterHook) -> None:
        self._hook = hook
        self._asked: dict[tuple[Kind, str, str | None], asyncio.Task[Any]] = {}

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """As the hook's own; the answer is shared and must not be changed."""
        live: dict[str, Any] | None = await self._once(
            (kind, name, namespace), lambda: self._hook.find(kind, name, namespace)
        )
        return live

    async def list(self, kind: Kind) -> list[dict[str, Any]]:
        """Return all objects of a kind; the answer is shared and must not be changed."""
        result: list[dict[str, Any]] = await self._once((kind, "", None), lambda: self._hook.list(kind))
        return result

    async def _once(
        self, what: tuple[Kind, str, str | None], ask: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Any:
        asked = self._asked.get(what)
        if asked is None or (asked.done() and (asked.cancelled() or asked.exception())):
            asked = self._asked[what] = asyncio.create_task(ask())
        return await asyncio.shield(asked)  # who gives up must not take the answer from the others
