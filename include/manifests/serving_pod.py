"""The container that serves: what each runtime is started with, its probes, and how it ends.

Both runtimes answer the same paths on the same port behind the same gateway, so probes and Services need not know
which one runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from include.catalog import Catalog
from include.catalog.models import GIB
from include.contracts.grace import LEAVING_FILE, SERVING_DRAIN_SECONDS
from include.manifests import pods
from include.manifests.pods import Manifest, env, env_from_field, mount
from include.manifests.serving_adapters import ADAPTERS_PATH, are_followed
from include.manifests.settings import ManifestSettings
from include.planning import Plan, launch_arguments, server_environment
from include.planning.runtimes import VLLM, asked_runtime
from include.workspace.api import access, names
from include.workspace.api.models import Workspace

KEY_VOLUME, KEY_PATH = "api-key", "/etc/kaito/api-key"
KEY_FILE = "key"
BENCHMARK_FILE = "/tmp/kaito-benchmark.json"  # noqa: S108 - the pod's own emptyDir
GROUP_PORTS = {"master": 29500, "group": 29501}
PROBE_PERIOD = 2  # seconds: an HTTP GET costs nothing, and users wait for the first True
# KAITO: 15 minutes and 18 seconds a GiB of weights, between 30 and 180 minutes (kaito-api.md#a-service)
STARTUP_BASE, STARTUP_PER_GIB, STARTUP_MIN, STARTUP_MAX = 900, 18, 1800, 10800
# Answers under way are finished for so long; the transformers runtime keeps less.
DRAIN_SECONDS = {VLLM: 60}
DRAIN_DEFAULT = SERVING_DRAIN_SECONDS
SPARE_SECONDS = 5


def startup_seconds(weights_bytes: int) -> int:
    """How long a server may take to load: KAITO's rule, in seconds."""
    wanted = STARTUP_BASE + STARTUP_PER_GIB * weights_bytes / GIB
    return math.ceil(min(max(wanted, STARTUP_MIN), STARTUP_MAX))


def is_group(plan: Plan) -> bool:
    """Whether the pods are one server together, of which the first answers."""
    return plan.runtime == VLLM and plan.node_count > 1


def is_benchmarked(ws: Workspace, plan: Plan) -> bool:
    """Whether what the server can do is measured after its start, as KAITO does for its default runtime.

    Not of a model that writes no text: what is measured are tokens that a server writes.
    """
    disabled = ws.annotations.get(names.DISABLE_BENCHMARK, "").strip().lower() == "true"
    return plan.runtime == VLLM and not plan.pooling and not disabled


def grace_seconds(plan: Plan, settings: ManifestSettings) -> int:
    """The pod's terminationGracePeriodSeconds."""
    return settings.endpoint_delay_seconds + DRAIN_SECONDS.get(plan.runtime, DRAIN_DEFAULT) + SPARE_SECONDS


def key_volume(ws: Workspace) -> list[Manifest]:
    """The volume of the API key's Secret. As a file, so that a new key counts without a restart."""
    secret = access.api_key_secret(ws)
    if secret is None:
        return []
    items = [{"key": access.KEY, "path": KEY_FILE}]
    return [
        {
            "name": KEY_VOLUME,
            "secret": {"secretName": secret, "items": items, "defaultMode": pods.SECRET_MODE},
        }
    ]


