"""The control plane's metrics: named once, sent by the code, documented, and what the dashboard asks for."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils
from kaito import metrics
from kaito.controller.reconciler import Outcome
from kaito.operators import ledger, reconcile

from include.workloads.tuning.progress import Snapshot
from include.workspace.status.gauges import Gauge, gauges

ROOT = Path(__file__).parents[3]
BOARD = json.loads((ROOT / "docs" / "grafana" / "kaito.json").read_text())
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


class Sent:
    """What Airflow's metrics were given: (kind, name, value, tags)."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, Any, dict[str, str]]] = []

    def gauge(self, name: str, value: float, tags: dict[str, str]) -> None:
        self.found.append(("gauge", name, value, tags))

    def incr(self, name: str, count: int, tags: dict[str, str]) -> None:
        self.found.append(("counter", name, count, tags))

    def timing(self, name: str, spent: timedelta, tags: dict[str, str]) -> None:
        self.found.append(("timing", name, spent.total_seconds(), tags))

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of Airflow's functions."""
        for kind in ("gauge", "incr", "timing"):
            patch.setattr(metrics, kind, getattr(self, kind))

    @property
    def names(self) -> set[str]:
        return {name for _, name, _, _ in self.found}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    found.stand_in(monkeypatch)
    monkeypatch.setattr(metrics, "_loses_tags", lambda: False)
    return found


def everything(sent: Sent) -> None:
    """All that a pass of the reconciler and the end of a run send."""
    workspace = {"metadata": {}, "inference": {"preset": {"name": "phi-4"}}}
    metrics.tell_gauges(gauges([workspace], []))
    reconcile._tell(Outcome(looked=5, changed=2, troubled=1), began=100.0, handed_over=98.5)
    run = SimpleNamespace(run_after=NOW - timedelta(hours=1), start_date=NOW - timedelta(minutes=50))
    context: Any = {"ti": SimpleNamespace(dag_id="kaito_tune"), "dag_run": run}
    ledger._tell_run(context, "success")
    record = {"purpose": "tuning", "machine": "Standard_ND96isr_H100_v5", "since": "2026-01-01T00:59:00Z"}
    metrics.tell_gpus([record], NOW)


def test_a_pass_and_a_run_are_told(sent: Sent) -> None:
    everything(sent)
    by_name = {(name, *tags.values()): value for _, name, value, tags in sent.found}
    assert by_name["kaito_reconcile_count", "changed"] == 2
    assert by_name["kaito_reconcile_count", "unchanged"] == 2
    assert by_name["kaito_reconcile_queue",] == 1.5
    assert by_name["kaito_run_count", "kaito_tune", "success"] == 1
    assert by_name["kaito_run_queue", "kaito_tune"] == 600
    assert by_name["kaito_gpu_seconds", "tuning", "wasted"] == 8 * 60
    assert by_name["kaito_workspace_count", "pending"] == 1


def test_a_run_without_times_and_a_machine_of_no_table_are_told_too(sent: Sent) -> None:
    ledger._tell_run({"ti": SimpleNamespace(dag_id="kaito_tune")}, "refused")  # type: ignore[arg-type]
    metrics.tell_gpus([{"purpose": "serving", "machine": "own", "since": "2026-01-01T00:59:00Z"}], NOW)
    assert sent.found == [
        ("counter", "kaito_run_count", 1, {"dag": "kaito_tune", "outcome": "refused"}),
        ("counter", "kaito_gpu_seconds", 60, {"purpose": "serving", "use": "wasted"}),
    ]


