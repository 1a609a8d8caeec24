"""To any HTTP endpoint, through the connection `kaito_alerts` (provider http).

pip install apache-airflow-providers-http
AIRFLOW__KAITO__NOTIFIERS=examples.notifiers.by_webhook:notifier
AIRFLOW_CONN_KAITO_ALERTS=https://alerts.example.com
"""

from __future__ import annotations

from airflow.providers.http.notifications import HttpNotifier


def notifier() -> HttpNotifier:
    """Return a notifier that posts JSON."""
    return HttpNotifier(
        http_conn_id="kaito_alerts",
        endpoint="/runs",
        json={
            "dag": "{{ dag_run.dag_id }}",
            "run": "{{ dag_run.run_id }}",
            "why": "{{ reason | default('failed') }}",
        },
    )
