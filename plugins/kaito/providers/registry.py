"""Which provider makes GPU machines, and with what options: Airflow's configuration, section ``[kaito]``.

The one place that knows all providers; operators and triggers ask here and know only their interface. Azure's SDK is
imported only where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf

from include.manifests import AgentPoolOptions
from include.pools.status import PoolStatus, Stage
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import GpuPoolProvider, PoolKey
from kaito.providers.byo import OwnNodes, observe_own_nodes
from kaito.providers.nodeclaim import NodeClaimPool, observe_node_claims
from kaito.providers.nodepool import NodePools, observe_node_pools

if TYPE_CHECKING:
    from kaito.hooks.aks import AksHook

SECTION = "kaito"
DEFAULT_AZURE_CONNECTION = "azure_default"
_WORDS = {"true": True, "false": False}


class ProviderName(StrEnum):
    """The values of ``[kaito] pool_provider``."""

    NODE_CLAIM = "nodeclaim"
    NODE_POOL = "nodepool"
    AKS = "aks"
    BYO = "byo"
    AUTO = "auto"


@dataclass(frozen=True)
class PoolSettings:
    """An installation's choice of provider, and what agent pools are made with."""

    provider: ProviderName = ProviderName.NODE_CLAIM
    azure_conn_id: str = DEFAULT_AZURE_CONNECTION
    options: AgentPoolOptions = field(default_factory=AgentPoolOptions)


#: How long machines may take in each stage, in seconds: ``[kaito] pool_launch_seconds`` and so on. Clouds take 5 to 15
#: minutes for a GPU machine with drivers in all.
BUDGETS = {Stage.LAUNCH: 900.0, Stage.BOOT: 600.0, Stage.DRIVER: 900.0}


def budgets() -> dict[Stage, float]:
    """Read how long machines may stay in each stage, in seconds. Raises ValueError."""
    found = {}
    for stage, usual in BUDGETS.items():
        text = _text(key := budget_key(stage))
        try:
            found[stage] = float(text) if text else usual
        except ValueError:
            found[stage] = 0.0
        if not 0 < found[stage] < float("inf"):
            raise ValueError(f"Airflow setting [{SECTION}] {key} must be seconds above 0, not {text!r}.")
    return found


def budget_key(stage: Stage) -> str:
    """The setting of a stage's budget."""
    return f"pool_{stage}_seconds"


def _text(key: str) -> str:
    return str(conf.get(SECTION, key, fallback="") or "").strip()


def pool_settings() -> PoolSettings:
    """Read the settings; unset keys keep their defaults.

    :raises ValueError: a setting is not what it must be.
    """
    given = _text("pool_provider") or ProviderName.NODE_CLAIM
    known = ", ".join(ProviderName)
    try:
        name = ProviderName(given.lower())
    except ValueError:
        raise ValueError(
            f"Airflow setting [{SECTION}] pool_provider must be one of {known}, not {given!r}."
        ) from None
    options = AgentPoolOptions(
        spot=_switch("pool_spot"),
        spot_max_price=_price("pool_spot_max_price"),
        zones=tuple(zone.strip() for zone in _text("pool_zones").split(",") if zone.strip()),
        gpu_driver=_text("pool_gpu_driver") or "Install",
        subnet_id=_text("pool_subnet_id"),
    )
    return PoolSettings(name, _text("azure_conn_id") or DEFAULT_AZURE_CONNECTION, options)


def _switch(key: str) -> bool:
    text = _text(key).lower() or "false"
    if text not in _WORDS:
        raise ValueError(f"Airflow setting [{SECTION}] {key} must be true or false, not {text!r}.")
    return _WORDS[text]


def _price(key: str) -> float:
    text = _text(key) or "-1"
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"Airflow setting [{SECTION}] {key} must be US dollars an hour, or -1 for the on-demand price, "
            f"not {text!r}."
        ) from None


def provider(
    cluster: KaitoClusterHook,
    settings: PoolSettings | None = None,
    workspace: Mapping[str, Any] | None = None,
) -> GpuPoolProvider:
    """Return the provider that the settings choose; `kaito.providers.selection` chooses for a Workspace.

    :param workspace: whose machines; needed where nodes are BYO (bring your own).
    :raises ValueError: `auto` was not resolved, or there is no Workspace where one is needed.
    """
    chosen = settings or pool_settings()
    if chosen.provider == ProviderName.AKS:
        from kaito.hooks.aks import AksHook
        from kaito.providers.aks import AgentPools

        return AgentPools(cluster, AksHook(chosen.azure_conn_id), chosen.options)
    if chosen.provider == ProviderName.NODE_POOL:
        return NodePools(cluster)
    if chosen.provider == ProviderName.NODE_CLAIM:
        return NodeClaimPool(cluster)
    if chosen.provider == ProviderName.BYO and workspace is not None:
        return OwnNodes(cluster, workspace)
    raise ValueError(f"Provider {chosen.provider} needs a Workspace to choose for.")


class PoolObserver:
    """Looks at pools for triggers, with one client to Azure for as long as the ``async with`` lasts.

    Outside of one it works too, with a client for each look.

    :param workspace: whose machines, with its status, which tells how many were asked for; needed where nodes are
        BYO (bring your own).
    """

    def __init__(
        self,
        cluster: AsyncKaitoClusterHook,
        settings: PoolSettings | None = None,
        workspace: Mapping[str, Any] | None = None,
    ) -> None:
        self.cluster = cluster
        self.settings = settings or pool_settings()
        self.workspace = workspace
        self._aks: AksHook | None = None

    async def __aenter__(self) -> PoolObserver:
        if self.settings.provider == ProviderName.AKS:
            from kaito.hooks.aks import AksHook

            self._aks = AksHook(self.settings.azure_conn_id)
        return self

    async def __aexit__(self, *_: object) -> None:
        aks, self._aks = self._aks, None
        if aks is not None:
            await aks.close()

    def _wanted(self) -> int:
        return int(((self.workspace or {}).get("status") or {}).get("targetNodeCount") or 1)

    async def observe(self, key: PoolKey) -> PoolStatus:
        """As :meth:`GpuPoolProvider.observe`."""
        chosen = self.settings.provider
        if chosen == ProviderName.NODE_POOL:
            return await observe_node_pools(self.cluster, key)
        if chosen == ProviderName.NODE_CLAIM:
            return await observe_node_claims(self.cluster, key, self._wanted())
        if chosen == ProviderName.BYO and self.workspace is not None:
            return await observe_own_nodes(self.cluster, self.workspace)
        if chosen != ProviderName.AKS:
            raise ValueError(f"Provider {chosen} needs a Workspace to choose for.")
        if self._aks is None:
            async with self:
                return await self.observe(key)
        from kaito.providers.aks import observe_agent_pools

        return await observe_agent_pools(self.cluster, self._aks, key)
