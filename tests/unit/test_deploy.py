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


def test_astro_s_image_has_the_tested_airflow_and_what_astro_copies_is_let_through() -> None:
    """Astro's runtime image copies the whole context and installs requirements.txt and packages.txt by itself."""
    (tested,) = re.findall(r"^apache-airflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    (runtime,) = re.findall(r"^FROM \S+/runtime:(\d+\.\d+)-\d+$", lines[0])
    assert runtime == tested.rpartition(".")[0]
    assert not [
        line for line in lines[1:] if line.split()[0] not in ("ENV", "USER", "RUN") and line[0] != " "
    ]
    hidden = (ROOT / ".dockerignore").read_text().splitlines()
    for needed in ("dags", "plugins", "include", "presets", "requirements.txt", "packages.txt"):
        assert (ROOT / needed).exists()
        assert needed not in [one.rstrip("/") for one in hidden]


def test_both_images_set_the_same_environment_apart_from_places() -> None:
    def variables(name: str) -> dict[str, str]:
        found = re.findall(r"\b(AIRFLOW__SCHEDULER__\w+)=(\S+)", (ROOT / name).read_text())
        return dict(found)

    assert variables("Dockerfile") == variables("deploy/Dockerfile") != {}


def test_astro_s_settings_file_is_what_its_command_line_imports_and_airflow_takes_its_connection() -> None:
    """Keys as `astro dev object import` knows them; the extra of a connection is written as YAML."""
    from airflow.models import Connection

    whole = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text())
    assert set(whole) == {"airflow"}
    assert set(whole["airflow"]) == {"connections", "pools", "variables"}
    known = {"conn_id", "conn_type", "conn_host", "conn_schema", "conn_login", "conn_password", "conn_port"}
    for one in whole["airflow"]["connections"]:
        assert set(one) <= known | {"conn_extra", "conn_uri"}
        assert not one.get("conn_password")
        made = Connection(conn_id=one["conn_id"], conn_type=one["conn_type"], extra=one["conn_extra"])
        assert made.extra_dejson == one["conn_extra"]
        assert made.conn_type in HOOK_TYPES


#: What the requirements bring hooks for, of what a connection of this project may be.
HOOK_TYPES = ("kubernetes", "azure")