def server(
    ws: Workspace,
    plan: Plan,
    settings: ManifestSettings,
    catalog: Catalog,
    mounts: Sequence[Manifest],
    more_variables: Sequence[Manifest],
    adapters: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None,
) -> Manifest:
    """The serving container. `config` is the parsed inference_config.yaml, `more_variables` say where adapters are."""
    adapter_names = [str(adapter["name"]) for adapter in adapters]
    keyed = access.api_key_secret(ws) is not None
    variables = [
        *env(
            WEIGHTS_PATH=pods.WEIGHTS_PATH,
            ADAPTERS_DIR=ADAPTERS_PATH,
            PORT=pods.PORT,
            API_KEY_FILE=f"{KEY_PATH}/{KEY_FILE}" if keyed else None,
        ),
        *more_variables,
        *pods.listen(settings),
    ]
    followed = are_followed(plan, adapters)
    if plan.runtime == VLLM:
        mode = ws.annotations.get(names.PERFORMANCE_MODE)
        module = "serving.vllm"
        arguments = launch_arguments(
            plan, catalog, adapters=adapter_names, config=config, performance_mode=mode
        )
        variables += _vllm_environment(ws, plan, [] if followed else adapter_names)
    else:
        module, arguments = "serving", []
        # As in KAITO, the file has no effect on this runtime where it is asked for; where it stands in, it has.
        known = config if asked_runtime(ws) == VLLM else None
        variables += env(
            **server_environment(plan, [] if followed else adapter_names, known), **_strengths(adapters)
        )
    if keyed:
        mounts = [*mounts, mount(KEY_VOLUME, KEY_PATH, read_only=True)]
    main = pods.container(
        "serving",
        module,
        settings,
        variables=variables,
        mounts=mounts,
        arguments=arguments,
        gpus=plan.gpus_per_node,
        memory_limit=pods.weights_memory_limit(plan, settings),
    )
    if plan.runtime == VLLM and settings.gpu_image:
        main["image"] = settings.gpu_image
    main["resources"] = _on_slices(ws, main["resources"])
    main["ports"] = _ports(plan)
    if settings.endpoint_delay_seconds:
        wait = ["sh", "-c", f"touch {LEAVING_FILE}; sleep {settings.endpoint_delay_seconds}"]
        main["lifecycle"] = {"preStop": {"exec": {"command": wait}}}
    return main | _probes(plan)


def _on_slices(ws: Workspace, resources: Manifest) -> Manifest:
    """The same resources with the device plugin's name of a MIG slice, where the Workspace asks for one."""
    partition = ws.resource.partition if ws.resource else None
    if partition is None or partition.mode != "mig":
        return resources
    wanted = f"nvidia.com/mig-{partition.profile}"
    return {
        kind: {wanted if name == pods.GPU else name: amount for name, amount in amounts.items()}
        for kind, amounts in resources.items()
    }


def _vllm_environment(ws: Workspace, plan: Plan, adapters: Sequence[str]) -> list[Manifest]:
    leader = f"{ws.name}-0.{names.headless_service(ws.to_dict())}.{ws.namespace}.svc.cluster.local"
    group = is_group(plan)
    return [
        *env(
            MODEL_ID=plan.model_id,
            KAITO_DEFAULT_ADAPTER=adapters[0] if len(adapters) == 1 else None,
            DRAIN_SECONDS=DRAIN_SECONDS[VLLM],
            KAITO_BENCHMARK_FILE=BENCHMARK_FILE if is_benchmarked(ws, plan) else None,
            LEADER_ADDRESS=leader if group else None,
        ),
        *([env_from_field("POD_NAME", "metadata.name")] if group else []),
    ]


def _strengths(adapters: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """KAITO's way to say them: a variable of exactly the adapter's name."""
    return {str(one["name"]): str(one["strength"]) for one in adapters if one.get("strength") is not None}


def _ports(plan: Plan) -> list[Manifest]:
    ports = {"http": pods.PORT, **(GROUP_PORTS if is_group(plan) else {})}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()]


def _probes(plan: Plan) -> Manifest:
    probe = {"httpGet": {"path": "/health", "port": pods.PORT}}
    startup = math.ceil(startup_seconds(plan.weights_bytes) / PROBE_PERIOD)
    return {
        "startupProbe": {
            **probe,
            "periodSeconds": PROBE_PERIOD,
            "timeoutSeconds": 5,
            "failureThreshold": startup,
        },
        "readinessProbe": {**probe, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        # Generous: a server that is busy with a long answer must not be killed for a slow health reply.
        "livenessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }
