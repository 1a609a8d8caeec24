"""The scheduler's filters and its words."""

from __future__ import annotations

import pytest

from sandbox.controllers.fitting import explain, is_crowded, obstacles, score, term_matches, tolerates

SKU = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
GPU_REQUEST = {"nvidia.com/gpu": "1"}


def test_a_pod_without_the_resource_is_told_what_is_insufficient(make_node, make_pod):
    assert obstacles(make_pod(requests=GPU_REQUEST), make_node("cpu"), []) == ["Insufficient nvidia.com/gpu"]


def test_every_insufficient_resource_is_named(make_node, make_pod):
    pod = make_pod(requests={"cpu": "5", "memory": "16Gi"})
    assert obstacles(pod, make_node("small"), []) == ["Insufficient cpu", "Insufficient memory"]


def test_what_other_pods_use_is_not_free(make_node, make_pod):
    node = make_node("gpu", nvidia_com__gpu="1")
    assert obstacles(make_pod(requests=GPU_REQUEST), node, []) == []
    other = make_pod("other", requests=GPU_REQUEST)
    assert obstacles(make_pod(requests=GPU_REQUEST), node, [other]) == ["Insufficient nvidia.com/gpu"]


def test_an_untolerated_taint_keeps_away(make_node, make_pod):
    node = make_node("gpu", taints=[SKU])
    assert obstacles(make_pod(), node, []) == ["node(s) had untolerated taint(s)"]
    tolerant = make_pod(
        tolerations=[{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
    )
    assert obstacles(tolerant, node, []) == []


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "sku", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "sku", "value": "gpu"}, True),
        ({"key": "sku", "value": "cpu"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "sku", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_tolerations(toleration, tolerated):
    assert tolerates(toleration, SKU) is tolerated


def test_a_preference_not_to_schedule_keeps_nobody_away(make_node, make_pod):
    node = make_node("node", taints=[{"key": "x", "effect": "PreferNoSchedule"}])
    assert obstacles(make_pod(), node, []) == []


def test_a_cordoned_node_takes_no_pods(make_node, make_pod):
    node = make_node("node")
    node["spec"]["unschedulable"] = True
    assert obstacles(make_pod(), node, []) == ["node(s) were unschedulable"]


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"key": "gpu", "operator": "In", "values": ["a100", "h100"]}, True),
        ({"key": "gpu", "operator": "In", "values": ["v100"]}, False),
        ({"key": "gpu", "operator": "NotIn", "values": ["v100"]}, True),
        ({"key": "none", "operator": "NotIn", "values": ["v100"]}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "gpu", "operator": "DoesNotExist"}, False),
        ({"key": "count", "operator": "Gt", "values": ["3"]}, True),
        ({"key": "count", "operator": "Gt", "values": ["4"]}, False),
        ({"key": "count", "operator": "Lt", "values": ["5"]}, True),
        ({"key": "gpu", "operator": "Lt", "values": ["5"]}, False),
    ],
)
def test_node_affinity_operators(make_node, expression, matches):
    node = make_node("node", labels={"gpu": "a100", "count": "4"})
    assert term_matches({"matchExpressions": [expression]}, node) is matches


def test_an_empty_term_selects_nothing(make_node):
    assert term_matches({}, make_node("node")) is False


def _required(*terms):
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    }


def test_required_terms_are_alternatives_and_node_selectors_are_not(make_node, make_pod):
    node = make_node("node", labels={"a": "1"})
    first = {"matchExpressions": [{"key": "b", "operator": "Exists"}]}
    second = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}
    assert obstacles(make_pod(affinity=_required(first, second)), node, []) == []
    assert obstacles(make_pod(affinity=_required(first)), node, []) == [
        "node(s) didn't match Pod's node affinity/selector"
    ]
    assert obstacles(make_pod(affinity=_required(second), nodeSelector={"b": "1"}), node, []) != []


def test_a_node_can_be_chosen_by_name(make_node, make_pod):
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["here"]}]}
    assert obstacles(make_pod(affinity=_required(by_name)), make_node("here"), []) == []
    assert obstacles(make_pod(affinity=_required(by_name)), make_node("there"), []) != []


def test_preferences_and_free_gpus_decide_between_nodes(make_node, make_pod):
    cpu, gpu = make_node("cpu"), make_node("gpu", labels={"fast": "yes"}, nvidia_com__gpu="1")
    assert score(make_pod(), cpu, []) > score(make_pod(), gpu, [])
    preference = {"weight": 1, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}
    wants_fast = make_pod(affinity=affinity)
    assert score(wants_fast, gpu, []) > score(wants_fast, cpu, [])


def test_the_message_counts_nodes_by_reason():
    reasons = [
        ["Insufficient nvidia.com/gpu"],
        ["node(s) had untolerated taint(s)"],
        ["Insufficient nvidia.com/gpu"],
    ]
    head = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient nvidia.com/gpu. "
    tail = "no new claims to deallocate, preemption: 0/3 nodes are available: "
    hopeless = "Preemption is not helpful for scheduling"
    assert explain(reasons, 3) == f"{head}{tail}3 {hopeless}."
    assert explain(reasons, 3, crowded=1) == (
        f"{head}{tail}1 No preemption victims found for incoming pod, 2 {hopeless}."
    )


def test_a_node_is_crowded_when_only_other_pods_are_in_the_way(make_node, make_pod):
    pod, node = make_pod(requests=GPU_REQUEST), make_node("gpu", nvidia_com__gpu="1")
    assert is_crowded(pod, node, obstacles(pod, node, [make_pod("other", requests=GPU_REQUEST)]))
    assert not is_crowded(pod, make_node("cpu"), ["Insufficient nvidia.com/gpu"])
    assert not is_crowded(pod, node, ["node(s) had untolerated taint(s)"])
