"""MIG slices: which there are on which GPU, and what a pod with one sees."""

from __future__ import annotations

import pytest

from include.catalog import load_catalog, machine_from_labels, mig
from include.catalog.machines import Machine

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("machine", "profiles"),
    [
        ("Standard_ND96asr_A100_v4", ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")),
        ("Standard_NC24ads_A100_v4", ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")),
        ("p5.48xlarge", ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")),
        ("Standard_NC40ads_H100_v5", ("1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb")),
        ("Standard_ND96isr_H200_v5", ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb")),
        ("Standard_NV36ads_A10_v5", ()),
        ("Standard_NC6s_v3", ()),
        ("trn1.2xlarge", ()),
    ],
)
def test_the_profiles_of_a_machines_gpu(machine: str, profiles: tuple[str, ...]) -> None:
    assert mig.profiles_of(CATALOG.machine(machine)) == profiles


@pytest.mark.parametrize(
    ("product", "mib", "last"),
    [
        ("NVIDIA-A100-SXM4-80GB", 81920, "7g.80gb"),
        ("NVIDIA-A100-PCIE-40GB", 40536, "7g.40gb"),
        ("NVIDIA-A30", 24576, "4g.24gb"),
        ("NVIDIA-H100-NVL", 95830, "7g.94gb"),
        ("NVIDIA-H100-80GB-HBM3", 81559, "7g.80gb"),
        ("NVIDIA-GH200-480GB", 97871, "7g.96gb"),
        ("NVIDIA-B200", 183359, "7g.180gb"),
    ],
)
def test_the_profiles_of_a_node_that_was_brought(product: str, mib: int, last: str) -> None:
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.memory": str(mib),
    }
    assert mig.profiles_of(machine_from_labels(labels))[-1] == last


@pytest.mark.parametrize("profiles", mig.PROFILES.values(), ids=map(str, mig.PROFILES))
def test_every_profile_of_the_table_is_one(profiles: tuple[str, ...]) -> None:
    parsed = [mig.parse_profile(text) for text in profiles]
    assert [profile.memory_gib for profile in parsed] == sorted(profile.memory_gib for profile in parsed)
    assert all(profile.memory_gib * profile.compute > 0 for profile in parsed)


def test_the_table_holds_kaitos_profiles() -> None:
    """kaito v0.12 pkg/utils/mig"""
    upstream = """1g.6gb 2g.12gb 4g.24gb 1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb 1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb
    7g.80gb 1g.12gb 1g.24gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb 3g.48gb 4g.48gb 7g.96gb 1g.18gb 1g.35gb 2g.35gb 3g.71gb
    4g.71gb 7g.141gb 1g.23gb 1g.45gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb"""
    assert set(upstream.split()) == mig.KNOWN


@pytest.mark.parametrize(
    "text",
    ["", "1g.10GB", " 1g.10gb", "1g.10gb+me", "1g10gb", "8g.10gb", "1g.010gb", "mig-1g.10gb", "\u0661g.10gb"],
)
def test_what_is_no_profile_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(mig.UnknownProfile, match=r"must be like 1g\.10gb"):
        mig.parse_profile(text)


def test_a_profile_that_no_gpu_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(mig.UnknownProfile, match=r"there are 1g\.5gb, 1g\.6gb, .*7g\.180gb"):
        mig.parse_profile("1g.99gb")


def test_a_pod_with_a_slice_sees_one_small_gpu() -> None:
    machine = CATALOG.machine("Standard_NC48ads_A100_v4")
    seen = mig.slice_of(machine, "3g.40gb")
    assert (seen.gpus, seen.gpu_memory_gib, seen.capability) == (1, 40.0, (8, 0))
    assert mig.parse_profile("3g.40gb").resource == "nvidia.com/mig-3g.40gb"


@pytest.mark.parametrize(
    ("machine", "said"),
    [("Standard_ND96asr_A100_v4", "it has 1g.5gb, "), ("Standard_NC6s_v3", "it has no MIG")],
)
def test_a_slice_of_another_gpu_is_refused(machine: str, said: str) -> None:
    with pytest.raises(mig.UnknownProfile, match=said):
        mig.slice_of(CATALOG.machine(machine), "7g.80gb")


def test_a_machine_without_a_known_gpu_has_no_profiles() -> None:
    assert mig.profiles_of(Machine("x", "byo", "NVIDIA A100X", 1, 80)) == ()
