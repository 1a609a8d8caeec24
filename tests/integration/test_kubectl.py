"""The real kubectl against the sandbox's API server: objects, printing, waiting, deleting."""

from __future__ import annotations

import asyncio
import json

import pytest

from sandbox.api.cluster import ApiError
from sandbox.faults import Fault, FaultKind
from tests.support.api_server import POD, SERVICE, Sandbox
from tests.support.api_server import served_sandbox as served_sandbox

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: workspaces.kaito.sh}
spec:
  group: kaito.sh
  scope: Namespaced
  names: {plural: workspaces, kind: Workspace, shortNames: [wk], categories: [kaito]}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Instance, type: string, jsonPath: .resource.instanceType}
    - {name: WorkspaceReady, type: string, jsonPath: '.status.conditions[?(@.type=="WorkspaceReady")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [resource]
        properties:
          resource:
            type: object
            required: [instanceType]
            properties:
              instanceType: {type: string}
              count: {type: integer, minimum: 1, default: 1}
          tuning:
            type: object
            properties:
              method: {type: string, enum: [lora, qlora]}
            x-kubernetes-validations:
            - {rule: "!has(oldSelf.method) || self.method == oldSelf.method", message: method is immutable}
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
"""
WORKSPACE = """
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata: {name: w1}
resource: {instanceType: Standard_NC6s_v3}
tuning: {method: qlora}
"""
STATEFUL_SET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: busybox}]}
"""


async def test_create_get_and_print_columns(sandbox: Sandbox) -> None:
    assert (await sandbox.kubectl("create", "-f", "-", stdin=POD)).out == "pod/web created\n"
    pod = await sandbox.json("get", "pod", "web")
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert pod["status"] == {"phase": "Pending", "qosClass": "Burstable"}
    await sandbox.run_pod("web", ip="127.9.9.9")
    header, row = (await sandbox.kubectl("get", "pods", "-o", "wide")).out.splitlines()
    assert header.split() == [
        "NAME",
        "READY",
        "STATUS",
        "RESTARTS",
        "AGE",
        "IP",
        "NODE",
        "NOMINATED",
        "NODE",
        "READINESS",
        "GATES",
    ]
    assert row.split()[:4] == ["web", "1/1", "Running", "0"]
    assert row.split()[5:7] == ["127.9.9.9", "node-0"]


async def test_the_quick_starts_service_line(sandbox: Sandbox) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=SERVICE)
    lines = (await sandbox.kubectl("get", "svc", "workspace-tuning-phi-3")).out.splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    name, kind, address, external, ports, _ = lines[1].split()
    assert (name, kind, external, ports) == (
        "workspace-tuning-phi-3",
        "ClusterIP",
        "<none>",
        "80/TCP,29500/TCP",
    )
    path = "jsonpath={.spec.clusterIPs[0]}"
    assert (await sandbox.kubectl("get", "svc", name, "-o", path)).out == address
    assert address.startswith("127.96.")


@pytest.mark.parametrize("server_side", [False, True])
async def test_apply_is_idempotent_and_removes_what_is_left_out(sandbox: Sandbox, server_side: bool) -> None:
    flags = ["--server-side"] if server_side else []
    first = POD.replace("labels: {app: web}", "labels: {app: web, extra: x}")
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=first)
    await sandbox.kubectl("label", "pod", "web", "mine=1")
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=POD)
    pod = await sandbox.json("get", "pod", "web")
    assert pod["metadata"]["labels"] == {"app": "web", "mine": "1"}
    await sandbox.kubectl("apply", *flags, "-f", "-", stdin=POD)
    assert (await sandbox.json("get", "pod", "web"))["metadata"]["resourceVersion"] == pod["metadata"][
        "resourceVersion"
    ]


async def test_server_side_conflict_and_force(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=STATEFUL_SET)
    other = STATEFUL_SET.replace("serviceName", "replicas: 3\n  serviceName")
    refused = await sandbox.kubectl("apply", "--server-side", "-f", "-", stdin=other, fails=True)
    assert 'conflict with "kubectl-create" using apps/v1: .spec.replicas' in refused.err
    await sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=other)
    assert (await sandbox.json("get", "sts", "web"))["spec"]["replicas"] == 3


