"""Agent pools judged: whose they are, when they are ready, and Azure's words for why not."""

from __future__ import annotations

from typing import Any

import pytest

from include.pools.aks import (
    agent_pool_status,
    belongs,
    is_ours,
    unregistered_capacity,
)
from include.pools.status import FailureClass, classify
from tests.support.agent_pools import LABELS, node, pool


def failed(code: str, message: str, state: str = "Failed", **more: Any) -> dict[str, Any]:
    error = {"code": code, "message": message, **more}
    return pool(state, status={"provisioningError": error})


def test_ready_is_all_nodes_with_gpus() -> None:
    status = agent_pool_status([pool(count=2)], [node("b"), node("a"), node("c", of="other")])
    assert (status.ready, status.nodes) == (True, ("a", "b"))


@pytest.mark.parametrize(
    ("state", "nodes", "reason", "words"),
    [
        ("Creating", [], "NodeNotReady", "ws1 is Creating: 0 of 1"),
        ("Succeeded", [], "NodeNotReady", "0 of 1"),
        ("Creating", [node(ready="False")], "NodeNotReady", "not Ready"),
        ("Succeeded", [node(gpus="0")], "NodePluginsNotReady", "offers no"),
    ],
)
def test_what_is_not_there_yet_is_waited_for(state: str, nodes: list[Any], reason: str, words: str) -> None:
    status = agent_pool_status([pool(state)], nodes)
    assert (status.ready, status.failed, status.reason) == (False, False, reason)
    assert words in status.message


def test_a_failure_nobody_knows_ends_the_wait_too() -> None:
    status = agent_pool_status([failed("Strange", "It is Tuesday.")], [])
    assert (status.failed, status.failure_class, status.reason) == (True, FailureClass.TRANSIENT, "Strange")
    assert status.message == "AgentPool ws1: It is Tuesday."


def test_azures_details_are_told() -> None:
    inner = {"code": "QuotaExceeded", "message": "exceeding approved Cores quota"}
    status = agent_pool_status([failed("InvalidTemplateDeployment", "See details.", details=[inner])], [])
    assert status.failure_class is FailureClass.QUOTA
    assert "exceeding approved" in status.message


def test_the_failed_pool_speaks_for_the_one_that_boots() -> None:
    gone = {**failed("AllocationFailed", "no"), "name": "ws2"}
    status = agent_pool_status([pool("Creating"), gone], [])
    assert status.failure_class is FailureClass.CAPACITY


@pytest.mark.parametrize("pools", [[], [pool("Deleting")]])
def test_a_pool_that_goes_is_missing(pools: list[Any]) -> None:
    assert agent_pool_status(pools, []).reason == "AgentPoolMissing"
    assert agent_pool_status(pools, []).failed


@pytest.mark.parametrize(
    "foreign",
    [
        pool(tags={}),
        pool(tags={"kaito-managed-by": "me"}),
        pool(nodeLabels={}),
        pool(tags=None, nodeLabels=None),
    ],
)
def test_without_tag_or_labels_a_pool_is_not_ours(foreign: dict[str, Any]) -> None:
    assert not is_ours(foreign)
    assert not belongs(foreign, {})


def test_a_pool_belongs_to_one_workspace_and_purpose() -> None:
    assert belongs(pool(), LABELS)
    assert not belongs(pool(), {**LABELS, "kaito.sh/workspace": "x"})


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 24", FailureClass.QUOTA),
        (
            "OperationNotAllowed",
            "Operation could not be completed: exceeding approved cores quota",
            FailureClass.QUOTA,
        ),
        ("SkuNotAvailable", "is currently not available in location", FailureClass.CAPACITY),
        ("ZonalAllocationFailed", "We do not have sufficient capacity", FailureClass.CAPACITY),
        ("OverconstrainedZonalAllocationRequest", "", FailureClass.CAPACITY),
        (
            "BadRequest",
            "The VM size of AgentPoolProfile:x is not allowed in your subscription in location 'eastus'. "
            "For more details, please visit https://aka.ms/cpu-quota",
            FailureClass.CAPACITY,
        ),
        ("AuthorizationFailed", "does not have authorization to perform action", FailureClass.AUTH),
        ("ExpiredAuthenticationToken", "expired", FailureClass.AUTH),
        ("InvalidAuthenticationToken", "The access token is invalid.", FailureClass.AUTH),
        ("AuthenticationFailed", "ClientSecretCredential: wrong secret", FailureClass.AUTH),
        ("InvalidParameter", "agentPoolProfile.count", FailureClass.CONFIG),
        ("PropertyChangeNotAllowed", "Changing property 'properties.vmSize'", FailureClass.CONFIG),
        ("ResourceGroupNotFound", "Resource group 'x' could not be found.", FailureClass.CONFIG),
        (
            "OperationNotAllowed",
            "Another agentpool operation (a - Creating) is in progress",
            FailureClass.TRANSIENT,
        ),
        ("TooManyRequests", "The request is being throttled", FailureClass.TRANSIENT),
        ("InternalServerError", "", FailureClass.TRANSIENT),
    ],
)
def test_azures_codes_are_classed(code: str, message: str, expected: FailureClass) -> None:
    assert classify(code, message) is expected


# -- what it costs before its machines have joined ---------------------------------------------------------------------

ASKED = {**LABELS, "kaito.sh/run-id": "r1", "kaito.sh/asked-at": "1700000000"}


@pytest.mark.parametrize(
    ("made", "counts"),
    [
        (pool("Creating", 2), [2]),
        (pool("Succeeded"), []),
        (pool("Deleting"), [0]),
        (pool("Scaling"), [0]),
        (failed("QuotaExceeded", "no cores"), []),
        (failed("VMExtensionProvisioningTimeout", "the node did not come up"), [1]),
        (pool("Canceled"), [1]),
    ],
)
def test_machines_are_rented_from_their_creation_whether_they_join_or_not(
    made: Any, counts: list[int]
) -> None:
    made["properties"] |= {"nodeLabels": ASKED, "vmSize": "Standard_NC6s_v3"}
    found = unregistered_capacity([made])
    assert [one.count for one in found] == counts
    assert {(one.pool, one.run, one.purpose, one.since.timestamp()) for one in found} <= {
        ("ws1", "r1", "tuning", 1700000000.0)
    }
    made["properties"]["nodeLabels"] = LABELS
    assert unregistered_capacity([made]) == [], "nobody can say since when"
