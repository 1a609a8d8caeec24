"""The Airflow assets of this project. Names and URIs are an interface: reports and other DAGs look for them."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias

#: An event of it for each run that ended: what the run's machines have cost (`include.ledger`).
LEDGER = Asset(name="kaito_ledger", uri="kaito://ledger/runs")

#: What the steps of a tuning and of a retraining tell through: their events are those of `adapter` and `served` below.
ADAPTERS = AssetAlias(name="kaito_adapters", group="kaito")
SERVED = AssetAlias(name="kaito_served", group="kaito")


def adapter(namespace: str, name: str) -> Asset:
    """Return the asset of a Workspace's adapters: an event for each version that is pushed, with what was measured."""
    return Asset(name=f"kaito_adapter_{namespace}_{name}", uri=f"x-kaito://adapters/{namespace}/{name}")


def served(namespace: str, name: str) -> Asset:
    """Return the asset of what a Workspace serves: an event for each version that has become it."""
    return Asset(name=f"kaito_served_{namespace}_{name}", uri=f"x-kaito://served/{namespace}/{name}")
