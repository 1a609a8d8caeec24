"""Requests as values: path, query and body of what both clients send."""

from __future__ import annotations

import json

import pytest
from kaito.hooks import api
from kaito.hooks.api import POD, STATEFUL_SET, WORKSPACE, ClusterError
from kaito.providers.nodeclaim import NODE_CLAIM


def test_paths_of_core_grouped_and_cluster_scoped_kinds() -> None:
    assert POD.path("p", "team") == "/api/v1/namespaces/team/pods/p"
    assert POD.path() == "/api/v1/pods"
    assert STATEFUL_SET.path("s", "team", "status") == "/apis/apps/v1/namespaces/team/statefulsets/s/status"
    assert NODE_CLAIM.path("n", "ignored") == "/apis/karpenter.sh/v1/nodeclaims/n"


@pytest.mark.parametrize(("given", "version"), [(None, "v1beta1"), ("kaito.sh/v1alpha1", "v1alpha1")])
def test_a_workspace_is_read_in_the_dialect_it_was_asked_in(given: str | None, version: str) -> None:
    assert api.workspace_kind(given).version == version


def test_apply_carries_our_field_manager_and_the_kind() -> None:
    request = api.apply(POD, {"metadata": {"name": "p", "namespace": "team"}, "spec": {}})
    assert request.content_type == "application/apply-patch+yaml"
    assert dict(request.query) == {"fieldManager": "kaito-airflow", "force": "true"}
    assert (request.body["apiVersion"], request.body["kind"]) == ("v1", "Pod")


def test_a_watch_outlives_the_providers_own_time_limit() -> None:
    request = api.watching(WORKSPACE, None, {"a": "b"}, "7", 240)
    assert request.timeout == 250
    assert dict(request.query)["allowWatchBookmarks"] == "true"
    assert dict(request.query)["labelSelector"] == "a=b"


def test_a_status_write_is_refused_when_somebody_wrote_in_between() -> None:
    live = {"metadata": {"name": "w", "namespace": "n", "resourceVersion": "41"}}
    request = api.status_patch(WORKSPACE, live, {"state": "Running"})
    assert request.path.endswith("/workspaces/w/status")
    assert request.body == {"metadata": {"resourceVersion": "41"}, "status": {"state": "Running"}}


def test_a_guarded_delete_names_the_uid() -> None:
    assert api.delete(POD, "p", "n", uid="u").body["preconditions"] == {"uid": "u"}
    assert "preconditions" not in api.delete(POD, "p", "n").body


def test_the_service_proxy_is_a_post_to_the_api_server() -> None:
    request = api.service_post("w", "n", "/chat", {"prompt": "?"}, port=80, timeout=5)
    assert (request.method, request.path) == ("POST", "/api/v1/namespaces/n/services/w:80/proxy/chat")


def test_an_error_speaks_with_the_servers_sentence() -> None:
    body = json.dumps({"kind": "Status", "reason": "Invalid", "message": "spec.x: must be y", "code": 422})
    error = ClusterError.from_response(422, "Unprocessable", body)
    assert (str(error), error.reason, error.transient) == ("spec.x: must be y", "Invalid", False)


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_what_may_pass_is_transient(status: int) -> None:
    assert ClusterError.from_response(status, "x", "<html>").transient


DUMP = """(404)
Reason: Not Found
HTTP response headers: HTTPHeaderDict({'Audit-Id': '77', 'Content-Type': 'application/json'})
HTTP response body: {"kind":"Status","status":"Failure","message":"pods \\"w-g1-tuning\\" not found","code":404}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DUMP, 'pods "w-g1-tuning" not found'),
        ("pod took too long to start", "pod took too long to start"),
        ("(500)\nReason: Oops\nHTTP response headers: x\nHTTP response body: no JSON\n", "no JSON"),
        ("(502)\nReason: Bad Gateway\nHTTP response headers: x\nHTTP response body: ", "Bad Gateway"),
    ],
)
def test_a_clients_dump_becomes_the_servers_sentence(text: str, expected: str) -> None:
    assert ClusterError.plain(text) == expected
