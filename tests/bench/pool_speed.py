"""How soon GPU machines are used, how soon they are let go, and what waiting for many of them holds: real Airflow.

    python -m tests.bench.pool_speed                    # everything, about 13 minutes
    python -m tests.bench.pool_speed --only use         # or: crash, worker, many

Prints a table with each limit beside its number, and on standard error each Workspace's own times as they come; exits 1
when a limit is missed. Times are from what the cluster shows first to what it shows next, polled every 20 ms.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from include.pools.status import node_problem
from include.workspace.api import names
from tests.bench.reconcile_speed import WORKSPACES, Api, Row, measure, slots, until
from tests.support.reconciled import DAGS, ReconciledStack

TUNINGS, CRASHES, WORKERS, POOLS = 5, 3, 3, 50
#: What a deployment sets so that the task of a dead worker is started again within a minute; Airflow waits 300 s.
HEARTBEATS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
}
#: LocalExecutor never gets the place of a killed worker's task back.
PLACES = {"AIRFLOW__CORE__PARALLELISM": "16"}
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
PAUSE = 0.02
WATCHED_SECONDS = 20.0
#: From when a task is in the triggerer's hands to when its wait has certainly begun.
SETTLED_SECONDS = 4.0


class Life:
    """When the machines and the tuning pod of one Workspace were first seen in each state (monotonic seconds)."""

    def __init__(self, api: Api, name: str) -> None:
        self.api, self.name = api, name
        self.mine = {"labelSelector": f"{names.WORKSPACE}={name}"}
        self.seen: dict[str, float] = {}

    def note(self, what: str, happened: bool) -> None:
        if happened:
            self.seen.setdefault(what, time.monotonic())

    def look(self) -> None:
        nodes = self.api.get("/api/v1/nodes", **self.mine).get("items", ())
        self.note("usable", any(node_problem(node) is None for node in nodes))
        pods = self.api.get("/api/v1/pods", **self.mine).get("items", ())
        tuning = [p for p in pods if p["metadata"]["labels"].get(names.COMPONENT) == "tuning"]
        self.note("pod", bool(tuning))
        phases = {p["status"].get("phase") for p in tuning}
        self.note("running", "Running" in phases)
        self.note("ended", bool(phases & {"Succeeded", "Failed"}))
        claims = self.api.get(CLAIMS, **self.mine).get("items", ())
        self.note("claimed", bool(claims))
        going = all(claim["metadata"].get("deletionTimestamp") for claim in claims)
        self.note("released", "claimed" in self.seen and going)

    def until(self, what: str, seconds: float = 180) -> None:
        def look() -> bool:
            self.look()
            return what in self.seen

        until(look, seconds, PAUSE)

    def between(self, first: str, then: str) -> float:
        return self.seen[then] - self.seen[first]

    def tell(self) -> None:
        begin = min(self.seen.values())
        told = (f"{what} {at - begin:.1f}" for what, at in sorted(self.seen.items(), key=lambda one: one[1]))
        print(f"  {self.name}: {', '.join(told)}", file=sys.stderr, flush=True)


@contextmanager
def tuning(stack: ReconciledStack, api: Api, name: str, steps: int) -> Iterator[Life]:
    """A tuning whose pod runs; at the end its Workspace is told to go, and nobody waits for that."""
    stack.kubectl.apply(stack.tuning(name, steps=steps))
    life = Life(api, name)
    life.until("running")
    yield life
    life.tell()
    stack.kubectl("delete", "workspace", name, "--wait=false")


def use(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Tunings one after the other, to their end."""
    used, released = [], []
    for number in range(TUNINGS):
        with tuning(stack, api, f"use-{number}", steps=3) as life:
            life.until("released")
            used.append(life.between("usable", "pod"))
            released.append(life.between("ended", "released"))
    yield row("node usable -> tuning pod created, median", used, 4)
    yield row("tuning ended -> release asked for, median", released, 5)


def crash(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Tunings that are killed for lack of memory in the middle."""
    released = []
    for number in range(CRASHES):
        with tuning(stack, api, f"crash-{number}", steps=2000) as life:
            until(lambda: waiting(stack, "kaito_tune", "tune"), pause=PAUSE)
            time.sleep(SETTLED_SECONDS)
            (pod,) = stack.pods(life.name, "tuning")
            stack.fault("oom", target=f"default/{pod['metadata']['name']}")
            life.until("released")
            released.append(life.between("ended", "released"))
    yield row("tuning crashed -> release asked for, median", released, 5)


def worker(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """The worker to which the end of a tuning comes back is killed, and its task with it."""
    stack.airflow.restart("scheduler", **HEARTBEATS, **PLACES)
    stack.airflow.wait(DAGS)
    released = []
    for number in range(WORKERS):
        with tuning(stack, api, f"worker-{number}", steps=3) as life:
            life.until("ended")
            until(lambda: stack.airflow.kill_busy("kaito_tune"), 30, PAUSE)
            life.look()
            assert "released" not in life.seen, "the worker had released the machines before it was killed"
            life.note("killed", True)
            life.until("released")
            released.append(life.between("killed", "released"))
    yield row("worker killed at the end -> release asked for, median", released, 60)


def row(what: str, seconds: list[float], limit: float) -> Row:
    note = f"{min(seconds):.1f} to {max(seconds):.1f} s, {len(seconds)} one by one"
    return Row(what, statistics.median(seconds), "s", limit, note)


def many(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Services whose machines do not come: each waits for its pool, all at once."""
    stack.fault("slow-boot", value=3600)
    documents = [stack.service(f"many-{number}") for number in range(POOLS)]
    for document in documents:
        document["metadata"] |= {"namespace": "default", "labels": {"many": "yes"}}
    begin = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(api.create, documents))
    until(lambda: waiting(stack, "kaito_serve", "serve.wait_for_nodes") >= POOLS, 400, pause=1)
    took = time.monotonic() - begin
    held, deadline = [], time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < deadline:
        held.append(slots(stack))
        time.sleep(1)
    claims = len(api.get(CLAIMS).get("items", ()))
    note = (
        f"at most {max(held)} in {WATCHED_SECONDS:.0f} s; {claims} NodeClaims; all waiting after {took:.0f} s"
    )
    yield Row(f"{POOLS} pools awaited at once: task slots held", statistics.median(held), "", 1, note)
    told = sum(bool((w.get("status") or {}).get("conditions")) for w in api.get(WORKSPACES).get("items", ()))
    yield Row(f"{POOLS} pools awaited at once: Workspaces that are not told", float(POOLS - told), "", 1)


def waiting(stack: ReconciledStack, dag_id: str, task_id: str) -> int:
    """How many runs wait in the triggerer with this task."""
    query: dict[str, Any] = {"state": ["deferred"], "limit": 100}
    reply = stack.api._http.get(f"/api/v2/dags/{dag_id}/dagRuns/~/taskInstances", params=query)
    tasks = reply.raise_for_status().json()["task_instances"]
    return sum(task["task_id"] == task_id for task in tasks)


if __name__ == "__main__":
    raise SystemExit(measure({"use": use, "crash": crash, "worker": worker, "many": many}, __doc__))
