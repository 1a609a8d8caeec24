"""How quickly the reconciler reacts, and what it costs while nothing happens: sandbox and Airflow on this machine.

    python -m tests.bench.reconcile_speed                    # everything, about 10 minutes
    python -m tests.bench.reconcile_speed --only react       # or: idle, burst

Prints a table with each limit beside its number; exits 1 when a limit is missed. Every wait has an end: what has not
come by then is a number above its limit, with a note of how far it got.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import logging
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from demo.processes import resident_bytes
from include.workspace.api import names
from include.workspace.status import conditions
from tests.support.reconciled import ReconciledStack, reconciled_stack

IDLE, BURST = 1000, 200
REACTIONS = 9
WATCHED_SECONDS = 40.0
#: Waits of the idle and the burst part end after that long.
PATIENCE = 150.0
RESYNC_SECONDS = 300.0
WORKSPACES = "/apis/kaito.sh/v1beta1/namespaces/default/workspaces"


@dataclass
class Row:
    """One line of the table; ``limit`` is what the number must stay below."""

    what: str
    number: float
    unit: str
    limit: float
    note: str = ""

    def line(self) -> str:
        verdict = "ok" if self.number < self.limit else "MISSED"
        number = f"{self.number:8.2f} {self.unit:<4}"
        return f"| {self.what:<52} | {number} | < {self.limit:<6g} | {verdict:<6} | {self.note}"


class Api:
    """The cluster's API, as fast as a benchmark must poll it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        inline = cluster.get("certificate-authority-data")
        authority = (
            base64.b64decode(inline).decode()
            if inline
            else Path(cluster["certificate-authority"]).read_text()
        )
        self.config = config
        self.http = httpx.Client(
            base_url=cluster["server"],
            verify=ssl.create_default_context(cadata=authority),
            headers={"Authorization": f"Bearer {user['token']}"},
            trust_env=False,
            timeout=60,
        )

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        reply = self.http.get(path, params=query)
        return reply.json() if reply.is_success else {}

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        path = f"/apis/{document['apiVersion']}/namespaces/default/workspaces"
        reply = self.http.post(path, json=document)
        reply.raise_for_status()
        found: dict[str, Any] = reply.json()
        return found


def until(look: Callable[[], Any], seconds: float = 120, pause: float = 0.05) -> float:
    """Return the seconds until ``look`` gives something."""
    begin = time.monotonic()
    while not look():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"nothing came within {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic() - begin


