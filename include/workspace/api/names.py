"""Every name, label and reference that ties Kubernetes objects to a Workspace.

Names are deterministic, so that a create can be repeated and a lost database loses nothing. A name must never depend
on the time or on chance (KAITO hashes the clock into them and over-creates, kaito-api.md#known-defects, 14).
Functions take the Workspace as the plain dict that the cluster returned.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

GROUP = "kaito.sh"
KIND = "Workspace"
PLURAL = "workspaces"
STORED_VERSION = "v1beta1"
FIELD_MANAGER = "kaito-airflow"
FINALIZER = "workspace.finalizer.kaito.sh"

WORKSPACE = "kaito.sh/workspace"
WORKSPACE_NAMESPACE = "kaito.sh/workspacenamespace"
RUN_ID = "kaito.sh/run-id"
COMPONENT = "kaito.sh/component"
POOL = "kaito.sh/pool"  # tuning | serving: keeps one Workspace's two pools apart
ROLLOUT = "kaito.sh/rollout"
ENABLE_LOAD_BALANCER = "kaito.sh/enablelb"
RUNTIME = "kaito.sh/runtime"
BYPASS_RESOURCE_CHECKS = "kaito.sh/bypass-resource-checks"
NODE_IMAGE_FAMILY = "kaito.sh/node-image-family"
NODE_CLASS_NAME = "kaito.sh/node-class-name"
PERFORMANCE_MODE = "kaito.sh/performance-mode"
API_KEY = "kaito.sh/api-key"  # a Secret's name, or "none"
DISABLE_BENCHMARK = "kaito.sh/disable-benchmark"
USE_LOCAL_WEIGHTS = "kaito.sh/use-local-weights"
MODEL_IMAGE = "kaito.sh/model-image"  # a container image with the model's files, in place of the hub
MODEL_VOLUME = "kaito.sh/model-volume"  # CLAIM or CLAIM/FOLDER: a volume with the model's files
MODEL_CACHE = (
    "kaito.sh/model-cache"  # CLAIM or CLAIM/FOLDER: a volume that keeps what is downloaded from the hub
)
MODEL_REVISION = "kaito.sh/model-revision"  # a commit, branch or tag of the model's repository on the hub
RERUN = "kaito.sh/rerun"  # a new value starts a finished Workspace once more
STARTED_BY = (
    "kaito.sh/started-by-run"  # DAG/RUN: the run that made this Workspace works on its first generation
)
PAUSED = "kaito.sh/paused"  # "true": nothing is done, only observed
MANAGED_BY = "kaito.sh/managed-by"  # "airflow": ours even where upstream's controller runs
KEEP = "kaito.sh/keep"  # "true" on an object: the janitor leaves it alone
POOL_PROVIDER = "kaito.sh/pool-provider"  # who makes the machines; beats the installation's setting
SCALE_TO_ZERO = (
    "kaito.sh/scale-to-zero-after-minutes"  # a service that is idle for so long gives its GPUs back
)
INSTANCE_TYPES = "kaito.sh/instance-types"  # further machine types, TYPE or TYPE@ZONE, in the order of asking
CAPACITY_TYPE = "kaito.sh/capacity-type"  # spot, on-demand, or both in the order of asking
OFFER = "kaito.sh/offer"  # on what is made: which of those it was asked for as
ADAPTER = "kaito.sh/adapter"  # on a work volume: which adapter lies there (status.kept_adapter)
BUDGET = "kaito.sh/budget-usd"  # US dollars that this Workspace's machines may cost in all
ASKED_AT = (
    "kaito.sh/asked-at"  # on Nodes whose pool is no object: when it was asked for, in seconds since 1970
)
FORCE_RELEASE = "kaito.sh/force-release"  # "true": let a deleted Workspace go, whatever is left of it
RETRAIN_SCHEDULE = "kaito.sh/retrain-schedule"  # cron, or @data: when a tuning is repeated beside its service
RETRAIN_TIMEZONE = "kaito.sh/retrain-timezone"  # of that cron; UTC without it
RETRAIN_POLICY = "kaito.sh/retrain-policy"  # a ConfigMap with retrain_policy.yaml
APPROVE = "kaito.sh/approve"  # the digest of a candidate that may be promoted
REJECT = "kaito.sh/reject"  # the digest of a candidate that may not
ROLLBACK_TO = "kaito.sh/rollback-to"  # a digest or version to serve again, or "previous"
RETRAIN_OF = "kaito.sh/retrain-of"  # label on a candidate: the Workspace that is retrained
RETRAIN_VERSION = "kaito.sh/retrain-version"  # on a candidate: its version
HELD_OUT = "kaito.sh/held-out-share"  # of a tuning's rows: the share that is kept for evaluation
TRACKING = "kaito.sh/tracking-secret"  # a Secret with what MLflow or Weights & Biases reads
SIGNING = "kaito.sh/signing-secret"  # a Secret with the key that signs the adapter
TUNING_OBJECTIVE = "kaito.sh/tuning-objective"  # sft, dpo or kto: what the training learns from
RETRAIN_FROM = (
    "kaito.sh/retrain-from"  # on a candidate: the adapter that its training goes on from, by digest
)
RETRAIN_KNOWN = "kaito.sh/retrain-known"  # on a candidate: the digests of the rows that were learnt from last
RETRAIN_CURRENT = "kaito.sh/retrain-current"  # on a candidate: the adapter that answers today, by digest
DATASET_CREDENTIALS = "kaito.sh/dataset-secret"  # a Secret with the keys that open the dataset
DATASET_IDENTITY = (
    "kaito.sh/dataset-identity"  # a ServiceAccount as whose workload identity the dataset is read
)
REVISION_OF = "workspace.kaito.io/name"
REVISION_HASH = "workspace.kaito.io/hash"
REVISION = "workspace.kaito.io/revision"
MODEL_STREAMING = "kaito.sh/model-streaming"
CONVERSION_DATA = "kaito.sh/conversion-data"

#: Annotations of a Workspace that a controller or a run of ours keeps there, and no author writes.
BOOKKEEPING = frozenset({REVISION_HASH, REVISION, STARTED_BY})
# Labels that a labelSelector may not choose: the controller owns them (kaito-api.md#labels).
RESERVED_LABELS = frozenset(
    {
        WORKSPACE,
        WORKSPACE_NAMESPACE,
        RUN_ID,
        COMPONENT,
        POOL,
        ASKED_AT,
        "kaito.sh/ragengine",
        "kaito.sh/ragenginenamespace",
        "karpenter.sh/nodepool",
        "karpenter.kaito.sh/workspace-name",
        "karpenter.kaito.sh/workspace-namespace",
        "karpenter.kaito.sh/inferenceset",
        "karpenter.kaito.sh/inferenceset-namespace",
    }
)


class ProviderName(StrEnum):
    """Who makes machines, of those that come with the product: what the annotation POOL_PROVIDER may say."""

    NODE_CLAIM = "nodeclaim"
    NODE_POOL = "nodepool"
    AKS = "aks"
    BYO = "byo"


AUTO_PROVIDER = "auto"
POOL_PROVIDERS = (*ProviderName, AUTO_PROVIDER)
#: The clouds of which a provider has machines, where it does not have all.
PROVIDER_CLOUDS: Mapping[str, tuple[str, ...]] = {ProviderName.AKS: ("azure",)}

#: The Pod Security Standards' profiles, to which pod templates may be held (validation/pod_security.py).
BASELINE, RESTRICTED, PRIVILEGED = "baseline", "restricted", "privileged"
TEMPLATE_POLICIES = (BASELINE, RESTRICTED, PRIVILEGED)

LABEL_VALUE_MAX = 63
_RUN_ID_END = re.compile(r"\.(?P<uid>[0-9a-f]{8})\.g(?P<generation>\d+)(?:\.r\d+)?$")
_ATTEMPT = re.compile(r"(?P<name>.+)\.(?P<uid>[0-9a-f]{8})\.g(?P<generation>\d+)(?:\.r(?P<attempt>\d+))?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def run_id_label(run_id: str) -> str:
    """A run id as a label value: itself when it is one, else its cleaned first 50 characters and a short hash."""
    if _LABEL_VALUE.fullmatch(run_id):
        return run_id
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[:50].strip("._-")
    return f"{cleaned}-{digest}" if cleaned else digest


def run_id(workspace: Mapping[str, Any]) -> str:
    """The id of the one DAG run of this Workspace's generation: <namespace>.<name>.<uid8>.g<generation>."""
    meta = workspace["metadata"]
    return f"{namespace(workspace)}.{meta['name']}.{str(meta.get('uid', ''))[:8]}.g{generation(workspace)}"


