from __future__ import annotations

import os
from pathlib import Path

import pytest

from include.workloads.hardware import Hardware, choose_precision, cpu_threads, memory_limit, use_threads

CPU = Hardware("cpu", "a CPU", 0, 1, False, 2)
CPU_BF16 = Hardware("cpu", "a new CPU", 0, 1, True, 2)
V100 = Hardware("cuda", "Tesla V100", 1, 1, False, 2)
H100 = Hardware("cuda", "NVIDIA H100", 1, 1, True, 2)


@pytest.mark.parametrize(
    ("hardware", "planned", "expected"),
    [
        (H100, "bfloat16", "bfloat16"),
        (H100, "float16", "float16"),
        (H100, None, "bfloat16"),
        (V100, "bfloat16", "float16"),
        (V100, "torch.bfloat16", "float16"),
        (V100, "float32", "float32"),
        (CPU, "bfloat16", "float32"),
        (CPU, "float16", "float32"),
        (CPU_BF16, "float16", "bfloat16"),
        (CPU_BF16, "float32", "float32"),
    ],
)
def test_the_planned_format_or_the_nearest_that_the_machine_has(
    hardware: Hardware, planned: str | None, expected: str
) -> None:
    choice = choose_precision(hardware, planned)
    assert choice.dtype == expected
    assert hardware.name in choice.sentence


V1 = {"cpu/cpu.cfs_period_us": "100000"}


def cgroup(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({**V1, "cpu/cpu.cfs_quota_us": "150000"}, 2),
        ({**V1, "cpu/cpu.cfs_quota_us": "-1"}, 8),
        ({**V1, "cpu/cpu.cfs_quota_us": "9900000"}, 8),
        ({}, 8),
    ],
)
def test_threads_follow_the_affinity_and_the_cgroups_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cpu_threads(cgroup(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "limited"),
    [
        ({"memory.max": "1048576"}, True),
        ({"memory.max": "max"}, False),
        ({"memory/memory.limit_in_bytes": "1048576"}, True),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, False),
        ({}, False),
    ],
)
def test_memory_follows_the_cgroups_limit(tmp_path: Path, files: dict[str, str], limited: bool) -> None:
    physical = memory_limit(tmp_path / "missing")
    assert memory_limit(cgroup(tmp_path, files)) == (2**20 if limited else physical) <= physical


def test_the_threads_are_told_with_their_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "with 2 threads" in use_threads(CPU)
    assert given == [2]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS=1" in use_threads(CPU)
    assert given == [2]
