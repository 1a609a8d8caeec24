"""Two deployments and one Lease, on clocks that disagree."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from kaito.controller.leader_election import (
    AIRFLOW,
    DONE,
    NAME,
    SECONDS,
    Election,
    ObservedLease,
)
from kaito.hooks.api import LEASE, ClusterError, Kind, Request


class OneLease:
    """An API server that knows one Lease and a few namespaces; each write gets a new resourceVersion."""

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = namespaces
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.error: ClusterError | None = None
        self.writes: list[str] = []
        self.between: Any = None

    async def find(self, kind: Kind, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if self.error:
            raise self.error
        if kind is LEASE:
            assert name == NAME
            return copy.deepcopy(self.lease)
        return {"metadata": {"name": name}} if name in self.namespaces else None

    async def send(self, request: Request) -> dict[str, Any]:
        if self.error:
            raise self.error
        if self.between:  # somebody else is faster
            act, self.between = self.between, None
            act()
        given = (request.body["metadata"]).get("resourceVersion")
        present = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if (request.method == "POST" and self.lease) or (request.method == "PUT" and given != present):
            raise ClusterError(409, "Conflict", "the object has been modified")
        self.store(request.body)
        self.writes.append(request.method)
        return copy.deepcopy(self.lease or {})

    def store(self, lease: dict[str, Any]) -> None:
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def election(cluster: OneLease, identity: str, clock: Clock) -> Election:
    seen = ObservedLease()
    return Election(cluster, identity, f"http://{identity}", seen=seen, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def cluster() -> OneLease:
    return OneLease("default")


async def test_the_first_one_holds_it_and_the_second_says_who_does(cluster: OneLease) -> None:
    a, b = election(cluster, "a", Clock(0)), election(cluster, "b", Clock(5000))
    assert (await a.stand()).mine
    leadership = await b.stand()
    assert not leadership.mine
    assert "Passive" in leadership.message
    assert "http://a" in leadership.message
    assert cluster.lease["spec"]["holderIdentity"] == "a"
    assert cluster.lease["metadata"]["annotations"][AIRFLOW] == "http://a"


async def test_a_lease_that_is_renewed_is_never_taken_however_far_the_clocks_are_apart(
    cluster: OneLease,
) -> None:
    mine, theirs = Clock(0), Clock(1_000_000)
    a, b = election(cluster, "a", mine), election(cluster, "b", theirs)
    for _ in range(20):
        assert (await a.stand()).mine
        assert not (await b.stand()).mine
        mine.now, theirs.now = mine.now + 10, theirs.now + 10
    assert cluster.lease["spec"]["leaseTransitions"] == 0


async def test_a_lease_that_nobody_renews_is_taken_after_its_whole_duration_as_seen_here(
    cluster: OneLease,
) -> None:
    clock = Clock(0)
    await election(cluster, "a", Clock(0)).stand()
    b = election(cluster, "b", clock)
    assert not (await b.stand()).mine
    clock.now = SECONDS - 1
    assert not (await b.stand()).mine
    clock.now = SECONDS + 1
    assert (await b.stand()).mine
    assert cluster.lease["spec"]["holderIdentity"] == "b"
    assert cluster.lease["spec"]["leaseTransitions"] == 1


async def test_the_old_holder_learns_that_it_is_passive(cluster: OneLease) -> None:
    clock = Clock(0)
    a, b = election(cluster, "a", Clock(0)), election(cluster, "b", clock)
    await a.stand()
    await b.stand()
    clock.now = SECONDS + 1
    await b.stand()
    assert not (await a.stand()).mine
    assert cluster.lease["spec"]["holderIdentity"] == "b"


async def test_of_two_that_reach_out_at_once_one_gets_it(cluster: OneLease) -> None:
    clock = Clock(0)
    await election(cluster, "dead", Clock(0)).stand()
    a, b = election(cluster, "a", clock), election(cluster, "b", clock)
    await a.stand()
    await b.stand()
    clock.now = SECONDS + 1
    taken = copy.deepcopy(cluster.lease)
    taken["spec"]["holderIdentity"] = "b"
    cluster.between = lambda: cluster.store(taken)
    assert not (await a.stand()).mine
    assert cluster.lease["spec"]["holderIdentity"] == "b"


async def test_another_process_of_the_same_deployment_is_no_rival(cluster: OneLease) -> None:
    a = election(cluster, "a", Clock(0))
    await a.stand()
    renewed = copy.deepcopy(cluster.lease)
    cluster.between = lambda: cluster.store(renewed)
    assert (await a.stand()).mine


async def test_a_task_renews_but_never_takes(cluster: OneLease) -> None:
    task = election(cluster, "b", Clock(0))
    assert not (await task.stand(may_take=False)).mine  # nobody's
    await election(cluster, "a", Clock(0)).stand()
    for now in (0, 10 * SECONDS):  # however long it watches a Lease that nobody renews
        task.clock = Clock(now)
        assert not (await task.stand(may_take=False)).mine
    assert (await replace(task, identity="a").stand(may_take=False)).mine


async def test_what_a_task_has_done_is_found_by_the_next_wait_and_not_by_another_deployment(
    cluster: OneLease,
) -> None:
    a = election(cluster, "a", Clock(0))
    await a.stand()
    await a.stand(done="token-1")
    assert (await a.stand()).last_pass == "token-1"
    cluster.lease["spec"]["holderIdentity"] = ""
    assert (await election(cluster, "b", Clock(0)).stand()).last_pass == ""
    assert cluster.lease["metadata"]["annotations"][DONE] == ""


async def test_a_short_outage_loses_nothing_and_a_long_one_does(cluster: OneLease) -> None:
    clock = Clock(0)
    a = election(cluster, "a", clock)
    await a.stand()
    cluster.error = ClusterError(503, "ServiceUnavailable", "etcd is down")
    clock.now = 10
    assert (await a.stand()).mine
    clock.now = SECONDS
    assert not (await a.stand()).mine


async def test_a_forbidden_lease_says_what_to_allow(cluster: OneLease) -> None:
    cluster.error = ClusterError(403, "Forbidden", "leases is forbidden")
    leadership = await election(cluster, "a", Clock(0)).stand()
    assert not leadership.mine
    assert "leases.coordination.k8s.io" in leadership.message
    assert "lease_namespace" in leadership.message


@pytest.mark.parametrize(
    ("namespaces", "expected"), [(("default",), "default"), (("default", "kaito-system"), "kaito-system")]
)
async def test_it_lives_beside_kaito_where_there_is_such_a_place(
    namespaces: tuple[str, ...], expected: str
) -> None:
    cluster = OneLease(*namespaces)
    await election(cluster, "a", Clock(0)).stand()
    assert cluster.lease["metadata"]["namespace"] == expected
