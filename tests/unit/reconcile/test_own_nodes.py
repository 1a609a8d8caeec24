"""BYO nodes (bring your own), judged; and the stage that a slow machine of any provider is in."""

from __future__ import annotations

from typing import Any

import pytest

from include.pools.aks import agent_pool_status
from include.pools.byo import own_nodes_status
from include.pools.nodeclaim import pool_status
from include.pools.status import PoolStatus, Stage
from include.workspace import parse_workspace
from include.workspace.api import names
from tests.support.agent_pools import node as agent_node
from tests.support.agent_pools import pool as agent_pool

WORKSPACE = parse_workspace(
    {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "w"},
        "resource": {"labelSelector": {"matchLabels": {"app": "x"}}},
        "inference": {"preset": {"name": "phi-3-mini-128k-instruct"}},
    }
)


def node(name: str, *, gpus: int = 2, offers: int | None = None, ready: str = "True", **labels: str) -> Any:
    said = {
        "app": "x",
        "nvidia.com/gpu.product": "Tesla-T4",
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.memory": "15360",
    }
    return {
        "metadata": {"name": name, "labels": {**said, **labels}},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"nvidia.com/gpu": str(gpus if offers is None else offers)},
        },
    }


def judge(*nodes: Any, wanted: int = 1) -> PoolStatus:
    return own_nodes_status(WORKSPACE, nodes, wanted)


def test_enough_nodes_that_match_are_ready_whatever_the_others_are() -> None:
    status = judge(node("b"), node("a"), node("c", ready="False"), wanted=2)
    assert (status.ready, status.nodes) == (True, ("a", "b"))


@pytest.mark.parametrize(
    ("one", "stage", "words"),
    [
        (node("n", ready="False"), Stage.BOOT, "Node n is not Ready"),
        (node("n", offers=0), Stage.DRIVER, "offers no nvidia.com/gpu"),
        (node("n", offers=1), Stage.DRIVER, "Node n has 2 GPUs by its labels and offers 1"),
        (node("n", **{"nvidia.com/gpu.memory": "?"}), Stage.DRIVER, "nvidia.com/gpu.memory"),
        ({**node("n"), "spec": {"unschedulable": True}}, Stage.BOOT, "kubectl uncordon n"),
        (node("n", app="y"), Stage.LAUNCH, "0 of 1 node with app=x"),
        (node("n", **{names.WORKSPACE: "other"}), Stage.LAUNCH, "0 of 1 node"),
    ],
)
def test_a_node_that_cannot_take_the_work_is_waited_for(one: Any, stage: Stage, words: str) -> None:
    status = judge(one)
    assert (status.ready, status.failed, status.stage) == (False, False, stage)
    assert words in status.message


def claim(name: str, *done: str, node_name: str = "") -> Any:
    conditions = [{"type": step, "status": "True"} for step in done]
    return {"metadata": {"name": name}, "status": {"conditions": conditions, "nodeName": node_name}}


@pytest.mark.parametrize(
    ("claims", "stage"),
    [
        ([claim("a")], Stage.LAUNCH),
        ([claim("a", "Launched")], Stage.BOOT),
        ([claim("a", "Launched", "Registered")], Stage.DRIVER),
        ([claim("a", "Launched", "Registered", "Initialized", "Ready", node_name="n")], Stage.DRIVER),
        ([claim("a", "Launched", "Registered"), claim("b")], Stage.LAUNCH),
    ],
)
def test_the_slowest_machine_tells_the_stage(claims: Any, stage: Stage) -> None:
    assert pool_status(claims, [node("n", offers=0)]).stage == stage


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ([agent_node("a")], Stage.LAUNCH),
        ([agent_node("a"), agent_node("b", ready="False")], Stage.BOOT),
        ([agent_node("a"), agent_node("b", gpus="0")], Stage.DRIVER),
    ],
)
def test_the_stage_of_an_agent_pool(nodes: Any, stage: Stage) -> None:
    assert agent_pool_status([agent_pool("Creating", count=2)], nodes).stage == stage
