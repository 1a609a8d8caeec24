"""Turns a Workspace and its plan into Kubernetes objects, as plain dicts.

Builders are pure: values in, manifests out. They must never ask the cluster anything, nor put a secret's content into
a manifest other than a Secret; a Workspace reaches them as the dict that the cluster returned (or as a parsed Workspace
with a uid).
"""

from include.manifests.dataset_access import metadata_policy
from include.manifests.egress import egress_policy
from include.manifests.evaluation import Evaluated, evaluation_pod, golden_copy
from include.manifests.retraining import candidate
from include.manifests.serving import services, stateful_set
from include.manifests.serving_access import disruption_budget, key_secret, network_policy
from include.manifests.serving_adapters import (
    are_followed,
    look_now,
    tuned_adapter,
    wanted_config_map,
    wanted_digest,
)
from include.manifests.serving_pod import is_benchmarked
from include.manifests.settings import ManifestSettings
from include.manifests.tuning import (
    adapter_pod,
    dataset_pod,
    dataset_urls,
    tuning_config,
    tuning_pod,
    work_volume,
)

__all__ = [
    "Evaluated",
    "ManifestSettings",
    "adapter_pod",
    "are_followed",
    "candidate",
    "dataset_pod",
    "dataset_urls",
    "disruption_budget",
    "egress_policy",
    "evaluation_pod",
    "golden_copy",
    "is_benchmarked",
    "key_secret",
    "look_now",
    "metadata_policy",
    "network_policy",
    "services",
    "stateful_set",
    "tuned_adapter",
    "tuning_config",
    "tuning_pod",
    "wanted_config_map",
    "wanted_digest",
    "work_volume",
]
