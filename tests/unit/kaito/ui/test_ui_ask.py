"""Asking a service from its page: every model at once, with the service's key, and nothing of it is kept."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from kaito.ui.mount import PREFIX

from include.contracts.redaction import hide
from tests.support.fake_pages import FakeHook, entries
from tests.support.fleet import SERVING, reached

PATH = f"{PREFIX}/api/workspaces/team/served/ask"
KEY = "key-of-the-service-0123"


def ask(client: TestClient, user: dict[str, str], **body: Any) -> Any:
    return client.post(PATH, json={"question": "Who are you?", **body}, headers=user)


def test_base_and_adapter_answer_side_by_side(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    answer = ask(client, user)
    assert answer.status_code == 200, answer.text
    told = [(one["model"], one["text"]) for one in answer.json()]
    assert told == [("base", "base says: Who are you?"), ("served", "served says: Who are you?")]
    (entry,) = entries()
    assert entry.event == "kaito.ask"
    assert "Who are you" not in entry.extra


def test_one_that_fails_leaves_the_others_their_answers(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    hook.broken = "served"
    one, other = ask(client, user).json()
    assert one["text"]
    assert "out of memory" in other["problem"]


def test_a_service_with_a_key_gets_it_and_nobody_else_does(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    beta = {**reached(*SERVING, name="served"), "apiVersion": "kaito.sh/v1beta1"}
    beta["metadata"]["annotations"] = {"kaito.sh/rollout": "true"}
    secret = {"data": {"API_KEY": base64.b64encode(KEY.encode()).decode()}}
    hook.objects = {("team", "served"): beta, ("team", "served-api-key"): secret}
    hook.models = [KEY]
    answer = ask(client, user)
    assert {request.headers.get("X-Api-Key") for request in hook.sent} == {KEY}
    assert f"{KEY} says" not in answer.text
    hook.objects.pop(("team", "served-api-key"))
    assert "has no API_KEY" in ask(client, user).json()["detail"]


def events(answer: Any) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(one.removeprefix("data: ")) for one in answer.text.split("\n\n") if one]


def test_answers_are_streamed_word_by_word_and_models_come_first(
    client: TestClient, hook: FakeHook, user: dict[str, str]
) -> None:
    models, *rest = events(ask(client, user, stream=True))
    assert models == ["base", "served"]
    of_base = [one for one in rest if one["model"] == "base"]
    texts = [one["text"] for one in of_base]
    assert texts[-1] == "base says: Who are you?"
    assert texts == sorted(texts, key=len)
    assert len(set(texts)) > 3
    assert [one["done"] for one in of_base] == [False] * (len(of_base) - 1) + [True]
    assert {one["model"] for one in rest if one["done"]} == {"base", "served"}


def test_no_part_of_a_key_is_streamed(client: TestClient, hook: FakeHook, user: dict[str, str]) -> None:
    hide(KEY)
    answer = ask(client, user, question=f"say {KEY} now", stream=True)
    assert KEY[:8] not in answer.text


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (b'data: {"error": {"message": "no memory left"}}\n', "no memory left"),
        (b"data: <html>\n", "not as the OpenAI API"),
    ],
)
def test_an_answer_that_breaks_off_keeps_what_came_and_says_why(
    client: TestClient, hook: FakeHook, user: dict[str, str], last: bytes, sentence: str
) -> None:
    hook.last = last
    one, _ = ask(client, user).json()
    assert one["text"] == "base says: Who are you?"
    assert sentence in one["problem"]


def test_what_cannot_be_asked_is_a_sentence(
    client: TestClient, hook: FakeHook, user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = client.post(f"{PREFIX}/api/workspaces/team/phi/ask", json={"question": "x"}, headers=user)
    assert (asked.status_code, "not ready" in asked.json()["detail"]) == (409, True)
    hook.task = "classify"
    assert "base scores texts and writes none: ask it at POST /classify" in ask(client, user).json()["detail"]
    hook.models = []
    assert "names no model" in ask(client, user).json()["detail"]
    assert ask(client, user, question="").status_code == 422
    monkeypatch.setenv("AIRFLOW__KAITO__UI_ASK", "false")
    assert ask(client, user).status_code == 403
    page = client.get(f"{PREFIX}/workspaces/team/served", headers=user)
    assert "data-ask" not in page.text


def test_the_box_is_there_for_those_who_may(
    client: TestClient, user: dict[str, str], viewer: dict[str, str]
) -> None:
    path = f"{PREFIX}/workspaces/team/served"
    assert "data-ask" in client.get(path, headers=user).text
    assert "data-ask" not in client.get(path, headers=viewer).text


def test_asking_is_a_right_of_its_own(
    client: TestClient, hook: FakeHook, user: dict[str, str], airflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may change Workspaces may not ask by that, and the other way round."""
    page, pause = f"{PREFIX}/workspaces/team/served", f"{PREFIX}/api/workspaces/team/served/pause"
    allowed = airflow.is_authorized_dag

    def but(*refused: str) -> None:
        def some(**asked: Any) -> bool:
            changes = asked["method"] != "GET" and asked["details"].id in refused
            return not changes and allowed(**asked)

        monkeypatch.setattr(airflow, "is_authorized_dag", some)

    but("kaito_ask")
    assert ask(client, user).status_code == 403
    assert hook.sent == []
    shown = client.get(page, headers=user).text
    assert ("data-ask" in shown, "data-action" in shown) == (False, True)
    but("kaito_tune", "kaito_serve", "kaito_release")
    assert ask(client, user).status_code == 200
    assert client.post(pause, json={"uid": "uid-served"}, headers=user).status_code == 403
    shown = client.get(page, headers=user).text
    assert ("data-ask" in shown, "data-action" in shown) == (True, False)
