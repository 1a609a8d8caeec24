"""A Workspace's story, told in a line or two: what happened to it, and what is decided next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from include.reconcile import Decision, DeleteObject, DeletePool, ReconcileConfig
from include.workspace.api import names
from include.workspace.status.conditions import condition
from tests.support.pools import workspace_pools
from tests.support.reconcile.airflow import Airflow
from tests.support.reconcile.cluster import MACHINE, NAME, NAMESPACE, Cluster, Obj
from tests.support.reconcile.shell import Look, Shell

OTHER = {"kind": "Other", "name": "theirs", "uid": "other", "controller": True}


#: Parts of what is seen of its machines.
POOLS = ("provider", "asked", "node_claims", "node_pools", "agent_pools")

RECONCILE_CONFIG = ReconcileConfig(
    faults=lambda _workspace, _old: [],
    machine_of=lambda _workspace: MACHINE,
    price_of=lambda _machine: 3.6,
    run_url=lambda dag, run: f"http://airflow/{dag}/{run}",
)


class Story:
    """A Workspace, what happened to it, and what is decided next."""

    def __init__(self, kind: str = "tuning", preset: str = "good", **annotations: str) -> None:
        self.cluster = Cluster()
        self.airflow = Airflow(self.cluster)
        self.shell = Shell(self.cluster, self.airflow)
        rollout = {names.ROLLOUT: "true" if kind == "quick" else "false"}
        meta = {"name": NAME, "namespace": NAMESPACE, "generation": 1, "annotations": rollout | annotations}
        self.part = "inference" if kind == "inference" else "tuning"
        spec = {"preset": preset, "config": "cfg", "variant": 0}
        document = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": meta, self.part: spec}
        self.cluster.create("Workspace", document)

    @property
    def ws(self) -> Obj:
        found = self.cluster.workspace
        assert found is not None
        return found

    @property
    def status(self) -> Obj:
        found: Obj = self.ws["status"]
        return found

    def look(self, **observed: Any) -> Look:
        """What the reconciler sees, but for what is given; `provider` and the objects of its pools among it."""
        seen = self.shell.look()
        assert seen is not None
        pools = {key: observed.pop(key) for key in POOLS if key in observed}
        if pools or "nodes" in observed:
            given = {"node_claims": self.cluster.all("NodeClaim"), **pools}
            nodes = observed.get("nodes", self.cluster.all("Node"))
            observed["pools"] = workspace_pools(nodes=nodes, now=seen.now, **given)
        return replace(seen, observed=replace(seen.observed, **observed))

    def decision(self, **observed: Any) -> Decision:
        return self.shell.decide(self.look(**observed))

    def reconcile(self) -> Decision:
        look = self.look()
        decision = self.shell.decide(look)
        assert self.shell.carry_out(look, decision)
        return decision

    def lives(self, until: Callable[[Story], bool], rounds: int = 60) -> Story:
        """Goes on until something is so."""
        for _ in range(rounds):
            if until(self):
                return self
            self.reconcile()
            for run in list(self.airflow.runs.values()):
                self.airflow.advance(run)
            self.cluster.tick()
            self.cluster.advance(5)
        raise AssertionError(f"never so: {self.status}")

    def annotate(self, **values: str) -> Story:
        annotations = {**self.ws["metadata"]["annotations"], **{KEYS[k]: v for k, v in values.items()}}
        self.cluster.change("Workspace", self.ws, annotations=annotations)
        return self

    def edit(self, **spec: Any) -> Story:
        changed = {**self.ws, self.part: {**self.ws[self.part], **spec}}
        self.cluster.change("Workspace", changed, generation=names.generation(self.ws) + 1)
        return self

    def condition(self, kind: str) -> tuple[str, str]:
        found = condition(self.status, kind)
        assert found is not None
        return found["status"], found["reason"]


KEYS = {
    "rerun": names.RERUN,
    "paused": names.PAUSED,
    "managed": names.MANAGED_BY,
    "force": names.FORCE_RELEASE,
    "provider": names.POOL_PROVIDER,
    "budget": names.BUDGET,
}


def tuning_pod_runs(story: Story) -> bool:
    return any(p["status"]["phase"] == "Running" for p in story.cluster.children("tuning"))


def run_ended(story: Story) -> bool:
    status = (story.cluster.workspace and story.cluster.workspace.get("status")) or {}
    return (status.get("run") or {}).get("state") in ("success", "failed")


def ready(story: Story) -> bool:
    return run_ended(story) and story.condition("WorkspaceReady")[0] == "True"


def of(decision: Decision, kind: type) -> list[Any]:
    return [action for action in decision.actions if isinstance(action, kind)]


def deleted(decision: Decision) -> list[str]:
    """The kinds of what goes, pools included."""
    pools = [action.pool.kind for action in of(decision, DeletePool)]
    return sorted([*pools, *(action.kind for action in of(decision, DeleteObject))])
