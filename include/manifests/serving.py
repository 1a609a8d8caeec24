"""The objects of a served model: two Services and a StatefulSet with one pod a node (kaito-api.md#a-service).

The pod loads the base model and every adapter that was pulled for it by digest. Registry credentials reach only the
containers that pull.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from include.catalog import load_catalog
from include.manifests import pods, serving_adapters
from include.manifests.pods import Manifest, mount, workspace_of
from include.manifests.serving_access import selector
from include.manifests.serving_pod import grace_seconds, is_group, key_volume, server
from include.manifests.settings import ManifestSettings
from include.manifests.weights import weights
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import access, names
from include.workspace.api.dialect import V1ALPHA1
from include.workspace.validation.pod_fields import known_template

TORCH_PORT = 29500
POD_NAME = "statefulset.kubernetes.io/pod-name"

Subject = Workspace | Mapping[str, Any]


def services(ws: Subject, plan: Plan | None = None) -> list[Manifest]:
    """The Service that users call and the headless one that names the pods.

    Where several pods are one server (`plan` says so), only the first answers, so only it is called. Port 80 leads to
    the server; the v1alpha1 dialect also shows 29500, as the quick start's output does.
    """
    workspace = workspace_of(ws)
    document = workspace.to_dict()
    every = selector(workspace)
    called = every
    if plan is not None and is_group(plan):
        called = {**every, POD_NAME: f"{names.stateful_set(document)}-0"}
    ports = [{"name": "http", "port": 80, "targetPort": pods.PORT, "protocol": "TCP"}]
    if workspace.dialect == V1ALPHA1:
        ports.append({"name": "torch", "port": TORCH_PORT, "targetPort": TORCH_PORT, "protocol": "TCP"})
    kind = "LoadBalancer" if access.is_public(workspace) else "ClusterIP"
    main: Manifest = {"type": kind, "selector": called, "ports": ports}
    headless: Manifest = {"clusterIP": "None", "selector": every, "publishNotReadyAddresses": True}
    return [
        _service(workspace, names.service(document), main),
        _service(workspace, names.headless_service(document), headless),
    ]


def stateful_set(
    ws: Subject,
    plan: Plan,
    settings: ManifestSettings,
    run_id: str,
    adapters: Sequence[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
) -> Manifest:
    """The StatefulSet that serves the model.

    `adapters` are {"name", "image"} with the image by digest, and optionally "secrets" (dockerconfigjson secrets; for
    a tuning Workspace its own push secret is taken) or "volumeSource" in place of "image". `config` is the parsed
    inference_config.yaml; as in KAITO, it counts for the runtime vllm only.
    """
    workspace = workspace_of(ws)
    if workspace.inference and workspace.inference.template is not None:
        template = _from_template(workspace, plan, settings, run_id)
    else:
        template = _pod_template(workspace, plan, settings, run_id, adapters, config)
    document = workspace.to_dict()
    metadata = pods.metadata(workspace, names.stateful_set(document), "serving", run_id)
    if plan.model_image:
        metadata["annotations"] = {names.MODEL_IMAGE: plan.model_image}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "replicas": plan.node_count,
            "serviceName": names.headless_service(document),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "selector": {"matchLabels": selector(workspace)},
            "template": template,
        },
    }


def adapters_of(ws: Subject) -> list[Manifest]:
    """The adapters that an inference Workspace lists, in the form that `stateful_set` takes."""
    workspace = workspace_of(ws)
    found: list[Manifest] = []
    for adapter in (workspace.inference and workspace.inference.adapters) or ():
        source = adapter.source
        if source is None:
            continue
        entry: Manifest = {"name": source.name}
        if adapter.strength is not None and not _is_full(adapter.strength):
            entry["strength"] = adapter.strength
        if source.volume_source is not None:
            entry["volumeSource"] = source.volume_source
        else:
            entry |= {"image": source.image, "secrets": list(source.image_pull_secrets or ())}
        found.append(entry)
    return found


def _is_full(strength: str) -> bool:
    """Whether a strength is the one that an adapter has anyhow, so that writing it makes no other pod."""
    try:
        return float(strength) == 1
    except ValueError:
        return False


def _service(ws: Workspace, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": pods.metadata(ws, name, "serving"),
        "spec": copy.deepcopy(spec),
    }


def _pod_template(
    ws: Workspace,
    plan: Plan,
    settings: ManifestSettings,
    run_id: str,
    adapters: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None,
) -> Manifest:
    model = weights(ws, plan, settings)
    lora = serving_adapters.parts(ws, plan, settings, adapters)
    volumes = [*model.volumes, pods.shared_memory(plan), *lora.volumes]
    mounts = [
        model.mount,
        *lora.mounts,
        mount("dshm", "/dev/shm"),  # noqa: S108 - the pod's own memory volume
    ]
    main = server(ws, plan, settings, load_catalog(), mounts, lora.variables, adapters, config)
    spec = pods.pod_spec(
        settings,
        [main, *lora.sidecars],
        [*volumes, *key_volume(ws)],
        init_containers=[*model.init_containers, *lora.init_containers],
        pull_secrets=model.pull_secrets,
    )
    spec["terminationGracePeriodSeconds"] = grace_seconds(plan, settings)
    labels = names.labels(ws.to_dict(), "serving", run_id)
    return {"metadata": {"labels": labels}, "spec": spec | pods.gpu_placement(ws, plan, settings)}


def _from_template(ws: Workspace, plan: Plan, settings: ManifestSettings, run_id: str) -> Manifest:
    """The user's pod template as Kubernetes knows it, with our labels and placement (kaito-api.md#pod-templates)."""
    template: Manifest = copy.deepcopy(known_template((ws.inference and ws.inference.template) or {}))
    # What a rule lets through may still ask for the cluster's own default: a token of its API in every container.
    template.setdefault("spec", {}).setdefault("automountServiceAccountToken", False)
    meta = template.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), **names.labels(ws.to_dict(), "serving", run_id)}
    spec = template.setdefault("spec", {})
    placement = pods.gpu_placement(ws, plan, settings)
    spec["tolerations"] = [*(spec.get("tolerations") or []), *placement["tolerations"]]
    if "affinity" in placement:
        spec["affinity"] = placement["affinity"]
    return template
