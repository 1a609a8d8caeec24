"""The objects of a tuning: work volume, config, and the three pods dataset, tuning, adapter.

Three pods instead of KAITO's one with sidecars, so that each retries alone and a failed push never trains again.
Dataset and adapter run on any CPU node: no GPU waits for a download or an upload.
"""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from include.catalog import load_catalog
from include.contracts.grace import TUNING_GRACE_SECONDS
from include.manifests import dataset_access, pods
from include.manifests.pods import Manifest, env, mount, workspace_of
from include.manifests.settings import ManifestSettings
from include.manifests.weights import tokenizer, weights
from include.planning import Plan
from include.pools.volume_placement import ZONE
from include.workspace import Workspace
from include.workspace.api import access, names
from include.workspace.api.annotations import exact_rerun
from include.workspace.validation.training_config import KEY

DATA_PATH = "/mnt/data"
RESULTS_PATH = "/mnt/results"
CONFIG_PATH = "/mnt/config"
INPUT_PATH = "/mnt/input"
CURRENT_PATH, CURRENT_NAME = "/mnt/current", "current"
URLS_KEY = "urls"  # of the Secret: a JSON list

Subject = Workspace | Mapping[str, Any]


def work_volume(ws: Subject, settings: ManifestSettings) -> Manifest:
    """The PersistentVolumeClaim that holds the dataset, the checkpoints and the adapter of a tuning Workspace."""
    workspace = workspace_of(ws)
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{settings.work_volume_gib}Gi"}},
    }
    if settings.storage_class is not None:
        spec["storageClassName"] = settings.storage_class
    name = names.work_volume(workspace.to_dict())
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": pods.metadata(workspace, name, "tuning"),
        "spec": spec,
    }


def dataset_urls(ws: Subject) -> Manifest | None:
    """The Secret with the dataset's URLs, which may be signed, so that no pod's spec shows them; None without URLs."""
    workspace = workspace_of(ws)
    urls = _tuning(workspace).input.urls
    if not urls:
        return None
    content = base64.b64encode(json.dumps(urls).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": pods.metadata(workspace, names.dataset_secret(workspace.to_dict(), urls), "tuning"),
        "type": "Opaque",
        "immutable": True,
        "data": {URLS_KEY: content},
    }


def tuning_config(ws: Subject, plan: Plan, user_config: str | None) -> Manifest:
    """The ConfigMap with the training config: the user's text, or the method's default of presets/tuning."""
    workspace = workspace_of(ws)
    text = user_config if user_config is not None else load_catalog().tuning_config(plan.method)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(workspace, names.tuning_config_map(workspace.to_dict()), "tuning"),
        "data": {KEY: text},
    }


def dataset_pod(
    ws: Subject, plan: Plan, settings: ManifestSettings, run_id: str, zones: Sequence[str] = ()
) -> Manifest:
    """The pod that fetches or reads the dataset, checks it and writes it to the work volume.

    :param zones: where the volume has to be made, for the machines that mount it later; none for anywhere.
    """
    workspace = workspace_of(ws)
    source = _tuning(workspace).input
    variables = env(
        DATASET_OUTPUT=DATA_PATH,
        ALLOWED_NETWORKS=",".join(settings.allowed_networks),
        DATASET_MAX_BYTES=settings.dataset_max_bytes,
        DATASET_SAMPLES=None if settings.dataset_samples else "false",
        YAML_FILE_PATH=f"{CONFIG_PATH}/{KEY}",
        TOKENIZER_PATH=pods.WEIGHTS_PATH,
        HELD_OUT_SHARE=workspace.annotations.get(names.HELD_OUT),
        TUNING_OBJECTIVE=workspace.objective,
    )
    model = tokenizer(workspace, plan, settings)
    volumes = [work_of(workspace), _config(workspace), *model.volumes]
    mounts = [
        mount("work", DATA_PATH, sub_path="data"),
        mount("config", CONFIG_PATH, read_only=True),
        model.mount,
    ]
    if source.urls:
        secret = names.dataset_secret(workspace.to_dict(), source.urls)
        variables.append(pods.env_from_secret("DATASET_URLS", secret, URLS_KEY))
        variables += dataset_access.variables(workspace, source.urls)
    elif source.volume_source is not None:
        variables += env(DATASET_PATH=INPUT_PATH)
        volumes.append({"name": "input", **pods.unnamed(source.volume_source)})
        mounts.append(mount("input", INPUT_PATH, read_only=True))
    else:
        variables += env(DATASET_IMAGE=source.image)
    if access := _dataset_registries(workspace, settings):
        variables += access.variables
        volumes += access.volumes
        mounts += access.mounts
    main = pods.container("dataset", "dataset", settings, variables=variables, mounts=mounts)
    spec = pods.pod_spec(settings, [main], volumes, init_containers=model.init_containers)
    spec |= dataset_access.service_account(workspace)
    if zones:
        terms = [{"matchExpressions": [{"key": ZONE, "operator": "In", "values": list(zones)}]}]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec["affinity"] = {"nodeAffinity": required}
    pod = step_pod(workspace, "dataset", run_id, _in_time(spec, settings))
    pod["metadata"]["labels"] |= dataset_access.labels(workspace)
    return pod


