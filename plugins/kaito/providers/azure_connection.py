"""What the Airflow connection to Azure tells without asking Azure; asked for as the calls over the cluster are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.connection import get_async_connection
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from kaito.hooks.cluster_calls import ClusterCalls


async def connection_of(cluster: ClusterCalls, conn_id: str) -> Connection | None:
    """Return an Airflow connection, None where there is none of this id.

    :param cluster: whose calls block, the connection is read by a call that blocks, too.
    """
    try:
        result: Connection = (
            BaseHook.get_connection(conn_id) if cluster.blocking else await get_async_connection(conn_id)
        )
    except AirflowNotFoundException:
        return None
    return result


async def azure_subscribed(cluster: ClusterCalls, conn_id: str) -> bool:
    """Whether there is a connection of this id that names an Azure subscription."""
    live = await connection_of(cluster, conn_id)
    return live is not None and bool(live.extra_dejson.get("subscriptionId"))
