"""Adapters of a serving pod: pulled once before the server starts, or followed beside it for as long as it lives.

A server in one pod, of either runtime, can change adapters while it answers. Which ones are wanted then stands in a
ConfigMap and not in the pod template, so that no change of them makes a new pod. A group of pods loads what its init
containers pulled; for it a change of adapters is a new pod.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from include.manifests import pods
from include.manifests.pods import Manifest, env, mount
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.planning.launch import lora_slots
from include.workspace.api import names
from include.workspace.api.models import Workspace

ADAPTERS_PATH = "/mnt/adapter"
WANTED_PATH, WANTED_FILE = "/etc/kaito/adapters", "adapters.json"
CONTROL_PATH = "/run/kaito"
# Beside a version that is served lie the next one and those that answers under way may still read.
VERSIONS = 3
#: On a pod: the digest of the list that it was made to look at.
LOOKED_AT = "kaito.sh/adapters"
SIDECAR = {"cpu": "50m", "memory": "128Mi"}

Adapters = Sequence[Mapping[str, Any]]


@dataclass
class Parts:
    """What a pod gets for its adapters."""

    init_containers: list[Manifest] = field(default_factory=list)
    sidecars: list[Manifest] = field(default_factory=list)
    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    variables: list[Manifest] = field(default_factory=list)


def are_followed(plan: Plan, adapters: Adapters) -> bool:
    """Whether a sidecar changes them while the server answers."""
    return plan.node_count == 1 and any(adapter.get("volumeSource") is None for adapter in adapters)


def parts(ws: Workspace, plan: Plan, settings: ManifestSettings, adapters: Adapters) -> Parts:
    """Volumes, mounts and containers for these adapters."""
    followed = are_followed(plan, adapters)
    count = lora_slots(len(adapters)) * VERSIONS if followed else max(1, len(adapters))
    result = Parts(volumes=[pods.scratch("adapters", f"{count * pods.ADAPTER_DISK}Gi")])
    # Read-only, unless volumes are mounted inside it: their mount points must be made there.
    inside = any(a.get("volumeSource") is not None for a in adapters)
    result.mounts.append(mount("adapters", ADAPTERS_PATH, read_only=not inside))
    for index, adapter in enumerate(adapters):
        if adapter.get("volumeSource") is not None:
            result.volumes.append({"name": f"adapter-{index}", **pods.unnamed(adapter["volumeSource"])})
            path = f"{ADAPTERS_PATH}/{adapter['name']}"
            result.mounts.append(
                mount(f"adapter-{index}", path, sub_path=adapter.get("subPath"), read_only=True)
            )
        elif not followed:
            _pulled(result, ws, settings, index, adapter)
    if followed:
        _followed(result, ws, settings, adapters)
    else:
        result.variables += env(KAITO_ADAPTER_DIGESTS=_digests(adapters))
    return result


def wanted_config_map(ws: Workspace, adapters: Adapters) -> Manifest:
    """The ConfigMap that the sidecar reads; its label holds a digest of the content."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(ws, names.adapters_config_map(ws.to_dict()), "serving"),
        "data": {WANTED_FILE: _wanted(adapters)},
    }


def tuned_adapter(name: str, image: str, canary: str = "", percent: float = 0.0) -> Manifest:
    """The adapter that a tuning Workspace serves, by digest.

    :param canary: the image of another version, which answers `percent` of the requests; "" for none.
    """
    beside = {"canary": {"image": canary, "percent": percent}} if canary else {}
    return {"name": name, "image": image, **beside}


def look_now(pod: Mapping[str, Any], adapters: Adapters) -> Manifest | None:
    """What makes the kubelet bring a changed list into a pod now: when a pod changes it does, else in a minute.

    None for a pod that is going, or has been made to look at this list.
    """
    digest, metadata = wanted_digest(adapters), pod["metadata"]
    if metadata.get("deletionTimestamp") or (metadata.get("annotations") or {}).get(LOOKED_AT) == digest:
        return None
    marked = {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**marked, "annotations": {LOOKED_AT: digest}}}