async def test_custom_resources(sandbox: Sandbox) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=DEFINITION)
    await sandbox.kubectl("wait", "--for=condition=Established", "crd/workspaces.kaito.sh", "--timeout=5s")
    await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    again = await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    assert again.out == "workspace.kaito.sh/w1 unchanged\n"
    workspace = await sandbox.json("get", "wk", "w1")
    assert workspace["resource"]["count"] == 1
    status = {
        "status": {"conditions": [{"type": "WorkspaceReady", "status": "True"}]},
        "resource": {"count": 9},
    }
    await sandbox.kubectl(
        "patch", "wk", "w1", "--subresource=status", "--type=merge", "-p", json.dumps(status)
    )
    header, row = (await sandbox.kubectl("get", "workspace", "w1")).out.splitlines()
    assert header.split() == ["NAME", "INSTANCE", "WORKSPACEREADY", "AGE"]
    assert row.split()[:3] == ["w1", "Standard_NC6s_v3", "True"]
    workspace = await sandbox.json("get", "wk", "w1")
    assert (workspace["metadata"]["generation"], workspace["resource"]["count"]) == (1, 1)
    listed = await sandbox.kubectl("get", "kaito")
    assert listed.out.splitlines()[1].startswith("w1")
    explained = await sandbox.kubectl("explain", "workspace.resource")
    assert "instanceType\t<string> -required-" in explained.out
    await sandbox.kubectl("delete", "crd", "workspaces.kaito.sh", "--timeout=5s")
    gone = await sandbox.kubectl("get", "workspaces", fails=True)
    assert "could not find the requested resource" in gone.err  # kubectl still has it in its discovery cache


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("qlora", "foo"), 'tuning.method: Unsupported value: "foo": supported values: "lora", "qlora"'),
        (("qlora", "lora"), "method is immutable"),
        (("instanceType:", "instancetype:"), 'unknown field "resource.instancetype"'),
        (
            ("Standard_NC6s_v3}", "x, count: 0}"),
            "resource.count in body should be greater than or equal to 1",
        ),
        (
            ("Standard_NC6s_v3}", "x, count: many}"),
            'resource.count in body must be of type integer: "string"',
        ),
    ],
)
async def test_custom_resources_are_validated(
    sandbox: Sandbox, change: tuple[str, str], message: str
) -> None:
    await sandbox.kubectl("apply", "-f", "-", stdin=DEFINITION)
    await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE)
    refused = await sandbox.kubectl("apply", "-f", "-", stdin=WORKSPACE.replace(*change), fails=True)
    assert message in refused.err


async def test_unknown_fields_are_named(sandbox: Sandbox) -> None:
    wrong = POD.replace("image: busybox:1.36", "image: busybox:1.36\n    imagee: x")
    refused = await sandbox.kubectl("apply", "-f", "-", stdin=wrong, fails=True)
    assert 'strict decoding error: unknown field "spec.containers[0].imagee"' in refused.err
    warned = await sandbox.kubectl("apply", "--validate=warn", "-f", "-", stdin=wrong)
    assert 'Warning: unknown field "spec.containers[0].imagee"' in warned.err


