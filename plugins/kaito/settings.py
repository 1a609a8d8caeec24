"""Settings of the product, from Airflow's own configuration: section ``[kaito]``, environment ``AIRFLOW__KAITO__*``.

Defaults fit a real cluster. Read when a task runs (the connection's id when a DAG file is parsed), so that a broken
value is an error of a task, in words, and never breaks a DAG file.
"""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.contracts.network_policy import NetworkPolicy
    from include.manifests import ManifestSettings
    from include.workspace import Policy

SECTION = "kaito"
#: Clouds take minutes to take a machine back, seldom a quarter of an hour.
RELEASE_DEADLINE = 1800.0
#: Longer than any step of a run that leaves its machines without a pod (an image pull, a back-off), in minutes.
JANITOR_GRACE = 15.0
DEFAULT_CONNECTION = "kubernetes_default"

_TEXTS = (
    "workload_image",
    "gpu_image",
    "tools_image",
    "storage_class",
    "weights_mirror",
    "node_class",
    "image_pull_policy",
    "cpu_request",
    "memory_request",
    "gpu_pod_cpu_request",
    "gpu_pod_memory_request",
    "memory_limit",
    "gpu_pod_memory_limit",
    "tmp_size_limit",
    "pod_egress",
)
#: Quantities that the API server takes together: a request and the limit that is never below it.
_LIMITS = (("memory_request", "memory_limit"), ("gpu_pod_memory_request", "gpu_pod_memory_limit"))
_LISTS = ("allowed_networks", "insecure_registries", "image_pull_secrets", "serving_runtimes")
_NUMBERS = ("work_volume_gib", "dataset_max_bytes", "step_timeout_minutes", "endpoint_delay_seconds")
_SWITCHES = ("bind_pod_ip", "own_pool_only", "cpu_requests", "dataset_samples")
_WORDS = {"true": True, "false": False}
#: KAITO's word for a gate of its admission -> the field of `Policy`.
_GATES = {
    "enable_mig": "mig",
    "enable_accelerator": "accelerator",
    "model_streaming": "model_streaming",
}
#: Lists that stand for "nobody has looked" when they are not set.
_NAMES = {"node_classes": "node_classes", "csi_drivers": "csi_drivers"}
_NAMESPACE_PATTERN = re.compile(r"[a-z0-9*?](?:[a-z0-9*?-]*[a-z0-9*?])?")
#: Nodes mount model images, pods download them, or what the cluster's version allows.
MODEL_VOLUMES = ("auto", "image", "download")
CLOUDS = ("azure", "aws", "arc")


def _text(key: str) -> str:
    return str(conf.get(SECTION, key, fallback="") or "").strip()


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"Airflow setting [{SECTION}] {key} must be a whole number, not {text!r}.") from None


