"""What the demo's commands leave running, and what they have made ready."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from demo import __main__ as command
from demo import second_act, stack
from demo.cluster import CRDS


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose processes were stopped."""
    found: list[Path] = []
    monkeypatch.setattr(command, "_stop", found.append)
    monkeypatch.setattr(command, "_say_how_to_go_on", lambda *_: None)
    monkeypatch.setattr(command, "signal", SimpleNamespace(signal=lambda *_: None, SIGINT=0, SIG_IGN=0))
    monkeypatch.setattr(command, "MainJob", lambda *_: SimpleNamespace(run=lambda: True))
    monkeypatch.setattr(second_act, "SecondAct", lambda *_: SimpleNamespace(run=lambda: True))
    return found


@pytest.mark.parametrize(("kept", "keep", "stops"), [(True, False, 0), (False, False, 2), (False, True, 1)])
def test_a_second_act_leaves_up_what_was_left_up_for_it(
    stopped: list[Path], tmp_path: Path, kept: bool, keep: bool, stops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the start, where another demo may run, and at the end."""
    monkeypatch.setattr(second_act, "is_kept", lambda _: kept)
    assert command._run_demo(tmp_path, keep, Console(quiet=True), None, "retrain") == 0
    assert len(stopped) == stops


def test_airflow_by_itself_finds_a_cluster_that_knows_workspaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    @contextmanager
    def api(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(unpause=lambda dag: None)

    server = SimpleNamespace(url="http://127.0.0.1:1", username="admin", password="x")
    monkeypatch.setattr(stack, "start_sandbox", lambda _: SimpleNamespace(kubeconfig=tmp_path / "config"))
    monkeypatch.setattr(stack, "start_airflow", lambda *_: server)
    monkeypatch.setattr(stack, "wait_for_airflow", lambda *_: server)
    monkeypatch.setattr(command, "AirflowApi", api)
    monkeypatch.setattr(command, "Kubectl", lambda _: lambda *words: asked.append(words))
    assert command._start_airflow(tmp_path, Console(quiet=True)) == 0
    assert asked == [("apply", "-f", str(CRDS))]
