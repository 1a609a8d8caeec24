"""The hook against a scripted client: what is tried again, what is an answer, what is fenced."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kaito.hooks import api
from kaito.hooks.api import CONFIG_MAP, POD, ClusterError
from kaito.hooks.cluster_calls import StaleWorkspace, fence, run
from kaito.hooks.kubernetes import KaitoClusterHook

from tests.support.scripted_client import ScriptedClient, refusal


async def test_the_blocking_hook_works_inside_an_event_loop() -> None:
    hook = KaitoClusterHook(conn_id=None)
    hook.api_client = ScriptedClient({"metadata": {"name": "p"}})
    assert hook.find(POD, "p", "n") == {"metadata": {"name": "p"}}


async def test_what_waits_for_an_event_loop_is_not_driven_without_one() -> None:
    with pytest.raises(RuntimeError, match="waits for an event loop"):
        run(asyncio.sleep(0.01))


def test_what_is_not_there_is_none(hook_for: Any) -> None:
    hook, client = hook_for(refusal(404, "NotFound"))
    assert hook.find(POD, "p", "n") is None
    assert len(client.calls) == 1


def test_a_server_error_is_tried_again(hook_for: Any) -> None:
    hook, client = hook_for(refusal(503, "ServiceUnavailable"), {"metadata": {"name": "p"}})
    assert hook.find(POD, "p", "n") == {"metadata": {"name": "p"}}
    assert len(client.calls) == 2


def test_a_refusal_is_said_in_the_servers_words(hook_for: Any) -> None:
    hook, _ = hook_for(refusal(403, "Forbidden", "pods is forbidden"))
    with pytest.raises(ClusterError, match="pods is forbidden"):
        hook.list(POD, "n")


def test_get_or_create_takes_what_is_there_without_waiting(hook_for: Any) -> None:
    existing = {"metadata": {"name": "c", "uid": "old"}}
    hook, client = hook_for(refusal(409, "AlreadyExists"), existing)
    assert hook.get_or_create(CONFIG_MAP, {"metadata": {"name": "c", "namespace": "n"}}) == (existing, False)
    assert [call["method"] for call in client.calls] == ["POST", "GET"]


def test_get_or_create_survives_a_deletion_in_between(hook_for: Any) -> None:
    made = {"metadata": {"name": "c", "uid": "new"}}
    hook, _ = hook_for(refusal(409, "AlreadyExists"), refusal(404, "NotFound"), made)
    assert hook.get_or_create(CONFIG_MAP, {"metadata": {"name": "c", "namespace": "n"}}) == (made, True)


def test_a_name_that_is_taken_by_a_newer_object_is_not_deleted(hook_for: Any) -> None:
    hook, _ = hook_for(refusal(409, "Conflict", "uid precondition"))
    assert hook.delete(POD, "p", "n", uid="old") is False


def test_delete_and_wait_names_who_holds_the_object(hook_for: Any) -> None:
    held = {"metadata": {"name": "p", "finalizers": ["example.com/hold"]}}
    hook, _ = hook_for({}, held, held)
    with pytest.raises(TimeoutError, match=r"example\.com/hold"):
        hook.delete_and_wait(POD, "p", "n", timeout=0.0, poll=0.0)


def live(generation: int = 1, version: str = "1", **status: Any) -> dict[str, Any]:
    metadata = {
        "name": "w",
        "namespace": "n",
        "uid": "u",
        "generation": generation,
        "resourceVersion": version,
    }
    return {"metadata": metadata, "status": status}


def test_a_status_write_reads_again_after_a_conflict(hook_for: Any) -> None:
    hook, client = hook_for(live(version="1"), refusal(409, "Conflict"), live(version="2"), live(version="3"))
    hook.patch_status("w", "n", lambda w: {"seen": w["metadata"]["resourceVersion"]}, uid="u", generation=1)
    assert client.calls[-1]["body"] == {"metadata": {"resourceVersion": "2"}, "status": {"seen": "2"}}


def test_a_status_that_was_applied_is_applied_again(hook_for: Any) -> None:
    seen = live(state="Running", phase="theirs")
    owner = {"manager": "kaito-airflow", "operation": "Apply", "subresource": "status"}
    seen["metadata"]["managedFields"] = [owner]
    hook, client = hook_for(seen, live(version="2", state="Ready", phase="theirs"))
    hook.patch_status("w", "n", lambda w: {**w["status"], "state": "Ready"}, uid="u", generation=1)
    assert client.calls[-1]["header_params"]["Content-Type"] == api.APPLY_PATCH
    assert client.calls[-1]["body"]["status"] == {"state": "Ready"}


def test_a_status_that_is_the_same_is_not_written(hook_for: Any) -> None:
    hook, client = hook_for(live(state="Running"))
    hook.patch_status("w", "n", lambda w: w["status"], uid="u", generation=1)
    assert [call["method"] for call in client.calls] == ["GET"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (None, "was deleted"),
        (live() | {"metadata": {"uid": "other"}}, "made again"),
        (live(generation=2), "superseded by generation 2"),
        ({"metadata": {"uid": "u", "generation": 2, "deletionTimestamp": "2026-11-23T00:00:00Z"}}, "deleted"),
    ],
)
def test_a_run_may_not_write_for_a_workspace_that_moved_on(seen: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(StaleWorkspace, match=words):
        fence(seen, "w", "u", 1)


def test_what_serves_the_deletion_may_still_write() -> None:
    going = live(generation=2)
    going["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    assert fence(going, "w", "u", 1, even_deleting=True) is going
    with pytest.raises(StaleWorkspace):
        fence(going, "w", "other", 1, even_deleting=True)


def test_a_deletion_names_the_object_as_it_was_seen(hook_for: Any) -> None:
    hook, client = hook_for({}, refusal(409, "Conflict"))
    assert hook.delete(POD, "p", "n", uid="u", version="7")
    assert client.calls[0]["body"]["preconditions"] == {"uid": "u", "resourceVersion": "7"}
    assert not hook.delete(POD, "p", "n", uid="u", version="7"), "somebody changed it"


def test_both_hooks_send_the_same_arguments() -> None:
    arguments = api.get(POD, "p", "n").arguments()
    assert arguments["resource_path"] == "/api/v1/namespaces/n/pods/p"
    assert arguments["auth_settings"] == ["BearerToken"]


def test_a_question_to_a_service_carries_its_key(hook_for: Any) -> None:
    hook, client = hook_for({"Result": "yes"})
    key = {"X-Api-Key": "k"}
    assert hook.post_to_service("w", "n", "chat", {}, port=80, timeout=5, headers=key) == {"Result": "yes"}
    assert client.calls[0]["header_params"]["X-Api-Key"] == "k"