def _switch(key: str, text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError(f"Airflow setting [{SECTION}] {key} must be true or false, not {text!r}.")
    return _WORDS[text.lower()]


def _items(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def connection_id() -> str:
    """Return the id of the Airflow connection to the cluster (``[kaito] kubernetes_conn_id``)."""
    return _text("kubernetes_conn_id") or DEFAULT_CONNECTION


def has_lm_eval() -> bool:
    """Return whether the image that tunes and evaluates has the package lm-eval (``[kaito] lm_eval``)."""
    return _switch("lm_eval", _text("lm_eval") or "false")


def notifier_names() -> tuple[str, ...]:
    """Return who is told of failures, as `package.module:name` each (``[kaito] notifiers``)."""
    return _items(_text("notifiers"))


def retrain_deadline() -> int:
    """Return after how many minutes a retraining is late, 0 for never (``[kaito] retrain_deadline_minutes``).

    :raises ValueError: it is no whole number, or below 0.
    """
    text = _text("retrain_deadline_minutes") or "0"
    minutes = _whole("retrain_deadline_minutes", text)
    if minutes < 0:
        raise ValueError(
            f"Airflow setting [{SECTION}] retrain_deadline_minutes must not be below 0: {text!r}."
        )
    return minutes


def policy() -> Policy:
    """Return what the installation decides about what a Workspace may ask for.

    The preflight and the reconciler both ask here. Gates and their defaults are KAITO's (``enableMIG``,
    ``enableAccelerator``, ``ModelStreaming``, ``CLOUD_PROVIDER``); nodes are BYO where ``pool_provider`` is
    ``byo``, as KAITO's ``nodeProvisioner`` says it.

    :raises ValueError: a setting is not what it must be.
    """
    from include.workspace import Policy
    from include.workspace.api.names import AUTO_PROVIDER, ProviderName
    from kaito.providers.registry import provider_names

    made = manifest_settings()
    given: dict[str, Any] = {
        field: _switch(key, text) for key, field in _GATES.items() if (text := _text(key))
    }
    given |= {field: _items(text) for key, field in _NAMES.items() if (text := _text(key))}
    given |= _walls()
    if cloud := _text("cloud_provider").lower():
        if cloud not in CLOUDS:
            raise ValueError(
                f"Airflow setting [{SECTION}] cloud_provider must be one of {', '.join(CLOUDS)}, not {cloud!r}."
            )
        given["cloud"] = cloud
    return Policy(
        signed_adapters=bool(made.adapter_public_keys),
        allowed_networks=made.allowed_networks,
        insecure_registries=made.insecure_registries,
        byo=_text("pool_provider").lower() == ProviderName.BYO,
        auto=_text("pool_provider").lower() == AUTO_PROVIDER,
        pool_providers=provider_names(),
        local_weights=bool(made.weights_mirror),
        **given,
    )


def _walls() -> dict[str, Any]:
    """Return the fields of `Policy` that say where Workspaces may run and what their pods may do, where set.

    :raises ValueError: a setting is not what it must be.
    """
    from include.workspace.api.names import TEMPLATE_POLICIES

    given: dict[str, Any] = {}
    if patterns := _namespace_patterns():
        given["allowed_namespaces"] = patterns
    if volumes := _items(_text("allowed_volume_sources")):
        if "hostPath" in volumes:
            raise ValueError(f"Airflow setting [{SECTION}] allowed_volume_sources cannot allow hostPath.")
        given["allowed_volume_sources"] = volumes
    if accounts := _items(_text("dataset_identities")):
        given["dataset_identities"] = () if accounts == ("none",) else accounts
    if profile := _text("template_policy").lower():
        if profile not in TEMPLATE_POLICIES:
            raise ValueError(
                f"Airflow setting [{SECTION}] template_policy must be one of {', '.join(TEMPLATE_POLICIES)}, "
                f"not {profile!r}."
            )
        given["template_policy"] = profile
    return given


def _namespace_patterns() -> tuple[str, ...]:
    patterns = _items(_text("allowed_namespaces"))
    for pattern in patterns:
        if not _NAMESPACE_PATTERN.fullmatch(pattern):
            raise ValueError(
                f"Airflow setting [{SECTION}] allowed_namespaces must list namespaces or patterns such as team-*, "
                f"separated by commas, not {pattern!r}."
            )
    return patterns


def base_url() -> str:
    """Return the address of Airflow's UI, without a slash at the end."""
    return str(conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")


def deployment_id() -> str:
    """Return what tells this Airflow deployment from every other one that may work on the same cluster.

    ``[kaito] deployment_id`` where it is set. Else it is derived from what all triggerers of a deployment share and
    no other deployment has: the key that encrypts their triggers' arguments. A host name would change with each
    triggerer that takes over, and many installations leave the address of the UI at its default.
    """
    if given := _text("deployment_id"):
        return given
    secret = str(conf.get("core", "fernet_key", fallback="") or "") or socket.gethostname()
    return "airflow-" + hashlib.sha256(f"{secret} {base_url()}".encode()).hexdigest()[:12]


def lease_namespace() -> str:
    """Return the namespace of the reconciler's Lease (``[kaito] lease_namespace``), "" for the default."""
    return _text("lease_namespace")


def hub_lookup() -> bool:
    """Return whether the hub is asked for models and their commits (``[kaito] hub_lookup``, default true)."""
    text = _text("hub_lookup")
    return _switch("hub_lookup", text) if text else True


def model_volumes() -> str:
    """Return how pods have model images (``[kaito] model_volumes``): ``image``, ``download``, or ``auto``."""
    text = _text("model_volumes").lower() or "auto"
    if text not in MODEL_VOLUMES:
        raise ValueError(
            f"Airflow setting [{SECTION}] model_volumes must be one of {', '.join(MODEL_VOLUMES)}, not {text!r}."
        )
    return text


def network() -> NetworkPolicy:
    """Return where a Workspace may make the cluster connect to."""
    from include.contracts.network_policy import NetworkPolicy

    made = manifest_settings()
    return NetworkPolicy.of(made.allowed_networks, made.insecure_registries)


def check_push() -> bool:
    """Return whether a tuning's registry is asked for a push beforehand (``[kaito] check_push``, default true)."""
    text = _text("check_push")
    return _switch("check_push", text) if text else True


def ui_ask() -> bool:
    """Return whether services may be asked from the pages and by ``kaito_ask`` (``[kaito] ui_ask``, default true)."""
    text = _text("ui_ask")
    return _switch("ui_ask", text) if text else True


def release_deadline() -> float:
    """Return how long the release of a deleted Workspace may take, in seconds (``[kaito] release_deadline``)."""
    text = _text("release_deadline")
    return float(_whole("release_deadline", text)) if text else RELEASE_DEADLINE


def janitor_deletes() -> bool:
    """Return whether the janitor deletes what it finds, or only reports it (``[kaito] janitor_delete``: false)."""
    text = _text("janitor_delete")
    return _switch("janitor_delete", text) if text else False


def janitor_grace() -> float:
    """Return how long a thing must be an orphan before it goes, in minutes (``[kaito] janitor_grace_minutes``)."""
    text = _text("janitor_grace_minutes")
    minutes = float(_whole("janitor_grace_minutes", text)) if text else JANITOR_GRACE
    if minutes < 0:
        raise ValueError(
            f"Airflow setting [{SECTION}] janitor_grace_minutes must be 0 or more, not {text!r}."
        )
    return minutes


def manifest_settings() -> ManifestSettings:
    """Return what the installation decides about the objects that are made; unset keys keep their defaults.

    :raises ValueError: a setting is not what it must be.
    """
    from include.catalog import load_catalog
    from include.contracts.network_policy import NetworkPolicy
    from include.manifests import ManifestSettings
    from include.planning.runtimes import RUNTIMES

    given: dict[str, Any] = {key: text for key in _TEXTS if (text := _text(key))}
    for key in _LISTS:
        if text := _text(key):
            given[key] = _items(text)
    for name in given.get("serving_runtimes", ()):
        if name not in RUNTIMES:
            raise ValueError(
                f"Airflow setting [{SECTION}] serving_runtimes must list {' and '.join(RUNTIMES)}, not {name!r}."
            )
    for key in _NUMBERS:
        if text := _text(key):
            given[key] = _whole(key, text)
    for key in _SWITCHES:
        if text := _text(key):
            given[key] = _switch(key, text)
    given |= _public_keys(_text("adapter_public_keys"))
    try:
        NetworkPolicy.of(given.get("allowed_networks", ()))
    except ValueError as error:
        raise ValueError(f"Airflow setting [{SECTION}] allowed_networks: {error}.") from None
    made = replace(ManifestSettings.defaults(load_catalog()), **_own_image(given), **given)
    _check_limits(made)
    return made


def _public_keys(text: str) -> dict[str, str]:
    """Return the setting with the keys in PEM, which it holds itself or names a file of; nothing where unset."""
    if not text:
        return {}
    pem = text
    if "-----BEGIN" not in text:
        try:
            pem = Path(text).read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"Airflow setting [{SECTION}] adapter_public_keys: the file {text!r} cannot be read: {error}."
            ) from None
    if "-----BEGIN PUBLIC KEY-----" not in pem:
        raise ValueError(
            f"Airflow setting [{SECTION}] adapter_public_keys must hold public keys in PEM, such as cosign.pub, or "
            "name a file with them."
        )
    return {"adapter_public_keys": pem.strip() + "\n"}


def _own_image(given: Mapping[str, Any]) -> dict[str, Any]:
    """Whoever names one image of their own has it everywhere, unless they name the small one too."""
    return {"tools_image": ""} if "workload_image" in given and "tools_image" not in given else {}


def _check_limits(made: ManifestSettings) -> None:
    """Every pod would be refused by the API server, one after the other, so it is said here."""
    from kubernetes.utils import parse_quantity

    for request, limit in _LIMITS:
        asked, at_most = getattr(made, request), getattr(made, limit)
        if at_most is not None and parse_quantity(at_most) < parse_quantity(asked):
            raise ValueError(
                f"Airflow setting [{SECTION}] {limit} must be at least {request}, which is {asked}, not {at_most}."
            )
    if made.pod_egress not in ("public", "open"):
        raise ValueError(
            f"Airflow setting [{SECTION}] pod_egress must be public or open, not {made.pod_egress!r}."
        )
    if made.step_timeout_minutes < 1:
        raise ValueError(
            f"Airflow setting [{SECTION}] step_timeout_minutes must be 1 or more, not {made.step_timeout_minutes}."
        )


def step_timeout() -> timedelta:
    """Return how long the steps dataset and adapter may take (``[kaito] step_timeout_minutes``).

    Read when a DAG file is parsed; a broken value is the task's error, in words.
    """
    from include.manifests.settings import STEP_TIMEOUT_MINUTES

    text = _text("step_timeout_minutes")
    return timedelta(minutes=int(text) if text.isdecimal() and int(text) else STEP_TIMEOUT_MINUTES)
