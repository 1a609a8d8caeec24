"""What all pods of the project share: security, labels, volumes, where they may run.

Every pod keeps Kubernetes' Restricted profile (a weights mirror aside, see ManifestSettings). Nothing here must know
what a container does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from include.catalog.models import GIB
from include.contracts.purpose import Purpose
from include.manifests.settings import ManifestSettings
from include.planning import Plan
from include.workspace import Workspace, parse_workspace
from include.workspace.api import names
from include.workspace.api.selector import node_labels
from include.workspace.validation.pod_fields import known_volume_source

Manifest = dict[str, Any]

GPU = "nvidia.com/gpu"
PORT = 5000
USER = 1000
WEIGHTS_PATH = "/workspace/weights"
REGISTRY_CONFIG = "/etc/kaito/registry"
SECRET_MODE = 0o440  # the group may read, and fsGroup makes the group ours
#: Beside its weights a GPU pod needs memory for libraries, rows and buffers, in GiB.
GPU_POD_MEMORY = 32
#: Each GPU has a process of its own, with CUDA's and PyTorch's memory.
GPU_PROCESS_MEMORY = 8
#: What an adapter's pull takes at most (include.workloads.adapter.pull), and as much again while it is unpacked.
ADAPTER_DISK = 33

TOLERATIONS = [
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
    {"key": GPU, "operator": "Exists", "effect": "NoSchedule"},
    {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": "NoSchedule",
    },
]


def workspace_of(ws: Workspace | Mapping[str, Any]) -> Workspace:
    """The Workspace itself, or the one that a dict from the cluster holds. Raises WorkspaceInvalid."""
    return ws if isinstance(ws, Workspace) else parse_workspace(ws)


def metadata(ws: Workspace, name: str, component: str, run_id: str | None = None) -> Manifest:
    """Metadata of a namespaced child: labels, and the owner when the Workspace exists in a cluster."""
    document = ws.to_dict()
    found: Manifest = {
        "name": name,
        "namespace": ws.namespace,
        "labels": names.labels(document, component, run_id),
    }
    if ws.metadata.uid:
        found["ownerReferences"] = [names.owner_reference(document)]
    return found


def env(**values: str | int | None) -> list[Manifest]:
    """Environment variables of plain values; None leaves one out."""
    return [{"name": name, "value": str(value)} for name, value in values.items() if value is not None]


def trusted_keys(settings: ManifestSettings) -> list[Manifest]:
    """The public keys of which one must have signed an adapter that is served, where the installation names any."""
    return env(ADAPTER_PUBLIC_KEYS=settings.adapter_public_keys or None)


def env_from_field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def env_from_secret(name: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    reference: Manifest = {"name": secret, "key": key, **({"optional": True} if optional else {})}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def listen(settings: ManifestSettings) -> list[Manifest]:
    """Where a server binds: the pod's own address, which the sandbox's shared network needs, or all addresses."""
    host = env_from_field("HOST", "status.podIP") if settings.bind_pod_ip else env(HOST="0.0.0.0")[0]  # noqa: S104
    return [host, env_from_field("POD_IP", "status.podIP")]


def mount(volume: str, path: str, *, sub_path: str | None = None, read_only: bool = False) -> Manifest:
    found: Manifest = {"name": volume, "mountPath": path}
    if sub_path:
        found["subPath"] = sub_path
    if read_only:
        found["readOnly"] = True
    return found


#: Modules of include.workloads that need no PyTorch.
TOOLS = frozenset({"dataset", "weights", "adapter"})


def container(
    name: str,
    module: str,
    settings: ManifestSettings,
    *,
    variables: Sequence[Manifest],
    mounts: Sequence[Manifest],
    arguments: Sequence[str] = (),
    gpus: int = 0,
    memory_limit: str | None = None,
) -> Manifest:
    """A container that runs one workload module of the project's image under the Restricted profile.

    `memory_limit` is that of a container without GPUs when it is None.
    """
    return {
        "name": name,
        "image": _image(module, settings),
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", f"include.workloads.{module}", *arguments],
        "env": [*env(HOME="/tmp", PYTHONUNBUFFERED="1"), *variables],  # noqa: S108 - the pod's own emptyDir
        "volumeMounts": [*mounts, mount("tmp", "/tmp")],  # noqa: S108
        "resources": resources(settings, gpus, memory_limit),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": container_security(),
    }


def _image(module: str, settings: ManifestSettings) -> str:
    """The smallest image that has what a module imports."""
    small = module.partition(".")[0] in TOOLS and settings.tools_image
    return settings.tools_image if small else settings.workload_image


def resources(settings: ManifestSettings, gpus: int = 0, memory_limit: str | None = None) -> Manifest:
    """Requests and limits of a container; a GPU pod takes all GPUs of its machine, as limit and request."""
    requests = {"memory": "0"}  # said, because a limit alone is a request for as much
    if settings.cpu_requests:
        cpu, memory = settings.cpu_request, settings.memory_request
        if gpus:
            cpu, memory = settings.gpu_pod_cpu_request, settings.gpu_pod_memory_request
        requests = {"cpu": cpu, "memory": memory}
    limits = {"memory": memory_limit or settings.memory_limit}
    if not gpus:
        return {"requests": requests, "limits": limits}
    return {"requests": {**requests, GPU: str(gpus)}, "limits": {**limits, GPU: str(gpus)}}


def weights_memory_limit(plan: Plan, settings: ManifestSettings) -> str:
    """The memory limit of a container that holds the model: its weights pass through the machine's memory."""
    return settings.gpu_pod_memory_limit or f"{_weights_memory_gib(plan)}Gi"


