"""What is not ours is never written, adopted or deleted: the hook looks first, whoever calls it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kaito
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    ClusterError,
    Kind,
)
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.hooks.ownership import ForeignObject, other_owner
from kaito.providers.nodepool import NODE_POOL
from kubernetes.client.exceptions import ApiException

from tests.support.scripted_client import ScriptedClient, refusal

OWNER = {"kind": "Workspace", "name": "payments", "uid": "u1", "controller": True}
LABELS = {"kaito.sh/workspace": "payments", "kaito.sh/workspacenamespace": "n"}
OURS = {"metadata": {"name": "payments", "namespace": "n", "labels": LABELS, "ownerReferences": [OWNER]}}
CHILDREN = [SERVICE, STATEFUL_SET, VOLUME_CLAIM, CONFIG_MAP, CONTROLLER_REVISION, api.SECRET]


def live(**metadata: Any) -> dict[str, Any]:
    found = copy.deepcopy(OURS)
    found["metadata"] |= {"uid": "o1", "resourceVersion": "7", **metadata}
    return found


FOREIGN = [
    live(ownerReferences=[], labels={"app": "payments"}),
    live(ownerReferences=[]),  # a copy with our labels
    live(ownerReferences=[OWNER | {"uid": "u2"}]),  # of an earlier Workspace of this name
    live(ownerReferences=[{"kind": "Deployment", "name": "shop", "uid": "u3", "controller": True}]),
    live(ownerReferences=[OWNER | {"controller": False}]),
    live(labels=LABELS | {"kaito.sh/workspace": "another"}),
]


@pytest.mark.parametrize("there", FOREIGN)
@pytest.mark.parametrize("kind", CHILDREN, ids=lambda kind: kind.name)
def test_what_is_not_ours_is_named_and_not_written(hook_for: Any, kind: Kind, there: dict[str, Any]) -> None:
    hook, client = hook_for(there)
    with pytest.raises(
        ForeignObject, match=f"{kind.name} payments exists and belongs to .*not touched"
    ) as refused:
        hook.apply(kind, OURS)
    assert not refused.value.transient
    assert [call["method"] for call in client.calls] == ["GET"]
    hook, client = hook_for(refusal(409, "AlreadyExists"), there)
    with pytest.raises(ForeignObject, match=f"{kind.name} payments exists"):
        hook.get_or_create(kind, OURS)
    assert [call["method"] for call in client.calls] == ["POST", "GET"]


def test_what_is_ours_is_written_as_the_very_object_that_was_seen(hook_for: Any) -> None:
    hook, client = hook_for(
        live(), refusal(409, "Conflict"), live(resourceVersion="8"), live(resourceVersion="9")
    )
    assert hook.apply(SERVICE, OURS)["metadata"]["resourceVersion"] == "9"
    written = client.calls[-1]
    assert {key: written["body"]["metadata"][key] for key in ("uid", "resourceVersion")} == {
        "uid": "o1",
        "resourceVersion": "8",
    }
    assert dict(written["query_params"])["force"] == "true"


def test_what_appears_in_between_is_not_taken_by_force_and_given_back(hook_for: Any) -> None:
    made = live(managedFields=[{"manager": "kubectl"}, {"manager": "kaito-airflow", "operation": "Apply"}])
    hook, client = hook_for(refusal(404, "NotFound"), made, live())
    with pytest.raises(ForeignObject, match="belongs to kubectl"):
        hook.apply(SERVICE, OURS)
    _, first, back = client.calls
    assert dict(first["query_params"])["force"] == "false"
    assert set(back["body"]) == {"apiVersion", "kind", "metadata"}
    assert back["body"]["metadata"] == {"name": "payments", "namespace": "n", "uid": "o1"}


def test_what_is_not_there_is_made(hook_for: Any) -> None:
    hook, client = hook_for(refusal(404, "NotFound"), live(managedFields=[{"manager": "kaito-airflow"}]))
    hook.apply(SERVICE, OURS)
    assert [call["method"] for call in client.calls] == ["GET", "PATCH"]


def test_without_namespaces_the_labels_decide(hook_for: Any) -> None:
    pool = {"metadata": {"name": "pool", "labels": LABELS}}
    hook, _ = hook_for({"metadata": {"name": "pool", "labels": {"kaito.sh/workspace": "payments"}}})
    with pytest.raises(
        ForeignObject, match=r"NodePool pool exists and belongs to kaito\.sh/workspacenamespace=None"
    ):
        hook.apply(NODE_POOL, pool)


def test_what_is_no_child_of_a_workspace_is_applied_as_it_is(hook_for: Any) -> None:
    hook, client = hook_for({})
    hook.apply(api.CRD, {"metadata": {"name": "workspaces.kaito.sh"}})
    assert [call["method"] for call in client.calls] == ["PATCH"]


@given(uid=st.text(max_size=4), kind=st.text(max_size=4), control=st.booleans())
def test_only_the_workspace_itself_makes_an_object_ours(uid: str, kind: str, control: bool) -> None:
    there = live(ownerReferences=[{"kind": kind, "name": "payments", "uid": uid, "controller": control}])
    assert (other_owner(there, OURS) == "") == (uid == "u1" and control)


def test_nobody_applies_past_the_hook() -> None:
    """The check is in one place; a request that is built elsewhere would go past it."""
    root = Path(kaito.__path__[0])
    past = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if path.parent.name != "hooks"
        and re.search(r"\bapi\.apply\(|APPLY_PATCH|import .*\bapply\b", path.read_text())
    ]
    assert past == []


def test_the_hook_is_the_one_that_operators_use() -> None:
    hook = KaitoClusterHook(conn_id=None)
    hook.api_client = ScriptedClient(ApiException(status=403, reason="Forbidden"))
    with pytest.raises(ClusterError):
        hook.apply(SERVICE, OURS)
