"""What a service's own servers tell, and the pools under it: looked at only where a decision needs it.

Servers are asked through the API server's pod proxy, by the names of pods that are the Workspace's own, so that no
address that a Workspace could choose is ever opened. Nothing is changed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from include.manifests.pods import PORT
from include.pools.observed import ObservedPool, UnregisteredCapacity, WorkspacePools, machines_of
from include.reconcile.activity import read, requests, together
from include.reconcile.case import SERVING
from include.reconcile.decision import Activity
from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.providers.base import labels_of
from kaito.providers.registry import async_provider, lookup
from kaito.providers.settings import PoolSettings

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
METRICS_SECONDS = 3.0
#: vLLM tells some hundred kilobytes; what is longer is not read, and nothing is known then.
MOST_BYTES = 4_000_000


async def activity_of(hook: AsyncKaitoClusterHook, pods: Iterable[Object]) -> Activity | None:
    """Return what the servers of a service tell of their use, None when one of them does not."""
    texts = await _metrics(hook, pods)
    return together(None if text is None else read(text) for text in texts.values())


async def requests_of(hook: AsyncKaitoClusterHook, pods: Iterable[Object]) -> dict[str, float]:
    """Return the requests that each server of a service has answered since it started, by its pod's uid.

    :returns: {} when one of them does not tell: a sum without it would be wrong.
    """
    told = {
        uid: None if text is None else requests(text) for uid, text in (await _metrics(hook, pods)).items()
    }
    known = {uid: count for uid, count in told.items() if count is not None}
    return known if len(known) == len(told) else {}


async def _metrics(hook: AsyncKaitoClusterHook, pods: Iterable[Object]) -> dict[str, str | None]:
    """The metrics of each pod that serves, by its uid; None for one that does not answer."""
    serving = [pod for pod in pods if _serves(pod)]
    texts = await asyncio.gather(*(_ask(hook, pod) for pod in serving))
    return {str(pod["metadata"].get("uid")): text for pod, text in zip(serving, texts, strict=True)}


def _serves(pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return labels.get(names.COMPONENT) == SERVING and not over


async def _ask(hook: AsyncKaitoClusterHook, pod: Object) -> str | None:
    metadata = pod["metadata"]
    request = api.pod_get(
        metadata["name"], metadata["namespace"], "metrics", port=PORT, timeout=METRICS_SECONDS
    )
    try:
        async with hook.stream(request) as response:
            text = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                text += chunk
                if len(text) > MOST_BYTES:
                    return None
    except ClusterError as error:
        log.info("Pod %s does not tell how it is used: %s", metadata["name"], error)
        return None
    return text.decode(errors="replace")


async def pools_of(
    hook: AsyncKaitoClusterHook, workspace: Object, settings: PoolSettings
) -> list[ObservedPool]:
    """Return the pools of a Workspace that do not show at every look.

    :param settings: who makes them.
    :raises ClusterError, CloudError, ValueError: we may not look.
    """
    provider = async_provider(hook, settings, workspace)
    try:
        return [] if provider.watched else await provider.list_owned(labels_of(workspace))
    finally:
        await provider.close()


def workspace_pools(
    shown: Sequence[ObservedPool],
    nodes: Sequence[Object],
    settings: PoolSettings | None,
    asked: Sequence[ObservedPool] | None = None,
) -> WorkspacePools:
    """Put together what was seen of a Workspace's machines.

    :param shown: its pools that show at every look.
    :param nodes: its Nodes.
    :param settings: who makes its machines, None where nobody could say.
    :param asked: its other pools, None where they were not looked at.
    """
    machines = machines_of([*shown, *(asked or ())], nodes)
    if settings is None:
        return WorkspacePools(pools=tuple(shown), machines=machines)
    maker = lookup(settings.provider)
    told: tuple[UnregisteredCapacity, ...] | None = None if maker.remote else ()
    if asked is not None:
        told = tuple(pool.unregistered for pool in asked if pool.unregistered)
    return WorkspacePools(
        provider=settings.provider,
        kind=maker.kind,
        watched=bool(maker.watched),
        complete=bool(maker.watched) or not maker.makes_machines or asked is not None,
        makes_machines=maker.makes_machines,
        pools=(*shown, *(asked or ())),
        machines=machines,
        unregistered=told,
    )
