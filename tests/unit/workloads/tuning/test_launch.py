from __future__ import annotations

import subprocess
import sys

import pytest

from include.workloads.tuning import launch


def process(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize(("gpus", "rank", "expected"), [(1, None, False), (4, None, True), (4, "0", False)])
def test_only_the_first_process_of_a_machine_with_several_gpus_launches(
    gpus: int, rank: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert launch.should_launch(gpus) is expected


@pytest.mark.parametrize(("codes", "verdict"), [((0, 0), 0), ((64, 64), 64), ((0, 75), 75)])
def test_the_verdict_is_the_chief_s_or_the_first_failure(codes: tuple[int, int], verdict: int) -> None:
    children = [process(f"import sys; sys.exit({code})") for code in codes]
    assert launch._wait(children) == verdict


def test_one_failed_rank_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    children = [process("import time; time.sleep(60)"), process("import sys; sys.exit(64)")]
    assert launch._wait(children) != 0
    assert all(child.returncode is not None for child in children)


def test_when_memory_ran_out_in_one_all_are_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others wait for the one that failed, so they are not given time to save."""
    starts: list[list[subprocess.Popen[bytes]]] = []

    def start(processes: int) -> list[subprocess.Popen[bytes]]:
        codes = ["import time; time.sleep(60)", "import sys; sys.exit(76)"] if not starts else ["", ""]
        starts.append([process(code) for code in codes])
        return starts[-1]

    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    assert launch.launch(2) == 0
    assert len(starts) == 2
    assert all(child.returncode is not None for child in starts[0])
