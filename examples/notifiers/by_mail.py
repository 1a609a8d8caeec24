"""By mail, through the connection `smtp_default` (provider smtp, which comes with Airflow).

AIRFLOW__KAITO__NOTIFIERS=examples.notifiers.by_mail:notifier
"""

from __future__ import annotations

from airflow.providers.smtp.notifications.smtp import SmtpNotifier


def notifier() -> SmtpNotifier:
    """Return a notifier that writes to the people on duty."""
    return SmtpNotifier(
        from_email="airflow@example.com",
        to=["on-duty@example.com"],
        subject="{{ dag_run.dag_id }}: {{ reason | default('failed') }}",
        html_content="Run <b>{{ dag_run.run_id }}</b> of {{ dag_run.dag_id }}: {{ reason | default('failed') }}.",
        mime_subtype="alternative",
    )
