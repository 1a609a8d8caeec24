"""Who is told when a run of ours fails, or a retraining takes too long: the notifiers of `[kaito] notifiers`.

Each is named as `package.module:name` and is called without arguments to make a notifier of an Airflow provider, or one
of your own. One that cannot send stops neither the others nor a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseNotifier
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from kaito import named
from kaito.settings import SECTION, notifier_names, retrain_deadline

log = logging.getLogger(__name__)

LATE = f"{__name__}.tell_late"


def on_failure() -> list[Callable[..., None]]:
    """Return the callbacks of a DAG's `on_failure_callback`; none where no notifier is set.

    :raises ValueError: a name leads to no notifier; Airflow shows it as the DAG's import error.
    """
    return list(notifiers())


def deadline() -> DeadlineAlert | None:
    """Return the alert of a retraining that has not ended in time, None where none is set.

    :raises ValueError: the time is no whole number.
    """
    minutes = retrain_deadline()
    if not minutes:
        return None
    return DeadlineAlert(
        name="kaito_retrain_late",
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=AsyncCallback(LATE),
    )


def notifiers() -> list[BaseNotifier]:
    """Return a new notifier for each name of the setting. Raises ValueError."""
    said = f"Airflow setting [{SECTION}] notifiers"
    return [named.make(name, BaseNotifier, f"{said}: {name}") for name in notifier_names()]


async def tell_late(context: dict[str, Any] | None = None) -> None:
    """Tell everybody that a run is late; Airflow's triggerer calls it.

    :param context: what Airflow says of the run and its deadline, the run as its REST API shows one.
    """
    run = dict((context or {}).get("dag_run") or {})
    # Templates know a run by the names that it has in a task, as those of a failure do.
    known = {**(context or {}), "dag_run": {"run_id": run.get("dag_run_id"), **run}}
    for notifier in notifiers():
        notifier.context = {"reason": "it has not ended in time", **known}  # type: ignore[typeddict-item]
        try:
            await notifier
        except Exception:
            log.exception("%s could not tell that a run is late", type(notifier).__name__)
