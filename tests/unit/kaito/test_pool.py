"""GPU pools: when they are ready, whose fault it is when not, and that a run only takes what is its own."""

from __future__ import annotations

from typing import Any

import pytest
from kaito.hooks.api import NODE, ClusterError
from kaito.providers.base import (
    FailureClass,
    ForeignPool,
    GpuPool,
    PoolKey,
    PoolTaken,
    classify,
)
from kaito.providers.nodeclaim import NODE_CLAIM, NodeClaims
from kaito.providers.selection import failure_class

from include.contracts.purpose import Purpose
from include.pools.nodeclaim import pool_status
from tests.support.fake_cluster import FakeCluster
from tests.support.node_claims import KEY, TYPE, claim, node, ready_claim
from tests.support.providers import blocking


def test_a_pool_is_ready_when_its_nodes_offer_gpus() -> None:
    status = pool_status([ready_claim("a", "n1")], [node("n1"), node("other")])
    assert status.ready
    assert status.nodes == ("n1",)


@pytest.mark.parametrize(
    ("nodes", "reason", "words"),
    [
        ([], "NodeNotReady", "not joined"),
        ([node("n1", ready="False")], "NodeNotReady", "kubelet says no"),
        ([node("n1", gpus=0)], "NodePluginsNotReady", "offers no nvidia.com/gpu"),
    ],
)
def test_a_ready_claim_is_not_enough(nodes: list[dict[str, Any]], reason: str, words: str) -> None:
    status = pool_status([ready_claim("a", "n1")], nodes)
    assert (status.ready, status.reason) == (False, reason)
    assert words in status.message
    assert not status.failed


def test_the_clouds_own_words_reach_the_status_and_stop_the_wait() -> None:
    said = "Operation could not be completed as it results in exceeding approved Total Regional Cores quota"
    status = pool_status([claim("a", Launched=("Unknown", "LaunchFailed", said))], [])
    assert status.failed
    assert (status.failure_class, status.reason) == (FailureClass.QUOTA, "LaunchFailed")
    assert said in status.message


def test_one_failed_machine_speaks_for_the_pool() -> None:
    waiting = claim("a", Launched="True", Registered=("Unknown", "NodeNotFound", "booting"))
    failed = claim("b", Launched=("False", "LaunchFailed", "SkuNotAvailable in eastus"))
    status = pool_status([waiting, failed], [])
    assert status.failure_class is FailureClass.CAPACITY
    assert "(0 of 2 machines ready)" in status.message


def test_a_pool_that_waits_for_its_last_machine_says_how_many_it_has() -> None:
    waiting = claim("b", Launched="True", Registered=("Unknown", "NodeNotFound", "booting"))
    status = pool_status([ready_claim("a", "n1"), waiting], [node("n1")])
    assert (status.ready, status.message) == (False, "NodeClaim b: booting (1 of 2 machines ready)")


def test_a_pool_whose_claims_were_deleted_is_lost() -> None:
    gone = claim("a")
    gone["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    assert pool_status([gone], []).failed


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("QuotaExceeded: 0 of 6 cores", FailureClass.QUOTA),
        ("InsufficientInstanceCapacity", FailureClass.CAPACITY),
        ("AuthorizationFailed: the client does not have permission", FailureClass.AUTH),
        ("BadRequest: VM size is not supported", FailureClass.CONFIG),
        ("connection reset by peer", FailureClass.TRANSIENT),
    ],
)
def test_failures_are_classed_by_the_providers_words(message: str, expected: FailureClass) -> None:
    assert classify("LaunchFailed", message) is expected


def pool(*names: str, purpose: str = Purpose.TUNING, run: str = "run-1") -> GpuPool:
    return GpuPool(PoolKey("w", "default", purpose), run, TYPE, tuple(claim(name, run) for name in names))


def test_create_is_get_or_create(cluster: FakeCluster) -> None:
    machines = blocking(NodeClaims, cluster)
    assert machines.create(pool("a", "b")) == ["a", "b"]
    assert machines.create(pool("a", "b")) == []


