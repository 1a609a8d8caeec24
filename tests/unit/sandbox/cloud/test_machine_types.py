"""Every machine of the table makes a Node that can be scheduled on."""

from __future__ import annotations

import pytest

from include.catalog import load_catalog
from sandbox.cloud.machines import UnknownMachine, find_machine_type


@pytest.mark.parametrize("name", load_catalog().machine_names())
def test_every_machine_has_its_gpus(name):
    found = find_machine_type(name)
    assert found.capacity[found.resource] == str(load_catalog().machine(name).gpu_count)
    assert found.resource not in found.capacity_without_gpus


def test_names_are_spelt_as_the_cloud_spells_them():
    assert find_machine_type("STANDARD_nc6s_v3").name == "Standard_NC6s_v3"
    assert find_machine_type("Standard_NC6s_v3").resource == "nvidia.com/gpu"


def test_other_makers_gpus_have_other_names():
    assert find_machine_type("Standard_NG32ads_V620_v1").resource == "amd.com/gpu"


def test_machines_without_gpus_are_what_their_name_says():
    found = find_machine_type("Standard_D8s_v5")
    assert (found.capacity["cpu"], found.capacity["memory"]) == ("8", "32Gi")
    assert not any("/" in resource for resource in found.capacity)


def test_an_unknown_type_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownMachine, match="Standard_NC6s_v4"):
        find_machine_type("Standard_NC6s_v4")
