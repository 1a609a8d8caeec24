"""The pages in Airflow's own security: who gets in, what they may do, and that no text of a user becomes markup."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from kaito.hooks.api import ClusterError, Request
from kaito.ui import runs
from kaito.ui.app import create_app
from kaito.ui.cluster import Cluster
from kaito.ui.mount import EXTERNAL_VIEWS, FASTAPI_APPS, PREFIX

from include.views.timeline import TaskRun
from include.workspace.status.conditions import Phase
from tests.support.fleet import DIGEST, SERVING, TRAINING, reached, workspace

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
NAMED = workspace("phi")


class FakeHook:
    """A cluster with some Workspaces: what was sent to it, and what it refuses."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in objects}
        self.sent: list[Request] = []
        self.deleted: list[tuple[str, str, str | None]] = []
        self.error: Exception | None = None
        self.lists = 0
        self.told: list[dict[str, Any]] = []

    def __call__(self) -> FakeHook:
        return self

    async def pages(self, *_: Any) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        self.lists += 1
        if self.error:
            raise self.error
        yield copy.deepcopy(list(self.objects.values())), "1"

    async def find(self, _kind: Any, name: str, namespace: str) -> dict[str, Any] | None:
        if self.error:
            raise self.error
        return copy.deepcopy(self.objects.get((namespace, name)))

    async def send(self, request: Request) -> dict[str, Any]:
        if self.error:
            raise self.error
        self.sent.append(request)
        return {"items": self.told} if request.method == "GET" else {}

    async def delete(self, _kind: Any, name: str, namespace: str, uid: str | None = None) -> bool:
        self.deleted.append((namespace, name, uid))
        return True


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An empty database of Airflow's."""
    from airflow import models
    from airflow.models.base import Base
    from sqlalchemy import create_engine

    models.import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('db') / 'airflow.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def airflow(database: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Airflow's simple auth manager on that database, with an empty audit log."""
    from airflow import settings
    from airflow.api_fastapi.app import create_auth_manager, purge_cached_app
    from airflow.models.log import Log
    from sqlalchemy import delete
    from sqlalchemy.orm import scoped_session, sessionmaker

    made = sessionmaker(bind=database, expire_on_commit=False)
    monkeypatch.setattr(settings, "engine", database)
    monkeypatch.setattr(settings, "Session", scoped_session(made))
    monkeypatch.setattr(settings, "NonScopedSession", made)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
    with database.begin() as connection:
        connection.execute(delete(Log))
    yield create_auth_manager()
    purge_cached_app()


@pytest.fixture
def hook() -> FakeHook:
    return FakeHook(NAMED, reached(*SERVING, name="served"))


@pytest.fixture
def client(airflow: Any, hook: FakeHook) -> Iterator[TestClient]:
    outer = FastAPI()
    outer.mount(PREFIX, create_app(Cluster(hook)))
    with TestClient(outer, raise_server_exceptions=False, follow_redirects=False) as made:
        yield made


@pytest.fixture
def login(airflow: Any) -> Any:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def of(role: str) -> dict[str, str]:
        token = airflow.generate_jwt(SimpleAuthManagerUser(username=role, role=role))
        return {"Authorization": f"Bearer {token}"}

    return of


@pytest.fixture
def viewer(login: Any) -> dict[str, str]:
    return login("viewer")


@pytest.fixture
def user(login: Any) -> dict[str, str]:
    return login("user")


def entries() -> list[Any]:
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        return list(session.scalars(select(Log)))


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
    body = {"uid": "uid-phi", "value": "phi"} if path != "/api/workspaces" else {"yaml": "x"}
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


def hostile() -> dict[str, Any]:
    """A Workspace with markup in every text that somebody can choose."""
    found = reached(*TRAINING, (Phase.TUNING, SCRIPT), name=SCRIPT)
    found["metadata"] |= {
        "namespace": SCRIPT,
        "annotations": {SCRIPT: SCRIPT, "kaito.sh/rollout": "true"},
        "labels": {SCRIPT: SCRIPT},
    }
    found["resource"]["instanceType"] = SCRIPT
    found["tuning"]["preset"]["name"] = SCRIPT
    found["tuning"]["output"]["image"] = SCRIPT
    for one in found["status"]["conditions"]:
        one |= {"message": SCRIPT, "reason": SCRIPT}
    found["status"] |= {
        "adapter": {"digest": f"{DIGEST}{SCRIPT}", "image": SCRIPT, "reference": SCRIPT},
        "run": {"id": SCRIPT, "dag": SCRIPT, "state": SCRIPT, "url": SCRIPT},
        "workerNodes": [SCRIPT],
        "machines": [{"offer": SCRIPT, "state": SCRIPT, "message": SCRIPT, "purpose": SCRIPT}],
        "cost": {
            "claims": [
                {
                    "name": SCRIPT,
                    "machine": SCRIPT,
                    "run": SCRIPT,
                    "uid": SCRIPT,
                    "since": "2026-11-28T11:00:00Z",
                    "usdPerHour": 1.0,
                }
            ]
        },
        "retrain": {
            SCRIPT: [SCRIPT],
            "approval": {"digest": f"{SCRIPT}{DIGEST}"},
            "versions": [{"version": SCRIPT, "digest": DIGEST.replace("a", "b"), "reference": SCRIPT}],
        },
    }
    return found


def test_no_text_of_a_user_becomes_markup(
    client: TestClient, hook: FakeHook, user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = hostile()
    hook.objects = {(SCRIPT, SCRIPT): bad}
    hook.told = [
        {"message": SCRIPT, "reason": SCRIPT, "type": SCRIPT, "lastTimestamp": "2026-11-28T11:00:00Z"}
    ]
    now = datetime(2026, 11, 28, 11, tzinfo=UTC)
    task = TaskRun(SCRIPT, SCRIPT, now, None)
    monkeypatch.setattr(
        runs, "runs_of", lambda _: [runs.Run(SCRIPT, SCRIPT, SCRIPT, now, now, None, (task,))]
    )
    monkeypatch.setattr(runs, "training_log", lambda _: [f"step 1/2 | loss 1 {SCRIPT}", "step 2/2 | loss 1"])
    from urllib.parse import quote

    paths = (
        f"/workspaces?q={quote(SCRIPT)}&sort={quote(SCRIPT)}",
        "/part/workspaces",
        f"/run/kaito_tune/{quote(SCRIPT, safe='')}",
        f"/run/{quote(SCRIPT, safe='')}/x",
        "/cost?by=run",
        f"/cost?by={quote(SCRIPT)}",
        f"/new?model={quote(SCRIPT)}",
        "/workspaces",
    )
    for path in paths:
        answer = client.get(PREFIX + path, headers=user)
        assert "<script>alert" not in answer.text, path
        assert "<img" not in answer.text, path
    hook.objects = {
        ("team", "phi"): {**bad, "metadata": {**bad["metadata"], "name": "phi", "namespace": "team"}}
    }
    for path in ("/workspaces/team/phi", "/part/workspaces/team/phi", "/part/workspaces/team/phi/training"):
        answer = client.get(PREFIX + path, headers=user)
        assert answer.status_code == 200, answer.text
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text


def test_nothing_is_inline_and_the_policy_holds(client: TestClient, viewer: dict[str, str]) -> None:
    for path in ("/workspaces", "/workspaces/team/served", "/cost", "/new"):
        answer = client.get(PREFIX + path, headers=viewer)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", answer.text), (
            path
        )
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//(?!localhost)", answer.text), path


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (
            ClusterError(0, "ConnectionFailed", "Connection refused"),
            503,
            "does not answer: Connection refused",
        ),
        (ClusterError(404, "NotFound", "the server could not find it"), 502, "does not know Workspaces"),
        (ClusterError(403, "Forbidden", "workspaces is forbidden"), 502, "workspaces is forbidden"),
        (RuntimeError("no kubeconfig"), 503, "no kubeconfig"),
    ],
)
def test_a_cluster_that_fails_is_a_sentence(
    client: TestClient, hook: FakeHook, viewer: dict[str, str], error: Exception, status: int, sentence: str
) -> None:
    hook.error = error
    for path in ("/workspaces", "/part/workspaces", "/api/workspaces"):
        answer = client.get(PREFIX + path, headers=viewer)
        assert (answer.status_code, sentence in answer.text, "Traceback" in answer.text) == (
            status,
            True,
            False,
        )


def test_a_cluster_that_never_answers_ends_in_a_sentence(
    client: TestClient, hook: FakeHook, viewer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from kaito.ui import cluster

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(cluster, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr(hook, "find", never)
    answer = client.get(f"{PREFIX}/workspaces/team/phi", headers=viewer)
    assert (answer.status_code, "no answer in" in answer.text) == (503, True)


def test_a_workspace_that_is_gone_is_a_sentence(client: TestClient, viewer: dict[str, str]) -> None:
    answer = client.get(f"{PREFIX}/part/workspaces/team/gone", headers=viewer)
    assert (answer.status_code, "There is no such Workspace" in answer.text) == (404, True)


def test_a_fault_of_ours_is_a_sentence_too(
    client: TestClient, viewer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise KeyError("secret detail")

    monkeypatch.setattr(runs, "runs_of", broken)
    answer = client.get(f"{PREFIX}/workspaces/team/phi", headers=viewer)
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "fault of its own" in answer.text


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


def test_the_empty_table_says_how_to_begin(
    client: TestClient, hook: FakeHook, viewer: dict[str, str]
) -> None:
    hook.objects = {}
    answer = client.get(f"{PREFIX}/workspaces", headers=viewer)
    assert "There are no Workspaces yet" in answer.text
    assert "kubectl apply" in answer.text


def test_many_pages_read_the_cluster_once_and_an_unchanged_table_is_not_sent_again(
    client: TestClient, hook: FakeHook, viewer: dict[str, str]
) -> None:
    first = client.get(f"{PREFIX}/part/workspaces", headers=viewer)
    again = client.get(
        f"{PREFIX}/part/workspaces", headers={**viewer, "If-None-Match": first.headers["etag"]}
    )
    assert hook.lists == 1
    minute_passed = again.headers["etag"] != first.headers["etag"]
    assert again.status_code == 304 or minute_passed


GOOD = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata:
  name: answers
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector:
    matchLabels: {apps: answers}
inference:
  preset: {name: phi-4-mini-instruct}
"""


