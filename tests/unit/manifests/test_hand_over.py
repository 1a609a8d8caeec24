"""Which machines of a tuning go over to serving, and why the others are let go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.contracts.purpose import Purpose
from include.planning import Plan
from include.pools.hand_over import HandOverPlan, plan_hand_over
from include.pools.nodeclaim import TUNING_STORAGE_GIB
from include.pools.observed import ObservedPool, Owner, PoolMachine
from include.pools.status import PoolStatus

RUN = "default.w.r1"
MACHINE = "Standard_NC24ads_A100_v4"
GIB = 2**30


def of_plan(purpose: Purpose, **changes: Any) -> Plan:
    known: dict[str, Any] = {
        "purpose": purpose,
        "model": "phi-4",
        "model_id": "microsoft/phi-4",
        "revision": "main",
        "instance_type": MACHINE,
        "node_count": 1,
        "gpus_per_node": 1,
        "gpu": "NVIDIA A100",
        "dtype": "bfloat16",
        "weights_bytes": 28 * GIB,
    }
    return Plan(**{**known, **changes})


def machine(name: str = "a", *, ready: bool = True, offer: str = MACHINE, **changes: Any) -> ObservedPool:
    node = f"node-{name}"
    known: dict[str, Any] = {
        "provider": "nodeclaim",
        "kind": "NodeClaim",
        "name": name,
        "workspace": ("default", "w"),
        "purpose": "tuning",
        "run": RUN,
        "status": PoolStatus((node,), ready, "NodesReady", "", offer=offer),
        "machines": (PoolMachine(f"uid-{name}", name, node, RUN, "tuning", MACHINE, None),),
        "uid": f"uid-{name}",
        "instance_type": MACHINE,
        "single": True,
    }
    return ObservedPool(**{**known, **changes})


def decided(*pools: ObservedPool, tuned: dict[str, Any] | None = None, **serving: Any) -> HandOverPlan:
    return plan_hand_over(
        of_plan(Purpose.TUNING, **(tuned or {})),
        of_plan(Purpose.SERVING, **serving),
        pools or (machine(),),
        RUN,
        "nodeclaim",
    )


def test_the_machine_that_serving_would_ask_for_goes_over() -> None:
    found = decided()
    assert [pool.name for pool in found.pools] == ["a"]
    assert str(found) == "1 machine handed over to serving: NodeClaim a."


@pytest.mark.parametrize(
    ("tuned", "serving"),
    [
        ({"zone": "2"}, {}),  # serving takes any zone
        ({"zone": "2"}, {"zone": "2"}),
        ({"capacity_type": "spot"}, {"capacity_type": "spot"}),
        ({"capacity_type": "on-demand"}, {"capacity_type": "on-demand"}),
        ({"gpus_per_node": 8}, {"gpus_per_node": 8}),
        ({}, {"weights_bytes": (TUNING_STORAGE_GIB - 80) * GIB}),
    ],
)
def test_it_fits(tuned: dict[str, Any], serving: dict[str, Any]) -> None:
    offer = of_plan(Purpose.TUNING, **tuned).offer
    assert decided(machine(offer=offer), tuned=tuned, **serving).pools


@pytest.mark.parametrize(
    ("tuned", "serving", "words"),
    [
        ({}, {"instance_type": "Standard_NC6s_v3"}, "serving asks for Standard_NC6s_v3 and not for"),
        ({}, {"gpus_per_node": 2}, "serving uses 2 x NVIDIA A100"),
        ({"gpus_per_node": 2}, {}, "made with 2 x NVIDIA A100"),
        ({}, {"gpu": "NVIDIA A100 MIG 3g.40gb"}, "uses 1 x NVIDIA A100 MIG 3g.40gb"),
        ({}, {"node_count": 2}, "needs 2 machines, and 1 tuned"),
        ({}, {"zone": "1"}, "asks for zone 1, and the machines were asked for in any"),
        ({"zone": "2"}, {"zone": "1"}, "asks for zone 1, and the machines were asked for in 2"),
        ({"capacity_type": "spot"}, {}, "asks for the usual terms, and the machines came at spot terms"),
        ({"capacity_type": "spot"}, {"capacity_type": "on-demand"}, "came at spot terms"),
        ({}, {"capacity_type": "on-demand"}, "asks for on-demand terms"),
        ({}, {"weights_bytes": 1000 * GIB}, "needs a disk of 1080 GiB, and theirs has 1024 GiB"),
        ({"own_nodes": True}, {"own_nodes": True}, "BYO"),
    ],
)
def test_machines_that_serving_would_not_ask_for_are_let_go(
    tuned: dict[str, Any], serving: dict[str, Any], words: str
) -> None:
    found = decided(machine(offer=of_plan(Purpose.TUNING, **tuned).offer), tuned=tuned, **serving)
    assert (found.pools, words in str(found)) == ((), True), str(found)


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ([machine(run="default.w.r2")], "none of them is there"),
        ([machine(deleting="since 12:00")], "none of them is there"),
        ([machine(owner=Owner("NodePool", "p", "u", makes_pools=True))], "none of them is there"),
        ([machine(ready=False)], "NodeClaim a is not ready"),
        ([machine(machines=())], "NodeClaim a is not ready"),
        ([machine(offer="Standard_NC6s_v3")], "asked for as Standard_NC6s_v3"),
        ([machine(single=False, kind="NodePool")], "a NodePool cannot change its purpose"),
        ([machine(provider="aks", kind="agent pool")], "is of the provider aks"),
        ([machine(), machine("b")], "needs 1 machine, and 2 are there"),
        ([machine(), machine("s", purpose="serving")], "there are serving machines already (NodeClaim s)"),
    ],
)
def test_machines_that_cannot_go_over_are_let_go(pools: list[ObservedPool], words: str) -> None:
    found = decided(*pools)
    assert (found.pools, words in str(found)) == ((), True), str(found)
    assert str(found).startswith("The tuning machines are let go: ")


def test_without_a_rollout_there_is_nobody_to_hand_them_to() -> None:
    found = plan_hand_over(of_plan(Purpose.TUNING), None, [machine()], RUN, "nodeclaim")
    assert str(found) == "The tuning machines are let go: the Workspace asks for no rollout."


def test_a_serving_machine_that_is_going_does_not_count() -> None:
    assert decided(machine(), machine("s", purpose="serving", deleting="since 12:00")).pools


POOLS = st.lists(
    st.builds(
        lambda name, ready, **more: machine(name, ready=ready, **more),
        st.sampled_from("abcd"),
        st.booleans(),
        run=st.sampled_from([RUN, "default.w.r2"]),
        purpose=st.sampled_from(["tuning", "serving"]),
        deleting=st.sampled_from(["", "since 12:00"]),
        single=st.booleans(),
        provider=st.sampled_from(["nodeclaim", "aks"]),
    ),
    max_size=4,
    unique_by=lambda pool: pool.name,
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "node_count": st.integers(1, 2),
        "gpus_per_node": st.integers(1, 2),
        "zone": st.sampled_from(["", "1"]),
        "capacity_type": st.sampled_from(["", "spot"]),
    },
)


@given(POOLS, CHANGES, CHANGES)
def test_what_goes_over_is_all_that_the_run_holds_and_all_that_serving_needs(
    pools: list[ObservedPool], tuned: dict[str, Any], serving: dict[str, Any]
) -> None:
    offer = of_plan(Purpose.TUNING, **tuned).offer
    there = [replace(pool, status=replace(pool.status, offer=offer)) for pool in pools]
    before, after = of_plan(Purpose.TUNING, **tuned), of_plan(Purpose.SERVING, **serving)
    found = plan_hand_over(before, after, there, RUN, "nodeclaim")
    assert bool(found.pools) != bool(found.why_not), "one of both, never neither"
    if not found.pools:
        return
    held = [pool for pool in there if pool.run == RUN and pool.purpose == "tuning" and not pool.deleting]
    assert list(found.pools) == held, "nothing of the run is forgotten between tuning and serving"
    assert len(held) == after.node_count
    assert all(pool.status.ready and pool.provider == "nodeclaim" for pool in held)
    assert before.offer == after.offer or not after.zone
    assert not [pool for pool in there if pool.purpose == "serving" and not pool.deleting]