def _dataset_registries(ws: Workspace, settings: ManifestSettings) -> pods.RegistryAccess | None:
    """Access to where a dataset image is, and where the digests of earlier rows are, beside the adapter's image."""
    tuning, known = _tuning(ws), ws.annotations.get(names.RETRAIN_KNOWN)
    secrets = list(tuning.input.image_pull_secrets or ()) if tuning.input.image else []
    if known and tuning.output.image_push_secret:
        secrets.append(tuning.output.image_push_secret)
    if not known and not tuning.input.image:
        return None
    access = pods.registry_access(settings, "registry", secrets)
    return replace(access, variables=[*access.variables, *env(KNOWN_ROWS=known)])


def tuning_pod(ws: Subject, plan: Plan, settings: ManifestSettings, run_id: str) -> Manifest:
    """The pod that tunes on the GPUs of the Workspace's own pool."""
    workspace = workspace_of(ws)
    model = weights(workspace, plan, settings)
    init_containers = model.init_containers
    start = workspace.annotations.get(names.RETRAIN_FROM)
    pulled = pulled_adapter(workspace, settings, start) if start else None
    variables = [
        *env(
            WEIGHTS_PATH=pods.WEIGHTS_PATH,
            DATASET_FOLDER_PATH=DATA_PATH,
            YAML_FILE_PATH=f"{CONFIG_PATH}/{KEY}",
            OUTPUT_DIR=RESULTS_PATH,
            TUNING_METHOD=plan.method,
            MODEL_NAME=plan.model,
            MODEL_ID=plan.model_id,
            MODEL_REVISION=plan.revision,
            DTYPE=plan.dtype,
            SHARD_WEIGHTS="true" if plan.training and plan.training.sharded else None,
            TUNING_TARGET_MODULES=",".join(plan.target_modules) or None,
            HELD_OUT_SHARE=workspace.annotations.get(names.HELD_OUT),
            TUNING_OBJECTIVE=workspace.objective,
            START_ADAPTER_DIR=pulled.path if pulled else None,
            START_ADAPTER_DIGEST=(start.partition("@")[2] or None) if start else None,
            METRICS_PORT=pods.PORT,
            WORKLOAD_IMAGE=settings.workload_image,
            RUN_NAME=run_id,
            EXACT_RERUN=exact_rerun(workspace.annotations) or None,
            PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True",
        ),
        *pods.listen(settings),
        *_trackers(workspace),
    ]
    results, results_mount = results_of(workspace)
    mounts = [
        mount("work", DATA_PATH, sub_path="data", read_only=True),
        results_mount,
        mount("config", CONFIG_PATH, read_only=True),
        model.mount,
        mount("dshm", "/dev/shm"),  # noqa: S108 - the pod's own memory volume
    ]
    volumes = [work_of(workspace), *results, _config(workspace), *model.volumes, pods.shared_memory(plan)]
    if pulled:
        init_containers = [*init_containers, pulled.pull]
        mounts.append(pulled.mount)
        volumes += pulled.volumes
    main = pods.container(
        "tuning",
        "tuning",
        settings,
        variables=variables,
        mounts=mounts,
        gpus=plan.gpus_per_node,
        memory_limit=pods.weights_memory_limit(plan, settings),
    )
    main["ports"] = [{"name": "metrics", "containerPort": pods.PORT, "protocol": "TCP"}]
    spec = pods.pod_spec(
        settings, [main], volumes, init_containers=init_containers, pull_secrets=model.pull_secrets
    )
    spec["terminationGracePeriodSeconds"] = TUNING_GRACE_SECONDS
    return step_pod(workspace, "tuning", run_id, spec | pods.gpu_placement(workspace, plan, settings))


def _trackers(ws: Workspace) -> list[Manifest]:
    """The variables that MLflow and Weights & Biases read, each only where the user's Secret has it."""
    secret = ws.annotations.get(names.TRACKING)
    found = [pods.env_from_secret(key, secret, key) for key in access.TRACKING_KEYS] if secret else []
    for variable in found:
        variable["valueFrom"]["secretKeyRef"]["optional"] = True
    return found


@dataclass(frozen=True, slots=True)
class PulledAdapter:
    """What a pod needs to read an adapter image: the init container that pulls it, and where it then lies."""

    path: str
    pull: Manifest
    mount: Manifest
    volumes: list[Manifest]


