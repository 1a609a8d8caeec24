"""A retraining whose control plane dies in each of its steps: one version comes of it, and the service goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from include.workspace.api import names
from tests.support.airflow_run import wait
from tests.support.fault_injection import Kill, KillWorkers, Strike
from tests.support.phases import Seen
from tests.support.reconciled import ReconciledStack, patiently, reconciled_stack
from tests.support.retrained import DAG, PATIENCE, Retrained

pytestmark = [pytest.mark.integration, pytest.mark.reliability, pytest.mark.timeout(2400)]

NAME, GOLDEN = "struck", "struck-golden"
STRIKES: tuple[Strike, ...] = (
    Kill("the scheduler", "scheduler"),
    Kill("the triggerer", "triggerer"),
    Kill("the API server", "api-server"),
    KillWorkers("its workers"),
)
#: Tasks at which it strikes while they work or wait, and then the promotion's own states.
TASKS = ("fetch_dataset", "tune", "evaluate", "publish_adapter", "approve")
STATES = ("canary", "baking")
AT_WORK = ("running", "deferred", "success")


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrained]:
    """A service that answers, and whose versions a person approves."""
    with reconciled_stack(tmp_path_factory.mktemp("struck")) as stack:
        found = Retrained(stack, NAME)
        golden = '- {id: sum, prompt: "What is 2 plus 2?", matcher: contains, expected: "4"}'
        made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": GOLDEN}}
        stack.kubectl.apply({**made, "data": {"golden.yaml": golden}})
        found.rules(
            approval={"required": True, "timeout": "1h"},
            evaluation={"goldenSet": GOLDEN, "heldOut": 0, "maxTokens": 8},
            gate=["candidate.golden >= 0"],
            canary={"percent": 50, "time": "15s"},
            bake={"time": "15s"},
        )
        document = stack.tuning(NAME, roll_out=True)
        document["metadata"]["annotations"] |= {names.RETRAIN_POLICY: found.policy}
        stack.kubectl.apply(document)
        stack.reaches(NAME, "WorkspaceReady", seconds=PATIENCE)
        yield found


@pytest.mark.parametrize("strike", STRIKES, ids=lambda one: one.what)
def test_a_retraining_survives_in_each_of_its_steps(life: Retrained, strike: Strike) -> None:
    stack, run = life.stack, f"without {strike.what}".replace(" ", "-")
    strike.before(stack)
    try:
        with Seen(stack) as seen:
            life.begin(run)
            struck = [
                step for step in TASKS if _strikes(stack, strike, lambda step=step: _at(life, run, step))
            ]
            digest = life.asked(run)
            patiently(
                lambda: stack.kubectl(
                    "annotate", "workspace", NAME, "--overwrite", f"{names.APPROVE}={digest}"
                )
            )
            struck += [
                state for state in STATES if _strikes(stack, strike, lambda state=state: _in(life, state))
            ]
            assert life.ended(run) == "success"
            life.reaches("Promoted")
    finally:
        strike.after(stack)
    assert {"tune", "approve", "canary", "baking"} <= set(struck), "the others may be over before it strikes"
    entry = life.version_of(run)
    assert (entry["state"], entry["digest"]) == ("promoted", digest)
    assert life.served() == digest
    candidates = {key for key in seen.at_once if key[0] != NAME and key[1] == "tuning"}
    assert candidates
    assert all(seen.at_once[key] == 1 for key in candidates), "never two trainings at the same time"
    with life.load(1) as found:
        wait(lambda: len(found.answers) > 3, PATIENCE, "answers")
    assert {(one.status, one.digest) for one in found.answers} == {(200, digest)}


def _strikes(stack: ReconciledStack, strike: Strike, here: Callable[[], bool | None]) -> bool:
    """Strike when it is there; whether it still was."""
    if not wait(lambda: here() is not None, PATIENCE, "the next step") or not here():
        return False
    strike.down(stack)
    strike.up(stack)
    return True


def _at(life: Retrained, run: str, step: str) -> bool | None:
    """Whether a step works now; None before it."""
    tasks = {one["task_id"]: one["state"] for one in patiently(lambda: life.stack.api.tasks(DAG, run))}
    state = tasks.get(f"retrain.{step}")
    return (state != "success") if state in AT_WORK else None


def _in(life: Retrained, state: str) -> bool | None:
    """Whether the promotion is in a state now; None before it."""
    found = life.retrain()
    now = (found.get("promotion") or {}).get("state")
    if now == state:
        return True
    over = {"canary": ("rolling", "baking"), "baking": ()}[state]
    return False if now in over or life.told().get("reason") == "Promoted" else None
