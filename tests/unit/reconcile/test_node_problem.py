"""When a Node is ready for its work: GPUs are asked for, but of machine types that have none."""

from __future__ import annotations

import pytest

from include.pools.status import INSTANCE_TYPE_LABEL, node_problem


@pytest.mark.parametrize(
    ("machine", "gpus", "problem"),
    [
        ("Standard_NC6s_v3", "0", "NodePluginsNotReady"),
        ("Standard_NC6s_v3", "1", None),
        ("Standard_D8s_v5", "0", None),
    ],
)
def test_gpus_are_asked_of_gpu_machines(machine: str, gpus: str, problem: str | None) -> None:
    node = {
        "metadata": {"name": "n", "labels": {INSTANCE_TYPE_LABEL: machine}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"nvidia.com/gpu": gpus},
        },
    }
    found = node_problem(node)
    assert (found and found[0]) == problem
