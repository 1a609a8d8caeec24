"""Workspaces in every state, as the page of the fleet shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.workspace.status import conditions
from include.workspace.status.conditions import Phase

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def workspace(name: str = "phi", *, status: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}", "generation": 1, **meta},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "x"}}},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "qlora",
            "input": {"urls": ["https://data.example/rows.parquet?sig=SECRETSIGNATURE"]},
            "output": {"image": "registry.example/a:1", "imagePushSecret": "push"},
        },
        "status": status or {},
    }


def reached(*phases: tuple[Phase, str], **more: Any) -> dict[str, Any]:
    """A Workspace that has reached these phases, one after the other."""
    found = workspace(**more)
    for number, (phase, message) in enumerate(phases):
        now = NOW - timedelta(minutes=10) + timedelta(minutes=number)
        found["status"] = conditions.progress(found, phase, message=message, now=now)
    return found


BEGUN = (Phase.ACCEPTED, "Accepted.")

TRAINING = (
    BEGUN,
    (Phase.DATASET_READY, "6 rows."),
    (Phase.NODES_READY, "1 node."),
    (Phase.TUNING, "Training."),
)

DIGEST = "sha256:" + "ab" * 32

SERVING = (*TRAINING, (Phase.INFERENCE_READY, "Ready."), (Phase.SUCCEEDED, "It answers."))