def test_a_second_try_adds_only_what_is_missing(cluster: FakeCluster) -> None:
    cluster.add(NODE_CLAIM, claim("a"))
    assert blocking(NodeClaims, cluster).create(pool("a", "b")) == ["b"]


def test_a_claim_that_is_going_is_not_taken_for_one_that_is_there(cluster: FakeCluster) -> None:
    going = claim("a")
    going["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    cluster.add(NODE_CLAIM, going)
    assert blocking(NodeClaims, cluster).create(pool("a")) == ["a"]


def test_two_runs_never_share_a_tuning_pool(cluster: FakeCluster) -> None:
    cluster.add(NODE_CLAIM, claim("a", run="run-0"))
    with pytest.raises(PoolTaken, match="run-0"):
        blocking(NodeClaims, cluster).create(pool("a"))


def test_a_foreign_claim_of_our_name_is_not_taken_for_ours(cluster: FakeCluster) -> None:
    foreign = claim("b")
    foreign["metadata"]["labels"] = {"team": "other"}
    cluster.add(NODE_CLAIM, foreign)
    with pytest.raises(ForeignPool, match=r"NodeClaim b .* not touched"):
        blocking(NodeClaims, cluster).create(pool("a", "b"))
    assert blocking(NodeClaims, cluster).delete(KEY, "run-1") == ["a"]
    assert ("nodeclaims", "", "b") in cluster.objects


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, FailureClass.AUTH),
        (403, FailureClass.AUTH),
        (404, FailureClass.CONFIG),
        (422, FailureClass.CONFIG),
        (409, FailureClass.TRANSIENT),
        (503, FailureClass.TRANSIENT),
        (0, FailureClass.TRANSIENT),
    ],
)
def test_what_the_api_server_refuses_for_good_is_no_passing_trouble(
    status: int, expected: FailureClass
) -> None:
    assert failure_class(ClusterError(status, "Reason", "nodeclaims.karpenter.sh: no")) is expected


def test_a_serving_pool_is_used_again_by_a_later_run(cluster: FakeCluster) -> None:
    key = PoolKey("w", "default", Purpose.SERVING)
    older = claim("old", run="run-0")
    older["metadata"]["labels"].update(key.labels)
    cluster.add(NODE_CLAIM, older)
    assert blocking(NodeClaims, cluster).create(pool("new", purpose=Purpose.SERVING)) == []


def test_delete_takes_only_the_runs_own_machines(cluster: FakeCluster) -> None:
    cluster.add(NODE_CLAIM, claim("mine", node="n1"))
    cluster.add(NODE_CLAIM, claim("theirs", run="run-0"))
    cluster.add(NODE, node("n1"))
    left = blocking(NodeClaims, cluster).delete(KEY, "run-1")
    assert left == ["mine", "n1"]
    assert [c["metadata"]["name"] for c in cluster.list(NODE_CLAIM)] == ["theirs"]


