"""Runs one container's probes: startup first, then readiness and liveness side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sandbox.node import probes
from sandbox.node.preparation import PodSurroundings, Prepared
from sandbox.node.status import ContainerRecord

Object = dict[str, Any]


class Prober:
    """Keeps `ready` and `started` of a running container true; `give_up(probe)` is called when it must be ended."""

    def __init__(
        self,
        around: PodSurroundings,
        container: Object,
        record: ContainerRecord,
        prepared: Prepared,
        give_up: Callable[[str], None],
    ) -> None:
        self._around = around
        self._container = container
        self._record = record
        self._prepared = prepared
        self._give_up = give_up

    async def run(self) -> None:
        """Until the container is given up or this is cancelled."""
        if startup := self._container.get("startupProbe"):
            await self._repeat("Startup", startup, self._on_startup)
            if not self._record.started:
                return
        async with asyncio.TaskGroup() as group:
            if probe := self._container.get("readinessProbe"):
                group.create_task(self._repeat("Readiness", probe, self._on_readiness))
            if probe := self._container.get("livenessProbe"):
                group.create_task(self._repeat("Liveness", probe, self._on_liveness))

    async def _repeat(self, word: str, probe: Object, decided: Callable[[bool], bool]) -> None:
        async def ask() -> probes.Verdict:
            return await probes.check(probe, self._container, self._around.address, self._prepared.run_beside)

        async def failed(output: str) -> None:
            await self._around.record_event("Warning", "Unhealthy", f"{word} probe failed: {output}")

        await probes.repeat(probe, ask, decided, failed)

    def _on_startup(self, ok: bool) -> bool:
        if ok:
            self._record.started = True
            self._record.ready = not self._container.get("readinessProbe")
            self._around.changed()
        else:
            self._give_up("startup")
        return False

    def _on_readiness(self, ok: bool) -> bool:
        if self._record.ready != ok:
            self._record.ready = ok
            self._around.changed()
        return True

    def _on_liveness(self, ok: bool) -> bool:
        if not ok:
            self._give_up("liveness")
        return ok
