"""The pod that evaluates a tuned adapter, on the machine that tuned it and before that is released.

It has the tuning pod's place, security, memory and egress. The golden set comes from the user's ConfigMap; the adapter
that is served now is pulled by an init container, by digest. The judge's key reaches the container as a reference to a
Secret, never as text.
"""

from __future__ import annotations

from dataclasses import dataclass

from include.contracts import golden_set
from include.contracts.evaluation_policy import EvaluationPolicy, GoldenSource
from include.manifests import pods
from include.manifests.pods import Manifest, env, mount, workspace_of
from include.manifests.settings import ManifestSettings
from include.manifests.tuning import (
    DATA_PATH,
    RESULTS_PATH,
    Subject,
    pulled_adapter,
    results_of,
    step_pod,
    work_of,
)
from include.manifests.weights import weights
from include.planning import Plan
from include.workspace import Workspace
from include.workspace.api import access, names

COMPONENT = "evaluation"
GOLDEN_PATH = "/mnt/golden"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the pod is told of the adapters and rows.

    :ivar current: the adapter that is served now, as an image by digest; None where there is none.
    :ivar weights_sha256: of the candidate, as the tuning has reported it: another adapter is not evaluated.
    :ivar trained_digest: of the rows that the tuning has learnt from, as it has reported them.
    :ivar dataset_digest: of the dataset, for the report.
    """

    current: str | None = None
    weights_sha256: str | None = None
    trained_digest: str | None = None
    dataset_digest: str | None = None


def evaluation_pod(
    ws: Subject,
    plan: Plan,
    settings: ManifestSettings,
    run_id: str,
    policy: EvaluationPolicy,
    evaluated: Evaluated,
) -> Manifest:
    """The pod that evaluates the adapter on a tuning Workspace's results volume."""
    workspace = workspace_of(ws)
    model = weights(workspace, plan, settings)
    init_containers = model.init_containers
    results, results_mount = results_of(workspace)
    volumes = [work_of(workspace), *results, *model.volumes, pods.shared_memory(plan)]
    mounts = [
        mount("work", DATA_PATH, sub_path="data", read_only=True),
        results_mount,
        model.mount,
        mount("dshm", "/dev/shm"),  # noqa: S108 - the pod's own memory volume
    ]
    variables = _variables(plan, settings, policy, evaluated)
    if policy.golden_set:
        volumes.append(
            {"name": "golden", "configMap": {"name": golden_config_map(workspace, policy.golden_set)}}
        )
        mounts.append(mount("golden", GOLDEN_PATH, read_only=True))
        variables += env(GOLDEN_SET_PATH=f"{GOLDEN_PATH}/{golden_set.KEY}")
    if evaluated.current:
        pulled = pulled_adapter(workspace, settings, evaluated.current)
        init_containers = [*init_containers, pulled.pull]
        volumes += pulled.volumes
        mounts.append(pulled.mount)
        variables += env(
            CURRENT_ADAPTER_DIR=pulled.path,
            CURRENT_ADAPTER_DIGEST=evaluated.current.partition("@")[2] or None,
        )
    main = pods.container(
        COMPONENT,
        COMPONENT,
        settings,
        variables=variables,
        mounts=mounts,
        gpus=plan.gpus_per_node,
        memory_limit=pods.weights_memory_limit(plan, settings),
    )
    spec = pods.pod_spec(
        settings, [main], volumes, init_containers=init_containers, pull_secrets=model.pull_secrets
    )
    # A machine is paid for meanwhile: a judge that answers slowly must not hold it for ever.
    spec["activeDeadlineSeconds"] = settings.step_timeout_minutes * 60
    return step_pod(workspace, COMPONENT, run_id, spec | pods.gpu_placement(workspace, plan, settings))


def golden_config_map(ws: Workspace, source: GoldenSource) -> str:
    """Name of the ConfigMap that the pod reads: the user's, or the copy of what lies elsewhere."""
    return source.config_map or names.golden_config_map(ws.name)


def golden_copy(ws: Subject, text: str) -> Manifest:
    """The ConfigMap with a golden set that lies at a URL or in an image, as it was read for this run."""
    workspace = workspace_of(ws)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(workspace, names.golden_config_map(workspace.name), COMPONENT),
        "data": {golden_set.KEY: text},
    }


def _variables(
    plan: Plan, settings: ManifestSettings, policy: EvaluationPolicy, evaluated: Evaluated
) -> list[Manifest]:
    found = env(
        WEIGHTS_PATH=pods.WEIGHTS_PATH,
        DATASET_FOLDER_PATH=DATA_PATH,
        OUTPUT_DIR=RESULTS_PATH,
        MODEL_ID=plan.model_id,
        MODEL_REVISION=plan.revision,
        DTYPE=plan.dtype,
        MAX_TOKENS=policy.max_tokens,
        HELD_OUT_PROMPTS=policy.held_out_prompts,
        SEED=policy.seed,
        ADAPTER_SHA256=evaluated.weights_sha256,
        TRAINED_ROWS_DIGEST=evaluated.trained_digest,
        DATASET_DIGEST=evaluated.dataset_digest,
    )
    if policy.lm_eval is not None:
        found += env(
            LM_EVAL_TASKS=",".join(policy.lm_eval.tasks),
            LM_EVAL_LIMIT=policy.lm_eval.limit,
            LM_EVAL_FEW_SHOT=policy.lm_eval.few_shot,
        )
    if policy.judge is not None:
        found += env(
            JUDGE_URL=policy.judge.url,
            JUDGE_MODEL=policy.judge.model,
            ALLOWED_NETWORKS=",".join(settings.allowed_networks),
            INSECURE_REGISTRIES=",".join(settings.insecure_registries),
        )
        if policy.judge.secret:
            found.append(pods.env_from_secret("JUDGE_API_KEY", policy.judge.secret, access.KEY))
    return found
