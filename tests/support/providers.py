"""Providers of GPU machines over a cluster in memory or in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaito.providers.base import PoolProvider, ProviderContext
from kaito.providers.blocking import BlockingProvider
from kaito.providers.settings import PoolSettings

from tests.support.fake_cluster import FakeCalls


def blocking(
    provider: type[PoolProvider],
    cluster: Any,
    *args: Any,
    workspace: Mapping[str, Any] | None = None,
    **more: Any,
) -> BlockingProvider:
    """A provider as a task has it; further arguments are the provider's own."""
    calls = cluster.calls if hasattr(cluster, "calls") else FakeCalls(cluster)
    context = ProviderContext(calls, workspace, PoolSettings())
    return BlockingProvider(provider(context, *args, **more))
