"""Nodes that somebody brings along: what they are, by their labels."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.catalog import NodeLabelsIncomplete, machine_from_labels

A100 = {
    "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
    "nvidia.com/gpu.count": "8",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.compute.major": "8",
    "nvidia.com/gpu.compute.minor": "0",
}


def test_the_labels_of_gpu_feature_discovery_make_a_machine() -> None:
    machine = machine_from_labels(A100)
    assert (machine.gpu, machine.gpus, machine.gpu_memory_gib) == ("NVIDIA A100-SXM4-80GB", 8, 80)
    assert (machine.cloud, machine.capability, machine.bf16, machine.usd_per_hour) == (
        "byo",
        (8, 0),
        True,
        None,
    )
    assert machine.name == "NVIDIA-A100-SXM4-80GB"


def test_the_name_is_the_instance_type_where_the_node_has_one() -> None:
    assert machine_from_labels(A100 | {"node.kubernetes.io/instance-type": "bare-7"}).name == "bare-7"


@pytest.mark.parametrize(
    ("product", "mib", "gib", "capability"),
    [
        ("Tesla-T4", "15360", 15, (7, 5)),
        ("Tesla-V100-SXM2-16GB", "16384", 16, (7, 0)),
        ("NVIDIA-H100-80GB-HBM3", "81559", 80, (9, 0)),
        ("NVIDIA-L40S", "46068", 45, (8, 9)),
        ("NVIDIA-A10G", "23028", 22, (8, 6)),
    ],
)
def test_without_a_capability_the_product_says_it(
    product: str, mib: str, gib: int, capability: tuple[int, int]
) -> None:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": "1", "nvidia.com/gpu.memory": mib}
    machine = machine_from_labels(labels)
    assert (machine.gpu_memory_gib, machine.capability) == (gib, capability)
    assert machine.gpu.startswith("NVIDIA ")


def test_kaitos_older_capability_labels_count_too() -> None:
    labels = {key: value for key, value in A100.items() if "compute" not in key}
    labels |= {"nvidia.com/gpu.product": "NVIDIA-New", "nvidia.com/cuda.compute.major": "12"}
    assert machine_from_labels(labels).capability == (12, 0)


def test_a_node_in_slices_is_a_machine_of_slices() -> None:
    labels = A100 | {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
        "nvidia.com/gpu.count": "7",
        "nvidia.com/gpu.memory": "9728",
    }
    machine = machine_from_labels(labels)
    assert (machine.gpus, machine.gpu_memory_gib) == (7, 10)


def test_all_missing_labels_are_named_at_once() -> None:
    with pytest.raises(NodeLabelsIncomplete) as error:
        machine_from_labels({})
    for label in ("product", "count", "memory"):
        assert f"nvidia.com/gpu.{label} is missing" in str(error.value)


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("nvidia.com/gpu.count", "0", "'0', not a number above 0"),
        ("nvidia.com/gpu.count", "many", "'many', not a number above 0"),
        ("nvidia.com/gpu.memory", "80Gi", "'80Gi', not a number above 0"),
        ("nvidia.com/gpu.memory", "\u0661\u0662", "not a number above 0"),
        ("nvidia.com/gpu.compute.major", "x", "not a compute capability"),
        ("nvidia.com/gpu.product", "", "nvidia.com/gpu.product is missing"),
    ],
)
def test_a_wrong_label_is_named(label: str, value: str, said: str) -> None:
    with pytest.raises(NodeLabelsIncomplete, match=r"GPU feature discovery") as error:
        machine_from_labels(A100 | {label: value})
    assert said in str(error.value)


def test_a_product_of_no_known_capability_is_not_guessed() -> None:
    labels = {key: value for key, value in A100.items() if "compute" not in key}
    with pytest.raises(NodeLabelsIncomplete, match="capability of NVIDIA-Z900 is not known"):
        machine_from_labels(labels | {"nvidia.com/gpu.product": "NVIDIA-Z900"})


@given(st.dictionaries(st.sampled_from(sorted(A100)), st.text(max_size=12)))
def test_any_labels_make_a_machine_or_a_sentence(labels: dict[str, str]) -> None:
    with suppress(NodeLabelsIncomplete):
        machine = machine_from_labels(labels)
        assert machine.gpus > 0
        assert machine.capability > (0, 0)