def generation_of_run(run_id: str, workspace: Mapping[str, Any]) -> int | None:
    """The generation of this very Workspace that a run's id names; None where it names none, as of a run by hand."""
    meta = workspace["metadata"]
    prefix = f"{namespace(workspace)}.{meta['name']}.{str(meta.get('uid', ''))[:8]}.g"
    named = run_id.removeprefix(prefix).partition(".")[0]
    return int(named) if run_id.startswith(prefix) and named.isascii() and named.isdigit() else None


def attempt_run_id(workspace: Mapping[str, Any], attempt: int = 1) -> str:
    """The id of this generation's attempt-th run: `run_id` for the first, with .r<attempt> for later ones."""
    return _attempt(run_id(workspace), attempt)


def release_run_id(workspace: Mapping[str, Any], attempt: int = 1) -> str:
    """The id of the attempt-th run that releases a deleted Workspace: <namespace>.<name>.<uid8>.release."""
    meta = workspace["metadata"]
    return _attempt(f"{namespace(workspace)}.{meta['name']}.{str(meta.get('uid', ''))[:8]}.release", attempt)


def retrain_run_id(workspace: Mapping[str, Any], due: str) -> str:
    """The id of the run of a retraining that is due at a time, as Kubernetes writes it: one time is one run."""
    meta = workspace["metadata"]
    at = re.sub(r"[^0-9TZ]", "", due)
    return f"{namespace(workspace)}.{meta['name']}.{str(meta.get('uid', ''))[:8]}.retrain.{at}"


