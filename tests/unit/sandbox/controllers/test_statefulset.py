"""The StatefulSet controller, one reconcile at a time."""

from __future__ import annotations

import pytest

from sandbox.controllers.statefulset import STATEFULSETS, StatefulSetController, build_pod, ordinal

KEY = ("default", "ws")
LABELS = {"app": "ws"}


@pytest.fixture
def controller(cluster, feeds):
    return StatefulSetController(cluster, feeds)


def make_set(replicas=2, **spec):
    return {
        "metadata": {"name": "ws"},
        "spec": {
            "replicas": replicas,
            "serviceName": "ws-headless",
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            },
            **spec,
        },
    }


CLAIMS = [
    {
        "metadata": {"name": "weights"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
]


async def pod_names(cluster):
    pods, _ = await cluster.list("pods", "default")
    return sorted(pod["metadata"]["name"] for pod in pods)


async def test_pods_come_one_after_another(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(), "default")
    await controller.reconcile(KEY)
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0"]
    await set_pod("ws-0", ready=False)
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0"]
    await set_pod("ws-0")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0", "ws-1"]


async def test_parallel_pods_come_at_once(cluster, controller):
    await cluster.create(STATEFULSETS, make_set(podManagementPolicy="Parallel"), "default")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0", "ws-1"]


async def test_a_pod_has_its_identity_and_its_own_claims(cluster, controller):
    retention = {"whenDeleted": "Delete", "whenScaled": "Retain"}
    wanted = make_set(1, volumeClaimTemplates=CLAIMS, persistentVolumeClaimRetentionPolicy=retention)
    stored = await cluster.create(STATEFULSETS, wanted, "default")
    await controller.reconcile(KEY)
    pod = await cluster.get("pods", "ws-0")
    assert pod["spec"]["hostname"] == "ws-0"
    assert pod["spec"]["subdomain"] == "ws-headless"
    assert pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] == "ws-0"
    assert pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "0"
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "weights-ws-0"}} in pod["spec"][
        "volumes"
    ]
    claim = await cluster.get("persistentvolumeclaims", "weights-ws-0")
    assert [owner["uid"] for owner in claim["metadata"]["ownerReferences"]] == [stored["metadata"]["uid"]]


async def test_claims_are_kept_unless_the_policy_says_delete(cluster, controller):
    await cluster.create(STATEFULSETS, make_set(1, volumeClaimTemplates=CLAIMS), "default")
    await controller.reconcile(KEY)
    claim = await cluster.get("persistentvolumeclaims", "weights-ws-0")
    assert not claim["metadata"].get("ownerReferences")


async def test_a_finished_pod_is_replaced(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(1), "default")
    await controller.reconcile(KEY)
    first = await set_pod("ws-0", ready=False, phase="Failed")
    await controller.reconcile(KEY)
    second = await cluster.get("pods", "ws-0")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


async def test_scaling_down_removes_the_highest_first(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(3, podManagementPolicy="Parallel"), "default")
    await controller.reconcile(KEY)
    await cluster.patch(STATEFULSETS, "ws", {"spec": {"replicas": 1}}, "default")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0"]


async def test_ordered_scaling_down_removes_one_at_a_time(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(3), "default")
    for number in range(3):
        await controller.reconcile(KEY)
        await set_pod(f"ws-{number}")
    await cluster.patch(STATEFULSETS, "ws", {"spec": {"replicas": 1}}, "default")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0", "ws-1"]


async def test_an_update_replaces_the_highest_pod_first_and_waits_for_it(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(2, podManagementPolicy="Parallel"), "default")
    await controller.reconcile(KEY)
    before = {name: (await set_pod(name))["metadata"]["uid"] for name in ("ws-0", "ws-1")}
    await controller.reconcile(KEY)
    template = {"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}
    await cluster.patch(STATEFULSETS, "ws", template, "default")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-0"]
    await controller.reconcile(KEY)
    await controller.reconcile(KEY)
    assert (await cluster.get("pods", "ws-1"))["metadata"]["uid"] != before["ws-1"]
    assert (await cluster.get("pods", "ws-0"))["metadata"]["uid"] == before["ws-0"]
    await set_pod("ws-1")
    await controller.reconcile(KEY)
    assert await pod_names(cluster) == ["ws-1"]


async def test_a_partition_keeps_the_lower_pods_on_the_old_template(cluster, controller, set_pod):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    wanted = make_set(2, podManagementPolicy="Parallel", updateStrategy=strategy)
    await cluster.create(STATEFULSETS, wanted, "default")
    await controller.reconcile(KEY)
    for name in ("ws-0", "ws-1"):
        await set_pod(name)
    await controller.reconcile(KEY)
    old = (await cluster.get("pods", "ws-0"))["metadata"]["labels"]["controller-revision-hash"]
    await cluster.patch(
        STATEFULSETS, "ws", {"spec": {"template": {"metadata": {"annotations": {"v": "2"}}}}}, "default"
    )
    await controller.reconcile(KEY)
    await controller.reconcile(KEY)
    await cluster.delete("pods", "ws-0", "default")
    await controller.reconcile(KEY)
    labels = [
        (await cluster.get("pods", n))["metadata"]["labels"]["controller-revision-hash"]
        for n in ("ws-0", "ws-1")
    ]
    assert labels[0] == old
    assert labels[1] != old


async def test_status_counts_pods_and_names_revisions(cluster, controller, set_pod):
    await cluster.create(STATEFULSETS, make_set(2, podManagementPolicy="Parallel"), "default")
    await controller.reconcile(KEY)
    await set_pod("ws-0")
    await controller.reconcile(KEY)
    status = (await cluster.get(STATEFULSETS, "ws", "default"))["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"]) == (2, 1, 2)
    assert status["currentRevision"] == status["updateRevision"]
    assert status["observedGeneration"] == 1


def test_names_without_a_number_have_no_ordinal():
    assert ordinal({"metadata": {"name": "ws-12"}}) == 12
    assert ordinal({"metadata": {"name": "ws-abc"}}) == -1


def test_the_templates_own_volume_of_the_same_name_gives_way_to_the_claim():
    wanted = make_set(1, volumeClaimTemplates=CLAIMS)
    wanted["metadata"] |= {"namespace": "default", "uid": "u"}
    wanted["spec"]["template"]["spec"]["volumes"] = [{"name": "weights", "emptyDir": {}}]
    assert build_pod(wanted, 0, "rev")["spec"]["volumes"] == [
        {"name": "weights", "persistentVolumeClaim": {"claimName": "weights-ws-0"}}
    ]
