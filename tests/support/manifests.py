"""Workspaces, settings and looks into pods, for tests of manifests."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from include.catalog import load_catalog
from include.manifests import ManifestSettings
from include.workspace import Workspace, parse_workspace

CATALOG = load_catalog()

RUN = "manual__2026-11-23T12:00:00+00:00"

DIGEST = "registry.example.com/adapters/phi@sha256:" + "ab" * 32

SETTINGS = replace(ManifestSettings.defaults(CATALOG), bind_pod_ip=True)

QUICK: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "tune-phi", "namespace": "ml", "uid": "0b1c2d3e-4f50-6171", "generation": 2},
    "resource": {
        "instanceType": "standard_nc6s_v3",
        "labelSelector": {"matchLabels": {"app": "tune", "kaito.sh/workspace": "x"}},
    },
    "tuning": {
        "preset": {"name": "phi-3-mini-128k-instruct"},
        "method": "QLoRA",
        "input": {"urls": ["https://example.com/a.parquet?download=true", "https://example.com/b.csv"]},
        "output": {"image": "registry.example.com/adapters/phi:1", "imagePushSecret": "push"},
    },
}  # fmt: skip

SERVE: dict[str, Any] = {
    **{key: value for key, value in QUICK.items() if key != "tuning"},
    "apiVersion": "kaito.sh/v1beta1",
    "inference": {"preset": {"name": "phi-4-mini-instruct"}},
    "resource": {"instanceType": "Standard_NC48ads_A100_v4", "labelSelector": {}},
}


def with_(document: dict[str, Any], section: str, **values: Any) -> Workspace:
    changed = copy.deepcopy(document)
    changed[section] = {**changed[section], **values}
    return parse_workspace(changed)


def env_of(container: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def mounts_of(container: dict[str, Any]) -> dict[str, tuple[str, str | None, bool]]:
    return {
        mount["mountPath"]: (mount["name"], mount.get("subPath"), mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    }
