"""The Airflow assets of this project. Names and URIs are an interface: reports and other DAGs look for them."""

from __future__ import annotations

from airflow.sdk import Asset

#: An event of it for each run that ended: what the run's machines have cost (`include.ledger`).
LEDGER = Asset(name="kaito_ledger", uri="kaito://ledger/runs")
