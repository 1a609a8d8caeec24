"""What a service's own servers tell, and the pools under it: looked at only where a decision needs it.

Servers are asked through the API server's pod proxy, by the names of pods that are the Workspace's own, so that no
address that a Workspace could choose is ever opened. Nothing is changed here, but for agent pools that were decided to
go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from include.manifests.pods import PORT
from include.pools.aks import belongs
from include.reconcile.activity import read, together
from include.reconcile.case import SERVING
from include.reconcile.decision import Activity
from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import ClusterError
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.registry import PoolSettings, ProviderName, pool_settings

log = logging.getLogger(__name__)

Object = Mapping[str, Any]
METRICS_SECONDS = 3.0
#: vLLM tells some hundred kilobytes; what is longer is not read, and nothing is known then.
MOST_BYTES = 4_000_000
#: Azure runs one operation on a cluster at a time; a pass does not wait long for its turn, the next one asks again.
AZURE_SECONDS = 30.0


async def activity_of(hook: AsyncKaitoClusterHook, pods: Iterable[Object]) -> Activity | None:
    """Return what the servers of a service tell of their use, None when one of them does not."""
    serving = [pod for pod in pods if _serves(pod)]
    return together(await asyncio.gather(*(_ask(hook, pod) for pod in serving)))


def _serves(pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return labels.get(names.COMPONENT) == SERVING and not over


async def _ask(hook: AsyncKaitoClusterHook, pod: Object) -> Activity | None:
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
    return read(text.decode(errors="replace"))


async def pools_of(
    hook: AsyncKaitoClusterHook, workspace: Object, settings: PoolSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Return a Workspace's NodePools, and its AKS agent pools where its machines come as such (else None).

    :param settings: who makes them.
    :raises AksError: Azure did not let us look.
    """
    labels = {
        names.WORKSPACE: str(workspace["metadata"]["name"]),
        names.WORKSPACE_NAMESPACE: names.namespace(workspace),
    }
    if settings.provider == ProviderName.NODE_POOL:
        return await hook.list(NODE_POOL, labels=labels), None
    if settings.provider != ProviderName.AKS:
        return [], None
    from kaito.hooks.aks import AksHook

    async with AksHook(settings.azure_conn_id) as aks:
        return [], [pool for pool in await aks.async_list_pools() if belongs(pool, labels)]


async def delete_agent_pool(name: str, etag: str) -> bool:
    """Ask for an agent pool's deletion as it was seen; False when it has changed since or is gone."""
    from kaito.hooks.aks import AksHook
    from kaito.hooks.azure_account import AksError

    hook = AksHook(pool_settings().azure_conn_id)
    try:
        return await asyncio.to_thread(hook.begin_delete, name, etag=etag or None, timeout=AZURE_SECONDS)
    except AksError as error:
        if error.stale:
            return False
        raise
