"""What a cluster must have before the demo makes anything in it: each thing that is missing is one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.processes import DemoError
from demo.target import PRODUCT
from include.catalog.node_labels import NodeLabelsIncomplete, machine_from_labels

Ask = Callable[..., str]

#: Validation rules (CEL) of a CRD are a stable part of Kubernetes from here on.
OLDEST = (1, 29)
#: The label of the demo's Workspace: BYO nodes carry it.
NODE_LABEL = "app=tuning-smollm2"
GPU = "nvidia.com/gpu"
CRDS = {"nodeclaim": "nodeclaims.karpenter.sh", "nodepool": "nodepools.karpenter.sh"}
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
NEVER_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Options:
    """What a person says about a cluster of theirs; `settings` are `AIRFLOW__KAITO__*` of the environment."""

    kubeconfig: Path | None = None
    workload_image: str = ""
    registry: str = ""
    registry_user: str = ""
    registry_password: str = field(default="", repr=False)
    instance_type: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def provider(self) -> str:
        return self.settings.get(f"{PRODUCT}POOL_PROVIDER", "nodeclaim").lower()


def check_options(options: Options, *, needs_workloads: bool = True) -> list[str]:
    """Say what is missing among the options."""
    faults = []
    if options.kubeconfig and not options.kubeconfig.is_file():
        faults.append(
            f"There is no kubeconfig {options.kubeconfig}: name the file in KUBECONFIG or --kubeconfig."
        )
    if needs_workloads and not options.workload_image:
        faults.append(
            "WORKLOAD_IMAGE (--workload-image) is not set: name the image that the nodes can pull, built from "
            "include/workloads/Dockerfile."
        )
    if needs_workloads and not options.registry:
        faults.append(
            "REGISTRY (--registry) is not set: name the registry that the cluster's pods push adapters to."
        )
    if bool(options.registry_user) != bool(options.registry_password):
        faults.append("REGISTRY_USERNAME and REGISTRY_PASSWORD belong together: only one of them is set.")
    return faults


def check_cluster(ask: Ask, options: Options, namespace: str, *, needs_machines: bool = True) -> list[str]:
    """Say what a cluster lacks, or has that belongs to somebody else.

    :param ask: runs kubectl and returns its output, raises DemoError where that fails.
    """
    try:
        version = json.loads(ask("version", "-o", "json", "--request-timeout=15s"))["serverVersion"]
    except DemoError as error:
        return [f"The cluster does not answer kubectl: {_last_line(error)}"]
    faults = version_faults(version) + _rights(ask) + _present(ask, namespace)
    if needs_machines:
        wanted = options.settings.get(f"{PRODUCT}STORAGE_CLASS", "")
        faults += storage_faults(_items(ask, "storageclasses"), wanted)
        faults += _machines(ask, options.provider)
    return faults


def version_faults(version: Mapping[str, str]) -> list[str]:
    """Judge the server's version."""
    found = int(version["major"]), int("".join(c for c in version["minor"] if c.isdigit()) or 0)
    if found >= OLDEST:
        return []
    return [f"The cluster is Kubernetes {found[0]}.{found[1]}: {OLDEST[0]}.{OLDEST[1]} or newer is needed."]


def storage_faults(classes: list[dict[str, Any]], wanted: str) -> list[str]:
    """Judge the storage classes: the one of the setting, or a default."""
    names = [one["metadata"]["name"] for one in classes]
    if wanted and wanted not in names:
        return [
            f"There is no StorageClass {wanted}: {PRODUCT}STORAGE_CLASS can be {', '.join(names) or 'none'}."
        ]
    notes = [one["metadata"].get("annotations") or {} for one in classes]
    if wanted or any(note.get(DEFAULT_CLASS) == "true" for note in notes):
        return []
    return [
        f"No StorageClass is the default: set {PRODUCT}STORAGE_CLASS to one of {', '.join(names) or 'none'}."
    ]


def node_faults(nodes: list[dict[str, Any]]) -> list[str]:
    """Judge the nodes that carry the label of the demo's Workspace."""
    if not nodes:
        return [f"No node has the label {NODE_LABEL}: kubectl label node NODE {NODE_LABEL}"]
    faults = []
    for node in nodes:
        try:
            machine_from_labels(node["metadata"].get("labels") or {})
        except NodeLabelsIncomplete as error:
            faults.append(f"Node {node['metadata']['name']}: {error}")
    offered = [(node.get("status") or {}).get("allocatable", {}).get(GPU, "0") for node in nodes]
    if all(count == "0" for count in offered):
        names = ", ".join(node["metadata"]["name"] for node in nodes)
        faults.append(
            f"No GPU is offered by {names}: install NVIDIA's device plugin, or see docs/testing.md for kind."
        )
    return faults


def image_fault(status: Mapping[str, Any], image: str, *, late: bool = False) -> str | None:
    """Judge the pod that starts the workload image; None as long as nothing is wrong."""
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in NEVER_PULLED:
            words = waiting.get("message") or waiting["reason"]
            return f"The image {image} cannot be pulled by a node: {words}"
    if status.get("phase") == "Failed":
        return f"The image {image} starts and has no include.workloads: build it from include/workloads/Dockerfile."
    if not late or status.get("phase") == "Succeeded":
        return None
    unmet: Mapping[str, Any] = next((c for c in status.get("conditions") or [] if c["status"] != "True"), {})
    return (
        f"The image {image} did not start in time: {unmet.get('message') or status.get('phase', 'Pending')}"
    )


def _items(ask: Ask, *what: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(ask("get", *what, "-o", "json"))["items"]
    return result


def _rights(ask: Ask) -> list[str]:
    faults = []
    for what in ("namespaces", "customresourcedefinitions", "clusterroles"):
        try:
            ask("auth", "can-i", "create", what)
        except DemoError:
            faults.append(
                f"You may not create {what} in this cluster: use a kubeconfig of its administrator."
            )
    return faults


def _present(ask: Ask, namespace: str) -> list[str]:
    """What the pass would make, and delete at its end, must be nobody's."""
    names = (
        f"namespace/{namespace}",
        "namespace/kaito-system",
        "customresourcedefinition/workspaces.kaito.sh",
        "clusterrole/kaito-airflow",
        "clusterrolebinding/kaito-airflow",
        "clusterrole/kaito-airflow-namespace",
    )
    faults = []
    for name in names:
        if ask("get", name, "-o", "name", "--ignore-not-found"):
            faults.append(
                f"The cluster has {name} already, which this would change and delete: take another cluster, or, "
                f"if nobody uses it, kubectl delete {name}"
            )
    return faults


def _machines(ask: Ask, provider: str) -> list[str]:
    if provider == "byo":
        return node_faults(_items(ask, "nodes", "-l", NODE_LABEL))
    crd = CRDS.get(provider)
    if crd and not ask("get", f"customresourcedefinition/{crd}", "-o", "name", "--ignore-not-found"):
        return [
            f"The cluster does not know {crd}, which pool_provider {provider} needs: install gpu-provisioner or "
            f"Karpenter, or set {PRODUCT}POOL_PROVIDER=byo for nodes that are there."
        ]
    return []


def _last_line(error: DemoError) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1]
