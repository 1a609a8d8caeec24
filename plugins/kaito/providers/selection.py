"""Who makes a Workspace's machines: its annotation, else the installation's setting, and what `auto` means here.

The choice is made anew at each step from what the cluster offers, so that a run that goes on after a crash, and the
release of its Workspace, come to the same answer. `auto` guesses once for all kinds of clusters and says why; it must
never touch anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from include.pools.status import classify
from include.workspace import parse_workspace
from include.workspace.api import names
from kaito.hooks.api import NODE_CLAIM, ClusterError, Kind
from kaito.hooks.kubernetes import AsyncKaitoClusterHook, KaitoClusterHook
from kaito.providers.base import FailureClass, PoolKey, Purpose
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.registry import PoolSettings, ProviderName, pool_settings

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
class Offer:
    """What a cluster and its Airflow have: the two kinds of Karpenter, and a connection to Azure."""

    node_claims: bool
    node_pools: bool
    azure: bool


def pick(offer: Offer, azure_conn_id: str) -> tuple[ProviderName, str]:
    """Choose for a Workspace that names a machine type. Raises NoProvider."""
    if offer.node_pools:
        return ProviderName.NODE_POOL, "auto, and the cluster knows Karpenter's NodePools"
    if offer.node_claims:
        return ProviderName.NODE_CLAIM, "auto, and the cluster knows NodeClaims but no NodePools"
    if offer.azure:
        why = f"auto, and there is connection {azure_conn_id} with a subscription but no NodeClaims in the cluster"
        return ProviderName.AKS, why
    raise NoProvider(
        "Provider auto found nobody who makes machines: the cluster knows neither NodeClaims nor NodePools, and "
        f"Airflow connection {azure_conn_id} has no subscriptionId. Install Karpenter or the gpu-provisioner, add the "
        "connection, or remove resource.instanceType to use BYO nodes."
    )


def _stated(workspace: Mapping[str, Any], found: PoolSettings) -> Choice | None:
    """What can be said without asking; None where `auto` has to look. Raises ValueError for an unknown name."""
    given = (workspace["metadata"].get("annotations") or {}).get(names.POOL_PROVIDER)
    if given:
        if given not in names.POOL_PROVIDERS:
            known = ", ".join(names.POOL_PROVIDERS)
            raise ValueError(f"Annotation {names.POOL_PROVIDER} must be one of {known}, not {given!r}.")
        found = replace(found, provider=ProviderName(given))
    if found.provider != ProviderName.AUTO:
        why = f"annotation {names.POOL_PROVIDER}" if given else "setting [kaito] pool_provider or its default"
        return Choice(found, why)
    if not parse_workspace(workspace).instance_type:
        return Choice(
            replace(found, provider=ProviderName.BYO), "auto, and the Workspace names no instanceType"
        )
    return None


def _picked(settings: PoolSettings, offer: Offer) -> Choice:
    name, why = pick(offer, settings.azure_conn_id)
    return Choice(replace(settings, provider=name), why)


def choose(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], settings: PoolSettings | None = None
) -> Choice:
    """Say who makes this Workspace's machines.

    :raises ValueError: the setting or the annotation makes no sense, or `auto` finds nobody (NoProvider).
    """
    found = settings or pool_settings()
    if stated := _stated(workspace, found):
        return stated

    def knows(kind: Kind) -> bool:
        try:
            cluster.list(kind, labels=_some(workspace))
        except ClusterError as error:
            return _known(error)
        return True

    has = azure_subscribed(found.azure_conn_id)
    return _picked(found, Offer(knows(NODE_CLAIM), knows(NODE_POOL), has))


async def choose_async(
    cluster: AsyncKaitoClusterHook, workspace: Mapping[str, Any], settings: PoolSettings | None = None
) -> Choice:
    """As :func:`choose`, for triggers."""
    return await Chooser(cluster, settings).choose(workspace)


class Chooser:
    """Says who makes the machines of many Workspaces: where `auto` has to look, it looks once for all of them."""

    def __init__(self, cluster: AsyncKaitoClusterHook, settings: PoolSettings | None = None) -> None:
        self.cluster = cluster
        self.settings = settings or pool_settings()
        self._offer: Offer | None = None

    async def choose(self, workspace: Mapping[str, Any]) -> Choice:
        """As :func:`choose`."""
        if stated := _stated(workspace, self.settings):
            return stated
        if self._offer is None:
            labels = _some(workspace)
            self._offer = Offer(
                await self._knows(NODE_CLAIM, labels),
                await self._knows(NODE_POOL, labels),
                await azure_subscribed_async(self.settings.azure_conn_id),
            )
        return _picked(self.settings, self._offer)

    async def _knows(self, kind: Kind, labels: Mapping[str, str]) -> bool:
        try:
            await self.cluster.list(kind, labels=labels)
        except ClusterError as error:
            return _known(error)
        return True


def _some(workspace: Mapping[str, Any]) -> dict[str, str]:
    """Few objects at most: it is asked whether the kind exists, with no right but the one that is needed anyway."""
    return PoolKey.of(workspace, Purpose.TUNING).labels


def _known(error: ClusterError) -> bool:
    if error.status not in (403, 404):
        raise error
    return False


def azure_subscribed(conn_id: str) -> bool:
    """Whether there is a connection of this id that names an Azure subscription."""
    try:
        return bool(BaseHook.get_connection(conn_id).extra_dejson.get("subscriptionId"))
    except AirflowNotFoundException:
        return False


async def azure_subscribed_async(conn_id: str) -> bool:
    """As :func:`azure_subscribed`, for triggers."""
    try:
        return bool((await get_async_connection(conn_id)).extra_dejson.get("subscriptionId"))
    except AirflowNotFoundException:
        return False


def failure_class(error: Exception) -> FailureClass:
    """Sort what a provider or its choice raised, as a pool's own failures are sorted."""
    from kaito.hooks.azure_account import AksError

    if isinstance(error, AksError):
        return classify(error.code, error.message)
    if isinstance(error, ClusterError):
        return _REFUSALS.get(error.status, FailureClass.TRANSIENT)
    if not isinstance(error, ValueError):
        return FailureClass.TRANSIENT
    return FailureClass.CONFIG  # a setting, an annotation, a connection, or what AKS would refuse
