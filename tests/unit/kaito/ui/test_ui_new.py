"""A new Workspace from the pages: the plan, the faults, and that it is made once."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from kaito.hooks.api import ClusterError
from kaito.ui.mount import PREFIX

from include.contracts.methods import OBJECTIVES
from include.workspace.api import names
from tests.support.fake_pages import FakeHook, entries

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
    assert names.TUNING_OBJECTIVE not in found["yaml"]
    empty = client.post(f"{PREFIX}/api/draft", json={"purpose": "tune"}, headers=viewer).json()
    assert len(empty["report"]["files"][0]["documents"][0]["faults"]) > 2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_form_says_what_a_tuning_learns_from(
    client: TestClient, viewer: dict[str, str], objective: str
) -> None:
    assert f'<option value="{objective}">' in client.get(f"{PREFIX}/new", headers=viewer).text
    form = {"name": "answers", "model": "phi-3-mini-128k-instruct", "objective": objective}
    told = f"{names.TUNING_OBJECTIVE}: {objective}"
    for purpose, chosen in (("tune", objective != "sft"), ("serve", False)):
        found = client.post(f"{PREFIX}/api/draft", json={**form, "purpose": purpose}, headers=viewer).json()
        assert (told in found["yaml"]) == chosen


def test_an_objective_that_is_none_is_named(client: TestClient, viewer: dict[str, str]) -> None:
    form = {"name": "answers", "model": "phi-3-mini-128k-instruct", "objective": "ppo", "purpose": "tune"}
    found = client.post(f"{PREFIX}/api/draft", json=form, headers=viewer).json()
    faults = found["report"]["files"][0]["documents"][0]["faults"]
    assert any(names.TUNING_OBJECTIVE in one["path"] for one in faults), faults
    asked = {"model": form["model"], "purpose": "tune", "objective": "ppo"}
    answer = client.get(f"{PREFIX}/api/machines", params=asked, headers=viewer)
    assert (answer.status_code, "none of sft, dpo, kto" in answer.json()["detail"]) == (422, True)


def test_pairs_need_more_memory_than_answers(client: TestClient, viewer: dict[str, str]) -> None:
    def needed(objective: str) -> float:
        asked = {"model": "phi-4", "purpose": "tune", "objective": objective}
        found = client.get(f"{PREFIX}/api/machines", params=asked, headers=viewer).json()
        return float(found[0]["needs"].removesuffix(" GiB"))

    assert needed("dpo") > needed("sft")


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
