"""Machines of other providers than NodeClaims, under real runs: made, worked on and gone; or left as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kaito.hooks.aks import AksHook

from demo.stack import azure_connection
from examples.pool_providers.labelled_nodes import SET_ASIDE, LabelledNodes
from include.workspace.api import names
from sandbox.cloud.ledger import Ledger
from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack
from tests.support.retrained import Retrained

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

MACHINE = "Standard_NC6s_v3"
CREATE = "create_gpu_pool"
GPUS = {
    "nvidia.com/gpu.product": "Tesla-V100-PCIE-16GB",
    "nvidia.com/gpu.count": "1",
    "nvidia.com/gpu.memory": "16384",
}


@pytest.fixture
def azure(reconciled_stack: ReconciledStack, monkeypatch: pytest.MonkeyPatch) -> AksHook:
    monkeypatch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", azure_connection(reconciled_stack.sandbox.state_dir))
    return AksHook()


def apply(stack: ReconciledStack, name: str, provider: str, **resource: Any) -> None:
    document = stack.tuning(name, steps=3)
    document["metadata"]["annotations"][names.POOL_PROVIDER] = provider
    document["resource"] |= resource
    stack.kubectl.apply(document)


def pools(azure: AksHook) -> list[str]:
    return [pool["name"] for pool in azure.list_pools() if pool["properties"]["mode"] == "User"]


def test_a_tuning_on_an_agent_pool_leaves_no_machine_behind(
    reconciled_stack: ReconciledStack, azure: AksHook
) -> None:
    stack, name = reconciled_stack, "on-aks"
    apply(stack, name, "aks")
    pool = wait(lambda: next(iter(pools(azure)), None), 90, "an agent pool")
    assert stack.claims_of(name) == []
    pod = stack.running_pod(name, "tuning")
    assert pod["spec"]["nodeName"].startswith(f"aks-{pool}-")
    stack.reaches(name, "WorkspaceSucceeded")
    assert pools(azure) == []
    assert not stack.get("nodes", "-l", f"kaito.sh/workspace={name}")["items"]
    rented = Ledger(stack.sandbox.state_dir / "ledger.jsonl").rentals()
    assert [rental.stopped is not None for rental in rented if rental.claim == pool] == [True]
    stack.kubectl("delete", "workspace", name, "--wait=false")
    stack.gone(name)


@pytest.mark.parametrize(
    ("provider", "why"),
    [
        ("nodepool", "annotation kaito.sh/pool-provider"),
        ("auto", "auto, and the cluster knows Karpenter's NodePools"),
    ],
)
def test_a_tuning_on_a_node_pool_leaves_no_machine_behind(
    reconciled_stack: ReconciledStack, provider: str, why: str
) -> None:
    stack, name = reconciled_stack, f"on-{provider}"
    mine = ("-l", f"kaito.sh/workspace={name}")
    apply(stack, name, provider)
    pool = wait(lambda: next(iter(stack.get("nodepools", *mine)["items"]), None), 90, "a NodePool")
    pool_name = pool["metadata"]["name"]
    assert pool["spec"]["replicas"] == 1
    pod = stack.running_pod(name, "tuning")
    assert pod["spec"]["nodeName"].startswith(f"aks-{pool_name}-")
    (claim,) = stack.get("nodeclaims", *mine)["items"]
    assert [owner["kind"] for owner in claim["metadata"]["ownerReferences"]] == ["NodePool"]
    stack.reaches(name, "WorkspaceSucceeded")
    assert f"GPU machines by provider nodepool: {why}." in stack.log(stack.run_id(name), CREATE)
    for kind in ("nodepools", "nodeclaims", "nodes"):
        assert not stack.get(kind, *mine)["items"], kind
    rented = Ledger(stack.sandbox.state_dir / "ledger.jsonl").rentals()
    assert [r.stopped is not None for r in rented if r.claim == claim["metadata"]["name"]] == [True]
    stack.kubectl("delete", "workspace", name, "--wait=false")
    stack.gone(name)


@contextmanager
def standing_nodes(stack: ReconciledStack, azure: AksHook, app: str) -> Iterator[list[str]]:
    """Two GPU nodes that nobody made for a Workspace."""
    azure.begin_create(
        {
            "name": "mine",
            "properties": {
                "count": 2,
                "vmSize": MACHINE,
                "mode": "User",
                "osType": "Linux",
                "type": "VirtualMachineScaleSets",
                "nodeLabels": {"app": app},
                "nodeTaints": ["sku=gpu:NoSchedule"],
            },
        }
    )
    try:
        yield wait(lambda: _nodes(stack, app, 2), 60, "two nodes")
    finally:
        azure.begin_delete("mine")


def test_byo_nodes_are_used_and_stay(reconciled_stack: ReconciledStack, azure: AksHook) -> None:
    stack, name = reconciled_stack, "on-own-nodes"
    with standing_nodes(stack, azure, name) as own:
        stack.kubectl("label", "nodes", *own, *(f"{key}={value}" for key, value in GPUS.items()))
        apply(stack, name, "byo", instanceType="")
        pod = stack.running_pod(name, "tuning")
        assert pod["spec"]["nodeName"] in own
        stack.reaches(name, "WorkspaceSucceeded")
        assert stack.claims_of(name) == []
        stack.kubectl("delete", "workspace", name, "--wait=false")
        stack.gone(name)
        assert _nodes(stack, name, 2) == own
        assert pools(azure) == ["mine"]


def test_a_service_on_own_nodes_answers_while_its_pod_is_replaced(
    reconciled_stack: ReconciledStack, azure: AksHook
) -> None:
    stack, name, config = reconciled_stack, "moves-over", "moves-over-config"
    settings = {"inference_config.yaml": "vllm: {max-model-len: 1024}\n"}
    changed = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config}, "data": settings}
    stack.kubectl.apply(changed)
    document = stack.service(name, machine="")
    document["metadata"]["annotations"] = {names.POOL_PROVIDER: "byo"}
    with standing_nodes(stack, azure, name) as own:
        stack.kubectl("label", "nodes", *own, *(f"{key}={value}" for key, value in GPUS.items()))
        stack.kubectl.apply(document)
        stack.reaches(name, "WorkspaceReady")
        (before,) = stack.pods(name, "serving")
        service = Retrained(stack, name)
        with service.load() as found:
            wait(lambda: found.answers or None, 60, "a first answer")
            stack.kubectl.apply({**document, "inference": {**document["inference"], "config": config}})
            run = stack.run_id(name)
            wait(lambda: len(stack.pods(name, "serving")) == 2 or None, 240, "a second pod")
            wait(lambda: stack.run_states().get(run), 60, f"run {run}")
            assert service.ended(run, "kaito_serve") == "success"
            wait(lambda: len(stack.pods(name, "serving")) == 1 or None, 60, "the end of the second pod")
            quiet = len(found.answers)
            wait(lambda: len(found.answers) > quiet + 5 or None, 60, "answers of the one that is left")
        (after,) = stack.pods(name, "serving")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert {one.status for one in found.answers} == {200}
        print(f"a new pod on another Node: {len(found.answers)} answers, none failed")
        stack.kubectl("delete", "workspace", name, "--wait=false")
        stack.gone(name)
        assert _nodes(stack, name, 2) == own


def test_a_tuning_on_machines_of_an_added_provider_gives_them_back(
    reconciled_stack: ReconciledStack, azure: AksHook
) -> None:
    stack, name, app = reconciled_stack, "on-labelled-nodes", "set-aside"
    with standing_nodes(stack, azure, app) as own:
        stack.kubectl("label", "nodes", *own, f"{SET_ASIDE}=true")
        apply(stack, name, LabelledNodes.name, labelSelector={"matchLabels": {"app": app}})
        pod = stack.running_pod(name, "tuning")
        assert pod["spec"]["nodeName"] in own
        (lent,) = stack.get("nodes", "-l", f"kaito.sh/workspace={name}")["items"]
        assert lent["metadata"]["name"] == pod["spec"]["nodeName"]
        stack.reaches(name, "WorkspaceSucceeded")
        why = f"GPU machines by provider {LabelledNodes.name}: annotation kaito.sh/pool-provider."
        assert why in stack.log(stack.run_id(name), CREATE)
        assert not stack.get("nodes", "-l", f"kaito.sh/workspace={name}")["items"], "it was given back"
        assert _nodes(stack, app, 2) == own
        stack.kubectl("delete", "workspace", name, "--wait=false")
        stack.gone(name)


def _nodes(stack: ReconciledStack, app: str, many: int) -> list[str] | None:
    found = [n["metadata"]["name"] for n in stack.get("nodes", "-l", f"app={app}")["items"]]
    return sorted(found) if len(found) == many else None


def test_when_the_cloud_has_none_of_the_first_machines_the_run_goes_on_with_the_second(
    reconciled_stack: ReconciledStack,
) -> None:
    """Then there are none at all: the run ends, nothing is left, and the next attempt is announced."""
    stack, name, other = reconciled_stack, "falls-back", "Standard_NC24ads_A100_v4"
    document = stack.tuning(name, steps=3)
    document["metadata"]["annotations"][names.INSTANCE_TYPES] = other
    stack.fault("no-capacity", target=MACHINE)
    try:
        stack.kubectl.apply(document)
        pod = stack.running_pod(name, "tuning")
        node = stack.get("node", pod["spec"]["nodeName"])
        assert node is not None
        assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == other
        stack.reaches(name, "WorkspaceSucceeded")
        status = stack.get("workspace", name)["status"]
        asked = [(entry["offer"], entry["state"]) for entry in status["machines"]]
        assert asked == [(MACHINE, "Refused"), (other, "Asked")]
        assert "sufficient capacity" in status["machines"][0]["message"]
        assert {claim["machine"] for claim in status["cost"]["claims"]} >= {other}
        assert stack.claims_of(name) == []
        stack.fault("quota", target=other)
        stack.kubectl("annotate", "workspace", name, f"{names.RERUN}=again")
        retry = wait(
            lambda: stack.get("workspace", name)["status"].get("retry") or {}, 120, "the next attempt's time"
        )
        assert (retry["reason"], retry["failures"]) == ("CapacityUnavailable", 1)
        told = stack.condition(name, "ResourceReady")
        assert (told["status"], told["reason"]) == ("False", "CapacityUnavailable")
        assert told["message"].startswith(f"The next attempt is at {retry['after']}")
        assert "sufficient capacity" in told["message"]
        assert "quota" in told["message"]
        assert stack.claims_of(name) == []
    finally:
        stack.heal()
    assert stack.get("workspace", name)["status"]["run"]["id"] == retry["run"], (
        "nothing is tried before its time"
    )
    time_passes(stack, name)
    wait(
        lambda: stack.get("workspace", name)["status"]["run"]["id"] != retry["run"] or None, 60, "the attempt"
    )
    stack.reaches(name, "WorkspaceSucceeded")
    status = stack.get("workspace", name)["status"]
    assert (status["run"]["cause"], status["run"]["attempt"]) == ("capacity", 3)
    wait(
        lambda: not stack.get("workspace", name)["status"].get("retry") or None, 30, "the end of the waiting"
    )
    stack.kubectl("delete", "workspace", name, "--wait=false")
    stack.gone(name)


def time_passes(stack: ReconciledStack, name: str) -> None:
    """The moment of the next attempt is a minute ago."""
    moment = datetime.now(UTC) - timedelta(minutes=1)
    change = {"status": {"retry": {"after": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}}}
    stack.kubectl(
        "patch", "workspace", name, "--subresource=status", "--type=merge", f"-p={json.dumps(change)}"
    )


def test_every_way_to_get_machines_leads_to_the_second_choice(reconciled_stack: ReconciledStack) -> None:
    """At the same time: tunings on an agent pool and on a NodePool, and a service on NodeClaims."""
    stack, other = reconciled_stack, "Standard_NC24ads_A100_v4"
    before = stack.kubectl("get", "nodes", "-o", "name")
    documents = {
        f"second-{provider}": stack.tuning(f"second-{provider}", steps=3) for provider in ("aks", "nodepool")
    }
    documents["second-service"] = stack.service("second-service")
    goals = {**dict.fromkeys(documents, "WorkspaceSucceeded"), "second-service": "WorkspaceReady"}
    stack.fault("no-capacity", target=MACHINE)
    try:
        for name, document in documents.items():
            notes = document["metadata"].setdefault("annotations", {})
            notes |= {names.INSTANCE_TYPES: other, names.POOL_PROVIDER: name.removeprefix("second-")}
            if name == "second-service":
                notes[names.POOL_PROVIDER] = "nodeclaim"
            stack.kubectl.apply(document)
        for name, goal in goals.items():
            stack.reaches(name, goal, seconds=300)
            machines = stack.get("workspace", name)["status"]["machines"]
            asked = [(entry["offer"], entry["state"]) for entry in machines]
            assert asked == [(MACHINE, "Refused"), (other, "Asked")], name
            assert "sufficient capacity" in machines[0]["message"]
    finally:
        stack.heal()
        stack.kubectl("delete", "workspace", *documents, "--wait=false", "--ignore-not-found")
        for name in documents:
            stack.gone(name)
    assert stack.kubectl("get", "nodes", "-o", "name") == before
    billed = [rental for name in documents for rental in stack.rentals(name)]
    assert [(r.instance_type, r.stopped is not None) for r in billed] == [(other, True)] * 3
