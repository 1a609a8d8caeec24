"""Files for production name what there is: settings that exist, the account of presets/rbac, the image's own place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VALUES = [
    yaml.safe_load((ROOT / "deploy" / name).read_text()) for name in ("values.yaml", "values-celery.yaml")
]
ACCOUNT = "kaito-airflow"
TOKEN_PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"


def components() -> dict[str, dict[str, Any]]:
    base, celery = VALUES
    found = {name: base[name] for name in ("scheduler", "triggerer", "apiServer", "dagProcessor")}
    return {**found, "workers": celery["workers"]["celery"]}


def test_what_asks_the_cluster_does_so_as_the_account_of_the_rights_with_a_token_that_ends() -> None:
    rights = [yaml.safe_load_all(path.read_text()) for path in (ROOT / "presets" / "rbac").glob("*.yaml")]
    accounts = [one["metadata"] for many in rights for one in many if one and one["kind"] == "ServiceAccount"]
    assert {"name": ACCOUNT, "namespace": "kaito-system"} in accounts
    for name, part in components().items():
        if name == "dagProcessor":
            assert part["serviceAccount"]["automountServiceAccountToken"] is False
            continue
        assert part["serviceAccount"] == {"create": False, "name": ACCOUNT}, name
        (volume,) = part["extraVolumes"]
        token, *_ = volume["projected"]["sources"]
        assert token["serviceAccountToken"]["expirationSeconds"] <= 3600
        assert [mount["mountPath"] for mount in part["extraVolumeMounts"]] == [TOKEN_PLACE]
        assert part["resources"]["limits"]["memory"]
    assert VALUES[0]["rbac"] == {"create": False}


def test_settings_of_the_product_exist_and_no_secret_stands_in_the_values() -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text()
    for variable in VALUES[0]["env"]:
        if variable["name"].startswith("AIRFLOW__KAITO__"):
            assert f"`{variable['name'].removeprefix('AIRFLOW__KAITO__').lower()}`" in documented
    text = "".join((ROOT / "deploy" / name).read_text() for name in ("values.yaml", "values-celery.yaml"))
    assert not re.search(r"(?i)^\s*(password|pass|fernetKey|jwtSecret|apiSecretKey):", text, re.M)


def test_the_version_of_airflow_is_the_one_that_is_tested() -> None:
    (tested,) = re.findall(r"^apache-airflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert VALUES[0]["airflowVersion"] == tested
    assert f"apache/airflow:{tested}-" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"\napache-airflow=={tested} " in (ROOT / "deploy" / "requirements.lock").read_text()


@pytest.mark.parametrize("folder", ["dags", "plugins", "include", "presets"])
def test_the_image_has_every_folder_that_the_docker_context_lets_through(folder: str) -> None:
    assert f"COPY {folder} /opt/airflow/{folder}\n" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert folder not in (ROOT / ".dockerignore").read_text().splitlines()
