"""What pages say: no text of a user becomes markup, and whatever fails is a sentence."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from kaito.hooks.api import ClusterError
from kaito.ui import runs
from kaito.ui.app import create_app
from kaito.ui.cluster import Cluster
from kaito.ui.mount import FASTAPI_APPS, PREFIX

from include.views.fleet import SORTS
from include.views.timeline import TaskRun
from include.workspace.status.conditions import Phase
from tests.support.fake_pages import FakeHook
from tests.support.fleet import DIGEST, TRAINING, reached, workspace

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


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


def test_the_openapi_describes_every_action(client: TestClient, viewer: dict[str, str]) -> None:
    paths = client.get(f"{PREFIX}/api/openapi.json", headers=viewer).json()["paths"]
    assert "/api/workspaces/{namespace}/{name}/{action}" in paths
    assert all(one["summary"] for path in paths.values() for one in path.values())


@pytest.mark.parametrize(
    ("base_url", "prefix"),
    [
        ("http://localhost:8080", ""),
        ("https://airflow.example/", ""),
        ("https://host.example/team/a/", "/team/a"),
    ],
)
def test_airflow_gets_the_application_and_the_views(base_url: str, prefix: str) -> None:
    from kaito.ui.mount import external_views

    assert [one["url_prefix"] for one in FASTAPI_APPS] == ["/kaito"]
    nav, tab = external_views(base_url)
    assert (nav["destination"], nav["href"]) == ("nav", f"{prefix}/kaito/workspaces")
    assert (tab["destination"], tab["href"]) == ("dag_run", f"{prefix}/kaito/run/{{DAG_ID}}/{{RUN_ID}}")


def test_links_lead_below_the_path_of_a_proxy(airflow: Any, hook: FakeHook, viewer: dict[str, str]) -> None:
    outer = FastAPI(root_path="/team/a")
    outer.mount(PREFIX, create_app(Cluster(hook)))
    with TestClient(outer) as client:
        text = client.get(f"/team/a{PREFIX}/workspaces", headers=viewer).text
    assert 'href="/team/a/kaito/workspaces/team/phi"' in text
    assert 'src="/team/a/kaito/static/kaito.js' in text


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


def test_a_part_says_what_may_be_done_so_that_buttons_can_follow(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    def offered(name: str) -> str:
        part = client.get(f"{PREFIX}/part/workspaces/team/{name}", headers=user).text
        return re.findall(r'data-offers="([^"]*)"', part)[0]

    assert offered("phi") == "pause delete"
    assert offered("served").split()[-2:] == ["delete", "ask"]
    hook.objects[("team", "phi")] = workspace("phi", annotations={"kaito.sh/paused": "true"})
    assert offered("phi") == "resume delete"


def test_every_column_sorts_and_the_sorted_one_is_marked(client: TestClient, viewer: dict[str, str]) -> None:
    for sort in SORTS:
        text = client.get(f"{PREFIX}/workspaces?sort={sort}&desc=true", headers=viewer).text
        marked = re.findall(r'aria-sort="descending">\s*(.*?)</th>', text, re.DOTALL)
        there = f"sort={sort}&" in text or f'sort={sort}"' in text
        assert there == bool(marked), sort
        if there:
            assert re.search(rf'sort={sort}" class="sorted"', marked[0]), sort


def test_the_page_that_is_open_is_marked_and_its_sections_can_be_reached(
    client: TestClient, viewer: dict[str, str]
) -> None:
    for path in ("/workspaces", "/new", "/cost"):
        text = client.get(PREFIX + path, headers=viewer).text
        assert re.findall(r'<a href="([^"]+)" aria-current="page">(?!namespace)', text) == [PREFIX + path]
    text = client.get(f"{PREFIX}/workspaces/team/served", headers=viewer).text
    targets = re.findall(r'<a href="#([\w-]+)">', text)
    assert len(targets) > 5
    assert all(f'id="{one}"' in text for one in targets)
