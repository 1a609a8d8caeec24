"""What a service's servers and the pools under it tell, over a real API server; and the acts that put it to sleep."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from kaito.controller import reconciler as reconciling
from kaito.controller import service_probe as serving
from kaito.controller.actions import Actions
from kaito.controller.service_probe import activity_of, pools_of
from kaito.hooks import aks, api
from kaito.hooks.api import CONFIG_MAP, EVENT, POD, SERVICE, STATEFUL_SET, WORKSPACE
from kaito.hooks.azure_account import AksError
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.providers.nodepool import NODE_POOL
from kaito.providers.selection import Chooser
from kaito.providers.settings import PoolSettings

from include.pools.aks import observed
from include.reconcile import Activity, DeletePool, ScaleToZero, ServeAdapter
from include.workspace.api import names
from include.workspace.status import conditions
from tests.support.agent_pools import OURS, agent_pool
from tests.support.installed import KEY, Installed

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {names.WORKSPACE: KEY[1], names.COMPONENT: "serving"}


@asynccontextmanager
async def server(text: str, status: str = "200 OK") -> AsyncIterator[int]:
    """A server that answers this whatever it is asked; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /metrics ")
        body = text.encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def pod(cluster: Installed, name: str, address: str = "127.0.0.1", phase: str = "Running") -> Any:
    spec = {"containers": [{"name": "main", "image": "i"}]}
    made = await cluster.apply(POD, {"metadata": {"name": name, "labels": LABELS}, "spec": spec})
    told = {"phase": phase, **({"podIP": address} if address else {})}
    return await cluster.admin.send(api.status_patch(POD, made, told))


async def test_servers_are_asked_by_the_names_of_their_pods(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods = [await pod(cluster, "one"), await pod(cluster, "over", phase="Failed")]
    async with server(OURS) as port:
        monkeypatch.setattr(serving, "PORT", port)
        assert await activity_of(cluster.hook, pods) == Activity(1, 5, 1.7795e9)
        starting = await pod(cluster, "two", address="")
        assert await activity_of(cluster.hook, [*pods, starting]) is None
        assert await activity_of(cluster.hook, []) is None
        monkeypatch.setattr(serving, "MOST_BYTES", 10)
        assert await activity_of(cluster.hook, pods) is None
    assert await activity_of(cluster.hook, pods) is None, "nobody listens any more"
    async with server(OURS, "404 Not Found") as port:
        monkeypatch.setattr(serving, "PORT", port)
        assert await activity_of(cluster.hook, pods) is None


async def test_a_stateful_set_is_scaled_to_zero_if_it_is_the_one(cluster: Installed) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template, "replicas": 2}
    made = await cluster.apply(STATEFUL_SET, {"metadata": {"name": "w"}, "spec": spec})
    doer = Actions(cluster.hook, None, {})  # type: ignore[arg-type]
    for name, uid in (("w", "another"), ("absent", "any")):
        assert await doer.do(ScaleToZero(name, "default", uid)) == ""
    live = await cluster.hook.find(STATEFUL_SET, "w", "default")
    assert live is not None
    assert live["spec"]["replicas"] == 2
    assert (
        await doer.do(ScaleToZero("w", "default", made["metadata"]["uid"])) == "StatefulSet w scaled to zero"
    )
    live = await cluster.hook.find(STATEFUL_SET, "w", "default")
    assert live is not None
    assert live["spec"] == {**made["spec"], "replicas": 0}


