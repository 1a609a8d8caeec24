"""Tunings as pods run them, each in a process of its own, forked from one that has imported the libraries."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch",
    "peft",
    "trl",
    "datasets",
    "include.workloads.tuning.run",
    "include.workloads.tuning.trainer",
)


def context(more: Iterable[str] = ()) -> Any:
    """Where such processes are made; `more` are further modules that they find imported."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*LIBRARIES, *more])
    return found


def environment(weights: Path, data: Path, config: Path, output: Path, method: str) -> dict[str, str]:
    """What a tuning pod is told by its environment."""
    return {
        "WEIGHTS_PATH": str(weights),
        "DATASET_FOLDER_PATH": str(data),
        "YAML_FILE_PATH": str(config),
        "OUTPUT_DIR": str(output),
        "TUNING_METHOD": method,
        "METRICS_PORT": "0",
        "HOST": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
    }


def end_with(folder: Path, work: Callable[[], None]) -> None:
    """In the child: do the work and end. What it prints goes to `folder`/log, a fault's traceback to `folder`/fault."""
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        work()
    except BaseException:
        (folder / "fault").write_text(traceback.format_exc())
    os._exit(0)


def run(
    processes: Any, target: Callable[..., None], folder: Path, *args: Any, seconds: float = 120.0
) -> None:
    """Run `target(folder, *args)`, which calls `end_with`, in a child; AssertionError with its fault's traceback."""
    child = processes.Process(target=target, args=(folder, *args))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
    fault = folder / "fault"
    assert not fault.exists(), fault.read_text()[-2000:]
