"""Reads from the log of a pod that starts how far the weights are that it downloads or loads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from include.reconcile.pod_problems import container_statuses
from include.reconcile.startup_log import Startup, startup
from kaito.hooks import api
from kaito.hooks.api import ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger

#: How often the log of a pod that starts is read, how much of it, and how long that may take.
LOG_SECONDS, LOG_LINES, LOG_BYTES, LOG_TIMEOUT = 10.0, 20, 256 << 10, 5.0


@dataclass
class StartupLog:
    """What the log said last, and when it was read (monotonic seconds)."""

    log: Logger
    said: Startup | None = None
    read_at: float = float("-inf")

    async def read(
        self, hook: AsyncKaitoClusterHook, namespace: str, pods: Iterable[Mapping[str, Any]]
    ) -> Startup | None:
        """Read, now and then, from the log of the first container that starts how far it is."""
        starting = next((where for pod in pods if (where := _starting(pod))), None)
        if starting is None:
            return None
        if time.monotonic() - self.read_at >= LOG_SECONDS:
            pod, container = starting
            request = api.pod_log(
                pod, namespace, container, lines=LOG_LINES, max_bytes=LOG_BYTES, timeout=LOG_TIMEOUT
            )
            try:
                async with hook.stream(request) as response:
                    self.said = startup(await response.text(errors="replace"))
            except ClusterError as error:  # the wait itself does not need it
                self.log.debug("The log of pod %s cannot be read: %s", pod, error)
            self.read_at = time.monotonic()
        return self.said


def _starting(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name the pod and its first container, init containers before the others, that runs and is not ready yet."""
    for one in container_statuses(pod):
        if "running" in (one.get("state") or {}) and not one.get("ready"):
            return str(pod["metadata"]["name"]), str(one["name"])
    return None
