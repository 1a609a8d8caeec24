"""What the Airflow connection to Azure tells without asking Azure."""

from __future__ import annotations

from airflow.providers.common.compat.connection import get_async_connection
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException


def azure_subscribed(conn_id: str) -> bool:
    """Whether there is a connection of this id that names an Azure subscription."""
    try:
        return bool(BaseHook.get_connection(conn_id).extra_dejson.get("subscriptionId"))
    except AirflowNotFoundException:
        return False


async def azure_subscribed_async(conn_id: str) -> bool:
    """As :func:`azure_subscribed`, for an event loop."""
    try:
        return bool((await get_async_connection(conn_id)).extra_dejson.get("subscriptionId"))
    except AirflowNotFoundException:
        return False