def test_where_labels_are_lost_they_are_in_the_name(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_loses_tags", lambda: True)
    metrics.tell_gauges([Gauge("kaito_workspace_preset_count", 2, {"preset_name": "org/model.1"})])
    assert sent.names == {"kaito_workspace_preset_count.org_model_1"}


def test_a_collector_that_fails_ends_nothing(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OSError("no route to statsd")

    monkeypatch.setattr(metrics, "incr", away)
    metrics.tell_run("kaito_tune", "success", None, timedelta(seconds=1))
    assert sent.names == {"kaito_run_duration"}


def asked_for() -> Iterator[str]:
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield from re.findall(r"kaito_\w+", target["expr"])


def test_the_dashboard_asks_only_for_what_is_sent(sent: Sent) -> None:
    everything(sent)
    training = re.findall(
        r"^# TYPE (\w+)",
        Snapshot(loss=1.0, loss_evaluation=1.0, tokens_per_second=1.0, eta_seconds=1.0).prometheus(),
        re.M,
    )
    wanted = set(asked_for())
    assert wanted <= {*sent.names, *training}
    assert sent.names - wanted == {"kaito_workspace_pvc_count"}, "what is sent is shown"
    identifiers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_each_metric_is_documented_with_its_labels(sent: Sent) -> None:
    everything(sent)
    text = (ROOT / "docs" / "operations.md").read_text()
    for _, name, _, tags in sent.found:
        line = next(
            line for line in text.splitlines() if line.startswith("| `kaito_") and f"`{name}`" in line
        )
        assert all(f"`{label}`" in line for label in tags), line


def test_the_deployment_s_exporter_has_labels_and_our_names(sent: Sent) -> None:
    values = yaml.safe_load((ROOT / "deploy" / "values.yaml").read_text())
    assert values["config"]["metrics"]["statsd_influxdb_enabled"] is True
    [mapping] = values["statsd"]["extraMappings"]
    everything(sent)
    for name in sent.names:
        assert re.fullmatch(mapping["match"], f"airflow.{name}")


def parsed(line: str) -> tuple[str, str, float, dict[str, str]]:
    """A line of StatsD, with labels as InfluxDB has them: `name,label=value:1|c`."""
    found = re.fullmatch(r"([\w.]+)((?:,\w+=[^,:|]+)*):([\d.]+)\|(c|g|ms)", line)
    assert found, line
    labels = dict(pair.split("=") for pair in found[2].split(",")[1:])
    value = float(found[3]) / (1000 if found[4] == "ms" else 1)
    return {"c": "counter", "g": "gauge", "ms": "timing"}[found[4]], found[1], value, labels


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A StatsD server that Airflow's own client sends to, set up as a task sets it up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        told = {"on": "True", "host": "127.0.0.1", "port": str(server.getsockname()[1])}
        for key, value in {**told, "influxdb_enabled": "True"}.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__STATSD_{key.upper()}", value)
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        yield server
        stats.initialize(factory=NoStatsLogger, export_legacy_names=True)


def lines(collector: socket.socket, count: int) -> list[tuple[str, str, float, dict[str, str]]]:
    return [parsed(line) for _ in range(count) for line in collector.recv(4096).decode().splitlines()]


def test_airflow_s_client_sends_all_of_them_over_the_wire(collector: socket.socket) -> None:
    asked = Sent()
    with pytest.MonkeyPatch.context() as patch:
        asked.stand_in(patch)
        everything(asked)
    everything(asked)
    got = lines(collector, len(asked.found))
    assert [(kind, name, labels) for kind, name, _, labels in got] == [
        (kind, f"airflow.{name}", labels) for kind, name, _, labels in asked.found
    ]
    values = {name: value for kind, name, value, _ in got if kind != "timing"}
    assert values == {f"airflow.{name}": value for kind, name, value, _ in asked.found if kind != "timing"}
    assert ("timing", "airflow.kaito_run_queue", 600, {"dag": "kaito_tune"}) in got
    assert ("counter", "airflow.kaito_run_count", 1, {"dag": "kaito_tune", "outcome": "success"}) in got


def test_plain_statsd_has_the_labels_in_the_name(
    collector: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED", "False")
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
    metrics.tell_gauges([Gauge("kaito_workspace_count", 3, {"phase": "pending"})])
    assert lines(collector, 1) == [("gauge", "airflow.kaito_workspace_count.pending", 3, {})]
