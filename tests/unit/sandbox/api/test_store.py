"""Objects in the cluster: versions, conflicts, names, status, patches, and what survives a kill."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.api.cluster import ApiError, Cluster, WriteOptions
from sandbox.api.storage.site import FIRST_FREE, SERVICE_RANGE, ClusterSite

Json = dict[str, Any]


async def test_create_fills_in_what_the_server_sets(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    meta = made["metadata"]
    assert meta["namespace"] == "default"
    assert meta["generation"] == 1
    assert len(meta["uid"]) == 36
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["spec"]["terminationGracePeriodSeconds"] == 30
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert "apiVersion" not in pod  # the caller's object is left alone


async def test_generate_name(cluster: Cluster) -> None:
    names = {
        (await cluster.create("configmaps", {"metadata": {"generateName": "a-"}}))["metadata"]["name"]
        for _ in range(5)
    }
    assert len(names) == 5
    assert all(name.startswith("a-") and len(name) == 7 for name in names)


async def test_the_second_create_is_refused(cluster: Cluster, pod: Json) -> None:
    await cluster.create("pods", pod)
    with pytest.raises(ApiError, match='pods "web" already exists') as caught:
        await cluster.create("pods", pod)
    assert (caught.value.code, caught.value.reason) == (409, "AlreadyExists")


async def test_a_stale_update_is_refused(cluster: Cluster) -> None:
    first = await cluster.create("configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}})
    second = await cluster.update("configmaps", {**first, "data": {"a": "2"}})
    with pytest.raises(ApiError, match="the object has been modified") as caught:
        await cluster.update("configmaps", {**first, "data": {"a": "3"}})
    assert (caught.value.code, caught.value.reason) == (409, "Conflict")
    del second["metadata"]["resourceVersion"]
    assert (await cluster.update("configmaps", {**second, "data": {"a": "4"}}))["data"] == {"a": "4"}


async def test_an_update_that_changes_nothing_keeps_the_version(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    same = await cluster.update("pods", made)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_status_and_the_rest_are_written_apart(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    made["status"]["phase"] = "Running"
    made["spec"]["containers"][0]["image"] = "other"
    after_status = await cluster.update("pods", made, "status")
    assert after_status["status"]["phase"] == "Running"
    assert after_status["spec"]["containers"][0]["image"] == "busybox"
    assert after_status["metadata"]["generation"] == 1
    after_status["status"]["phase"] = "Failed"
    after_status["spec"]["containers"][0]["image"] = "newer"
    after = await cluster.update("pods", after_status)
    assert after["status"]["phase"] == "Running"
    assert after["spec"]["containers"][0]["image"] == "newer"
    assert after["metadata"]["generation"] == 2


async def test_namespaces_must_exist(cluster: Cluster) -> None:
    with pytest.raises(ApiError, match='namespaces "nowhere" not found') as caught:
        await cluster.create("configmaps", {"metadata": {"name": "c"}}, "nowhere")
    assert caught.value.code == 404


async def test_binding_happens_once(cluster: Cluster, pod: Json) -> None:
    await cluster.create("pods", pod)
    binding = {"metadata": {"name": "web"}, "target": {"name": "node-0"}}
    await cluster.create("pods/binding", binding, "default")
    bound = await cluster.get("pods", "web", "default")
    assert bound["spec"]["nodeName"] == "node-0"
    assert [c["type"] for c in bound["status"]["conditions"]] == ["PodScheduled"]
    with pytest.raises(ApiError, match='already assigned to node "node-0"') as caught:
        await cluster.create("pods/binding", binding, "default")
    assert caught.value.code == 409


async def test_dry_run_stores_nothing(cluster: Cluster, pod: Json) -> None:
    before = cluster.storage.revision
    answer = await cluster.create("pods", pod, options=WriteOptions(dry_run=True))
    assert answer["spec"]["restartPolicy"] == "Always"
    assert cluster.storage.revision == before
    with pytest.raises(ApiError):
        await cluster.get("pods", "web")


async def test_events_are_counted(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    for _ in range(3):
        await cluster.event(made, "Warning", "BackOff", "again", "kubelet")
    await cluster.event(made, "Normal", "Pulled", "once", "kubelet")
    items, _ = await cluster.list("events", field_selector=f"involvedObject.uid={made['metadata']['uid']}")
    assert {item["reason"]: item["count"] for item in items} == {"BackOff": 3, "Pulled": 1}


async def test_events_are_served_in_both_groups(cluster: Cluster, pod: Json) -> None:
    made = await cluster.create("pods", pod)
    await cluster.event(made, "Normal", "Pulled", "once", "kubelet")
    [event], _ = await cluster.list("events.events.k8s.io")
    assert (event["apiVersion"], event["note"], event["regarding"]["name"]) == (
        "events.k8s.io/v1",
        "once",
        "web",
    )


async def test_service_addresses(cluster: Cluster) -> None:
    def service(name: str, **spec: Any) -> Json:
        return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}

    first = await cluster.create("services", service("a"))
    second = await cluster.create("services", service("b"))
    addresses = {first["spec"]["clusterIP"], second["spec"]["clusterIP"]}
    assert len(addresses) == 2
    assert all(address.startswith("127.96.") for address in addresses)
    headless = await cluster.create("services", service("c", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    with pytest.raises(ApiError, match="provided IP is already allocated"):
        await cluster.create("services", service("d", clusterIP=first["spec"]["clusterIP"]))
    replacement = service("a")
    assert (await cluster.update("services", replacement))["spec"]["clusterIP"] == first["spec"]["clusterIP"]
    with pytest.raises(ApiError, match="may not change once set"):
        await cluster.update("services", service("a", clusterIP="127.96.9.9", clusterIPs=["127.96.9.9"]))


async def test_two_sandboxes_on_one_machine_give_out_other_addresses(tmp_path: Path) -> None:
    """Both listen on this machine's loopback: the second could not serve what the first has."""
    given = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        sandbox = Cluster(tmp_path / folder)
        made = [
            await sandbox.create(
                "services", {"metadata": {"name": f"s{n}"}, "spec": {"ports": [{"port": 80}]}}
            )
            for n in range(20)
        ]
        given.append({service["spec"]["clusterIP"] for service in made})
        sandbox.close()
    assert [len(addresses) for addresses in given] == [20, 20]
    assert not given[0] & given[1]