async def test_the_pods_are_told_which_version_answers_and_made_to_look(cluster: Installed) -> None:
    await pod(cluster, "w-0")
    live = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": KEY[1], "namespace": "default"},
        "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"a": "b"}}},
        "tuning": {
            "preset": {"name": "phi-3-mini-128k-instruct"},
            "method": "lora",
            "input": {"urls": ["https://example.com/rows.parquet"]},
            "output": {"image": "r/a:1", "imagePushSecret": "push"},
        },
    }
    made = await cluster.apply(WORKSPACE, live)
    doer = Actions(cluster.hook, None, dict(made))  # type: ignore[arg-type]
    marks = set()
    for action, beside in (
        (ServeAdapter("r/a@sha256:1", "r/a@sha256:2", 10.0), {"image": "r/a@sha256:2", "percent": 10.0}),
        (ServeAdapter("r/a@sha256:1"), None),
    ):
        assert "r/a@sha256:1" in await doer.do(action)
        found = await cluster.hook.find(CONFIG_MAP, f"{KEY[1]}-adapters", "default")
        assert found is not None
        [told] = json.loads(found["data"]["adapters.json"])["adapters"]
        assert (told["image"], told.get("canary")) == ("r/a@sha256:1", beside)
        looking = await cluster.hook.find(POD, "w-0", "default")
        assert looking is not None
        marks.add(looking["metadata"]["annotations"]["kaito.sh/adapters"])
        assert "looks within a minute" not in await doer.do(action)
    assert len(marks) == 2


class Azure:
    """An AKS cluster with one pool of the Workspace and one that nobody here made."""

    trouble: AksError | None = None

    def __init__(self) -> None:
        ours = agent_pool()
        ours["properties"]["nodeLabels"] |= {names.WORKSPACE: KEY[1], names.WORKSPACE_NAMESPACE: "default"}
        theirs = copy.deepcopy(ours) | {"name": "theirs"}
        theirs["properties"]["tags"] = {}
        self.pools, self.deleted = [ours, theirs], list[Any]()

    async def close(self) -> None: ...

    async def find(self, name: str) -> dict[str, Any]:
        """Another run has taken it over meanwhile."""
        pool = copy.deepcopy(self.pools[0])
        pool["properties"]["nodeLabels"][names.RUN_ID] = "another"
        return pool

    async def list_pools(self) -> list[dict[str, Any]]:
        if self.trouble:
            raise self.trouble
        return self.pools

    async def begin_delete(self, name: str, **how: Any) -> bool:
        if self.trouble:
            raise self.trouble
        self.deleted.append((name, how["etag"]))
        return True


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Azure:
    found = Azure()
    monkeypatch.setattr(aks, "AsyncAksHook", lambda conn_id: found)
    monkeypatch.setenv("AIRFLOW__KAITO__POOL_PROVIDER", "aks")
    return found


async def chosen(cluster: Installed, workspace: dict[str, Any]) -> PoolSettings:
    return (await Chooser(cluster.hook).choose(workspace)).settings


