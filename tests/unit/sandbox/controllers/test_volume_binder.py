"""Claims get folders, and folders go with their claims."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.controllers.volume_binding import CLAIMS, CLASSES, DISK_ZONE, SELECTED_NODE, VOLUMES
from sandbox.controllers.volumes import VolumeBinder, storage_classes

KEY = ("default", "work")
FILES = next(class_ for class_ in storage_classes() if class_["metadata"]["name"] == "sandbox-file")


@pytest.fixture
async def binder(cluster, feeds, tmp_path):
    for class_ in storage_classes():
        await cluster.create(CLASSES, class_)
    return VolumeBinder(cluster, feeds, tmp_path)


async def until_gone(cluster):
    """The API server lets go of a claim in a turn of its own, once no pod uses it."""
    async with asyncio.timeout(30):
        while (await cluster.list(CLAIMS, "default"))[0]:
            await asyncio.sleep(0.005)


def claim(**spec):
    spec = {"storageClassName": "sandbox-file", **spec}
    body = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, **spec}
    return {"metadata": {"name": "work"}, "spec": body}


async def test_a_claim_is_bound_to_a_folder_anybody_may_write(cluster, binder, tmp_path):
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    found = await cluster.get(CLAIMS, "work", "default")
    volume = await cluster.get(VOLUMES, found["spec"]["volumeName"])
    assert found["status"]["phase"] == volume["status"]["phase"] == "Bound"
    assert found["status"]["capacity"] == {"storage": "2Gi"}
    folder = tmp_path / volume["metadata"]["name"]
    assert volume["spec"]["hostPath"]["path"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o777


async def test_a_deleted_claim_takes_volume_and_folder_along(cluster, binder, tmp_path):
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    (next(tmp_path.iterdir()) / "checkpoint").write_text("x")
    await cluster.delete(CLAIMS, "work", "default")
    await until_gone(cluster)
    await binder.reconcile(KEY)
    await asyncio.sleep(0.02)
    assert (await cluster.list(VOLUMES))[0] == []
    assert list(tmp_path.iterdir()) == []


async def test_a_claim_in_use_keeps_its_folder(cluster, binder, tmp_path, make_pod):
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    volume = {"name": "work", "persistentVolumeClaim": {"claimName": "work"}}
    await cluster.create("pods", make_pod(volumes=[volume], nodeName="node"))
    await cluster.delete(CLAIMS, "work", "default")
    await binder.reconcile(KEY)
    assert len(list(tmp_path.iterdir())) == 1
    await cluster.delete("pods", "pod", "default", {"gracePeriodSeconds": 0})
    await until_gone(cluster)
    await binder.reconcile(KEY)
    assert list(tmp_path.iterdir()) == []


async def test_a_retained_volume_survives_its_claim(cluster, binder, tmp_path):
    await cluster.create(CLASSES, {**FILES, "metadata": {"name": "keep"}, "reclaimPolicy": "Retain"})
    await cluster.create(CLAIMS, claim(storageClassName="keep"), "default")
    await binder.reconcile(KEY)
    await cluster.delete(CLAIMS, "work", "default")
    await until_gone(cluster)
    await binder.reconcile(KEY)
    volumes, _ = await cluster.list(VOLUMES)
    assert [volume["status"]["phase"] for volume in volumes] == ["Released"]
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_new_claim_of_the_same_name_gets_a_folder_of_its_own(cluster, binder, tmp_path):
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    before = {path.name for path in tmp_path.iterdir()}
    await cluster.delete(CLAIMS, "work", "default")
    await until_gone(cluster)
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    after = {path.name for path in tmp_path.iterdir()}
    assert len(after) == 1
    assert after != before


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("nowhere", "ProvisioningFailed", 'storageclass.storage.k8s.io "nowhere" not found'),
        ("theirs", "ExternalProvisioning", "by the external provisioner 'disk.csi.azure.com'"),
        ("", "FailedBinding", "no persistent volumes available for this claim and no storage class is set"),
    ],
)
async def test_a_claim_of_another_class_stays_pending_and_says_why(cluster, binder, name, reason, words):
    await cluster.create(
        CLASSES, {**FILES, "metadata": {"name": "theirs"}, "provisioner": "disk.csi.azure.com"}
    )
    await cluster.create(CLAIMS, claim(storageClassName=name), "default")
    await binder.reconcile(KEY)
    assert (await cluster.get(CLAIMS, "work", "default"))["status"]["phase"] == "Pending"
    events, _ = await cluster.list("events")
    assert [event["reason"] for event in events] == [reason]
    assert words in events[0]["message"]


async def affinity(cluster):
    """The one term of the only volume's node affinity, None without any."""
    [volume], _ = await cluster.list(VOLUMES)
    required = volume["spec"].get("nodeAffinity", {}).get("required")
    return required and required["nodeSelectorTerms"][0]["matchExpressions"][0]


async def select(cluster, node):
    await cluster.patch(CLAIMS, "work", {"metadata": {"annotations": {SELECTED_NODE: node}}}, "default")


async def test_the_default_class_waits_for_a_pod_and_provisions_in_its_zone(
    cluster, binder, add_node, make_node
):
    await add_node(make_node("here", labels={DISK_ZONE: "sandbox-2"}))
    waiting = claim()
    del waiting["spec"]["storageClassName"]
    await cluster.create(CLAIMS, waiting, "default")
    await binder.reconcile(KEY)
    assert (await cluster.list(VOLUMES))[0] == []
    [event], _ = await cluster.list("events")
    assert (event["reason"], event["message"]) == (
        "WaitForFirstConsumer",
        "waiting for first consumer to be created before binding",
    )
    await select(cluster, "here")
    await binder.reconcile(KEY)
    assert await affinity(cluster) == {"key": DISK_ZONE, "operator": "In", "values": ["sandbox-2"]}


async def test_a_chosen_node_that_is_gone_is_forgotten(cluster, binder):
    await cluster.create(CLAIMS, claim(storageClassName="sandbox-disk"), "default")
    await select(cluster, "gone")
    assert await binder.reconcile(KEY) == pytest.approx(1.0)
    assert SELECTED_NODE not in (await cluster.get(CLAIMS, "work"))["metadata"].get("annotations", {})
    events, _ = await cluster.list("events")
    assert events[0]["message"] == 'failed to get target node: nodes "gone" not found'


async def test_an_immediate_disk_is_where_the_cluster_is(cluster, binder, add_node, make_node):
    await cluster.create(CLAIMS, claim(storageClassName="sandbox-disk-immediate"), "default")
    assert await binder.reconcile(KEY) == pytest.approx(1.0), "there is no node yet"
    await add_node(make_node("cpu", labels={DISK_ZONE: ""}))
    await binder.reconcile(KEY)
    assert await affinity(cluster) == {"key": DISK_ZONE, "operator": "In", "values": [""]}


async def test_a_volume_of_a_node_belongs_to_it(cluster, binder, add_node, make_node):
    await add_node(make_node("here", labels={"kubernetes.io/hostname": "here"}))
    await cluster.create(CLAIMS, claim(storageClassName="sandbox-node"), "default")
    await select(cluster, "here")
    await binder.reconcile(KEY)
    assert await affinity(cluster) == {"key": "kubernetes.io/hostname", "operator": "In", "values": ["here"]}


async def test_a_file_share_belongs_to_no_node(cluster, binder):
    await cluster.create(CLAIMS, claim(), "default")
    await binder.reconcile(KEY)
    assert await affinity(cluster) is None