def pulled_adapter(ws: Workspace, settings: ManifestSettings, image: str) -> PulledAdapter:
    """The adapter that is served now, pulled by digest with the credentials that push the Workspace's own."""
    output = ws.tuning.output if ws.tuning else None
    secrets = [output.image_push_secret] if output and output.image_push_secret else []
    registry = pods.registry_access(settings, "registry", secrets)
    pull = pods.container(
        "current-adapter",
        "adapter",
        settings,
        variables=[
            *env(ADAPTER_IMAGE=image, ADAPTER_NAME=CURRENT_NAME, ADAPTERS_DIR=CURRENT_PATH),
            *registry.variables,
        ],
        mounts=[mount("current", CURRENT_PATH), *registry.mounts],
        arguments=["pull"],
    )
    scratch = pods.scratch("current", f"{pods.ADAPTER_DISK}Gi")
    return PulledAdapter(
        path=f"{CURRENT_PATH}/{CURRENT_NAME}",
        pull=pull,
        mount=mount("current", CURRENT_PATH, read_only=True),
        volumes=[scratch, *registry.volumes],
    )


def adapter_pod(
    ws: Subject,
    plan: Plan,
    settings: ManifestSettings,
    run_id: str,
    metadata: Mapping[str, Any] | None = None,
    weights_sha256: str | None = None,
    report: tuple[str, str] | None = None,
) -> Manifest:
    """The pod that packs the adapter as an OCI image and pushes it.

    `metadata` becomes annotations of the image's manifest. `weights_sha256` is the digest of the weights that the
    training has reported: others are not pushed. `report` is the evaluation's, as its path in the results and its
    digest: it is pushed beside the image. Raises ValueError when the Workspace has no output image.
    """
    workspace = workspace_of(ws)
    output = _tuning(workspace).output
    if not output.image or not output.image_push_secret:
        raise ValueError(
            f"{workspace.name} has no output image to push to: its adapter stays on its output volume"
        )
    annotations = {"sh.kaito.model.name": plan.model} | {str(k): str(v) for k, v in (metadata or {}).items()}
    access = pods.registry_access(settings, "registry", [output.image_push_secret])
    variables = env(
        ADAPTER_DIR=f"{RESULTS_PATH}/adapter",
        ADAPTER_IMAGE=output.image,
        ADAPTER_ANNOTATIONS=json.dumps(annotations, sort_keys=True),
        ADAPTER_SHA256=weights_sha256,
        EVALUATION_DIR=posixpath.dirname(f"{RESULTS_PATH}/{report[0]}") if report else None,
        EVALUATION_DIGEST=report[1] if report else None,
    )
    variables += [*access.variables, *_signing(workspace, settings)]
    mounts = [mount("work", RESULTS_PATH, sub_path="results", read_only=True), *access.mounts]
    volumes = [work_of(workspace), *access.volumes]
    main = pods.container(
        "adapter", "adapter", settings, variables=variables, mounts=mounts, arguments=["push"]
    )
    return step_pod(
        workspace, "adapter", run_id, _in_time(pods.pod_spec(settings, [main], volumes), settings)
    )


def _signing(ws: Workspace, settings: ManifestSettings) -> list[Manifest]:
    """The key that signs the adapter, where the Workspace names a Secret with one."""
    secret = ws.annotations.get(names.SIGNING)
    if not secret:
        return []
    return [
        pods.env_from_secret("SIGNING_KEY", secret, access.SIGNING_KEY),
        pods.env_from_secret("SIGNING_PASSWORD", secret, access.SIGNING_PASSWORD, optional=True),
        *pods.trusted_keys(settings),
    ]


def _in_time(spec: Manifest, settings: ManifestSettings) -> Manifest:
    """A pod that waits for other people's servers has an end, whatever those do."""
    return {**spec, "activeDeadlineSeconds": settings.step_timeout_minutes * 60}


def step_pod(ws: Workspace, component: str, run_id: str, spec: Manifest) -> Manifest:
    """The pod of a step of a tuning."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": pods.metadata(ws, names.pod(ws.to_dict(), component), component, run_id),
        "spec": {"restartPolicy": "Never", **spec},
    }


def _tuning(ws: Workspace) -> Any:
    if ws.tuning is None:
        raise ValueError(f"{ws.name} has no tuning")
    return ws.tuning


def work_of(ws: Workspace) -> Manifest:
    """The volume of a tuning's data and results."""
    return {"name": "work", "persistentVolumeClaim": {"claimName": names.work_volume(ws.to_dict())}}


def _config(ws: Workspace) -> Manifest:
    return {"name": "config", "configMap": {"name": names.tuning_config_map(ws.to_dict())}}


def results_of(ws: Workspace) -> tuple[Sequence[Manifest], Manifest]:
    """Where results go: the work volume, or the user's own output volume when the Workspace names one."""
    destination = _tuning(ws).output.volume_source
    if destination is None:
        return [], mount("work", RESULTS_PATH, sub_path="results")
    return [{"name": "results", **pods.unnamed(destination)}], mount("results", RESULTS_PATH)
