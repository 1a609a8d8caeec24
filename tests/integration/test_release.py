"""Deleting a Workspace, whatever it is doing: it goes, and so does everything that it had.

All Workspaces of this file are at work at the same time and are deleted at the same time: that is both quicker and
harder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.airflow_run import wait
from tests.support.reconciled import FINALIZER, ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SLOW = "Standard_NC12s_v3"
FOR_EVER = 100_000
KINDS = "pods,nodes,nodeclaims,persistentvolumeclaims,persistentvolumes,statefulsets,services"


def everything(stack: ReconciledStack) -> set[str]:
    """Return the names of all objects that cost something."""
    return set(stack.kubectl("get", KINDS, "-A", "-o", "name").split())


def fetching(stack: ReconciledStack) -> None:
    document = stack.tuning("go-fetching")
    document["tuning"]["input"]["urls"] = [f"http://{stack.hanging}/train.parquet"]
    stack.kubectl.apply(document)


def provisioning(stack: ReconciledStack) -> None:
    stack.kubectl.apply(stack.tuning("go-provisioning", machine=SLOW))


def tuning(stack: ReconciledStack) -> None:
    stack.kubectl.apply(stack.tuning("go-tuning", steps=FOR_EVER))


def pushing(stack: ReconciledStack) -> None:
    document = stack.tuning("go-pushing")
    document["tuning"]["output"]["image"] = f"{stack.hanging}/adapters/never:1"
    stack.kubectl.apply(document)


def rolling_out(stack: ReconciledStack) -> None:
    stack.kubectl.apply(stack.service("go-rolling-out", adapter=f"{stack.hanging}/adapters/never:1"))


def ready(stack: ReconciledStack) -> None:
    stack.kubectl.apply(stack.service("go-ready"))


def finished(stack: ReconciledStack) -> None:
    stack.kubectl.apply(stack.tuning("go-finished"))


def boots(stack: ReconciledStack, name: str) -> Any:
    return stack.claims_of(name)


def pulls(stack: ReconciledStack, name: str) -> Any:
    return [p for p in stack.pods(name, "serving") if p["status"].get("podIP")]


def runs(component: str) -> Callable[[ReconciledStack, str], Any]:
    return lambda stack, name: [p for p in stack.pods(name, component) if p["status"]["phase"] == "Running"]


def says(type_: str) -> Callable[[ReconciledStack, str], Any]:
    return lambda stack, name: stack.condition(name, type_).get("status") == "True"


#: What is applied, and how it is seen that it is in the middle of what its name says.
PHASES: dict[str, tuple[Callable[[ReconciledStack], None], Callable[[ReconciledStack, str], Any]]] = {
    "go-fetching": (fetching, runs("dataset")),
    "go-provisioning": (provisioning, boots),
    "go-tuning": (tuning, runs("tuning")),
    "go-pushing": (pushing, runs("adapter")),
    "go-rolling-out": (rolling_out, pulls),
    "go-ready": (ready, says("WorkspaceReady")),
    "go-finished": (finished, says("WorkspaceSucceeded")),
}


@dataclass
class Departure:
    """What came of the deletion of them all."""

    baseline: set[str]
    had: dict[str, list[str]]
    took: dict[str, float] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    digest: str = ""


@pytest.fixture(scope="module")
def departure(reconciled_stack: ReconciledStack) -> Iterator[Departure]:
    """Bring each Workspace into its phase, then delete all of them at once."""
    stack = reconciled_stack
    stack.fault("slow-boot", target=SLOW, value=600)
    baseline = everything(stack)
    try:
        for apply, _ in PHASES.values():
            apply(stack)
        for name, (_, there) in PHASES.items():
            wait(lambda name=name, there=there: there(stack, name) or None, 240, f"{name} in its phase")
        found = Departure(baseline, {name: stack.children(name) for name in PHASES})
        found.digest = stack.registry_digest("go-finished", "0.0.1")
        begin = time.monotonic()
        stack.kubectl("delete", "workspace", *PHASES, "--wait=false")
        waiting = set(PHASES)
        while waiting and time.monotonic() - begin < 120:
            there = set(stack.kubectl("get", "workspaces", "-o", "name").split())
            for name in [n for n in waiting if f"workspace.kaito.sh/{n}" not in there]:
                waiting.discard(name)
                found.took[name] = time.monotonic() - begin
                found.left[name] = stack.children(name)
            time.sleep(0.3)
        yield found
    finally:
        stack.heal("slow-boot")


@pytest.mark.parametrize("name", PHASES)
def test_it_goes_with_everything_that_it_had(
    reconciled_stack: ReconciledStack, departure: Departure, name: str
) -> None:
    assert departure.had[name], "it had something to release"
    live = reconciled_stack.get("workspace", name)
    assert name in departure.took, json.dumps((live or {}).get("status"), indent=1)
    machines = [one for one in departure.left[name] if one.startswith(("node", "nodeclaim", "pod", "pers"))]
    assert machines == [], "gone before our finalizer was"


def test_the_cluster_is_as_it_was(reconciled_stack: ReconciledStack, departure: Departure) -> None:
    wait(lambda: everything(reconciled_stack) == departure.baseline or None, 30, "the baseline")
    assert reconciled_stack.kubectl("get", "configmaps", "-l", "kaito.sh/workspace", "-o", "name") == ""


def test_the_runs_ended_by_themselves(reconciled_stack: ReconciledStack, departure: Departure) -> None:
    wait(lambda: not reconciled_stack.in_flight() or None, 60, "the end of all runs")


def test_a_step_that_was_under_way_says_why_it_ended(
    reconciled_stack: ReconciledStack, departure: Departure
) -> None:
    api = reconciled_stack.api
    runs = api._http.get("/api/v2/dags/kaito_tune/dagRuns", params={"limit": 100}).json()["dag_runs"]
    (run,) = [r["dag_run_id"] for r in runs if ".go-tuning." in r["dag_run_id"]]
    wait(lambda: api.run("kaito_tune", run)["state"] == "failed" or None, 60, "the end of the run")
    tune = next(task for task in api.tasks("kaito_tune", run) if task["task_id"] == "tune")
    assert tune["state"] == "failed"
    assert tune["try_number"] == 1
    log = reconciled_stack.log(run, "tune")
    assert "being deleted" in log or "was deleted" in log


def test_the_pushed_adapter_stays(reconciled_stack: ReconciledStack, departure: Departure) -> None:
    assert reconciled_stack.registry_digest("go-finished", "0.0.1") == departure.digest


def test_what_the_user_brought_stays(reconciled_stack: ReconciledStack, departure: Departure) -> None:
    assert reconciled_stack.get("configmap", "go-tuning-config") is not None
    assert reconciled_stack.get("secret", "push") is not None


def test_the_finalizer_of_somebody_else_is_respected(reconciled_stack: ReconciledStack) -> None:
    stack, name = reconciled_stack, "go-held"
    document = stack.tuning(name, machine=SLOW)
    document["metadata"]["finalizers"] = ["example.com/hold"]
    stack.fault("slow-boot", target=SLOW, value=600)
    try:
        stack.kubectl.apply(document)
        wait(lambda: stack.claims_of(name), 120, "its machine")
        stack.kubectl("delete", "workspace", name, "--wait=false")

        def only_theirs() -> bool | None:
            return stack.get("workspace", name)["metadata"].get("finalizers") == ["example.com/hold"] or None

        wait(only_theirs, 60, "our finalizer to come off")
        assert stack.claims_of(name) == stack.pods_of(name) == []
        stack.kubectl("patch", "workspace", name, "--type=merge", '-p={"metadata":{"finalizers":null}}')
        stack.gone(name)
    finally:
        stack.heal("slow-boot")


def test_a_stuck_release_can_be_forced(reconciled_stack: ReconciledStack) -> None:
    stack, name = reconciled_stack, "go-stuck"
    stack.fault("slow-boot", target=SLOW, value=600)
    try:
        stack.kubectl.apply(stack.tuning(name, machine=SLOW))
        (claim,) = wait(lambda: stack.claims_of(name), 120, "its machine")
        hold = json.dumps([{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/stuck"}])
        stack.kubectl("patch", claim, "--type=json", f"-p={hold}")
        stack.kubectl("delete", "workspace", name, "--wait=false")

        def says_by_what() -> bool | None:
            told = stack.condition(name, "WorkspaceDeleting").get("message", "")
            return ("example.com/stuck" in told or "NodeClaim" in told) or None

        wait(says_by_what, 60, "what holds it")
        assert FINALIZER in stack.get("workspace", name)["metadata"]["finalizers"]
        stack.kubectl("annotate", "workspace", name, "kaito.sh/force-release=true")
        wait(lambda: stack.get("workspace", name) is None or None, 60, "the end of the Workspace")
        warnings = [message for type_, reason, message in stack.events(name) if reason == "ReleasedByForce"]
        assert any(claim.removeprefix("nodeclaim.karpenter.sh/") in message for message in warnings)
    finally:
        stack.kubectl("patch", claim, "--type=merge", '-p={"metadata":{"finalizers":null}}')
        stack.heal("slow-boot")
    wait(lambda: not stack.claims_of(name) or None, 30, "the end of the machine")
