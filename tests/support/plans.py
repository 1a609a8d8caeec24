"""Workspaces to plan for."""

from __future__ import annotations

import copy
from typing import Any

from include.workspace import Workspace, parse_workspace


def tuning(
    preset: str = "phi-3-mini-128k-instruct", machine: str = "Standard_NC6s_v3", **changes: Any
) -> Workspace:
    document: dict[str, Any] = {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"instanceType": machine, "labelSelector": {"matchLabels": {"app": "w"}}},
        "tuning": {
            "preset": {"name": preset},
            "method": "qlora",
            "input": {"urls": ["https://example.com/a.parquet"]},
            "output": {"image": "r.example.com/a:1", "imagePushSecret": "s"},
        },
    }
    document["tuning"].update(changes)
    return parse_workspace(document)


def serving(preset: str, machine: str) -> Workspace:
    document = copy.deepcopy(tuning(preset, machine).to_dict())
    document.pop("tuning")
    return parse_workspace({**document, "inference": {"preset": {"name": preset}}})
