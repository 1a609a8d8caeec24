"""Workspaces that stand in the middle of every phase at the same time, each held there until the test lets it go.

What holds one: a door in front of what it asks, a machine that boots slowly, a machine that somebody else's finalizer
keeps, an answer of the API server that comes late; a training holds itself.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo.cluster import connect
from demo.processes import DemoError
from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack, patiently
from tests.support.status_truth import untruths

SLOW = "Standard_NC12s_v3"
#: Some tens of seconds where nothing else runs: longer than any part of Airflow needs to come back.
STEPS = 100
HOLD = "example.com/hold"
#: How long the API server takes for what preflight asks, in seconds.
LATE = 6
#: No wait of these tests measures anything: they end as soon as they can, and the machine may be very busy.
PATIENCE = 420.0
LOOK = 0.5
PATHS = {
    "pods": "/api/v1/pods",
    "claims": "/apis/karpenter.sh/v1/nodeclaims",
    "nodes": "/api/v1/nodes",
    "sets": "/apis/apps/v1/statefulsets",
    "workspaces": "/apis/kaito.sh/v1beta1/workspaces",
}


class Seen:
    """What is in the cluster, and every pod that ever was; looked at in the background, through every outage."""

    def __init__(self, stack: ReconciledStack) -> None:
        #: By path and by name, as of the last look that was answered.
        self.now: dict[str, dict[str, Any]] = {what: {} for what in PATHS}
        #: By Workspace and component.
        self.uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.at_once: dict[tuple[str, str], int] = defaultdict(int)
        self.ended: set[tuple[str, str]] = set()
        self._stack, self._stop = stack, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Seen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _watch(self) -> None:
        with connect(self._stack.sandbox.kubeconfig) as http:
            while not self._stop.wait(LOOK):
                with suppress(httpx.HTTPError):
                    for what, path in PATHS.items():
                        items = http.get(path).raise_for_status().json()["items"]
                        self.now[what] = {item["metadata"]["name"]: item for item in items}
                    self._note(list(self.now["pods"].values()))

    def _note(self, pods: list[Mapping[str, Any]]) -> None:
        working: dict[tuple[str, str], int] = defaultdict(int)
        there = set()
        for pod in pods:
            labels = pod["metadata"].get("labels") or {}
            if "kaito.sh/component" not in labels:
                continue
            key = labels["kaito.sh/workspace"], labels["kaito.sh/component"]
            self.uids[key].add(pod["metadata"]["uid"])
            working[key] += pod["status"]["phase"] in ("Pending", "Running")
            if pod["status"]["phase"] != "Succeeded":
                there.add(key)
        for key, number in working.items():
            self.at_once[key] = max(self.at_once[key], number)
        self.ended |= set(self.uids) - there
        self.ended -= there

    def pods(self, name: str, component: str) -> list[dict[str, Any]]:
        wanted = {"kaito.sh/workspace": name, "kaito.sh/component": component}
        return [
            p for p in self.now["pods"].values() if wanted.items() <= p["metadata"].get("labels", {}).items()
        ]

    def claims(self, name: str) -> list[dict[str, Any]]:
        label = "kaito.sh/workspace"
        return [c for c in self.now["claims"].values() if c["metadata"].get("labels", {}).get(label) == name]

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        status = self.now["workspaces"].get(name, {}).get("status") or {}
        return next((c for c in status.get("conditions") or [] if c["type"] == type_), {})


@dataclass
class Lives:
    """The Workspaces of one scenario.

    :param tag: begins their names.
    :param adapter: repository and tag of an adapter that is in the registry.
    """

    stack: ReconciledStack
    seen: Seen
    tag: str
    adapter: str
    _held: set[str] = field(default_factory=set)

    def name(self, phase: str) -> str:
        return f"{self.tag}-{phase}"

    def names(self) -> list[str]:
        return [self.name(phase) for phase in PHASES]

    def document(self, phase: str, *, changed: bool = False) -> dict[str, Any]:
        """Return a Workspace; ``changed``: its second generation."""
        return PHASES[phase].document(self, self.name(phase), "?changed" if changed else "")

    def begin(self) -> None:
        """Bring each Workspace into the middle of its phase; those that cannot be held for long come last."""
        self.stack.data_door.shut()
        self.stack.registry_door.shut()
        self.stack.fault("slow-boot", target=SLOW, value=900)
        for wave in (
            ("publish", "release", "dataset", "ready"),
            ("rollout", "nodes", "tune"),
            ("preflight",),
        ):
            for phase in wave:
                if phase == "preflight":
                    target = f"GET *configmaps/{self.name(phase)}-config"
                    self.stack.fault("api-latency", target=target, value=LATE)
                patiently(lambda phase=phase: self.stack.kubectl.apply(self.document(phase)))
            for phase in wave:
                wait(lambda phase=phase: self._arrived(phase) or None, PATIENCE, f"{phase} in its middle")

    def _arrived(self, phase: str) -> bool:
        self._hold_machine()
        refusal = self.failure(phase)
        assert not refusal, f"{phase}: {refusal}"
        return PHASES[phase].arrived(self, self.name(phase))

    def _hold_machine(self) -> None:
        """Put a finalizer on the machine of the Workspace whose release is to be held, as soon as there is one."""
        for claim in self.seen.claims(self.name("release")):
            name = claim["metadata"]["name"]
            if name not in self._held and not claim["metadata"].get("deletionTimestamp"):
                change = json.dumps([{"op": "add", "path": "/metadata/finalizers/-", "value": HOLD}])
                patiently(lambda name=name, change=change: self._patch_claim(name, "json", change))
                self._held.add(name)

    def _patch_claim(self, name: str, kind: str, change: str) -> None:
        self.stack.kubectl("patch", "nodeclaim", name, f"--type={kind}", "-p", change)

    def open(self) -> None:
        """Let all go on."""
        self.stack.data_door.open()
        self.stack.registry_door.open()
        patiently(lambda: self.stack.heal("slow-boot"))
        for name in sorted(self._held):
            claim = self.seen.now["claims"].get(name)
            if claim is None:
                continue
            rest = [one for one in claim["metadata"].get("finalizers") or () if one != HOLD]
            change = json.dumps({"metadata": {"finalizers": rest}})
            patiently(lambda name=name, change=change: self._request_deletion(name, change))
        self._held.clear()

    def _request_deletion(self, name: str, change: str) -> None:
        try:
            self._patch_claim(name, "merge", change)
        except DemoError as error:
            if "not found" not in str(error):
                raise

    def failure(self, phase: str) -> str:
        """Return what the Workspace says that failed for good, "" when nothing did."""
        told = self.seen.condition(self.name(phase), "WorkspaceSucceeded")
        return str(told.get("message")) if told.get("reason") == "workspaceFailed" else ""

    def untruths(self, phase: str) -> list[str]:
        """Return what the Workspace's status says that is not so, as of the last look at the cluster.

        Between a change and the reconciler's next look a status is a moment old, so this is to be waited for.
        """
        name, now = self.name(phase), self.seen.now
        workspace, claims = now["workspaces"].get(name), self.seen.claims(name)
        if workspace is None:
            return []
        machines = {(claim.get("status") or {}).get("nodeName") for claim in claims}
        return untruths(
            workspace,
            stateful_sets=[one for key, one in now["sets"].items() if key == name],
            node_claims=claims,
            nodes=[node for key, node in now["nodes"].items() if key in machines],
            runs=self.stack.run_states(),
        )

    def ended(self, phase: str) -> bool:
        """Whether the work of a phase is over, whoever knows of it."""
        return PHASES[phase].ended(self, self.name(phase))

    def until_ended(self, also: Callable[[str], None] = lambda phase: None) -> None:
        """Wait until the work of every phase is over; ``also`` is called for each as soon as it is."""
        left = list(PHASES)
        deadline = time.monotonic() + PATIENCE
        while left:
            for phase in [p for p in left if self.ended(p)]:
                left.remove(phase)
                also(phase)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the work of {', '.join(left)} did not end in {PATIENCE:.0f} s")
            time.sleep(0.2)

    def succeeded(self, phase: str, generation: int = 1) -> bool:
        told = self.seen.condition(self.name(phase), PHASES[phase].goal)
        return told.get("status") == "True" and told.get("observedGeneration") == generation


@dataclass(frozen=True)
class Phase:
    """How a Workspace gets into a phase and how it is seen that it is in the middle of it, and that it is over.

    :param component: of the pod that works in this phase.
    """

    document: Callable[[Lives, str, str], dict[str, Any]]
    arrived: Callable[[Lives, str], bool]
    ended: Callable[[Lives, str], bool]
    component: str = ""
    goal: str = "WorkspaceSucceeded"


def _tuning(
    steps: int = 6, *, doors: str = "", machine: str = "Standard_NC6s_v3"
) -> Callable[..., dict[str, Any]]:
    def document(lives: Lives, name: str, query: str) -> dict[str, Any]:
        stack = lives.stack
        found = stack.tuning(name, steps=steps, machine=machine)
        url = stack.dataset_url
        if doors == "data":
            url = f"http://{stack.data_door.address}/train.parquet"
        if doors == "registry":
            found["tuning"]["output"]["image"] = f"{stack.registry_door.address}/{name}:0.0.1"
        found["tuning"]["input"]["urls"] = [url + query]
        return found

    return document


def _held_service(lives: Lives, name: str, query: str) -> dict[str, Any]:
    found = lives.stack.service(name, adapter=f"{lives.stack.registry_door.address}/{lives.adapter}")
    if query:
        found["inference"]["adapters"][0]["source"]["name"] = "another"
    return found


def _service(lives: Lives, name: str, query: str) -> dict[str, Any]:
    return lives.stack.service(
        name, adapter=f"{lives.stack.sandbox.registry}/{lives.adapter}" if query else ""
    )


def _running(component: str) -> Callable[[Lives, str], bool]:
    return lambda lives, name: any(
        p["status"]["phase"] == "Running" for p in lives.seen.pods(name, component)
    )


def _over(component: str) -> Callable[[Lives, str], bool]:
    return lambda lives, name: (name, component) in lives.seen.ended


def _preflight(lives: Lives, name: str) -> bool:
    with suppress(httpx.HTTPError, DemoError, TypeError):
        return lives.stack.states(lives.stack.run_id(name)).get("preflight") in ("running", "success")
    return False


def _pulling(lives: Lives, name: str) -> bool:
    return bool(lives.seen.pods(name, "serving")) and lives.stack.registry_door.waiting > 1


def _ready(lives: Lives, name: str) -> bool:
    return any(
        c["type"] == "Ready" and c["status"] == "True"
        for pod in lives.seen.pods(name, "serving")
        for c in pod["status"].get("conditions") or ()
    )


def _booted(lives: Lives, name: str) -> bool:
    claims = lives.seen.claims(name)
    marks = [c for claim in claims for c in (claim.get("status") or {}).get("conditions") or ()]
    return any(c["type"] == "Initialized" and c["status"] == "True" for c in marks) or bool(
        lives.seen.uids[name, "tuning"]
    )


def _no_machine(lives: Lives, name: str) -> bool:
    return not lives.seen.claims(name)


PHASES: dict[str, Phase] = {
    "preflight": Phase(_tuning(), _preflight, lambda lives, name: True),
    "dataset": Phase(_tuning(doors="data"), _running("dataset"), _over("dataset"), "dataset"),
    "nodes": Phase(_tuning(machine=SLOW), lambda lives, name: bool(lives.seen.claims(name)), _booted),
    "tune": Phase(_tuning(STEPS), _running("tuning"), _over("tuning"), "tuning"),
    "release": Phase(
        _tuning(),
        lambda lives, name: any(c["metadata"].get("deletionTimestamp") for c in lives.seen.claims(name)),
        _no_machine,
    ),
    "publish": Phase(_tuning(doors="registry"), _running("adapter"), _over("adapter"), "adapter"),
    "rollout": Phase(_held_service, _pulling, _ready, "serving", "WorkspaceReady"),
    "ready": Phase(
        _service,
        lambda lives, name: lives.seen.condition(name, "WorkspaceReady").get("status") == "True",
        _ready,
        "serving",
        "WorkspaceReady",
    ),
}
