"""Which addresses stand behind a Service."""

from __future__ import annotations

import pytest

from sandbox.controllers.endpoints import SLICES, EndpointsController

KEY = ("default", "web")


@pytest.fixture
def controller(cluster, feeds):
    return EndpointsController(cluster, feeds)


@pytest.fixture
def make_service(cluster):
    async def make(**spec):
        body = {
            "selector": {"app": "pod"},
            "ports": [{"name": "http", "port": 80, "targetPort": 5000}],
            **spec,
        }
        return await cluster.create("services", {"metadata": {"name": "web"}, "spec": body}, "default")

    return make


async def subsets(cluster):
    return (await cluster.get("endpoints", "web", "default")).get("subsets") or []


async def test_ready_pods_are_addresses_and_others_are_not(
    cluster, controller, make_service, make_pod, set_pod
):
    await make_service()
    await cluster.create("pods", make_pod())
    await set_pod("pod", ready=False)
    await controller.reconcile(KEY)
    assert [a["ip"] for a in (await subsets(cluster))[0]["notReadyAddresses"]] == ["127.64.0.1"]
    await set_pod("pod", ready=True)
    await controller.reconcile(KEY)
    found = await subsets(cluster)
    assert [a["ip"] for a in found[0]["addresses"]] == ["127.64.0.1"]
    assert found[0]["ports"] == [{"name": "http", "port": 5000, "protocol": "TCP"}]


async def test_publish_not_ready_addresses_takes_them_all(
    cluster, controller, make_service, make_pod, set_pod
):
    await make_service(publishNotReadyAddresses=True)
    await cluster.create("pods", make_pod())
    await set_pod("pod", ready=False)
    await controller.reconcile(KEY)
    assert [a["ip"] for a in (await subsets(cluster))[0]["addresses"]] == ["127.64.0.1"]


async def test_a_port_name_is_looked_up_in_the_pod(cluster, controller, make_service, make_pod, set_pod):
    await make_service(ports=[{"port": 80, "targetPort": "api"}])
    pod = make_pod()
    pod["spec"]["containers"][0]["ports"] = [{"name": "api", "containerPort": 7000}]
    await cluster.create("pods", pod)
    await set_pod("pod")
    await controller.reconcile(KEY)
    assert (await subsets(cluster))[0]["ports"] == [{"port": 7000, "protocol": "TCP"}]


async def test_finished_and_unselected_pods_are_no_endpoints(
    cluster, controller, make_service, make_pod, set_pod
):
    await make_service()
    await cluster.create("pods", make_pod())
    await cluster.create("pods", make_pod("other"))
    await set_pod("pod", phase="Succeeded", ready=False)
    await set_pod("other", ip="127.64.0.2")
    await controller.reconcile(KEY)
    assert await subsets(cluster) == []


async def test_a_headless_service_without_ports_has_addresses(
    cluster, controller, make_service, make_pod, set_pod
):
    await make_service(clusterIP="None", ports=[])
    await cluster.create("pods", make_pod(hostname="pod", subdomain="web"))
    await set_pod("pod")
    await controller.reconcile(KEY)
    assert [(a["ip"], a["hostname"]) for a in (await subsets(cluster))[0]["addresses"]] == [
        ("127.64.0.1", "pod")
    ]


async def test_the_slice_says_the_same(cluster, controller, make_service, make_pod, set_pod):
    await make_service()
    await cluster.create("pods", make_pod())
    await set_pod("pod")
    await controller.reconcile(KEY)
    slices, _ = await cluster.list(SLICES, "default", label_selector="kubernetes.io/service-name=web")
    assert [e["addresses"] for e in slices[0]["endpoints"]] == [["127.64.0.1"]]
    assert slices[0]["endpoints"][0]["conditions"]["ready"] is True
    assert slices[0]["ports"][0]["port"] == 5000


async def test_a_service_without_selector_is_a_persons_business(cluster, controller, make_service):
    await make_service(selector=None)
    mine = {
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}],
    }
    await cluster.create("endpoints", mine, "default")
    await controller.reconcile(KEY)
    assert [a["ip"] for a in (await subsets(cluster))[0]["addresses"]] == ["10.0.0.1"]


async def test_endpoints_go_with_their_service(cluster, controller, make_service):
    await make_service()
    await controller.reconcile(KEY)
    await cluster.delete("services", "web", "default")
    await controller.reconcile(KEY)
    found, _ = await cluster.list("endpoints", "default")
    assert [e["metadata"]["name"] for e in found if e["metadata"]["name"] == "web"] == []