def test_a_claim_that_is_handed_over_while_it_is_being_released_stays(cluster: FakeCluster) -> None:
    """The label is what the list saw; between the list and the deletion a newer run may have taken the machine."""
    cluster.add(NODE_CLAIM, claim("a", node="n1"))
    cluster.add(NODE, node("n1"))
    listed = cluster.list

    def then_handed_over(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        seen = listed(*args, **kwargs)
        metadata = cluster.objects["nodeclaims", "", "a"]["metadata"]
        metadata["labels"]["kaito.sh/run-id"] = "run-2"
        metadata["resourceVersion"] = "2"
        return seen

    cluster.list = then_handed_over  # type: ignore[method-assign]
    blocking(NodeClaims, cluster).delete_and_wait(KEY, "run-1", timeout=0, poll=0)
    assert cluster.deleted == []
    assert ("nodeclaims", "", "a") in cluster.objects


class Patches:
    """What is patched of claim "a" and its Node, and which of them the API server refuses."""

    def __init__(self, cluster: FakeCluster, claim: dict[str, Any], refusing: dict[str, int]) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.claim, self.refusing = claim, refusing
        cluster.send = self.send  # type: ignore[method-assign]

    def send(self, request: Any) -> dict[str, Any]:
        plural = request.path.split("/")[-2]
        if status := self.refusing.get(plural):
            raise ClusterError(status, "Refused", f"{plural}: no")
        self.sent.append((plural, request.body["metadata"]))
        return self.claim if plural == "nodeclaims" else node("n1")


def handed(cluster: FakeCluster, *purpose: str, going: bool = False, **refusing: int) -> tuple[bool, Patches]:
    live = ready_claim("a", "n1")
    live["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    (seen,) = NodeClaims.read({NODE_CLAIM.plural: [live]}, [node("n1")])
    if going:
        live["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
    patches = Patches(cluster, live, refusing)
    return blocking(NodeClaims, cluster).hand_over(seen, "run-2", *purpose), patches


def test_a_claim_goes_to_another_run_as_long_as_it_is_the_same_one(cluster: FakeCluster) -> None:
    done, patches = handed(cluster)
    labels = {"labels": {"kaito.sh/run-id": "run-2"}}
    assert (done, patches.sent) == (True, [("nodeclaims", {"uid": "u", **labels}), ("nodes", labels)])
    assert handed(cluster, nodes=403)[0], "the claim decides"


def test_a_purpose_changes_on_the_node_first_and_only_as_it_was_read(cluster: FakeCluster) -> None:
    done, patches = handed(cluster, Purpose.SERVING)
    labels = {"labels": {"kaito.sh/run-id": "run-2", "kaito.sh/pool": "serving"}}
    guarded = {"uid": "u", "resourceVersion": "7", **labels}
    assert (done, patches.sent) == (True, [("nodes", labels), ("nodeclaims", guarded)])


@pytest.mark.parametrize("purpose", [(), (Purpose.SERVING,)])
def test_a_claim_that_is_going_or_gone_is_handed_to_nobody(
    cluster: FakeCluster, purpose: tuple[Purpose, ...]
) -> None:
    assert not handed(cluster, *purpose, going=True)[0]
    for status in (404, 409, 422):
        assert not handed(cluster, *purpose, nodeclaims=status)[0]


def test_a_node_that_cannot_say_its_new_purpose_keeps_its_claim_as_it_was(cluster: FakeCluster) -> None:
    """Pods of a service run only where the Node says serving: the machine would be paid for and never used."""
    done, patches = handed(cluster, Purpose.SERVING, nodes=404)
    assert (done, patches.sent) == (False, [])
    with pytest.raises(ClusterError, match="nodes: no"):
        handed(cluster, Purpose.SERVING, nodes=403)


def test_release_returns_when_the_machines_are_gone_and_complains_when_they_stay(
    cluster: FakeCluster,
) -> None:
    cluster.add(NODE_CLAIM, claim("a"))
    blocking(NodeClaims, cluster).delete_and_wait(KEY, "run-1", timeout=5, poll=0)
    assert cluster.list(NODE_CLAIM) == []
    cluster.add(NODE_CLAIM, claim("b", node="n1"))
    cluster.add(NODE, node("n1"))
    with pytest.raises(TimeoutError, match="n1"):
        blocking(NodeClaims, cluster).delete_and_wait(KEY, "run-1", timeout=0.05, poll=0)
    cluster.add(NODE_CLAIM, claim("a"))
    cluster.lingering.add("a")
    with pytest.raises(TimeoutError, match="a"):
        blocking(NodeClaims, cluster).delete_and_wait(KEY, "run-1", timeout=0, poll=0)


def test_a_refused_list_is_not_taken_for_an_empty_pool(cluster: FakeCluster) -> None:
    cluster.refuse["list", "nodeclaims"] = ClusterError(403, "Forbidden", "nodeclaims is forbidden")
    with pytest.raises(ClusterError, match="forbidden"):
        blocking(NodeClaims, cluster).delete(KEY, "run-1")
