"""However the work on machines ends, and whatever dies meanwhile: they go with it, and not before.

With every provider that makes machines, under real runs: cleared, marked as failed, failed, forgotten with Airflow's
database, deleted; and a scheduler that is killed at each step. One Workspace for each provider, all at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from include.ledger import records
from include.workspace.api import names
from include.workspace.status.conditions import moment
from tests.support.airflow_run import wait
from tests.support.reconciled import DAGS, ReconciledStack, patiently, unpause

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500)]

PROVIDERS = ("nodeclaim", "nodepool", "aks")
FOR_EVER = 100_000
#: No wait measures anything.
PATIENCE = 300.0
DAG_RUNS = "/api/v2/dags/kaito_tune/dagRuns"


@pytest.fixture(autouse=True)
def baseline(reconciled_stack: ReconciledStack) -> Iterator[None]:
    """Afterwards there are the nodes that there were before."""
    before = reconciled_stack.kubectl("get", "nodes", "-o", "name")
    yield
    assert patiently(lambda: reconciled_stack.kubectl("get", "nodes", "-o", "name")) == before


def begin(stack: ReconciledStack, prefix: str, steps: int) -> list[str]:
    """Apply a tuning Workspace for each provider; returns their names."""
    made = []
    for provider in PROVIDERS:
        document = stack.tuning(name := f"{prefix}-{provider}", steps=steps)
        document["metadata"]["annotations"][names.POOL_PROVIDER] = provider
        stack.kubectl.apply(document)
        made.append(name)
    return made


def delete(stack: ReconciledStack, made: list[str]) -> None:
    patiently(lambda: stack.kubectl("delete", "workspace", *made, "--wait=false", "--ignore-not-found"))
    for name in made:
        stack.gone(name, PATIENCE)


def at_work(stack: ReconciledStack, made: list[str]) -> dict[str, str]:
    """Wait until all train; returns the ids of their pods."""
    return {name: stack.running_pod(name, "tuning", PATIENCE)["metadata"]["uid"] for name in made}


def run_of(stack: ReconciledStack, name: str) -> str:
    return str(patiently(lambda: stack.get("workspace", name))["status"]["run"]["id"])


def tries(stack: ReconciledStack, name: str) -> tuple[str | None, int]:
    """How the training's task stands, and in which try."""
    tasks = patiently(lambda: stack.api.tasks("kaito_tune", run_of(stack, name)))
    return next(((t["state"], t["try_number"]) for t in tasks if t["task_id"] == "tune"), (None, 0))


def open_rentals(stack: ReconciledStack, name: str) -> int:
    return sum(rental.stopped is None for rental in stack.rentals(name))


def untouched(stack: ReconciledStack, pods: dict[str, str]) -> None:
    """Each trains in the pod that it had, on its one machine."""
    for name, uid in pods.items():
        assert [pod["metadata"]["uid"] for pod in stack.pods(name, "tuning")] == [uid], name
        assert open_rentals(stack, name) == 1, name


def nothing_held(stack: ReconciledStack, made: list[str], many: int) -> None:
    """Wait until none holds a machine, and see that it had as many as it should, and that it knows their cost."""
    for name in made:
        wait(
            lambda name=name: not open_rentals(stack, name) or None, PATIENCE, f"the end of {name}'s machine"
        )
        assert len(stack.rentals(name)) == many, name
        for kind in ("nodepools", "nodeclaims", "nodes"):
            mine = ("-l", f"{names.WORKSPACE}={name}")
            wait(lambda kind=kind, mine=mine: not stack.get(kind, *mine)["items"] or None, 60, f"no {kind}")
        wait(lambda name=name: not stack.pods_of(name) or None, 60, f"the end of {name}'s pods")
        wait(lambda name=name: accounted(stack, name), 60, f"the account of {name}")


def accounted(stack: ReconciledStack, name: str) -> bool | None:
    """Whether the Workspace's account is closed; it is the cloud's, within 2% or 2 s a machine."""
    kept = stack.get("workspace", name)["status"]["cost"]["claims"]
    if not all("until" in record for record in kept):
        return None
    now = max(filter(None, (moment(record["until"]) for record in kept)))
    seconds, billed = sum(records.seconds(r, now) for r in kept), stack.rentals(name)
    assert seconds == pytest.approx(sum(r.seconds for r in billed), rel=0.02, abs=2 * len(billed)), name
    return True


def again(stack: ReconciledStack, made: list[str], why: str) -> None:
    """Ask for another run of each, and wait until it has begun."""
    for name in made:
        before = run_of(stack, name)
        stack.kubectl("annotate", "--overwrite", "workspace", name, f"{names.RERUN}={why}")
        wait(lambda name=name, old=before: run_of(stack, name) != old or None, 60, f"another run of {name}")


def test_however_it_ends(reconciled_stack: ReconciledStack) -> None:
    stack = reconciled_stack
    made = begin(stack, "ends", FOR_EVER)
    try:
        at_work(stack, made)
        for name in made:
            cleared = {"dry_run": False, "dag_run_id": run_of(stack, name), "task_ids": ["tune"]}
            reply = stack.api._http.post(
                "/api/v2/dags/kaito_tune/clearTaskInstances", json={**cleared, "only_failed": False}
            )
            reply.raise_for_status()
        for name in made:
            wait(lambda name=name: tries(stack, name) == ("deferred", 2) or None, PATIENCE, f"{name} cleared")
        at_work(stack, made)
        assert [open_rentals(stack, name) for name in made] == [1, 1, 1]

        for name in made:
            stack.api._http.patch(f"{DAG_RUNS}/{run_of(stack, name)}", json={"state": "failed"})
        nothing_held(stack, made, 1)

        again(stack, made, "deleted-pod")
        at_work(stack, made)
        for name in made:
            (pod,) = stack.pods(name, "tuning")
            stack.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        nothing_held(stack, made, 2)
        for name in made:
            assert "deleted" in stack.condition(name, "WorkspaceSucceeded")["message"]

        again(stack, made, "lost-database")
        pods = at_work(stack, made)
        stack.airflow.lose_the_database()
        stack.airflow.start()
        stack.airflow.wait(DAGS)
        unpause(stack)
        for name in made:
            wait(lambda name=name: tries(stack, name)[0] == "deferred" or None, PATIENCE, f"{name} found")
        untouched(stack, pods)
    finally:
        delete(stack, made)
    assert [open_rentals(stack, name) for name in made] == [0, 0, 0]
    assert [len(stack.rentals(name)) for name in made] == [3, 3, 3]


STEPS: dict[str, Callable[[ReconciledStack, str], Any]] = {
    "a run": lambda stack, name: (stack.get("workspace", name).get("status") or {}).get("run"),
    "a machine": lambda stack, name: stack.rentals(name),
    "a training": lambda stack, name: stack.condition(name, "JobStarted"),
    "a machine that goes": lambda stack, name: any(rental.stopped for rental in stack.rentals(name)),
}


def test_whatever_step_the_scheduler_is_killed_at(reconciled_stack: ReconciledStack) -> None:
    stack = reconciled_stack
    made = begin(stack, "killed", 6)
    try:
        for what, there in STEPS.items():
            wait(lambda there=there: all(there(stack, name) for name in made) or None, PATIENCE, what)
            stack.airflow.kill("scheduler")
            stack.airflow.start("scheduler")
            stack.airflow.wait(DAGS)
        for name in made:
            stack.reaches(name, "WorkspaceSucceeded", seconds=PATIENCE)
        nothing_held(stack, made, 1)
    finally:
        delete(stack, made)
