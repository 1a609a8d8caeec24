"""Claims get folders, and folders go with their claims."""

from __future__ import annotations

import asyncio

import pytest

from sandbox.controllers.volumes import CLAIMS, CLASSES, VOLUMES, VolumeBinder, storage_class

KEY = ("default", "work")


@pytest.fixture
async def binder(cluster, feeds, tmp_path):
    await cluster.create(CLASSES, storage_class())
    return VolumeBinder(cluster, feeds, tmp_path)


async def until_gone(cluster):
    """The API server lets go of a claim in a turn of its own, once no pod uses it."""
    async with asyncio.timeout(2):
        while (await cluster.list(CLAIMS, "default"))[0]:
            await asyncio.sleep(0.005)


def claim(**spec):
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
    await cluster.create(
        CLASSES, {**storage_class(), "metadata": {"name": "keep"}, "reclaimPolicy": "Retain"}
    )
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
    ("name", "words"),
    [
        ("nowhere", 'storageclass.storage.k8s.io "nowhere" not found'),
        ("theirs", "the sandbox provisions only"),
    ],
)
async def test_a_claim_of_another_class_stays_pending_and_says_why(cluster, binder, name, words):
    await cluster.create(
        CLASSES, {**storage_class(), "metadata": {"name": "theirs"}, "provisioner": "disk.csi.azure.com"}
    )
    await cluster.create(CLAIMS, claim(storageClassName=name), "default")
    await binder.reconcile(KEY)
    assert (await cluster.get(CLAIMS, "work", "default"))["status"]["phase"] == "Pending"
    events, _ = await cluster.list("events")
    assert [event["reason"] for event in events] == ["ProvisioningFailed"]
    assert words in events[0]["message"]