def _attempt(run: str, attempt: int) -> str:
    return run if attempt <= 1 else f"{run}.r{attempt}"


def served_by(run_id: str) -> tuple[str, int] | None:
    """(first 8 characters of the uid, generation) of the Workspace that a run serves; None when its id is not ours."""
    found = _RUN_ID_END.search(run_id)
    return (found["uid"], int(found["generation"])) if found else None


def earlier_run(label: str, than: str) -> bool:
    """Whether a run's label is of an earlier generation or attempt of the same Workspace name, so that it is over.

    False too where an id does not tell: a run that somebody started with an id of their own, or one that was cut.
    """
    one, other = _ATTEMPT.fullmatch(label), _ATTEMPT.fullmatch(than)
    if one is None or other is None or one["name"] != other["name"]:
        return False
    if one["uid"] != other["uid"]:
        return True  # of a Workspace of this name that was deleted: there is one at a time
    return _place(one) < _place(other)


def _place(found: re.Match[str]) -> tuple[int, int]:
    return int(found["generation"]), int(found["attempt"] or 1)


def namespace(workspace: Mapping[str, Any]) -> str:
    return workspace["metadata"].get("namespace") or "default"


def generation(workspace: Mapping[str, Any]) -> int:
    return int(workspace["metadata"].get("generation") or 1)


def work_volume(workspace: Mapping[str, Any]) -> str:
    return f"{workspace['metadata']['name']}-work"


def pod(workspace: Mapping[str, Any], component: str) -> str:
    """Name (without the operator's random suffix) of the dataset, tuning or adapter pod of this generation."""
    return f"{workspace['metadata']['name']}-g{generation(workspace)}-{component}"


def dataset_secret(workspace: Mapping[str, Any], urls: Sequence[str]) -> str:
    """Name of the Secret with these dataset URLs: other URLs are another Secret, since none is ever changed."""
    digest = hashlib.sha256(json.dumps(list(urls)).encode()).hexdigest()
    return f"{workspace['metadata']['name']}-dataset-{digest[:10]}"


def tuning_config_map(workspace: Mapping[str, Any]) -> str:
    return pod(workspace, "tuning")


#: The container of a serving pod that changes adapters while the server answers.
ADAPTERS_SIDECAR = "adapters-follow"


def golden_config_map(workspace: str) -> str:
    """The ConfigMap with a copy of a golden set that lies at a URL or in an image.

    :param workspace: the name of the candidate that is evaluated by it.
    """
    return f"{workspace}-golden"


def adapters_config_map(workspace: Mapping[str, Any]) -> str:
    """The ConfigMap that says which adapters a service's pod is to have now."""
    return f"{workspace['metadata']['name']}-adapters"


def stateful_set(workspace: Mapping[str, Any]) -> str:
    return str(workspace["metadata"]["name"])


def service(workspace: Mapping[str, Any]) -> str:
    return str(workspace["metadata"]["name"])


def api_key_secret(workspace: Mapping[str, Any]) -> str:
    return f"{workspace['metadata']['name']}-api-key"


def headless_service(workspace: Mapping[str, Any]) -> str:
    return f"{workspace['metadata']['name']}-headless"


def labels(workspace: Mapping[str, Any], component: str, run: str | None = None) -> dict[str, str]:
    """The labels that every child of a Workspace carries; `run` is a run id, not yet label-safe."""
    found = {
        WORKSPACE: str(workspace["metadata"]["name"]),
        WORKSPACE_NAMESPACE: namespace(workspace),
        COMPONENT: component,
    }
    return found | ({RUN_ID: run_id_label(run)} if run else {})


def owner_reference(workspace: Mapping[str, Any]) -> dict[str, Any]:
    """The controller reference that makes a namespaced child go with its Workspace. Needs metadata.uid."""
    meta = workspace["metadata"]
    return {
        "apiVersion": workspace.get("apiVersion") or f"{GROUP}/{STORED_VERSION}",
        "kind": KIND,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
