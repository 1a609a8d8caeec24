"""`python -m include.workloads.tuning`: one process on a CPU or one GPU, one per GPU where there are more."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from include.workloads import contract


def _main() -> Mapping[str, Any] | None:
    from include.workloads.tuning.run import main

    return main()


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    contract.end_on_signals()
    from include.workloads.hardware import prepare_environment
    from include.workloads.tuning.launch import launch, should_launch

    prepare_environment()
    gpus = _visible_gpus()
    if should_launch(gpus):
        sys.exit(launch(gpus))
    # The first SIGTERM only sets the flag that the training loop reads after each step.
    contract.run(_main, on_stop=lambda: None)
