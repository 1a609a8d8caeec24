"""The pages in Airflow's own security: who gets in, what they may do, and what is written down of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from kaito.ui.app import create_app
from kaito.ui.cluster import Cluster
from kaito.ui.mount import PREFIX

from tests.support.fake_pages import FakeHook, entries

PATHS = [
    ("GET", path)
    for path in (
        "/",
        "/workspaces",
        "/part/workspaces",
        "/workspaces/team/phi",
        "/part/workspaces/team/phi",
        "/part/workspaces/team/phi/training",
        "/run/kaito_tune/team.phi.uid-phi.g1",
        "/cost",
        "/new",
        "/api/openapi.json",
        "/api/workspaces",
        "/api/workspaces/team/phi",
        "/api/workspaces/team/phi/training",
        "/api/machines?model=phi-3-mini-128k-instruct",
        "/api/cost",
        "/api/cost.csv",
    )
]
ACTIONS = [
    ("POST", "/api/workspaces/team/phi/pause"),
    ("POST", "/api/workspaces/team/phi/ask"),
    ("DELETE", "/api/workspaces/team/phi"),
    ("POST", "/api/workspaces"),
]
CHECKS = [("POST", "/api/check"), ("POST", "/api/draft")]


def test_every_route_is_walked_here() -> None:
    """A new route comes into the lists above, or this fails: nobody forgets its rights."""
    walked = {(method, re.sub(r"\?.*", "", path)) for method, path in [*PATHS, *ACTIONS, *CHECKS]}
    for route in create_app(Cluster(FakeHook())).routes:
        if getattr(route, "path", "") == "/static/{name}":
            continue
        for method in getattr(route, "methods", ()):
            matches = [one for one in walked if one[0] == method and route.path_regex.match(one[1])]  # type: ignore[attr-defined]
            assert method == "HEAD" or matches, f"{method} {route.path}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "path"), [*PATHS, *ACTIONS, *CHECKS])
def test_nobody_gets_in_without_a_login(client: TestClient, hook: FakeHook, method: str, path: str) -> None:
    answer = client.request(method, PREFIX + path, json={} if method != "GET" else None)
    assert answer.status_code == 401
    assert "not logged in" in answer.text
    assert (hook.lists, hook.sent, hook.deleted) == (0, [], [])


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_viewer_may_look(client: TestClient, viewer: dict[str, str], method: str, path: str) -> None:
    assert client.request(method, PREFIX + path, headers=viewer).status_code in (200, 307)


@pytest.mark.parametrize(("method", "path"), ACTIONS)
def test_a_viewer_may_not_act(
    client: TestClient, hook: FakeHook, viewer: dict[str, str], method: str, path: str
) -> None:
    bodies = {"/api/workspaces": {"yaml": "x"}, "/api/workspaces/team/phi/ask": {"question": "x"}}
    body = bodies.get(path, {"uid": "uid-phi", "value": "phi"})
    answer = client.request(method, PREFIX + path, json=body, headers=viewer)
    assert answer.status_code == 403
    assert "does not allow" in answer.json()["detail"]
    assert (hook.sent, hook.deleted) == ([], [])


def test_a_viewer_sees_no_button(client: TestClient, viewer: dict[str, str], user: dict[str, str]) -> None:
    assert "data-action" not in client.get(f"{PREFIX}/workspaces/team/phi", headers=viewer).text
    assert "data-action" in client.get(f"{PREFIX}/workspaces/team/phi", headers=user).text


def test_an_action_changes_the_object_that_was_looked_at_and_is_audited(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    answer = client.post(f"{PREFIX}/api/workspaces/team/phi/pause", json={"uid": "uid-phi"}, headers=user)
    assert answer.status_code == 200, answer.text
    change = hook.sent[-1].body
    assert change == {"metadata": {"uid": "uid-phi", "annotations": {"kaito.sh/paused": "true"}}}
    (entry,) = entries()
    assert (entry.event, entry.owner) == ("kaito.pause", "user")
    assert json.loads(entry.extra)["name"] == "phi"


def test_an_action_is_refused_for_another_object_of_the_name(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    answer = client.post(f"{PREFIX}/api/workspaces/team/phi/pause", json={"uid": "older"}, headers=user)
    assert answer.status_code == 409
    assert "made again" in answer.json()["detail"]
    assert hook.sent == []
    assert "refused" in entries()[0].extra


def test_deleting_takes_the_name(client: TestClient, hook: FakeHook, user: dict[str, str]) -> None:
    path = f"{PREFIX}/api/workspaces/team/phi"
    wrong = client.request("DELETE", path, json={"uid": "uid-phi", "value": "ph"}, headers=user)
    assert (wrong.status_code, hook.deleted) == (409, [])
    assert (
        client.request("DELETE", path, json={"uid": "uid-phi", "value": "phi"}, headers=user).status_code
        == 200
    )
    assert hook.deleted == [("team", "phi", "uid-phi")]


def test_a_namespace_that_is_not_allowed_is_left_alone(
    client: TestClient, hook: FakeHook, user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__KAITO__ALLOWED_NAMESPACES", "ml")
    answer = client.post(f"{PREFIX}/api/workspaces/team/phi/pause", json={"uid": "uid-phi"}, headers=user)
    assert answer.status_code == 403
    assert hook.sent == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
def test_another_site_cannot_act_in_a_users_name(
    client: TestClient, hook: FakeHook, user: dict[str, str], headers: dict[str, str]
) -> None:
    body = json.dumps({"uid": "uid-phi"})
    given = {"Content-Type": "application/json", **user, **headers}
    answer = client.post(f"{PREFIX}/api/workspaces/team/phi/pause", content=body, headers=given)
    assert answer.status_code in (403, 415)
    assert hook.sent == []


@pytest.fixture
def two_runs(airflow: Any, database: Any) -> Iterator[None]:
    """A run that tuned and one that retrained the Workspace, and one of a Workspace whose name begins alike."""
    from airflow.models.dagrun import DagRun
    from sqlalchemy import delete
    from sqlalchemy.orm import Session

    made = {"kaito_tune": "team.phi.uid-phi.g1", "kaito_retrain": "team.phi.uid-phi.retrain.20261128T1100Z"}
    more = [("kaito_tune", "team.phiX.uid-phi.g1"), ("other", "team.phi.uid-phi.g2")]
    with Session(database) as session:
        for dag, run in [*made.items(), *more]:
            session.add(DagRun(dag_id=dag, run_id=run, run_type="manual", state="running"))
        session.commit()
    yield
    with database.begin() as connection:
        connection.execute(delete(DagRun))


@pytest.mark.usefixtures("two_runs")
def test_only_runs_of_this_workspace_in_dags_that_a_user_may_see_are_shown(
    client: TestClient, viewer: dict[str, str], airflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{PREFIX}/api/workspaces/team/phi"
    shown = client.get(path, headers=viewer).json()["runs"]
    assert [one["dag"] for one in shown] == ["kaito_retrain", "kaito_tune"]
    allowed = airflow.is_authorized_dag

    def some(**asked: Any) -> bool:
        return asked["details"].id != "kaito_retrain" and allowed(**asked)

    monkeypatch.setattr(airflow, "is_authorized_dag", some)
    assert [one["dag"] for one in client.get(path, headers=viewer).json()["runs"]] == ["kaito_tune"]
