"""All providers of GPU machines by name: those that come with the product, and those that an installation adds.

A provider is added by the entry point group ``kaito.pool_providers``, by the setting ``[kaito] pool_providers``
(``name=package.module:Class``, separated by commas), or by :func:`register`. Its module is imported when it is asked
for: Azure's SDK costs seconds. docs/extending.md shows how to write one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from airflow.sdk import conf
from airflow.sdk.module_loading import import_string

from include.pools.observed import ObservedPool
from include.workspace.api import names
from kaito.hooks.api import Kind
from kaito.hooks.cluster_calls import ClusterCalls
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.base import PoolProvider, ProviderContext
from kaito.providers.blocking import BlockingProvider
from kaito.providers.settings import SECTION, PoolSettings, pool_settings

GROUP = "kaito.pool_providers"
#: Who comes with the product.
_OWN = {
    names.ProviderName.NODE_CLAIM: "kaito.providers.nodeclaim.NodeClaims",
    names.ProviderName.NODE_POOL: "kaito.providers.nodepool.NodePools",
    names.ProviderName.AKS: "kaito.providers.aks.AgentPools",
    names.ProviderName.BYO: "kaito.providers.byo.OwnNodes",
}
_registered: dict[str, type[PoolProvider] | str] = {}


def register(name: str, provider: type[PoolProvider] | str) -> None:
    """Add a provider, as a class or as the path of one; an earlier one of that name is replaced.

    :raises ValueError: the name is taken by a provider of the product, or stands for something else.
    """
    if name in names.POOL_PROVIDERS:
        raise ValueError(f"A provider cannot be called {name}: the product has one of that name.")
    _registered[name] = provider


def unregister(name: str) -> None:
    """Take a provider out that :func:`register` added."""
    _registered.pop(name, None)


@cache
def _entry_points() -> tuple[tuple[str, str], ...]:
    return tuple((point.name, point.value.replace(":", ".")) for point in entry_points(group=GROUP))


def _known() -> dict[str, type[PoolProvider] | str]:
    result: dict[str, type[PoolProvider] | str] = {str(name): path for name, path in _OWN.items()}
    for name, path in _entry_points():
        result.setdefault(name, path)
    text = str(conf.get(SECTION, "pool_providers", fallback="") or "")
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, found_one, path = item.partition("=")
        if not found_one or not path.strip():
            raise ValueError(
                f"Airflow setting [{SECTION}] pool_providers must be NAME=package.module:Class, separated by commas, "
                f"not {item!r}."
            )
        result.setdefault(name.strip(), path.strip().replace(":", "."))
    return {**result, **_registered}


def provider_names() -> tuple[str, ...]:
    """All that the setting ``[kaito] pool_provider`` and the annotation may say. Raises ValueError."""
    return (*_known(), names.AUTO_PROVIDER)


def lookup(name: str) -> type[PoolProvider]:
    """Return the provider of a name.

    :raises ValueError: there is none of that name, or it cannot be imported.
    """
    known = _known()
    if name not in known:
        raise ValueError(f"There is no provider {name!r} of GPU machines: they are {', '.join(known)}.")
    result = known[name]
    if isinstance(result, str):
        try:
            result = import_string(result)
        except ImportError as error:
            raise ValueError(f"Provider {name} cannot be imported from {known[name]}: {error}") from error
    if not (isinstance(result, type) and issubclass(result, PoolProvider)):
        raise ValueError(
            f"Provider {name} must be a kaito.providers.base.PoolProvider, and {result!r} is none."
        )
    return result


def checked(settings: PoolSettings) -> PoolSettings:
    """Return settings that name a provider that there is. Raises ValueError."""
    if settings.provider not in (known := provider_names()):
        raise ValueError(
            f"Airflow setting [{SECTION}] pool_provider must be one of {', '.join(known)}, "
            f"not {settings.provider!r}."
        )
    return settings


def _all() -> list[type[PoolProvider]]:
    """All of them, in the order in which pools are deleted: what others may have made comes last."""
    found = [lookup(name) for name in provider_names() if name != names.AUTO_PROVIDER]
    return sorted(found, key=lambda provider: bool(provider.watched))


def readers() -> tuple[type[PoolProvider], ...]:
    """The providers whose pools show at every look: they turn what was read of their `watched` kinds into pools."""
    return tuple(provider for provider in _all() if provider.watched)


def watched() -> tuple[Kind, ...]:
    """The kinds that providers make in the cluster and that are read at every look."""
    return tuple(dict.fromkeys(kind for provider in readers() for kind in provider.watched))


def provider(
    cluster: KaitoClusterHook,
    settings: PoolSettings | None = None,
    workspace: Mapping[str, Any] | None = None,
) -> BlockingProvider:
    """Return, for a task, the provider that the settings choose; `kaito.providers.selection` chooses for a Workspace.

    :raises ValueError: there is no such provider, or `auto` was not resolved.
    """
    return BlockingProvider(async_provider(cluster.calls, settings, workspace))


def async_provider(
    cluster: ClusterCalls,
    settings: PoolSettings | None = None,
    workspace: Mapping[str, Any] | None = None,
) -> PoolProvider:
    """Return, for an event loop, the provider that the settings choose; close it when it is not needed any more.

    :raises ValueError: there is no such provider, or `auto` was not resolved.
    """
    chosen = settings or checked(pool_settings())
    return lookup(chosen.provider)(ProviderContext(cluster, workspace, chosen))


@asynccontextmanager
async def maker_of(cluster: ClusterCalls, pool: ObservedPool) -> AsyncIterator[PoolProvider]:
    """Who made a pool, to have something done about it."""
    found = lookup(pool.provider)(ProviderContext(cluster))
    try:
        yield found
    finally:
        await found.close()


def owners_in_a_task(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], settings: PoolSettings | None = None
) -> list[BlockingProvider]:
    """Return, for a task, all providers that may have made machines for a Workspace, whoever makes them now."""
    context = ProviderContext(cluster.calls, workspace, settings or pool_settings())
    found = (BlockingProvider(provider(context)) for provider in _all())
    return [one for one in found if one.may_own()]


@asynccontextmanager
async def owners(
    cluster: ClusterCalls,
    workspace: Mapping[str, Any] | None = None,
    settings: PoolSettings | None = None,
) -> AsyncIterator[list[PoolProvider]]:
    """All providers that may have made machines: for a Workspace, or for any where none is named."""
    context = ProviderContext(cluster, workspace, settings or pool_settings())
    found = [provider(context) for provider in _all()]
    try:
        yield [one for one in found if await one.may_own()]
    finally:
        for one in found:
            await one.close()