async def test_graceful_deletion_waits_for_the_node(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    await sandbox.run_pod("web")
    process = await sandbox.start("delete", "pod", "web", "--grace-period=20")
    assert process.stdout is not None
    assert b'pod "web" deleted' in await process.stdout.readline()
    listed = await sandbox.kubectl("get", "pods")
    assert listed.out.splitlines()[1].split()[2] == "Terminating"
    pod = await sandbox.cluster.get("pods", "web", "default")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 20
    assert process.returncode is None
    await sandbox.cluster.delete("pods", "web", "default", {"gracePeriodSeconds": 0})
    await asyncio.wait_for(process.wait(), 60)
    with pytest.raises(ApiError, match='pods "web" not found'):
        await sandbox.cluster.get("pods", "web", "default")


async def test_wait_and_watch_see_changes(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    watch = await sandbox.start("get", "pods", "-w", "--output-watch-events")
    waiting = await sandbox.start("wait", "--for=condition=Ready", "pod/web", "--timeout=20s")
    assert watch.stdout is not None
    lines = [await watch.stdout.readline() for _ in range(2)]
    assert lines[1].split()[:2] == [b"ADDED", b"web"]
    await sandbox.run_pod("web")
    out, _ = await asyncio.wait_for(waiting.communicate(), 60)
    assert out == b"pod/web condition met\n"
    states = [(await asyncio.wait_for(watch.stdout.readline(), 60)).split() for _ in range(2)]
    assert [state[0] for state in states] == [b"MODIFIED", b"MODIFIED"]
    assert states[1][3] == b"Running"
    watch.terminate()
    await watch.wait()


async def test_describe_shows_events(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=POD)
    pod = await sandbox.run_pod("web")
    for _ in range(2):
        await sandbox.cluster.event(
            pod, "Warning", "BackOff", "Back-off restarting failed container", "kubelet"
        )
    described = (await sandbox.kubectl("describe", "pod", "web")).out
    assert "QoS Class:" in described
    assert "Warning  BackOff  " in described
    assert "(x2 over " in described
    events = (await sandbox.kubectl("get", "events")).out.splitlines()
    assert events[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "pod/web" in events[1]
    for kind in ("node", "namespace", "service", "secret"):
        await sandbox.kubectl("describe", kind)


async def test_scale_and_rollout_status(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "-f", "-", stdin=STATEFUL_SET)
    await sandbox.kubectl("scale", "statefulset/web", "--replicas=2")
    rollout = await sandbox.start("rollout", "status", "statefulset/web", "--timeout=20s")
    stateful_set = await sandbox.cluster.get("statefulsets.apps", "web", "default")
    assert (stateful_set["spec"]["replicas"], stateful_set["metadata"]["generation"]) == (2, 2)
    stateful_set["status"] = {
        "replicas": 2,
        "readyReplicas": 2,
        "availableReplicas": 2,
        "updatedReplicas": 2,
        "currentReplicas": 2,
        "currentRevision": "web-1",
        "updateRevision": "web-1",
        "observedGeneration": 2,
    }
    await sandbox.cluster.update("statefulsets.apps", stateful_set, "status")
    out, _ = await asyncio.wait_for(rollout.communicate(), 60)
    assert b"partitioned roll out complete: 2 new pods have been updated" in out
    assert (await sandbox.kubectl("get", "sts")).out.splitlines()[1].split()[:2] == ["web", "2/2"]


async def test_owner_deletion_takes_dependents(sandbox: Sandbox) -> None:
    owner = await sandbox.cluster.create("configmaps", {"metadata": {"name": "owner"}})
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    await sandbox.cluster.create("secrets", {"metadata": {"name": "child", "ownerReferences": [reference]}})
    await sandbox.kubectl("delete", "configmap", "owner", "--cascade=foreground", "--timeout=10s")
    listed = await sandbox.json("get", "configmap,secret")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["kube-root-ca.crt"]


async def test_namespace_deletion_empties_it(sandbox: Sandbox) -> None:
    await sandbox.kubectl("create", "namespace", "extra")
    await sandbox.kubectl("create", "configmap", "c", "--from-literal=a=b", "-n", "extra")
    await sandbox.kubectl("delete", "namespace", "extra", "--timeout=10s")
    gone = await sandbox.kubectl("get", "configmap", "c", "-n", "extra", fails=True)
    assert 'configmaps "c" not found' in gone.err or 'namespaces "extra" not found' in gone.err
    refused = await sandbox.kubectl("create", "configmap", "c", "-n", "extra", fails=True)
    assert 'namespaces "extra" not found' in refused.err


async def test_small_commands(sandbox: Sandbox) -> None:
    who = await sandbox.kubectl("auth", "whoami")
    assert "admin" in who.out
    assert (await sandbox.kubectl("auth", "can-i", "create", "pods")).out == "yes\n"
    resources = (await sandbox.kubectl("api-resources", "--verbs=list")).out
    assert "statefulsets" in resources
    versions = (await sandbox.kubectl("api-versions")).out.split()
    assert {"v1", "apps/v1", "batch/v1", "apiextensions.k8s.io/v1"} <= set(versions)
    assert "v1.36" in (await sandbox.kubectl("version")).out
    assert (await sandbox.kubectl("get", "--raw", "/readyz")).out == "ok"
    await sandbox.kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    assert (await sandbox.json("get", "secret", "s"))["data"] == {"a": "Yg=="}
    await sandbox.kubectl("cluster-info")
    await sandbox.kubectl("create", "token", "default")
    refused = await sandbox.kubectl("--token=wrong", "get", "pods", fails=True)
    assert "You must be logged in to the server" in refused.err


async def test_faults_strike_and_clear(sandbox: Sandbox) -> None:
    sandbox.faults.set(Fault(FaultKind.API_ERROR, "GET /api/v1/namespaces/*/pods", value=500))
    failed = await sandbox.kubectl("get", "pods", fails=True)
    assert "the sandbox was told to fail this request" in failed.err
    sandbox.faults.clear()
    sandbox.faults.set(Fault(FaultKind.API_THROTTLE, "GET */pods", value=1, count=1))
    await sandbox.kubectl("get", "pods")  # client-go waits for Retry-After and asks again
