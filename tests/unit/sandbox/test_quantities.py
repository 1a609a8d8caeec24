"""Resource quantities and what pods ask for."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.quantities import parse_quantity, pod_requests, qos_class


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", "0.5"),
        (2, 2),
        ("1Ki", 1024),
        ("16Gi", 16 * 2**30),
        ("1e3", 1000),
        ("1.5G", 1_500_000_000),
        (".5", "0.5"),
    ],
)
def test_quantities(text, value):
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1KiB", "one"])
def test_what_is_not_a_quantity(text):
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        parse_quantity(text)


@given(st.integers(0, 10**6), st.sampled_from(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]))
def test_binary_suffixes_are_powers_of_1024(number, suffix):
    power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].index(suffix) + 1
    assert parse_quantity(f"{number}{suffix}") == number * 1024**power


def container(requests=None, limits=None):
    return {"resources": {"requests": requests or {}, "limits": limits or {}}}


def test_containers_add_up_and_the_largest_init_container_counts():
    spec = {
        "containers": [container({"cpu": "1"}), container({"cpu": "500m", "memory": "1Gi"})],
        "initContainers": [container({"cpu": "4"}), container({"memory": "1Mi"})],
    }
    assert pod_requests(spec) == {"cpu": 4, "memory": 2**30}


def test_a_limit_is_a_request_where_none_is_stated():
    spec = {"containers": [container({"cpu": "1"}, {"cpu": "2", "nvidia.com/gpu": "1"})]}
    assert pod_requests(spec) == {"cpu": 1, "nvidia.com/gpu": 1}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([container()], "BestEffort"),
        ([container({"cpu": "1"})], "Burstable"),
        ([container({}, {"cpu": "1", "memory": "1Gi"})], "Guaranteed"),
        ([container({"cpu": "1000m", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"})], "Guaranteed"),
        ([container({}, {"cpu": "1", "memory": "1Gi"}), container()], "Burstable"),
    ],
)
def test_qos(containers, expected):
    assert qos_class({"containers": containers}) == expected