def react(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Apply -> first condition -> first pod, one Workspace at a time; then the pods of a whole run."""
    told, made = [], []
    for number in range(REACTIONS):
        name = f"react-{number}"
        document = stack.quick_start(name)
        document["tuning"]["input"]["urls"] = [f"http://{stack.hanging}/never.parquet"]
        begin = time.monotonic()
        api.create(document)
        until(lambda name=name: api.get(f"{WORKSPACES}/{name}").get("status", {}).get("conditions"))
        told.append(time.monotonic() - begin)
        query = {"labelSelector": f"{names.WORKSPACE}={name}"}
        until(lambda query=query: api.get("/api/v1/pods", **query).get("items"))
        made.append(time.monotonic() - begin)
        api.http.delete(f"{WORKSPACES}/{name}")
        until(lambda name=name: not api.get(f"{WORKSPACES}/{name}"), 180)
        time.sleep(1)
    spread = f"p95 {p95(told):.1f} s, {min(told):.1f} to {max(told):.1f} s, {REACTIONS} Workspaces one by one"
    yield Row("apply -> first condition written, median", statistics.median(told), "s", 3, spread)
    spread = f"p95 {p95(made):.1f} s, {min(made):.1f} to {max(made):.1f} s"
    yield Row("apply -> first pod of the work created, median", statistics.median(made), "s", 8, spread)
    yield from pod_ends(stack, api)


def p95(numbers: list[float]) -> float:
    return statistics.quantiles(numbers, n=20, method="inclusive")[-1]


def pod_ends(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Pod end -> status, for each pod of a tuning."""
    name = "react-whole"
    document = stack.tuning(name, steps=4)
    api.create({**document, "metadata": {"namespace": "default", **document["metadata"]}})
    ended: dict[str, float] = {}
    seen: dict[str, float] = {}
    goals = {"dataset": "DatasetReady", "tuning": "JobStarted", "adapter": "AdapterPublished"}
    deadline = time.monotonic() + 180
    while len(seen) < len(goals) and time.monotonic() < deadline:
        now = time.monotonic()
        for pod in api.get("/api/v1/pods", labelSelector=f"{names.WORKSPACE}={name}").get("items", ()):
            component = pod["metadata"]["labels"].get(names.COMPONENT, "")
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                ended.setdefault(component, now)
        status = api.get(f"{WORKSPACES}/{name}").get("status") or {}
        for component, kind in goals.items():
            condition = conditions.condition(status, kind) or {}
            done = condition.get("status") == "True" and (
                component != "tuning" or condition["message"].startswith("Tuned")
            )
            if done and component in ended:
                seen.setdefault(component, now)
        time.sleep(0.05)
    waits = [seen[component] - ended[component] for component in seen]
    note = ", ".join(f"{component} {seen[component] - ended[component]:.1f} s" for component in seen)
    longest = max(waits) if len(seen) == len(goals) else float("inf")
    yield Row("pod end -> status, longest of a run's pods", longest, "s", 3, note)
    api.http.delete(f"{WORKSPACES}/{name}")
    until(lambda: not api.get(f"{WORKSPACES}/{name}"), 180)


def finished(document: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The status of a tuning that ended well long ago."""
    now = datetime.now(UTC)
    workspace = {**document, "metadata": made["metadata"]}
    for phase, message in (
        (conditions.Phase.ACCEPTED, "Accepted"),
        (conditions.Phase.DATASET_READY, "24 rows"),
        (conditions.Phase.TUNING, "Tuned"),
        (conditions.Phase.PUBLISHED, "Adapter pushed"),
        (conditions.Phase.RELEASED, "Machines released"),
        (conditions.Phase.SUCCEEDED, "Done"),
    ):
        workspace["status"] = conditions.progress(workspace, phase, message=message, now=now)
    run_id = names.attempt_run_id(made, 1)
    run = {"id": run_id, "dag": "kaito_tune", "attempt": 1, "generation": 1, "rerun": "", "cause": "spec"}
    status: dict[str, Any] = {**workspace["status"], "run": {**run, "state": "success"}}
    return status


def idle(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """What a thousand finished Workspaces cost."""
    time.sleep(20)
    before = cost(stack, WATCHED_SECONDS)
    document = stack.quick_start("x")
    document |= {"apiVersion": "kaito.sh/v1beta1"}

    def seed(number: int) -> None:
        one = copy.deepcopy(document)
        one["metadata"] = {"name": f"idle-{number}", "namespace": "default", "finalizers": [names.FINALIZER]}
        made = api.create(one)
        body = {"status": finished(one, made)}
        path = f"{WORKSPACES}/idle-{number}/status"
        headers = {"Content-Type": "application/merge-patch+json"}
        api.http.patch(path, json=body, headers=headers).raise_for_status()

    switch(stack, on=False)  # a status comes a moment after its Workspace
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(seed, range(IDLE)))
    asyncio.run(finish(api.config))
    switch(stack, on=True)
    settle(stack)
    after = cost(stack, WATCHED_SECONDS)
    passes = asyncio.run(look(api.config))
    share = (after[0] - before[0] + passes[1] / RESYNC_SECONDS) * 100
    note = (
        f"{WATCHED_SECONDS:.0f} s watched, before {before[0]:.1%}, after {after[0]:.1%}, plus a pass in 5 min"
    )
    yield Row(f"{IDLE} idle Workspaces: share of a core", share, "%", 5, note)
    yield Row(
        f"{IDLE} idle Workspaces: extra resident",
        (after[1] - before[1]) / 2**20,
        "MiB",
        400,
        "PSS of Airflow",
    )
    yield Row("task slots held while idle", float(slots(stack)), "", 1)
    note = "lists, decisions and all, in a process of its own"
    yield Row(f"a pass over {IDLE} unchanged Workspaces", passes[0], "s", 3, note)


def switch(stack: ReconciledStack, *, on: bool) -> None:
    reply = stack.api._http.patch("/api/v2/dags/kaito_reconcile", json={"is_paused": not on})
    reply.raise_for_status()


def settle(stack: ReconciledStack) -> None:
    """Wait until no task has run for ten seconds.

    :raises TimeoutError: there was one all the time.
    """
    quiet, deadline = 0, time.monotonic() + PATIENCE
    while quiet < 10:
        if time.monotonic() > deadline:
            raise TimeoutError(f"tasks were at work for {PATIENCE:.0f} s, with nothing but idle Workspaces")
        quiet = quiet + 1 if slots(stack) == 0 else 0
        time.sleep(1)


def slots(stack: ReconciledStack) -> int:
    """Return how many tasks hold a worker now."""
    query = {"state": ["running", "queued"], "limit": 100}
    reply = stack.api._http.get("/api/v2/dags/~/dagRuns/~/taskInstances", params=query)
    return len(reply.raise_for_status().json()["task_instances"])


def cost(stack: ReconciledStack, seconds: float) -> tuple[float, int]:
    """Return the share of a core that all of Airflow takes, and its memory in bytes."""
    begin, at = used(stack), time.monotonic()
    time.sleep(seconds)
    spent = sum(now - begin.get(pid, now) for pid, now in used(stack).items())
    share = spent / (time.monotonic() - at)
    parents = {parent.pid for parent in stack.airflow._running.values()}
    return share, resident_bytes(parents)


def used(stack: ReconciledStack) -> dict[int, float]:
    """Return the CPU seconds of each process of Airflow, ended children included."""
    found = {}
    for parent in stack.airflow._running.values():
        for member in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                found[member.pid] = times.user + times.system + times.children_user + times.children_system
    return found


@asynccontextmanager
async def passes_over(config: dict[str, Any]) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Give a function that makes one pass over everything, in this process."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))
    from kaito.controller.dag_runs import AirflowRuns
    from kaito.controller.reconciler import Reconciler
    from kaito.hooks.kubernetes import AsyncKaitoClusterHook
    from kaito.installation import installation

    class Nobody:
        async def asend(self, msg: Any) -> Any:
            raise AssertionError(f"idle Workspaces ask Airflow nothing, not {msg}")

    async with AsyncKaitoClusterHook(conn_id=None, config_dict=config).connected() as hook:

        async def one() -> Any:
            return await Reconciler(
                hook, AirflowRuns(Nobody()), installation(), logging.getLogger("bench")
            ).run(None)

        yield one


async def finish(config: dict[str, Any]) -> None:
    """Do what is still to be done about the seeded Workspaces: their revisions."""
    async with passes_over(config) as one:
        for _ in range(3):
            if (outcome := await one()).changed == 0:
                return
    raise AssertionError(f"the Workspaces that were to be idle are not: {outcome}")


async def look(config: dict[str, Any]) -> tuple[float, float]:
    """Return the wall and CPU seconds of one pass over everything, the median of three."""
    walls, cpus = [], []
    async with passes_over(config) as one:
        for _ in range(3):
            wall, cpu = time.monotonic(), time.process_time()
            outcome = await one()
            assert (outcome.looked, outcome.changed, outcome.troubled) == (IDLE, 0, 0), outcome
            walls.append(time.monotonic() - wall)
            cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def burst(stack: ReconciledStack, api: Api) -> Iterator[Row]:
    """Two hundred Workspaces at once; they are valid, so that their runs compete with the conditions of others."""
    documents = []
    for number in range(BURST):
        document = stack.quick_start(f"burst-{number}")
        document["metadata"]["labels"] = {"burst": "yes"}
        document["tuning"]["input"]["urls"] = [f"http://{stack.hanging}/never.parquet"]
        documents.append(document)
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api.create, documents))
    applied = time.monotonic() - begin
    told: dict[str, float] = {}
    while len(told) < BURST and time.monotonic() - begin < PATIENCE:
        now = time.monotonic() - begin
        for workspace in api.get(WORKSPACES, labelSelector="burst=yes").get("items", ()):
            if (workspace.get("status") or {}).get("conditions"):
                told.setdefault(workspace["metadata"]["name"], now)
        time.sleep(0.5)
    waits = sorted(told.values()) or [PATIENCE]
    note = (
        f"applied within {applied:.1f} s; {len(told)} told, half of them by {statistics.median(waits):.1f} s"
    )
    last = waits[-1] if len(told) == BURST else PATIENCE
    yield Row(f"{BURST} at once: all have a first condition", last, "s", 30, note)


Parts = dict[str, Callable[[ReconciledStack, Api], Iterator[Row]]]
PARTS: Parts = {
    "react": react,
    "idle": idle,
    "burst": burst,
}


def measure(parts: Parts, description: str | None) -> int:
    """Run the parts that the command line asks for, on one stack; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(parts), action="append")
    wanted = parser.parse_args().only or list(parts)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="speed-") as folder, reconciled_stack(Path(folder)) as stack:
        for part in parts:
            if part in wanted:
                for row in parts[part](stack, Api(stack.sandbox.kubeconfig)):
                    print(row.line(), flush=True)
                    rows.append(row)
    return int(any(row.number >= row.limit for row in rows))


if __name__ == "__main__":
    raise SystemExit(measure(PARTS, __doc__))