def test_the_plan_of_a_text_and_its_faults(client: TestClient, viewer: dict[str, str]) -> None:
    found = client.post(f"{PREFIX}/api/check", json={"yaml": GOOD}, headers=viewer).json()
    assert (found["exitCode"], bool(found["files"][0]["documents"][0]["sentences"])) == (0, True)
    wrong = client.post(
        f"{PREFIX}/api/check", json={"yaml": GOOD.replace("A100", "A10O")}, headers=viewer
    ).json()
    assert wrong["exitCode"] == 1
    for text in ("", "a: [", GOOD + "---" + GOOD, "kind: Pod"):
        told = client.post(f"{PREFIX}/api/check", json={"yaml": text}, headers=viewer).json()
        assert told["exitCode"] != 0, text
        assert told["files"][0]["problems"] or told["files"][0]["documents"][0]["faults"]


def test_applying_makes_it_once_and_leaves_no_secret_in_the_audit_log(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    answer = client.post(f"{PREFIX}/api/workspaces", json={"yaml": GOOD}, headers=user)
    assert answer.status_code == 201, answer.text
    assert hook.sent[-1].body["metadata"] == {"namespace": "default", "name": "answers"}
    hook.error = ClusterError(409, "AlreadyExists", "exists")
    again = client.post(f"{PREFIX}/api/workspaces", json={"yaml": GOOD}, headers=user)
    assert (again.status_code, "already" in again.json()["detail"]) == (409, True)
    assert [one.event for one in entries()] == ["kaito.apply", "kaito.apply"]
    assert all("apiVersion" not in one.extra for one in entries())


def test_a_faulty_text_is_not_applied(client: TestClient, hook: FakeHook, user: dict[str, str]) -> None:
    answer = client.post(
        f"{PREFIX}/api/workspaces", json={"yaml": GOOD.replace("phi-4", "phi-9")}, headers=user
    )
    assert (answer.status_code, hook.sent) == (422, [])
    assert answer.json()["report"]["files"][0]["documents"][0]["faults"]


def test_the_form_means_what_check_takes(client: TestClient, viewer: dict[str, str]) -> None:
    form = {
        "name": "answers",
        "purpose": "tune",
        "model": "phi-3-mini-128k-instruct",
        "machine": "Standard_NC24ads_A100_v4",
        "urls": "https://data.example/rows.parquet",
        "image": "registry.example/answers:1",
        "secret": "push",
        "rollout": "true",
    }
    found = client.post(f"{PREFIX}/api/draft", json=form, headers=viewer).json()
    assert found["report"]["exitCode"] == 0, found
    assert "kaito.sh/rollout: 'true'" in found["yaml"]
    empty = client.post(f"{PREFIX}/api/draft", json={"purpose": "tune"}, headers=viewer).json()
    assert len(empty["report"]["files"][0]["documents"][0]["faults"]) > 2


def test_machines_for_a_model_come_with_prices_and_reasons(
    client: TestClient, viewer: dict[str, str]
) -> None:
    url = f"{PREFIX}/api/machines"
    found = client.get(
        url, params={"model": "phi-3-mini-128k-instruct", "purpose": "tune"}, headers=viewer
    ).json()
    assert found[0]["why_not"] == ""
    assert found[0]["usd_per_hour"] > 0
    assert any(one["why_not"] for one in found)
    wrong = client.get(url, params={"model": "phi-3-mini-128k-instrukt"}, headers=viewer)
    assert (wrong.status_code, "did you mean" in wrong.json()["detail"]) == (422, True)


def test_the_openapi_describes_every_action(client: TestClient, viewer: dict[str, str]) -> None:
    paths = client.get(f"{PREFIX}/api/openapi.json", headers=viewer).json()["paths"]
    assert "/api/workspaces/{namespace}/{name}/{action}" in paths
    assert all(one["summary"] for path in paths.values() for one in path.values())


def test_airflow_gets_the_application_and_the_views() -> None:
    assert [one["url_prefix"] for one in FASTAPI_APPS] == ["/kaito"]
    assert {one["destination"] for one in EXTERNAL_VIEWS} == {"nav", "dag_run"}


def test_pages_that_cannot_be_imported_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaito.ui import mount

    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'include'")

    monkeypatch.setattr(mount, "import_module", missing)
    answer = TestClient(mount.LazyApp()).get("/kaito/workspaces")
    assert answer.status_code == 500
    assert "No module named 'include'. The project's root" in answer.text


def test_static_files_are_two_and_no_path_leads_elsewhere(client: TestClient) -> None:
    assert client.get(f"{PREFIX}/static/kaito.js").status_code == 200
    for name in ("../app.py", "..%2Fapp.py", "app.py"):
        assert client.get(f"{PREFIX}/static/{name}").status_code == 404
