from __future__ import annotations

from pathlib import Path

import pytest

from include.workloads.hardware import Hardware, choose_precision, cpu_threads

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


@pytest.mark.parametrize(
    ("quota", "expected"), [("50000 100000", 1), ("max 100000", None), ("nonsense", None)]
)
def test_threads_follow_the_cgroups_quota(tmp_path: Path, quota: str, expected: int | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert cpu_threads(path) == (expected or cpu_threads(tmp_path / "missing"))
