"""Whatever dies, in whatever phase: nothing leaks, nothing is done twice, and the status is right in the end.

Each scenario strikes once while Workspaces are in the middle of every phase at the same time. Two of them are in the
usual suite; the whole matrix is `make test-reliability`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from include.demo.stack import DemoError
from tests.integration.airflow_run import wait
from tests.integration.reconciled import DAGS, ReconciledStack, patiently, unpause

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SLOW = "Standard_NC12s_v3"
#: Some tens of seconds where nothing else runs.
STEPS = 150
KINDS = "pods,nodes,nodeclaims,persistentvolumeclaims,persistentvolumes,statefulsets,services"


class PodsSeen:
    """Every pod that ever was, by Workspace and component; looked at in the background, through every outage."""

    def __init__(self, stack: ReconciledStack) -> None:
        self.uids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.at_once: dict[tuple[str, str], int] = defaultdict(int)
        self._stack, self._stop = stack, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PodsSeen:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _watch(self) -> None:
        while not self._stop.wait(0.4):
            try:
                pods = self._stack.get("pods", "-l", "kaito.sh/component")["items"]
            except (DemoError, TypeError):
                continue
            working: dict[tuple[str, str], int] = defaultdict(int)
            for pod in pods:
                labels = pod["metadata"]["labels"]
                key = labels["kaito.sh/workspace"], labels["kaito.sh/component"]
                self.uids[key].add(pod["metadata"]["uid"])
                working[key] += pod["status"]["phase"] in ("Pending", "Running")
            for key, number in working.items():
                self.at_once[key] = max(self.at_once[key], number)


def everything(stack: ReconciledStack) -> set[str]:
    return set(patiently(lambda: stack.kubectl("get", KINDS, "-A", "-o", "name")).split())


def condition(stack: ReconciledStack, name: str, type_: str) -> dict[str, Any]:
    return patiently(lambda: stack.condition(name, type_))


def succeeds(stack: ReconciledStack, name: str, seconds: float = 300) -> None:
    def look() -> bool | None:
        told = condition(stack, name, "WorkspaceSucceeded")
        assert told.get("reason") != "workspaceFailed", f"{name}: {told['message']}"
        return told.get("status") == "True" or None

    wait(look, seconds, f"the success of {name}")


@contextmanager
def nothing_left(stack: ReconciledStack) -> Iterator[None]:
    """Whatever the scenario made is deleted, and then the cluster is as it was and no run is under way."""
    before = everything(stack)
    workspaces = set(stack.kubectl("get", "workspaces", "-o", "name").split())
    yield
    made = set(patiently(lambda: stack.kubectl("get", "workspaces", "-o", "name")).split()) - workspaces
    if made:
        patiently(lambda: stack.kubectl("delete", *made, "--timeout=120s", "--ignore-not-found"), 150)
    stack.heal()
    wait(
        lambda: everything(stack) == before or None,
        60,
        f"the baseline; too much: {everything(stack) - before}",
    )
    wait(lambda: not stack.in_flight() or None, 120, f"the end of all runs: {stack.in_flight()}")


def kill(part: str) -> Callable[[ReconciledStack], None]:
    """`kill -9` a part of Airflow and start it again."""

    def strike(stack: ReconciledStack) -> None:
        stack.airflow.kill(part)
        if part != "worker":
            stack.airflow.start(part)
        stack.airflow.wait(DAGS)

    return strike


def kill_cluster(stack: ReconciledStack) -> None:
    stack.restart_sandbox()


def lose_the_database(stack: ReconciledStack) -> None:
    stack.airflow.lose_the_database()
    stack.airflow.wait(DAGS)
    unpause(stack)


def drop_watches(stack: ReconciledStack) -> None:
    for _ in range(3):
        stack.fault("watch-drop", target="*")


def unreliable_api(stack: ReconciledStack) -> None:
    """One request in twenty is answered by a 500, one by a 429, one by nothing for a second."""
    stack.fault("api-error", target="* /api*", value=503, every=20)
    stack.fault("api-throttle", target="* /api*", value=1, every=23)
    stack.fault("api-latency", target="* /api*", value=1, every=21)


def one_tuning_through(
    stack: ReconciledStack, name: str, strike: Callable[[ReconciledStack], None], steps: int = STEPS
) -> None:
    """A tuning is struck in the middle, and its pod goes on as if nothing had happened."""
    with nothing_left(stack), PodsSeen(stack) as seen:
        stack.kubectl.apply(stack.tuning(name, steps=steps))
        before = stack.running_pod(name, "tuning")["metadata"]["uid"]
        strike(stack)
        succeeds(stack, name)
        assert seen.uids[name, "tuning"] == {before}
        assert (
            stack.registry_digest(name, "0.0.1")
            == stack.get("workspace", name)["status"]["adapter"]["digest"]
        )
        assert stack.claims_of(name) == stack.pods_of(name) == []


def test_a_tuning_survives_the_scheduler(reconciled_stack: ReconciledStack) -> None:
    one_tuning_through(reconciled_stack, "without-scheduler", kill("scheduler"), steps=120)


def test_a_tuning_survives_the_loss_of_airflows_database(reconciled_stack: ReconciledStack) -> None:
    one_tuning_through(reconciled_stack, "without-history", lose_the_database)


def in_every_phase(stack: ReconciledStack, tag: str) -> None:
    """Bring a Workspace into each phase: first those that stay there, then those that go on."""

    def running(name: str, component: str) -> Any:
        return [p for p in stack.pods(name, component) if p["status"]["phase"] == "Running"]

    stack.fault("slow-boot", target=SLOW, value=20)
    fetch = stack.tuning(f"{tag}-fetch")
    fetch["tuning"]["input"]["urls"] = [f"http://{stack.hanging}/train.parquet"]
    push = stack.tuning(f"{tag}-push")
    push["tuning"]["output"]["image"] = f"{stack.hanging}/adapters/never:1"
    pull = stack.service(f"{tag}-rollout", adapter=f"{stack.hanging}/adapters/never:1")
    stack.kubectl.apply(fetch, push, stack.service(f"{tag}-ready"))
    wait(lambda: running(f"{tag}-push", "adapter") or None, 240, "the push")
    wait(lambda: running(f"{tag}-fetch", "dataset") or None, 60, "the fetch")
    stack.reaches(f"{tag}-ready", "WorkspaceReady")
    stack.kubectl.apply(
        stack.tuning(f"{tag}-tune", steps=STEPS), stack.tuning(f"{tag}-provision", machine=SLOW), pull
    )
    wait(lambda: running(f"{tag}-tune", "tuning") or None, 120, "the tuning")
    wait(lambda: stack.pods(f"{tag}-rollout", "serving") or None, 60, "the rollout")
    wait(lambda: stack.claims_of(f"{tag}-provision") or None, 60, "the machine")


SCENARIOS: dict[str, Callable[[ReconciledStack], None]] = {
    "scheduler": kill("scheduler"),
    "triggerer": kill("triggerer"),
    "worker": kill("worker"),
    "api-server": kill("api-server"),
    "cluster": kill_cluster,
    "database": lose_the_database,
    "watches": drop_watches,
    "api": unreliable_api,
}


@pytest.mark.reliability
@pytest.mark.parametrize("what", SCENARIOS)
def test_every_phase_survives(reconciled_stack: ReconciledStack, what: str) -> None:
    """What can go on succeeds; what waits for something that never comes is still at it, and goes when told to."""
    stack = reconciled_stack
    with nothing_left(stack), PodsSeen(stack) as seen:
        in_every_phase(stack, f"x-{what}")
        SCENARIOS[what](stack)
        for phase in ("tune", "provision"):
            succeeds(stack, f"x-{what}-{phase}")
        told = condition(stack, f"x-{what}-rollout", "InferenceReady")
        assert told["status"] == "False"
        for phase in ("fetch", "push"):
            told = condition(stack, f"x-{what}-{phase}", "WorkspaceSucceeded")
            # Each try gives up after half a minute by itself, and says who did not answer.
            by_itself = stack.hanging in told["message"]
            assert told["reason"] == "workspacePending" or by_itself, f"{phase}: {told['message']}"
        wait(
            lambda: condition(stack, f"x-{what}-ready", "WorkspaceReady").get("status") == "True" or None,
            120,
            "the service to answer again",
        )
        assert {number for key, number in seen.at_once.items() if key[1] == "tuning"} == {1}
        if what != "cluster":  # its pods die with it
            assert len(seen.uids[f"x-{what}-tune", "tuning"]) == 1
            assert len(seen.uids[f"x-{what}-ready", "serving"]) == 1


@pytest.mark.reliability
def test_a_new_spec_in_the_middle_of_a_tuning(reconciled_stack: ReconciledStack) -> None:
    """The old run ends by itself, its machine goes over to the new one, and there are never two tuning pods."""
    stack, name = reconciled_stack, "x-changed"
    with nothing_left(stack), PodsSeen(stack) as seen:
        stack.kubectl.apply(stack.tuning(name, steps=100_000))
        stack.running_pod(name, "tuning")
        machine = stack.claims_of(name)
        short = stack.tuning(name)  # the same ConfigMap, with few steps
        short["tuning"]["input"]["urls"] = [f"{stack.dataset_url}?changed"]
        stack.kubectl.apply(short)
        wait(lambda: len(seen.uids[name, "tuning"]) == 2 or None, 120, "the new pod")
        assert stack.claims_of(name) == machine
        succeeds(stack, name)
        assert stack.condition(name, "WorkspaceSucceeded")["observedGeneration"] == 2
        assert seen.at_once[name, "tuning"] == 1


@pytest.mark.reliability
@pytest.mark.parametrize("what", ["node-loss", "pod deleted", "service deleted", "machine deleted"])
def test_a_service_is_brought_back(reconciled_stack: ReconciledStack, what: str) -> None:
    stack, name = reconciled_stack, f"x-back-{what.split()[0]}"
    with nothing_left(stack):
        stack.kubectl.apply(stack.service(name))
        stack.reaches(name, "WorkspaceReady")
        pod = stack.get("pod", f"{name}-0")
        (claim,) = stack.claims_of(name)
        if what == "node-loss":
            stack.fault("node-loss", target=pod["spec"]["nodeName"])
        elif what == "pod deleted":
            stack.kubectl("delete", "pod", f"{name}-0", "--wait=false")
        elif what == "service deleted":
            stack.kubectl("delete", "service", name)
        else:
            stack.kubectl("delete", claim, "--wait=false")

        def restored() -> bool | None:
            ready = condition(stack, name, "WorkspaceReady").get("status") == "True"
            live = stack.get("pod", f"{name}-0") or {}
            same = (live.get("metadata") or {}).get("uid") == pod["metadata"]["uid"]
            there = stack.get("service", name) is not None and bool(stack.claims_of(name))
            return (ready and there and same == (what == "service deleted")) or None

        wait(restored, 240, "the service to come back")
