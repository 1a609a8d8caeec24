"""The eyes that look for marked secrets after a whole run see them wherever they could be."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.canaries import LAST_APPLIED, Canaries, Witness, left_behind

CANARIES = Canaries("9f8e7d6c5b4a3928", "1a2b3c4d5e6f7081", "hf_7c1de0a29b3f5846", "key-e4d90c72b1a6f835")
LOGIN = base64.b64encode(f"kaito:{CANARIES.password}".encode()).decode()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder in which nothing is left, and Secrets are mounted into a pod."""
    for folder in ("airflow/logs/dag_id=kaito_tune", "kept-logs/uid/dataset", "volumes/pv", "registry/blobs"):
        (tmp_path / folder).mkdir(parents=True)
    with sqlite3.connect(tmp_path / "airflow" / "airflow.db") as database:
        database.execute("CREATE TABLE xcom (key TEXT, value JSON)")
        database.execute("CREATE TABLE trigger (kwargs BLOB)")
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "key").write_text(CANARIES.api_key)
    return tmp_path


def test_what_may_hold_secrets_is_passed_over(state: Path) -> None:
    assert left_behind(CANARIES, state) == []


@pytest.mark.parametrize(
    "place",
    [
        "airflow/logs/dag_id=kaito_tune/try.log",
        "kept-logs/uid/dataset/0.log",
        "volumes/pv/report.json",
        "registry/blobs/x",
    ],
)
@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"GET /train.parquet{CANARIES.query} 403", "signature"),
        (f'{{"token": "{CANARIES.hub_token}"}}', "hub_token"),
        (f"Authorization: Bearer {CANARIES.api_key}", "api_key"),
        (f"Authorization: Basic {LOGIN}", "password"),
        (base64.b64encode(json.dumps({"auth": LOGIN}).encode()).decode(), "password"),
    ],
)
def test_a_file_that_holds_one_is_named(state: Path, place: str, text: str, name: str) -> None:
    (state / place).write_text(text)
    found = left_behind(CANARIES, state)
    assert len(found) == 1
    assert place in found[0]
    assert found[0].startswith(f"{name} in ")


@pytest.mark.parametrize(
    ("table", "row"), [("xcom", ("k", CANARIES.hub_token)), ("trigger", (CANARIES.hub_token.encode(),))]
)
def test_a_row_of_airflows_database_that_holds_one_is_named(
    state: Path, table: str, row: tuple[Any, ...]
) -> None:
    with sqlite3.connect(state / "airflow" / "airflow.db") as database:
        database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    assert f"hub_token in Airflow's table {table}" in left_behind(CANARIES, state)


@pytest.mark.parametrize(
    ("path", "found", "leaks"),
    [
        ("/api/v1/pods", {"kind": "Pod", "spec": {"containers": [{"env": [{"value": CANARIES.query}]}]}}, True),
        ("/api/v1/events", {"kind": "Event", "message": CANARIES.query}, True),
        ("/apis/apps/v1/controllerrevisions", {"kind": "ControllerRevision", "data": CANARIES.query}, True),
        ("/apis/kaito.sh/v1beta1/workspaces", {"kind": "Workspace", "spec": {"urls": [CANARIES.query]}}, False),
        ("/apis/kaito.sh/v1beta1/workspaces", {"kind": "Workspace", "status": {"message": CANARIES.query}}, True),
    ],
)  # fmt: skip
def test_an_object_that_shows_one_is_named_unless_its_author_wrote_it(
    path: str, found: dict[str, Any], leaks: bool
) -> None:
    witness = Witness(CANARIES, Path("none"), Path("none"))
    found = found | {"metadata": {"name": "x", "annotations": {LAST_APPLIED: CANARIES.query}}}
    if not path.endswith("/workspaces"):
        found["metadata"].pop("annotations")
    witness._note(path, {"type": "ADDED", "object": found})
    assert witness.leaks == ({f"signature in {found['kind']} x"} if leaks else set())