def _weights_memory_gib(plan: Plan) -> int:
    more = GPU_PROCESS_MEMORY * max(0, plan.gpus_per_node - 1)
    return math.ceil(2 * plan.weights_bytes / GIB) + GPU_POD_MEMORY + more


def scratch(name: str, size_limit: str, **more: str) -> Manifest:
    """An emptyDir with an end: one without could fill its node's disk, or its memory."""
    return {"name": name, "emptyDir": {**more, "sizeLimit": size_limit}}


def container_security() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pod_security() -> Manifest:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_spec(
    settings: ManifestSettings,
    containers: Sequence[Manifest],
    volumes: Sequence[Manifest],
    *,
    init_containers: Sequence[Manifest] = (),
    pull_secrets: Sequence[str] = (),
) -> Manifest:
    """A pod spec without placement: no service account token, a /tmp of its own, the Restricted profile."""
    found: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": list(containers),
        "volumes": [*volumes, scratch("tmp", settings.tmp_size_limit)],
    }
    if init_containers:
        found["initContainers"] = list(init_containers)
    secrets = list(dict.fromkeys([*settings.image_pull_secrets, *pull_secrets]))
    if secrets:
        found["imagePullSecrets"] = [{"name": secret} for secret in secrets]
    return found


def gpu_placement(ws: Workspace, plan: Plan, settings: ManifestSettings) -> Manifest:
    """Affinity and tolerations that put a pod on the nodes of its own pool and nowhere else.

    KAITO pins inference pods only: two tunings with equal matchLabels may swap nodes (kaito-api.md#known-defects, 4).
    """
    wanted = dict(node_labels(ws))
    if settings.own_pool_only and not plan.own_nodes:
        wanted |= pool_labels(ws, plan.purpose)
    expressions: list[Manifest] = [
        {"key": key, "operator": "In", "values": [value]} for key, value in sorted(wanted.items())
    ]
    if plan.own_nodes:  # machines that were made for some Workspace are nobody's to share
        expressions.append({"key": names.WORKSPACE, "operator": "DoesNotExist"})
    found: Manifest = {"tolerations": [dict(toleration) for toleration in TOLERATIONS]}
    if expressions:
        terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        found["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return found


def pool_labels(ws: Workspace, purpose: Purpose) -> dict[str, str]:
    """The labels that only the nodes of this Workspace's pool of this purpose carry."""
    return {names.WORKSPACE: ws.name, names.WORKSPACE_NAMESPACE: ws.namespace, names.POOL: purpose}


@dataclass(frozen=True)
class RegistryAccess:
    """What a container needs to talk to a registry: variables, mounts, and the pod's volumes behind them."""

    variables: list[Manifest]
    mounts: list[Manifest]
    volumes: list[Manifest]


def registry_access(settings: ManifestSettings, volume: str, secrets: Sequence[str]) -> RegistryAccess:
    """Access with dockerconfigjson secrets, mounted in the folder that DOCKER_CONFIG names; anonymous without any."""
    variables = env(
        ALLOWED_NETWORKS=",".join(settings.allowed_networks),
        INSECURE_REGISTRIES=",".join(settings.insecure_registries),
    )
    if not secrets:
        return RegistryAccess(variables, [], [])
    return RegistryAccess(
        [*variables, *env(DOCKER_CONFIG=REGISTRY_CONFIG)],
        [mount(volume, REGISTRY_CONFIG, read_only=True)],
        [{"name": volume, **_registry_secrets(list(dict.fromkeys(secrets)))}],
    )


def _registry_secrets(secrets: Sequence[str]) -> Manifest:
    """The volume source of one secret, or of several side by side: config.json, config-1.json, ..."""

    def items(number: int) -> list[Manifest]:
        return [{"key": ".dockerconfigjson", "path": f"config-{number}.json" if number else "config.json"}]

    if len(secrets) == 1:
        return {"secret": {"secretName": secrets[0], "items": items(0), "defaultMode": SECRET_MODE}}
    sources = [{"secret": {"name": secret, "items": items(n)}} for n, secret in enumerate(secrets)]
    return {"projected": {"sources": sources, "defaultMode": SECRET_MODE}}


def unnamed(volume_source: Mapping[str, Any]) -> Manifest:
    """A volume source as its author wrote it and Kubernetes knows it; a `name` in it would rename our volume."""
    return {key: value for key, value in known_volume_source(volume_source).items() if key != "name"}


def shared_memory(plan: Plan) -> Manifest:
    """The shared memory of a GPU pod: up to half of its memory, as a node gives it to processes."""
    return scratch("dshm", f"{_weights_memory_gib(plan) // 2}Gi", medium="Memory")