async def test_pools_are_looked_for_where_the_workspace_has_its_machines_from(
    cluster: Installed, azure: Azure
) -> None:
    workspace = await cluster.quick_start()
    agents = await pools_of(cluster.hook, workspace, await chosen(cluster, workspace))
    assert [str(found) for found in agents] == ["AgentPool ws1 (Succeeded)"]
    given = {"metadata": {**workspace["metadata"], "annotations": {names.POOL_PROVIDER: "nodepool"}}}
    labels = {names.WORKSPACE: KEY[1], names.WORKSPACE_NAMESPACE: "default", names.POOL: "serving"}
    template = {"spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}}
    await cluster.apply(
        NODE_POOL, {"metadata": {"name": "np", "labels": labels}, "spec": {"template": template}}
    )
    workspace |= given
    pools = await pools_of(cluster.hook, workspace, await chosen(cluster, workspace))
    assert [str(found) for found in pools] == ["NodePool np"]
    doer = Actions(cluster.hook, None, workspace)  # type: ignore[arg-type]
    assert await doer.do(DeletePool(pools[0], "why")) == "NodePool np deleted (why)"
    assert await cluster.hook.find(NODE_POOL, "np") is None


async def test_an_agent_pool_is_deleted_as_it_was_seen(cluster: Installed, azure: Azure) -> None:
    seen = observed(azure.pools[0], ())
    doer, act = Actions(cluster.hook, None, {}), DeletePool(seen, "why")  # type: ignore[arg-type]
    assert await doer.do(act) == "AgentPool ws1 deleted (why)"
    assert azure.deleted == [("ws1", "e1")]
    azure.trouble = AksError(412, "PreconditionFailed", "it has changed")
    assert await doer.do(act) == "", "another run has taken it over meanwhile"
    azure.trouble = AksError(503, "ServiceUnavailable", "come back later")
    with pytest.raises(AksError, match="come back later"):
        await doer.do(act)


async def test_what_azure_does_not_show_is_no_reason_to_say_nothing(
    cluster: Installed, azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is down is told so, and not repaired, while its pools cannot be seen."""
    seen: list[Any] = []
    decide = reconciling.decide  # type: ignore[attr-defined]

    def told(workspace: Any, observed: Any, *rest: Any) -> Any:
        seen.append(observed)
        return decide(workspace, observed, *rest)

    monkeypatch.setattr(reconciling, "decide", told)
    made = await cluster.quick_start()
    run = {"id": names.run_id(made), "dag": "kaito_tune", "attempt": 1, "generation": 1, "rerun": ""}
    status = {"run": {**run, "cause": "spec", "state": "success"}, "state": "Succeeded"}
    await cluster.hook.send(api.status_patch(WORKSPACE, await cluster.get(), status))
    await cluster.look()
    assert [found.name for found in seen[-1].pools.pools] == ["ws1"]
    assert seen[-1].pools.complete
    azure.trouble = AksError(503, "ServiceUnavailable", "come back later")
    live = await cluster.get()
    await cluster.hook.send(api.status_patch(WORKSPACE, live, status))
    outcome = await cluster.look()
    assert outcome.troubled == 0
    assert not seen[-1].pools.complete
    assert SimpleNamespace(**await cluster.condition("InferenceReady")).status == "False"


async def served(cluster: Installed, annotations: Mapping[str, str] | None = None) -> tuple[Any, str]:
    """A Workspace that serves on a machine of its own and whose run is over, as it was made, and its run."""
    document = {
        "metadata": {"name": "s", "annotations": dict(annotations or {})},
        "resource": {
            "instanceType": "Standard_NC24ads_A100_v4",
            "labelSelector": {"matchLabels": {"a": "b"}},
        },
        "inference": {"preset": {"name": "phi-4-mini-instruct"}},
    }
    made = await cluster.apply(WORKSPACE, document)
    await cluster.look(("default", "s"))
    run = names.attempt_run_id(made, 1)
    assert cluster.airflow.runs == {("kaito_serve", run): "queued"}
    await rolled_out(cluster, made, run)
    cluster.airflow.runs = dict.fromkeys(cluster.airflow.runs, "success")
    return made, run


async def test_a_service_sleeps_and_wakes_in_passes_over_a_cluster(
    cluster: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first look at its metrics to the run that brings it back, with nothing but passes in between."""
    made, run = await served(cluster, {names.SCALE_TO_ZERO: "0.01"})
    idle = OURS.replace("in_flight 1.0", "in_flight 0.0")
    async with server(idle.replace("in_flight 0.0", "in_flight 1.0")) as port:
        monkeypatch.setattr(serving, "PORT", port)
        await cluster.look(("default", "s"))
        assert (await cluster.condition("InferenceReady", "s"))["status"] == "True"
    async with server(idle) as port:
        monkeypatch.setattr(serving, "PORT", port)
        await due_again(cluster)
        await cluster.look(("default", "s"))
    assert (await cluster.condition("InferenceReady", "s"))["reason"] == "ScaledToZero"
    found = await cluster.hook.find(STATEFUL_SET, "s", "default")
    assert found is not None
    assert found["spec"]["replicas"] == 0
    assert len(await cluster.hook.list(NODE_CLAIM)) == 1, "a pod is on it"
    await cluster.hook.send(api.delete(POD, "s-0", "default"))
    await cluster.look(("default", "s"))
    assert await cluster.hook.list(NODE_CLAIM) == []
    await cluster.look(("default", "s"))
    status = (await cluster.get("s"))["status"]
    assert status["idle"]["released"]
    assert status["run"]["id"] == run
    no_more = {"metadata": {"annotations": {names.SCALE_TO_ZERO: None}}}
    await cluster.hook.send(api.merge_patch(WORKSPACE, "s", "default", no_more))
    await cluster.look(("default", "s"))
    assert cluster.airflow.runs["kaito_serve", names.attempt_run_id(made, 2)] == "queued"
    status = (await cluster.get("s"))["status"]
    assert status["run"]["cause"] == "wake"
    assert "idle" not in status


async def test_a_pass_reads_why_a_pod_of_a_service_cannot_begin(cluster: Installed) -> None:
    """A drained Node, and a Secret that somebody deleted meanwhile: only an Event of the kubelet's says so."""
    made, run = await served(cluster)
    await cluster.hook.send(api.delete(POD, "s-0", "default"))
    service = await cluster.hook.find(STATEFUL_SET, "s", "default")
    assert service is not None
    nobody = {**service["status"], "readyReplicas": 0}
    await cluster.admin.send(api.status_patch(STATEFUL_SET, service, nobody))
    spec = {"containers": [{"name": "main", "image": "i"}], "nodeName": "gpu-1"}
    labels = names.labels(made, "serving", run)
    again = await cluster.apply(POD, {"metadata": {"name": "s-0", "labels": labels}, "spec": spec})
    await cluster.admin.send(api.status_patch(POD, again, {"phase": "Pending"}))
    said = 'MountVolume.SetUp failed for volume "key" : secret "mine" not found'
    told = {
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {
            "kind": "Pod",
            "name": "s-0",
            "namespace": "default",
            "uid": again["metadata"]["uid"],
        },
        "type": "Warning",
        "reason": "FailedMount",
        "message": said,
    }
    await cluster.admin.send(api.create(EVENT, told))
    await cluster.look(("default", "s"))
    condition = await cluster.condition("InferenceReady", "s")
    assert (condition["status"], condition["reason"]) == ("False", "ContainerStartError")
    assert condition["message"] == f"Pod s-0 on Node gpu-1: FailedMount: {said}"


async def rolled_out(cluster: Installed, workspace: dict[str, Any], run: str) -> None:
    """What a run that serves a Workspace leaves."""
    labels = names.labels(workspace, "serving", run)
    owned = {"labels": labels, "ownerReferences": [names.owner_reference(workspace)]}
    for name in ("s", "s-headless"):
        await cluster.apply(SERVICE, {"metadata": {"name": name, **owned}, "spec": {"ports": [{"port": 80}]}})
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template, "replicas": 1}
    found = await cluster.apply(STATEFUL_SET, {"metadata": {"name": "s", **owned}, "spec": spec})
    told = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1}
    await cluster.admin.send(api.status_patch(STATEFUL_SET, found, told))
    meta = {"name": "ws1", "labels": {**labels, names.POOL: "serving"}}
    requirement = {
        "key": "node.kubernetes.io/instance-type",
        "operator": "In",
        "values": ["Standard_NC24ads_A100_v4"],
    }
    node_class = {"group": "g", "kind": "k", "name": "n"}
    claim = {"metadata": meta, "spec": {"requirements": [requirement], "nodeClassRef": node_class}}
    await cluster.apply(NODE_CLAIM, claim)
    spec = {"containers": [{"name": "main", "image": "i"}]}
    made = await cluster.apply(POD, {"metadata": {"name": "s-0", **owned}, "spec": spec})
    await cluster.admin.send(api.status_patch(POD, made, {"phase": "Running", "podIP": "127.0.0.1"}))
    live = await cluster.get("s")
    status = conditions.progress(live, "Succeeded", message="done", now=LONG_AGO)
    status = conditions.progress(
        {**live, "status": status}, "InferenceReady", message="answers", now=LONG_AGO
    )
    status["run"] = {**status["run"], "state": "success"}
    await cluster.hook.send(api.status_patch(WORKSPACE, live, status))


async def due_again(cluster: Installed) -> None:
    live = await cluster.get("s")
    status = copy.deepcopy(live["status"])
    assert status["idle"]["after"] > conditions.timestamp(LONG_AGO)
    status["idle"]["after"] = conditions.timestamp(LONG_AGO)
    await cluster.hook.send(api.status_patch(WORKSPACE, live, status))
