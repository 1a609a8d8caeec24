"""The benchmark of a model over several pods: the first pod measures, and a group that ends does not wait for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from include import manifests
from include.catalog import load_catalog
from include.planning import plan_serving
from include.workloads.serving import vllm
from include.workloads.serving.group import Member
from tests.support.plans import serving


class Started:
    """A process that was started: with what, and whether it was ended."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.killed = command, False

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Started]:
    """What `main` starts in a pod of a group whose engine ends at once."""
    found: list[Started] = []

    def popen(command: list[str]) -> Started:
        found.append(Started(command))
        return found[-1]

    def ends(member: Member, command: list[str]) -> None:
        assert "serve" in command
        raise SystemExit(75)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(vllm, "computes_on_processors", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/vllm")
    monkeypatch.setattr(Member, "run", ends)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "argv", ["vllm", "--served-model-name=m", "--nnodes=2"])
    for name, value in _pod(tmp_path).items():
        monkeypatch.setenv(name, value)
    return found


def _pod(folder: Path) -> dict[str, str]:
    return {
        "WEIGHTS_PATH": str(folder),
        "ADAPTERS_DIR": str(folder / "none"),
        "LEADER_ADDRESS": "w-0.w-headless",
        "POD_NAME": "w-0",
        "KAITO_BENCHMARK_FILE": str(folder / "benchmark.json"),
    }


def run() -> None:
    with pytest.raises(SystemExit) as end:
        vllm.main()
    assert end.value.code == 75


def test_the_first_pod_measures_and_its_end_is_the_measurement_s(started: list[Started]) -> None:
    run()
    [one] = started
    assert one.command[1:] == ["-m", "include.workloads.serving.benchmark"]
    assert one.killed


def test_a_group_that_comes_back_is_not_measured_again(started: list[Started], tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{}")
    run()
    assert started == []


def test_the_other_pods_measure_nothing(started: list[Started], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "w-1")
    run()
    assert started == []
    assert "KAITO_BENCHMARK_FILE" not in os.environ


def test_a_group_s_pods_are_told_to_measure() -> None:
    ws: Any = serving("deepseek-r1-0528", "Standard_ND96isr_H100_v5")
    made = plan_serving(ws, load_catalog())
    assert made.node_count > 1
    assert manifests.is_benchmarked(ws, made)
