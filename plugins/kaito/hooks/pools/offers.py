"""Whether the cloud would grant a run's machines, asked before anything is made: quota, offer, zones, permission.

Only Azure lets one ask, so it is asked where agent pools are used. "Yes" is no promise, and where nobody may ask, or
Azure does not answer, the run goes on and finds out. What a Workspace holds already is not asked for again: its own
machines count in the quota.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowNotFoundException

from include.manifests import AgentPoolOptions
from include.planning import Plan
from include.reconcile.agent_pools import LEAVING_STATES, belongs, state
from include.workspace.offers import SPOT
from kaito.hooks.azure_account import AksError
from kaito.hooks.azure_offer import Wanted
from kaito.hooks.cluster import KaitoClusterHook
from kaito.hooks.pool import PoolKey
from kaito.hooks.pools import PoolSettings, ProviderName
from kaito.hooks.pools.choosing import choose

log = logging.getLogger(__name__)


def not_offered(
    cluster: KaitoClusterHook, workspace: Mapping[str, Any], plans: Sequence[Plan]
) -> dict[str, str]:
    """Say which of the plans the cloud would refuse now, and why, by their offers.

    :param plans: all for one purpose.
    :raises ValueError: nobody can make machines: the setting, the annotation or the connection makes no sense.
    """
    settings = choose(cluster, workspace).settings
    if settings.provider != ProviderName.AKS or not plans:
        return {}
    from kaito.hooks.aks import AksHook

    aks = AksHook(settings.azure_conn_id)
    key = PoolKey.of(workspace, plans[0].purpose)
    try:
        pools = [pool for pool in aks.list_pools() if belongs(pool, key.labels)]
        if any(state(pool) not in LEAVING_STATES for pool in pools):
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


def _wanted(plan: Plan, settings: PoolSettings) -> Wanted:
    options: AgentPoolOptions = settings.options
    spot = plan.capacity_type == SPOT if plan.capacity_type else options.spot
    zones = (plan.zone,) if plan.zone else options.zones
    return Wanted(plan.instance_type, plan.node_count, "", zones, spot)
