"""Settings from Airflow's configuration."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kaito.operators.dataset import FetchDatasetOperator
from kaito.settings import connection_id, manifest_settings, policy

from include.workspace import Policy


def test_defaults_fit_a_real_cluster() -> None:
    settings = manifest_settings()
    assert settings.weights_mirror is None
    assert settings.allowed_networks == ()
    assert settings.insecure_registries == ()
    assert connection_id() == "kubernetes_default"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NETWORKS", "127.0.0.0/8, 10.0.0.0/8")
    monkeypatch.setenv("AIRFLOW__KAITO__STORAGE_CLASS", "fast")
    monkeypatch.setenv("AIRFLOW__KAITO__WORK_VOLUME_GIB", "7")
    monkeypatch.setenv("AIRFLOW__KAITO__KUBERNETES_CONN_ID", "team")
    settings = manifest_settings()
    assert settings.allowed_networks == ("127.0.0.0/8", "10.0.0.0/8")
    assert (settings.storage_class, settings.work_volume_gib) == ("fast", 7)
    assert connection_id() == "team"


def test_a_broken_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__WORK_VOLUME_GIB", "a lot")
    with pytest.raises(ValueError, match=r"\[kaito\] work_volume_gib must be a whole number"):
        manifest_settings()


def test_a_switch_is_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest_settings().bind_pod_ip is False
    assert manifest_settings().dataset_samples is True
    monkeypatch.setenv("AIRFLOW__KAITO__BIND_POD_IP", "True")
    assert manifest_settings().bind_pod_ip is True
    monkeypatch.setenv("AIRFLOW__KAITO__BIND_POD_IP", "perhaps")
    with pytest.raises(ValueError, match=r"\[kaito\] bind_pod_ip must be true or false, not 'perhaps'"):
        manifest_settings()


def test_gates_are_off_as_in_kaito() -> None:
    assert policy() == Policy()


@pytest.mark.parametrize(
    ("key", "text", "field", "value"),
    [
        ("pool_provider", "byo", "byo", True),
        ("pool_provider", "aks", "byo", False),
        ("enable_mig", "True", "mig", True),
        ("enable_accelerator", "true", "accelerator", True),
        ("model_streaming", "true", "model_streaming", True),
        ("model_streaming", "false", "model_streaming", False),
        ("node_classes", "default, fast", "node_classes", ("default", "fast")),
        ("csi_drivers", "blob.csi.azure.com", "csi_drivers", ("blob.csi.azure.com",)),
        ("cloud_provider", "AWS", "cloud", "aws"),
        ("allowed_namespaces", "team-*, ml", "allowed_namespaces", ("team-*", "ml")),
        ("allowed_volume_sources", "nfs, csi", "allowed_volume_sources", ("nfs", "csi")),
        ("template_policy", "Restricted", "template_policy", "restricted"),
        ("allowed_networks", "10.0.0.0/8", "allowed_networks", ("10.0.0.0/8",)),
        ("weights_mirror", "http://mirror", "local_weights", True),
    ],
)
def test_a_gate_of_admission(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str, field: str, value: Any
) -> None:
    monkeypatch.setenv(f"AIRFLOW__KAITO__{key.upper()}", text)
    assert policy() == Policy(**{field: value})


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("enable_mig", "on", "enable_mig must be true or false"),
        ("enable_accelerator", "yes", "enable_accelerator must be true or false"),
        ("model_streaming", "maybe", "model_streaming must be true or false"),
        (
            "allowed_namespaces",
            "team_a",
            "allowed_namespaces must list namespaces or patterns such as team-*",
        ),
        ("allowed_volume_sources", "nfs,hostPath", "allowed_volume_sources cannot allow hostPath"),
        (
            "template_policy",
            "none",
            "template_policy must be one of baseline, restricted, privileged, not 'none'",
        ),
        ("cloud_provider", "gcp", "cloud_provider must be one of azure, aws, arc, not 'gcp'"),
    ],
)
def test_a_broken_gate_is_named(monkeypatch: pytest.MonkeyPatch, key: str, text: str, words: str) -> None:
    monkeypatch.setenv(f"AIRFLOW__KAITO__{key.upper()}", text)
    with pytest.raises(ValueError, match=words):
        policy()


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("memory_request", "8Gi", "memory_limit must be at least memory_request, which is 8Gi, not 4Gi"),
        ("gpu_pod_memory_limit", "512Mi", "gpu_pod_memory_limit must be at least gpu_pod_memory_request"),
        ("pod_egress", "none", "pod_egress must be public or open, not 'none'"),
        ("step_timeout_minutes", "0", "step_timeout_minutes must be 1 or more"),
    ],
)
def test_limits_that_no_pod_could_keep_are_named(
    monkeypatch: pytest.MonkeyPatch, key: str, text: str, words: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__KAITO__{key.upper()}", text)
    with pytest.raises(ValueError, match=words):
        manifest_settings()


def test_a_step_has_an_end_in_airflow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = FetchDatasetOperator(task_id="fetch_dataset").execution_timeout
    monkeypatch.setenv("AIRFLOW__KAITO__STEP_TIMEOUT_MINUTES", "5")
    short = FetchDatasetOperator(task_id="fetch_dataset").execution_timeout
    assert usual == timedelta(hours=7)
    assert short == timedelta(hours=1, minutes=5), (
        "its pod's time, and what it may wait for a place and an image"
    )
    monkeypatch.setenv("AIRFLOW__KAITO__STEP_TIMEOUT_MINUTES", "soon")
    assert FetchDatasetOperator(task_id="fetch_dataset").execution_timeout == usual, "a DAG file never breaks"


def test_the_runtimes_of_the_images_are_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest_settings().serving_runtimes == ("vllm", "transformers")
    monkeypatch.setenv("AIRFLOW__KAITO__SERVING_RUNTIMES", "transformers")
    monkeypatch.setenv("AIRFLOW__KAITO__ENDPOINT_DELAY_SECONDS", "0")
    settings = manifest_settings()
    assert (settings.serving_runtimes, settings.endpoint_delay_seconds) == (("transformers",), 0)
    monkeypatch.setenv("AIRFLOW__KAITO__SERVING_RUNTIMES", "vllm, tgi")
    with pytest.raises(ValueError, match="serving_runtimes must list vllm and transformers, not 'tgi'"):
        manifest_settings()


@pytest.mark.parametrize(
    ("given", "tools"),
    [
        ({}, "ghcr.io/kaito-airflow/kaito-tools:0.1.0"),
        ({"workload_image": "r/mine:1"}, ""),
        ({"workload_image": "r/mine:1", "tools_image": "r/small:1"}, "r/small:1"),
        ({"tools_image": "r/small:1"}, "r/small:1"),
    ],
)
def test_one_image_of_one_s_own_is_for_all_steps(
    given: dict[str, str], tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in given.items():
        monkeypatch.setenv(f"AIRFLOW__KAITO__{key.upper()}", value)
    assert manifest_settings().tools_image == tools


def test_keys_of_signed_adapters_are_text_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (manifest_settings().adapter_public_keys, policy().signed_adapters) == ("", False)
    pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    (tmp_path / "cosign.pub").write_text(pem)
    for given in (pem, str(tmp_path / "cosign.pub")):
        monkeypatch.setenv("AIRFLOW__KAITO__ADAPTER_PUBLIC_KEYS", given)
        assert (manifest_settings().adapter_public_keys, policy().signed_adapters) == (pem, True)
    for given, told in (
        (str(tmp_path / "absent"), "cannot be read"),
        ("-----BEGIN PRIVATE KEY-----", "public keys in PEM"),
    ):
        monkeypatch.setenv("AIRFLOW__KAITO__ADAPTER_PUBLIC_KEYS", given)
        with pytest.raises(ValueError, match=rf"\[kaito\] adapter_public_keys.*{told}"):
            manifest_settings()
