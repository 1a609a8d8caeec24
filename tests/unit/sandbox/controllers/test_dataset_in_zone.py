"""The disk of a tuning is made where its machine will be, by the sandbox's scheduler and volumes."""

from __future__ import annotations

import pytest

from include.catalog import load_catalog
from include.manifests import ManifestSettings, dataset_pod, work_volume
from include.planning import plan
from include.pools.volume_placement import ZONE, reading_zones
from include.workspace import parse_workspace
from sandbox.controllers.scheduler import Scheduler
from sandbox.controllers.volume_binding import CLAIMS, CLASSES, DISK_ZONE
from sandbox.controllers.volumes import VolumeBinder, storage_classes
from tests.support.fake_cluster import QUICK_START, RUN_ID

WORKSPACE = parse_workspace(QUICK_START)
SETTINGS = ManifestSettings("registry.example.com/workload:1", storage_class="sandbox-disk")
READY = [{"type": "Ready", "status": "True"}]


def in_zone(number: int) -> dict[str, str]:
    return {ZONE: f"sandbox-{number}", DISK_ZONE: f"sandbox-{number}"}


@pytest.mark.parametrize("machine", [1, 2])
async def test_a_machine_asked_for_in_a_zone_can_mount_what_the_dataset_step_wrote(
    cluster, feeds, tmp_path, add_node, make_node, make_pod, machine
):
    scheduler = Scheduler(cluster, feeds)
    binder = VolumeBinder(cluster, feeds, tmp_path)
    for class_ in storage_classes():
        await cluster.create(CLASSES, class_)
    for number in (1, 2):
        node = make_node(f"cpu-{number}", labels=in_zone(number))
        node["status"]["conditions"] = READY
        await add_node(node)
    nodes, _ = await cluster.list("nodes")
    zones = reading_zones([str(machine)], nodes)
    pod = dataset_pod(WORKSPACE, plan(WORKSPACE, load_catalog()), SETTINGS, RUN_ID, zones)
    volume = work_volume(WORKSPACE, SETTINGS)
    await cluster.create(CLAIMS, volume, "default")
    created = await cluster.create("pods", pod, "default")
    for _ in range(2):  # the pod chooses a node, the disk is made there, the pod follows
        await scheduler.reconcile(("default", created["metadata"]["name"]))
        await binder.reconcile(("default", volume["metadata"]["name"]))
    await scheduler.reconcile(("default", created["metadata"]["name"]))
    written = await cluster.get("pods", created["metadata"]["name"])
    assert written["spec"]["nodeName"] == f"cpu-{machine}"

    await add_node(make_node("gpu", labels=in_zone(machine), nvidia_com__gpu="1"))
    work = {"name": "work", "persistentVolumeClaim": {"claimName": volume["metadata"]["name"]}}
    await cluster.create("pods", make_pod("tuning", requests={"nvidia.com/gpu": "1"}, volumes=[work]))
    await scheduler.reconcile(("default", "tuning"))
    assert (await cluster.get("pods", "tuning"))["spec"].get("nodeName") == "gpu"
