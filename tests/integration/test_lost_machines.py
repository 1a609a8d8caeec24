"""Machines that die or are evicted while they tune, with every provider under real runs of Airflow.

The tuning goes on from its last checkpoint on another machine, and at the end nothing is left and the Workspace's own
account is the cloud's. The Workspaces of one test are at work at the same time: that is both quicker and harder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from include.workspace.api import names
from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

PROVIDERS = ("nodeclaim", "nodepool", "aks")
MACHINE = "Standard_NC6s_v3"
#: There is a checkpoint after every SAVED steps; the last ones come long after a machine that was struck has gone.
SAVED, STEPS = 50, 600
#: Seconds between the notice of an eviction and the end of the machine.
NOTICE = 4
KARPENTERS = "karpenter.sh/disrupted"
NOTICES = {
    "nodeclaim": KARPENTERS,
    "nodepool": KARPENTERS,
    "aks": "remediator.aks.microsoft.com/unschedulable",
}
SPOT_LABELS = {"nodepool": "karpenter.sh/capacity-type", "aks": "kubernetes.azure.com/scalesetpriority"}


@dataclass
class Tuning:
    """A tuning Workspace that loses its machine."""

    stack: ReconciledStack
    provider: str
    name: str
    notes: dict[str, str] = field(default_factory=dict)
    #: The Node that is lost, as it was when it went.
    lost: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        document = self.stack.tuning(self.name, steps=STEPS)
        document["metadata"]["annotations"] |= {names.POOL_PROVIDER: self.provider, **self.notes}
        self.stack.kubectl.apply(document)

    def saved(self) -> int:
        """The step of the newest checkpoint that is whole, 0 without one."""
        claim = self.stack.get("pvc", f"{self.name}-work")
        if claim is None or not (volume := claim["spec"].get("volumeName")):
            return 0
        folder = Path(self.stack.get("pv", volume)["spec"]["hostPath"]["path"])
        whole = [mark.parent.name for mark in folder.rglob("checkpoint-*/complete.json")]
        return max((int(name.rpartition("-")[2]) for name in whole), default=0)

    def strike(self, kind: str, **what: Any) -> bool:
        """Strike the machine as soon as there is something to go on from; returns whether that was now."""
        if self.saved() < SAVED:
            return False
        (pod,) = self.stack.pods(self.name, "tuning")
        assert pod["status"]["phase"] == "Running", pod["status"]
        self.lost = self.node(pod["spec"]["nodeName"])
        self.stack.fault(kind, target=self.lost["metadata"]["name"], **what)
        return True

    def noticed(self) -> bool:
        """Whether its Node says that it will go."""
        node = self.stack.get("node", self.lost["metadata"]["name"])
        return NOTICES[self.provider] in {taint["key"] for taint in node["spec"].get("taints") or []}

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.get("node", name)
        return found

    def went_on(self) -> dict[str, Any]:
        """Wait for its end; returns the status, once all is as it has to be after the loss of one machine."""
        stack, name = self.stack, self.name
        run = stack.run_id(name)
        stack.reaches(name, "WorkspaceSucceeded", seconds=420)
        wait(lambda: stack.api.run("kaito_tune", run)["state"] == "success" or None, 60, f"the end of {run}")
        result = stack.api.xcom("kaito_tune", run, "tune")
        assert SAVED <= result["resumed_from_step"] < result["steps"] == STEPS
        tries = {task["task_id"]: task["try_number"] for task in stack.api.tasks("kaito_tune", run)}
        assert tries["tune"] == 2
        first, second = stack.rentals(name)
        assert first.node == self.lost["metadata"]["name"] != second.node
        assert first.stopped
        assert second.stopped
        assert first.stopped < second.stopped, "what is lost is let go at once, not with the run"
        for kind in ("nodepools", "nodeclaims", "nodes", "pods"):
            assert not stack.get(kind, "-l", f"{names.WORKSPACE}={name}")["items"], kind
        billed = pytest.approx(first.seconds + second.seconds, rel=0.02, abs=6)  # 3 s a machine

        def accounted() -> dict[str, Any] | None:
            status: dict[str, Any] = stack.get("workspace", name)["status"]
            told = status["cost"]
            return status if len(told["claims"]) == 2 and told["nodeSeconds"] == billed else None

        return wait(accounted, 60, f"an account of {name} that is the cloud's {billed}")


@contextmanager
def nothing_left(stack: ReconciledStack, tunings: Sequence[Tuning]) -> Iterator[None]:
    """Afterwards the cluster has the nodes that it had before."""
    before = stack.kubectl("get", "nodes", "-o", "name")
    try:
        yield
    finally:
        stack.heal()
        for one in tunings:
            stack.kubectl("delete", "workspace", one.name, "--wait=false", "--ignore-not-found")
        for one in tunings:
            stack.gone(one.name)
    assert stack.kubectl("get", "nodes", "-o", "name") == before


def each(tunings: Sequence[Tuning], act: Callable[[Tuning], bool], what: str) -> None:
    """Act on every one until it says that it is done."""
    left = list(tunings)

    def look() -> bool | None:
        left[:] = [one for one in left if not act(one)]
        return not left or None

    wait(look, 300, what)


def test_a_tuning_goes_on_when_its_node_dies(reconciled_stack: ReconciledStack) -> None:
    tunings = [Tuning(reconciled_stack, provider, f"dies-{provider}") for provider in PROVIDERS]
    with nothing_left(reconciled_stack, tunings):
        for one in tunings:
            one.begin()
        each(tunings, lambda one: one.strike("node-loss"), "the checkpoints")
        for one in tunings:
            one.went_on()


def evicted(stack: ReconciledStack, tunings: Sequence[Tuning]) -> None:
    """Bring them to work, and take their spot machines: notice, taint, event, and the machine is gone."""
    for one in tunings:
        one.begin()

    def strike(one: Tuning) -> bool:
        return one.strike("spot-eviction", value=NOTICE) and wait(one.noticed, 10, "the notice")

    each(tunings, strike, "the checkpoints")
    for one in tunings:
        name = one.lost["metadata"]["name"]
        told = stack.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
        assert "PreemptScheduled" in {event["reason"] for event in told}, name


def is_spot(one: Tuning, node: dict[str, Any]) -> bool:
    return node["metadata"]["labels"].get(SPOT_LABELS[one.provider]) == "spot"


def test_a_tuning_goes_on_when_its_spot_machine_is_evicted(reconciled_stack: ReconciledStack) -> None:
    notes = {names.CAPACITY_TYPE: "spot,on-demand"}
    tunings = [Tuning(reconciled_stack, provider, f"evicted-{provider}", notes) for provider in PROVIDERS]
    with nothing_left(reconciled_stack, tunings):
        evicted(reconciled_stack, tunings)
        for one in tunings:
            status = one.went_on()
            asked = [(entry["offer"], entry["state"]) for entry in status["machines"]]
            assert asked == [(f"{MACHINE}/spot", "Asked")]
            if one.provider in SPOT_LABELS:  # gpu-provisioner knows no spot machines
                assert is_spot(one, one.lost)


def test_a_tuning_goes_on_on_demand_when_no_spot_machine_is_left(reconciled_stack: ReconciledStack) -> None:
    notes = {names.CAPACITY_TYPE: "spot,on-demand"}
    tunings = [Tuning(reconciled_stack, provider, f"sold-out-{provider}", notes) for provider in SPOT_LABELS]
    with nothing_left(reconciled_stack, tunings):
        evicted(reconciled_stack, tunings)
        reconciled_stack.fault("no-capacity", target=f"{MACHINE}/spot")
        for one in tunings:
            status = one.went_on()
            asked = [(entry["offer"], entry["state"]) for entry in status["machines"]]
            assert asked == [(f"{MACHINE}/spot", "Refused"), (f"{MACHINE}/on-demand", "Asked")]
