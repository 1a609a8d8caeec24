"""Workspaces for tests: the quick start's, and one to serve, with changes written as dotted paths."""

from __future__ import annotations

import copy
from typing import Any

REMOVE = object()

TUNING: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {
        "name": "tune-phi",
        "namespace": "ml",
        "uid": "0b1c2d3e-4f50-6171-8293-a4b5c6d7e8f9",
        "generation": 3,
    },
    "resource": {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"app": "tune"}},
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/train.parquet"]},
        "output": {"image": "registry.example.com/adapters/phi:1", "imagePushSecret": "push"},
    },
}

SERVING: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {
        "name": "serve-phi",
        "namespace": "ml",
        "uid": "1c2d3e4f-5061-7182-93a4-b5c6d7e8f90a",
        "generation": 1,
    },
    "resource": {
        "instanceType": "Standard_NC24ads_A100_v4",
        "labelSelector": {"matchLabels": {"app": "serve"}},
    },
    "inference": {"preset": {"name": "phi-4-mini-instruct"}},
}


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some values replaced: {"tuning.method": "lora"}; REMOVE takes a key out, `~` stands for a dot."""
    result = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, last = [step.replace("~", ".") for step in path.split(".")]
        place: Any = result
        for step in parents:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if value is REMOVE:
            place.pop(last, None)
        else:
            place[last] = value
    return result
