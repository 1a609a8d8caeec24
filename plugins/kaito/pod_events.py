"""Kubernetes Events about objects that cannot tell themselves why they do not go on.

Only those are asked about, one list for each: a namespace may hold thousands of Events. An answer that does not come
costs the reason, never the wait that asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kaito.hooks.api import EVENT, ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.logger import Logger

#: How often a wait that looks again and again asks, in seconds.
READ_SECONDS = 5.0


@dataclass
class LatestEvents:
    """What was told last about the objects of one wait, and when it was read (monotonic seconds)."""

    log: Logger
    told: list[dict[str, Any]] = field(default_factory=list)
    read_at: float = float("-inf")

    async def about(
        self, hook: AsyncKaitoClusterHook, objects: Iterable[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the Events about these objects, at most some seconds old; none where there are no objects."""
        if not (silent := list(objects)):
            return []
        if time.monotonic() - self.read_at >= READ_SECONDS:
            self.told = await events_about(hook, silent, self.log)
            self.read_at = time.monotonic()
        return self.told


async def events_about(
    hook: AsyncKaitoClusterHook, objects: Iterable[Mapping[str, Any]], log: Logger
) -> list[dict[str, Any]]:
    """Return the Events about these objects, by their uids.

    :param objects: of a namespace, such as `include.reconcile.rollout.silent_about` finds them.
    """
    found = await asyncio.gather(*(_about(hook, one["metadata"], log) for one in objects))
    return [event for events in found for event in events]


async def _about(
    hook: AsyncKaitoClusterHook, metadata: Mapping[str, Any], log: Logger
) -> list[dict[str, Any]]:
    try:
        return await hook.list(
            EVENT, metadata["namespace"], fields=f"involvedObject.uid={metadata.get('uid')}"
        )
    except ClusterError as error:
        log.info("The Events about %s cannot be read: %s", metadata["name"], error)
        return []
