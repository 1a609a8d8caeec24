"""What of a status is ours to write, and in which way the installed definition lets us write it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kaito.controller.status_writer import StatusWriter
from kaito.hooks import api
from kaito.hooks.api import CRD, POD, WORKSPACE
from kaito.hooks.workspace_status import OURS, conditions_are_a_map, ours

from include.workspace import workspace_crd
from include.workspace.api import crd_status

LIVE = {
    "metadata": {"name": "w", "namespace": "n", "resourceVersion": "7"},
    "status": {"state": "Running", "run": {"id": "a", "url": "u"}, "adapter": {"image": "i"}},
}


def upstream() -> dict[str, Any]:
    """KAITO's own definition: conditions are a plain list."""
    definition = copy.deepcopy(workspace_crd())
    for version in definition["spec"]["versions"]:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        status["conditions"].pop("x-kubernetes-list-type")
        status["conditions"].pop("x-kubernetes-list-map-keys")
    return definition


def without_our_fields() -> dict[str, Any]:
    definition = copy.deepcopy(workspace_crd())
    for version in definition["spec"]["versions"]:
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
        status["properties"].pop("retry", None)
        status.pop("x-kubernetes-preserve-unknown-fields", None)
    return definition


def test_our_definition_can_be_applied_to() -> None:
    assert conditions_are_a_map(workspace_crd())


@pytest.mark.parametrize("definition", [None, {}, upstream(), without_our_fields()])
def test_any_other_definition_cannot(definition: dict[str, Any] | None) -> None:
    assert not conditions_are_a_map(definition)


def test_every_field_that_the_definition_adds_is_written() -> None:
    assert set(crd_status.OURS) <= OURS


def test_foreign_fields_and_conditions_are_never_sent() -> None:
    status = {
        "state": "Ready",
        "aggregatedPeakTokensPerMinute": {"value": 1},
        "conditions": [{"type": "WorkspaceReady"}, {"type": "Theirs"}],
    }
    assert ours(status) == {"state": "Ready", "conditions": [{"type": "WorkspaceReady"}]}


def test_a_merge_patch_names_what_is_to_go() -> None:
    body = api.status_patch(WORKSPACE, LIVE, {"state": "Pending", "run": {"id": "b"}}).body
    assert body["status"] == {"state": "Pending", "run": {"id": "b", "url": None}, "adapter": None}
    assert body["metadata"] == {"resourceVersion": "7"}


def test_an_apply_is_fenced_and_takes_our_fields_over() -> None:
    request = api.status_apply(WORKSPACE, LIVE, {"state": "Ready"})
    assert request.path.endswith("/namespaces/n/workspaces/w/status")
    assert request.body["metadata"]["resourceVersion"] == "7"
    assert ("fieldManager", "kaito-airflow") in request.query
    assert ("force", "true") in request.query


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({"a": "b"}, "a=b"),
        ({"a": None}, "a"),
        ({"a": ("y", "x")}, "a in (x,y)"),
        ({"b": "c", "a": None}, "a,b=c"),
    ],
)
def test_selectors(labels: dict[str, Any], text: str) -> None:
    assert ("labelSelector", text) in api.listing(POD, labels=labels).query


class Cluster:
    """Answers with its definition, and with what is left in the status after an apply."""

    def __init__(self, definition: dict[str, Any] | None, left: dict[str, Any]) -> None:
        self.definition, self.left = definition, left
        self.sent: list[api.Request] = []

    async def find(self, kind: api.Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        assert kind is CRD
        return self.definition

    async def send(self, request: api.Request) -> dict[str, Any]:
        self.sent.append(request)
        return {**LIVE, "status": {**self.left, **request.body["status"]}}


async def test_what_a_tasks_request_wrote_is_taken_away_too() -> None:
    cluster = Cluster(workspace_crd(), {"adapter": {"image": "i"}})
    written = await StatusWriter(cluster).write(LIVE, {"state": "Pending"})  # type: ignore[arg-type]
    assert [request.content_type for request in cluster.sent] == [api.APPLY_PATCH, api.MERGE_PATCH]
    assert cluster.sent[1].body["status"]["adapter"] is None
    assert written["status"]["state"] == "Pending"


async def test_with_another_definition_the_whole_status_is_patched() -> None:
    cluster = Cluster(upstream(), {})
    await StatusWriter(cluster).write(LIVE, {"state": "Pending"})  # type: ignore[arg-type]
    assert [request.content_type for request in cluster.sent] == [api.MERGE_PATCH]