async def test_addresses_start_over_at_the_end_of_the_range() -> None:
    sandbox = Cluster(None)
    sandbox.site = ClusterSite(sandbox.storage, start=SERVICE_RANGE.num_addresses - FIRST_FREE - 4)
    given = [sandbox.site.allocate_cluster_ip("") for _ in range(4)]
    assert given == ["127.96.255.253", "127.96.255.254", "127.96.0.11", "127.96.0.12"]


async def test_scale_patches_the_replicas(cluster: Cluster) -> None:
    from sandbox.api.writes import subresources

    spec = {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }
    await cluster.create("deployments.apps", {"metadata": {"name": "d"}, "spec": spec})
    info, key = cluster.resource("deployments.apps"), ("default", "d")
    scale = subresources.set_scale(
        cluster, info, key, lambda one: {**one, "spec": {"replicas": 4}}, WriteOptions()
    )
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 4}, "a=b")
    stored = await cluster.get("deployments.apps", "d")
    assert (stored["spec"]["replicas"], stored["metadata"]["generation"]) == (4, 2)


_WRITER = """
import asyncio, sys
from pathlib import Path
from sandbox.api.cluster import Cluster

async def main():
    cluster = Cluster(Path(sys.argv[1]))
    count = 0
    while True:
        await cluster.create("configmaps", {"metadata": {"name": f"c{count}"}})
        print(count, flush=True)
        count += 1

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    last = -1
    for line in process.stdout:
        last = int(line)
        if last >= 20:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    cluster = Cluster(tmp_path)
    found = {obj["metadata"]["name"] for obj in (await cluster.list("configmaps"))[0]}
    assert {f"c{number}" for number in range(last + 1)} <= found
    versions = [int(obj["metadata"]["resourceVersion"]) for obj in (await cluster.list("configmaps"))[0]]
    made = await cluster.create("configmaps", {"metadata": {"name": "next"}})
    assert int(made["metadata"]["resourceVersion"]) > max(versions)
    cluster.close()


async def test_definitions_survive_a_restart(tmp_path: Path, make_definition: Any) -> None:
    cluster = Cluster(tmp_path)
    await cluster.create("customresourcedefinitions.apiextensions.k8s.io", make_definition({}))
    await cluster.create("widgets.example.com", {"metadata": {"name": "w"}})
    cluster.close()
    again = Cluster(tmp_path)
    assert (await again.get("widgets.example.com", "w"))["kind"] == "Widget"
    again.close()


async def test_many_writers_of_one_counter(cluster: Cluster) -> None:
    await cluster.create("configmaps", {"metadata": {"name": "c"}, "data": {"n": "0"}})

    async def add() -> None:
        while True:
            obj = await cluster.get("configmaps", "c")
            await asyncio.sleep(0)
            obj["data"]["n"] = str(int(obj["data"]["n"]) + 1)
            try:
                await cluster.update("configmaps", obj)
            except ApiError as error:
                if error.code == 409:
                    continue
                raise
            return

    await asyncio.gather(*(add() for _ in range(20)))
    assert (await cluster.get("configmaps", "c"))["data"]["n"] == "20"
