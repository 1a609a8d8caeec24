"""To a Slack channel, through the connection `slack_default` with an incoming webhook (provider slack).

pip install apache-airflow-providers-slack
AIRFLOW__KAITO__NOTIFIERS=examples.notifiers.by_slack:notifier
"""

from __future__ import annotations

from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier


def notifier() -> SlackWebhookNotifier:
    """Return a notifier that writes to the webhook's channel."""
    return SlackWebhookNotifier(
        slack_webhook_conn_id="slack_default",
        text=":rotating_light: {{ dag_run.dag_id }}, run {{ dag_run.run_id }}: {{ reason | default('failed') }}",
    )
