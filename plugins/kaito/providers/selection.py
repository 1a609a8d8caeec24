"""Who makes a Workspace's machines: its annotation, else the installation's setting, and what `auto` means here.

The choice is made anew at each step from what the cluster offers, so that a run that goes on after a crash, and the
release of its Workspace, come to the same answer. `auto` guesses once for all kinds of clusters and says why; it must
never touch anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from include.contracts.purpose import Purpose
from include.pools.status import classify
from include.workspace import parse_workspace
from include.workspace.api import names
from kaito.hooks.api import CloudError, ClusterError, Kind
from kaito.hooks.cluster_calls import ClusterCalls, run
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.azure_connection import azure_subscribed
from kaito.providers.base import FailureClass, PoolKey
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.registry import checked, provider_names
from kaito.providers.settings import PoolSettings, pool_settings

#: What the API server means by refusing: a right that is missing, a kind that it does not know, an object that it
#: does not take (a label, for one). Everything else may pass.
_REFUSALS = {
    401: FailureClass.AUTH,
    403: FailureClass.AUTH,
    400: FailureClass.CONFIG,
    404: FailureClass.CONFIG,
    422: FailureClass.CONFIG,
}


class NoProvider(ValueError):
    """`auto` found nobody who could make machines; the message says what would help."""


@dataclass(frozen=True)
class Choice:
    """Settings with a provider that is never `auto`, and why it is this one."""

    settings: PoolSettings
    why: str

    def __str__(self) -> str:
        return f"GPU machines by provider {self.settings.provider}: {self.why}."


@dataclass(frozen=True)
class InstalledProviders:
    """What a cluster and its Airflow have: the two kinds of Karpenter, and a connection to Azure."""

    node_claims: bool
    node_pools: bool
    azure: bool


def pick(installed: InstalledProviders, azure_conn_id: str) -> tuple[str, str]:
    """Choose for a Workspace that names a machine type. Raises NoProvider."""
    if installed.node_pools:
        return names.ProviderName.NODE_POOL, "auto, and the cluster knows Karpenter's NodePools"
    if installed.node_claims:
        return names.ProviderName.NODE_CLAIM, "auto, and the cluster knows NodeClaims but no NodePools"
    if installed.azure:
        why = f"auto, and there is connection {azure_conn_id} with a subscription but no NodeClaims in the cluster"
        return names.ProviderName.AKS, why
    raise NoProvider(
        "Provider auto found nobody who makes machines: the cluster knows neither NodeClaims nor NodePools, and "
        f"Airflow connection {azure_conn_id} has no subscriptionId. Install Karpenter or the gpu-provisioner, add the "
        "connection, or remove resource.instanceType to use your own nodes (BYO)."
    )


def _stated(workspace: Mapping[str, Any], found: PoolSettings) -> Choice | None:
    """What can be said without asking; None where `auto` has to look. Raises ValueError for an unknown name."""
    given = (workspace["metadata"].get("annotations") or {}).get(names.POOL_PROVIDER)
    if given:
        if given not in (known := provider_names()):
            raise ValueError(
                f"Annotation {names.POOL_PROVIDER} must be one of {', '.join(known)}, not {given!r}."
            )
        found = replace(found, provider=str(given))
    if checked(found).provider != names.AUTO_PROVIDER:
        why = f"annotation {names.POOL_PROVIDER}" if given else "setting [kaito] pool_provider or its default"
        return Choice(found, why)
    if not parse_workspace(workspace).instance_type:
        return Choice(
            replace(found, provider=names.ProviderName.BYO), "auto, and the Workspace names no instanceType"
        )
    return None


def choose(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], settings: PoolSettings | None = None
) -> Choice:
    """Say, in a task, who makes this Workspace's machines.

    :raises ValueError: the setting or the annotation makes no sense, or `auto` finds nobody (NoProvider).
    """
    return run(Chooser(cluster.calls, settings).choose(workspace))


class Chooser:
    """Says who makes the machines of many Workspaces: where `auto` has to look, it looks once for all of them."""

    def __init__(self, cluster: ClusterCalls, settings: PoolSettings | None = None) -> None:
        self.cluster = cluster
        self.settings = settings or checked(pool_settings())
        self._installed: InstalledProviders | None = None

    async def choose(self, workspace: Mapping[str, Any]) -> Choice:
        """Say who makes a Workspace's machines. Raises ValueError."""
        if stated := _stated(workspace, self.settings):
            return stated
        if self._installed is None:
            labels = PoolKey.of(workspace, Purpose.TUNING).labels
            self._installed = InstalledProviders(
                await self._knows(NODE_CLAIM, labels),
                await self._knows(NODE_POOL, labels),
                await self._azure(),
            )
        name, why = pick(self._installed, self.settings.azure_conn_id)
        return Choice(replace(self.settings, provider=name), why)

    async def _knows(self, kind: Kind, labels: Mapping[str, str]) -> bool:
        """Whether the cluster has a kind; few objects are asked for, with a right that is needed anyway."""
        try:
            await self.cluster.list(kind, labels=labels)
        except ClusterError as error:
            if error.status not in (403, 404):
                raise
            return False
        return True

    async def _azure(self) -> bool:
        """Whether there is a connection that names an Azure subscription."""
        conn_id = self.settings.azure_conn_id
        return await azure_subscribed(self.cluster, conn_id)


def failure_class(error: Exception) -> FailureClass:
    """Sort what a provider or its choice raised, as a pool's own failures are sorted."""
    if isinstance(error, CloudError):
        return classify(error.code, error.message)
    if isinstance(error, ClusterError):
        return _REFUSALS.get(error.status, FailureClass.TRANSIENT)
    if not isinstance(error, ValueError):
        return FailureClass.TRANSIENT
    return FailureClass.CONFIG  # a setting, an annotation, a connection, or what AKS would refuse
