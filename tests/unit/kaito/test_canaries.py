"""Secrets of one Workspace, each with a mark, looked for in everything that a run writes, leaves or creates.

The signed URL, the registry's password, the hub's token and the service's API key may stand in their Secrets (and the
URL in the Workspace, where its author wrote it) and nowhere else: not in XCom or a run's conf, nor in status, Events,
pods, ConfigMaps or revisions.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import Any, cast

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import EVENT, SECRET, WORKSPACE
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.dry_run import planned
from kaito.settings import manifest_settings
from kaito.tasks.base import Run
from kaito.tasks.preflight_result import PreflightResult

from include.reconcile.case import Case
from include.reconcile.decision import ApplyObject, Observed
from include.reconcile.decision_builder import DecisionBuilder
from include.reconcile.revisions import record
from include.workspace.api import names
from include.workspace.status import conditions
from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.reconcile.story import RECONCILE_CONFIG
from tests.support.tasks import preflight

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}
URL = "https://example.com/train.parquet?sv=1&sig=CANARY-url"
MARK = "CANARY"


def secret(name: str, kind: str = "Opaque", **data: str) -> dict[str, Any]:
    coded = {
        key.replace("_dot_", "."): base64.b64encode(text.encode()).decode() for key, text in data.items()
    }
    return {"metadata": {"name": name}, "type": kind, "data": coded}


@pytest.fixture
def marked(cluster: FakeCluster, workspace: dict[str, Any], established_crd: None) -> dict[str, Any]:
    """The quick start with a marked secret of each kind, as it stands in the cluster."""
    login = json.dumps({"auths": {"registry.example.com": {"username": "u", "password": "CANARY-password"}}})
    cluster.add(SECRET, secret("push", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": login}))
    cluster.add(SECRET, secret("key", API_KEY="CANARY-key"))
    workspace["tuning"]["input"]["urls"] = [URL]
    notes = workspace["metadata"].setdefault("annotations", {})
    notes[names.API_KEY] = "key"
    applied = {"apiVersion": workspace["apiVersion"], "tuning": workspace["tuning"]}
    notes["kubectl.kubernetes.io/last-applied-configuration"] = json.dumps(
        applied
    )  # as kubectl apply leaves it
    return workspace


def texts(cluster: FakeCluster, result: dict[str, Any]) -> dict[str, str]:
    """Everything that the run has left so far or will create, by where it is."""
    live = cluster.objects[WORKSPACE.plural, "default", NAME]
    found = {"xcom": json.dumps(result), "status": json.dumps(live.get("status") or {})}
    found["events"] = json.dumps(cluster.list(EVENT))
    run = Run.of(PreflightResult.from_xcom(result), RUN_ID)
    for kind, manifest in planned(run, manifest_settings()):
        if kind is not SECRET:
            found[f"{kind.name} {manifest['metadata'].get('name')}"] = json.dumps(manifest)
    fetch = FetchDatasetOperator(task_id="fetch_dataset")  # the one step that reads the URLs as they are
    fetch.cluster = cast(Any, cluster)
    found["dataset pod"] = json.dumps(fetch.pod_manifest(run, {}))
    return found


def revisions(workspace: dict[str, Any]) -> list[str]:
    at = conditions.moment("2026-11-28T00:00:00Z")
    assert at is not None
    builder = DecisionBuilder(Case(workspace, Observed(), at, RECONCILE_CONFIG))
    builder.note(run={"id": RUN_ID, "generation": 1, "state": "started"})
    record(builder)
    return [json.dumps(action.manifest) for action in builder.actions if isinstance(action, ApplyObject)]


def test_no_secret_leaves_its_place(
    cluster: FakeCluster, marked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        result = preflight(cluster, BY_NAME)
    found = texts(cluster, result) | {"log": caplog.text}
    assert {"xcom", "status", "events", "log"} < set(found)
    assert sum(where.startswith("Pod ") for where in found) >= 3, "dataset, tuning and adapter"
    assert [where for where, text in found.items() if MARK in text] == []
    made = revisions(marked)
    assert made
    assert not [text for text in made if MARK in text]


def test_no_refusal_shows_a_secret(
    cluster: FakeCluster, marked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Each fault is told with the value that it is about."""
    marked["tuning"]["input"]["urls"] = [
        URL.replace("https", "HTTPX"),
        f"//user:CANARY-user@example.com/{MARK}?x",
    ]
    marked["tuning"]["output"]["image"] = "https://registry.example.com/a:1?sig=CANARY-image"
    with caplog.at_level(logging.DEBUG), pytest.raises(AirflowFailException) as refused:
        preflight(cluster, BY_NAME)
    status = cluster.objects[WORKSPACE.plural, "default", NAME].get("status") or {}
    told = {"error": str(refused.value), "status": json.dumps(status), "log": caplog.text}
    told["events"] = json.dumps(cluster.list(EVENT))
    leaked = {where: text for where, text in told.items() for mark in ("CANARY-", "sig=C") if mark in text}
    assert leaked == {}
    assert "tuning.input.urls[0]" in told["error"]
