"""The control plane's own numbers, by Airflow's metrics (StatsD, OpenTelemetry): who collects those has them too.

Workspaces have the names of KAITO's gauges. With the deployment's statsd mapping they are `kaito_...` in Prometheus;
`docs/operations.md` lists them, and `docs/grafana/kaito.json` shows them. Nothing here may fail a task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import conf
from airflow.sdk.observability.stats import gauge, incr, timing

from include.catalog import load_catalog
from include.ledger.gpu_seconds import gpu_seconds
from include.workspace.status.gauges import Gauge

log = logging.getLogger(__name__)

RUNS = "kaito_run_count"
RUN_QUEUE, RUN_DURATION = "kaito_run_queue", "kaito_run_duration"
GPU_SECONDS = "kaito_gpu_seconds"
RECONCILE_QUEUE, RECONCILE_DURATION = "kaito_reconcile_queue", "kaito_reconcile_duration"
RECONCILED = "kaito_reconcile_count"
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")


def tell_gauges(found: Iterable[Gauge]) -> None:
    """Send numbers as they are now."""
    for one in found:
        _send(lambda name, tags, value=one.value: gauge(name, value, tags=tags), one.name, one.labels)


def tell_pass(outcomes: Mapping[str, int], duration: timedelta, waited: timedelta | None) -> None:
    """Send what a pass of the reconciler came to.

    :param outcomes: Workspaces by what became of them.
    :param waited: from when the change was handed over until the pass began; None where that is not known.
    """
    for result, count in outcomes.items():
        if count:
            _count(RECONCILED, count, {"result": result})
    _time(RECONCILE_DURATION, duration, {})
    if waited is not None:
        _time(RECONCILE_QUEUE, waited, {})


def tell_run(dag: str, outcome: str, queued: timedelta | None, ran: timedelta | None) -> None:
    """Send how a run ended, how long it waited for its start, and how long it took."""
    _count(RUNS, 1, {"dag": dag, "outcome": outcome})
    for name, spent in ((RUN_QUEUE, queued), (RUN_DURATION, ran)):
        if spent is not None:
            _time(name, spent, {"dag": dag})


def tell_gpus(held: Iterable[Mapping[str, Any]], now: datetime) -> None:
    """Send the GPU-seconds of a run's machines, useful and wasted."""
    for (purpose, use), seconds in gpu_seconds(held, _gpus_of, now).items():
        if whole := round(seconds):
            _count(GPU_SECONDS, whole, {"purpose": purpose, "use": use})


def _gpus_of(machine: str) -> int:
    try:
        return max(1, load_catalog().machine(machine).gpus)
    except KeyError:
        return 1  # of a type that is in no table, such as one's own


def _count(name: str, count: int, tags: Mapping[str, str]) -> None:
    _send(lambda known, given: incr(known, count, tags=given), name, tags)


def _time(name: str, spent: timedelta, tags: Mapping[str, str]) -> None:
    _send(lambda known, given: timing(known, max(spent, timedelta(0)), tags=given), name, tags)


def _send(say: Any, name: str, tags: Mapping[str, str]) -> None:
    """Send a number with its tags; in its name where the collector would lose those and mix what they tell apart."""
    try:
        if tags and _loses_tags():
            name = ".".join([name, *(_NOT_IN_A_NAME.sub("_", value) for value in tags.values())])
        say(name, dict(tags))
    except Exception as error:  # a number that is not told must not end what it is about
        log.warning("The metric %s could not be sent: %s", name, error)


def _loses_tags() -> bool:
    """Whether plain StatsD is spoken, which has no tags."""
    wanted = ("statsd_influxdb_enabled", "statsd_datadog_enabled", "otel_on")
    return not any(conf.getboolean("metrics", key, fallback=False) for key in wanted)
