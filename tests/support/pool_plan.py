"""A Workspace and its plan, for tests of what pools are made of."""

from __future__ import annotations

from typing import Any

from include.catalog import load_catalog
from include.planning import plan
from include.workspace import parse_workspace

CATALOG = load_catalog()

DOCUMENT: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "w", "namespace": "ml", "uid": "u", "generation": 1},
    "resource": {
        "instanceType": "standard_nc6s_v3",
        "labelSelector": {
            "matchLabels": {"app": "x", "kaito.sh/workspace": "somebody-else"},
            "matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}],
        },
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/a"]},
        "output": {"image": "r.example.com/a:1", "imagePushSecret": "s"},
    },
}

PLAN = plan(parse_workspace(DOCUMENT), CATALOG)
