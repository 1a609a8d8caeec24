"""Whether the cloud would grant a run's machines, asked before anything is made: rights, quota, offer, zones.

Kubernetes says what Airflow's account may do there. Whether there are machines only Azure lets one ask, so it is asked
where agent pools are used. "Yes" is no promise, and where nobody may ask, or Azure does not answer, the run goes on and
finds out. What a Workspace holds already is not asked for again: its own machines count in the quota.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from include.manifests import AgentPoolOptions, agent_pool
from include.manifests.agent_pools import AgentPoolInvalid
from include.planning import Plan
from include.pools.aks import LEAVING_STATES, belongs, state
from include.pools.status import FailureClass, classify
from include.workspace.api import names
from include.workspace.api.offers import SPOT
from kaito.hooks.api import NODE_CLAIM, ClusterError, Kind
from kaito.hooks.azure_account import AksError
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.providers.azure_offer import Wanted
from kaito.providers.base import PoolKey
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.registry import PoolSettings, ProviderName
from kaito.providers.selection import choose

if TYPE_CHECKING:
    from kaito.hooks.aks import AksHook

log = logging.getLogger(__name__)

#: What machines are made as, where the cluster's own API makes them.
_KINDS = {ProviderName.NODE_CLAIM: NODE_CLAIM, ProviderName.NODE_POOL: NODE_POOL}


def not_offered(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], plans: Sequence[Plan]
) -> dict[str, str]:
    """Say which of the plans the cloud would refuse now, and why, by their offers.

    :param plans: all for one purpose.
    :raises ValueError: nobody can make machines: the setting, the annotation or the connection makes no sense, a right
        is missing, or AKS takes no such pool.
    """
    settings = choose(cluster, workspace).settings
    if (kind := _KINDS.get(settings.provider)) and plans:
        _need_rights(cluster, kind, PoolKey.of(workspace, plans[0].purpose))
    if settings.provider != ProviderName.AKS or not plans:
        return {}
    _need_a_valid_pool(workspace, plans, settings)
    from kaito.hooks.aks import AksHook

    aks = AksHook(settings.azure_conn_id)
    try:
        if _holds_machines(aks, PoolKey.of(workspace, plans[0].purpose)):
            return {}
        told = aks.offers_faults([_wanted(plan, settings) for plan in plans])
    except AirflowNotFoundException:
        raise ValueError(
            f"Provider aks needs an Airflow connection {settings.azure_conn_id} of type azure, and there is none."
        ) from None
    except AksError as error:
        log.info(
            "Whether Azure has machines could not be asked (%s): it shows when they are asked for.", error
        )
        return {}
    return {plan.offer: " ".join(faults) for plan, faults in zip(plans, told, strict=True) if faults}


def _holds_machines(aks: AksHook, key: PoolKey) -> bool:
    """Whether there is a pool of this key. Raises ValueError where the connection can never reach pools."""
    try:
        pools = [pool for pool in aks.list_pools() if belongs(pool, key.labels)]
    except AksError as error:
        if classify(error.code, error.message) in (FailureClass.AUTH, FailureClass.CONFIG):
            raise ValueError(str(error)) from None
        raise
    return any(state(pool) not in LEAVING_STATES for pool in pools)


def _need_rights(cluster: KaitoClusterHook, kind: Kind, key: PoolKey) -> None:
    """Raise ValueError where the cluster does not know what machines are made as, or does not let us make it."""
    other = (
        f"choose who else makes machines (setting [kaito] pool_provider, annotation {names.POOL_PROVIDER})"
    )
    try:
        cluster.list(kind, labels=key.labels)
    except ClusterError as error:
        if error.status == 404:
            told = f"The cluster knows no {kind.name}s: install Karpenter or the gpu-provisioner, or {other}."
            raise ValueError(told) from None
        if error.status != 403:
            raise
    lacking = [verb for verb in ("list", "create", "patch", "delete") if not cluster.may(verb, kind)]
    if lacking:
        raise ValueError(
            f"Airflow's account in the cluster may not {', '.join(lacking)} {kind.plural}.{kind.group}: grant it that "
            f"(kubectl apply -f presets/rbac), or {other}."
        )


def _need_a_valid_pool(workspace: Mapping[str, Any], plans: Sequence[Plan], settings: PoolSettings) -> None:
    """Raise AgentPoolInvalid where AKS would take none of the plans' pools, with the first one's faults."""
    refused = []
    for plan in plans:
        try:
            agent_pool(workspace, plan, "", settings.options)
            return
        except AgentPoolInvalid as error:
            refused.append(error)
    raise refused[0]


def _wanted(plan: Plan, settings: PoolSettings) -> Wanted:
    options: AgentPoolOptions = settings.options
    spot = plan.capacity_type == SPOT if plan.capacity_type else options.spot
    zones = (plan.zone,) if plan.zone else options.zones
    return Wanted(plan.instance_type, plan.node_count, "", zones, spot)