def wanted_digest(adapters: Adapters) -> str:
    """What a pod's annotation says was asked for last: a changed annotation makes the kubelet look at once."""
    return hashlib.sha256(_wanted(adapters).encode()).hexdigest()[:16]


def _wanted(adapters: Adapters) -> str:
    listed = [
        {"name": str(one["name"]), "image": str(one["image"]), **_canary(one.get("canary"))}
        for one in adapters
        if one.get("volumeSource") is None
    ]
    return json.dumps({"adapters": listed})


def _canary(share: Mapping[str, Any] | None) -> Manifest:
    """The version that answers `percent` of the requests beside the one that is served."""
    return {"canary": {"image": share["image"], "percent": share["percent"]}} if share else {}


def _own_secrets(ws: Workspace) -> list[str]:
    return [ws.tuning.output.image_push_secret] if ws.tuning and ws.tuning.output.image_push_secret else []


def _pulled(
    found: Parts, ws: Workspace, settings: ManifestSettings, index: int, adapter: Mapping[str, Any]
) -> None:
    """The init container that pulls one adapter image, with its credentials."""
    access = pods.registry_access(settings, f"registry-{index}", adapter.get("secrets") or _own_secrets(ws))
    variables = env(ADAPTER_IMAGE=adapter["image"], ADAPTER_NAME=adapter["name"], ADAPTERS_DIR=ADAPTERS_PATH)
    found.init_containers.append(
        pods.container(
            f"adapter-{index}",
            "adapter",
            settings,
            variables=[*variables, *access.variables, *pods.trusted_keys(settings)],
            mounts=[mount("adapters", ADAPTERS_PATH), *access.mounts],
            arguments=["pull"],
        )
    )
    found.volumes += access.volumes


def _followed(found: Parts, ws: Workspace, settings: ManifestSettings, adapters: Adapters) -> None:
    secrets = [name for one in adapters for name in one.get("secrets") or ()] or _own_secrets(ws)
    access = pods.registry_access(settings, "registry", list(dict.fromkeys(secrets)))
    shared = env(
        ADAPTERS_DIR=ADAPTERS_PATH,
        ADAPTERS_WANTED=f"{WANTED_PATH}/{WANTED_FILE}",
        KAITO_ADAPTERS_FILE=f"{CONTROL_PATH}/adapters.json",
        KAITO_ADMIN_TOKEN_FILE=f"{CONTROL_PATH}/token",
        PORT=pods.PORT,
    )
    mounts = [
        mount("adapters", ADAPTERS_PATH),
        mount("wanted-adapters", WANTED_PATH, read_only=True),
        mount("control", CONTROL_PATH),
        *access.mounts,
    ]

    def container(name: str, command: str) -> Manifest:
        made = pods.container(
            name,
            "adapter",
            settings,
            variables=[
                *shared,
                *pods.listen(settings),
                *access.variables,
                *pods.trusted_keys(settings),
            ],
            mounts=mounts,
            arguments=[command],
        )
        return made

    found.init_containers.append(container("adapters", "prepare"))
    sidecar = container(names.ADAPTERS_SIDECAR, "follow")
    if settings.cpu_requests:
        sidecar["resources"]["requests"] = dict(SIDECAR)
    found.sidecars.append(sidecar)
    found.volumes += [
        {"name": "wanted-adapters", "configMap": {"name": names.adapters_config_map(ws.to_dict())}},
        pods.scratch("control", "16Mi", medium="Memory"),
        *access.volumes,
    ]
    found.mounts.append(mount("control", CONTROL_PATH, read_only=True))
    found.variables += env(
        KAITO_ADAPTERS_FILE=f"{CONTROL_PATH}/adapters.json", KAITO_ADMIN_TOKEN_FILE=f"{CONTROL_PATH}/token"
    )


def _digests(adapters: Adapters) -> str | None:
    """Which image each adapter comes from, for the answers' header; images by tag tell no digest."""
    found = {
        str(one["name"]): str(one["image"]).partition("@")[2]
        for one in adapters
        if "@" in str(one.get("image") or "")
    }
    return json.dumps(found) if found else None
