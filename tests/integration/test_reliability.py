"""Whatever dies, in whatever phase: nothing leaks, nothing is done twice, and the status is right in the end.

Workspaces stand in the middle of every phase at the same time (tests/support: `phases.py`) when something strikes
(`fault_injection.py`), and it strikes again while these phases end. Two short cells are in the usual suite; all of them
is `make test-reliability`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.airflow_run import wait
from tests.support.fault_injection import STRIKES, Kill, LoseTheDatabase, Strike
from tests.support.phases import PATIENCE, PHASES, STEPS, Lives, Seen
from tests.support.reconciled import ReconciledStack, patiently

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(2400)]

#: Seconds; a wait ends as soon as it can.
RELEASE = 240.0
MIDDLE, END = "in the middle of", "at the end of"
KINDS = "pods,nodes,nodeclaims,persistentvolumeclaims,persistentvolumes,statefulsets,services"


def everything(stack: ReconciledStack) -> set[str]:
    return set(patiently(lambda: stack.kubectl("get", KINDS, "-A", "-o", "name")).split())


def workspaces(stack: ReconciledStack) -> set[str]:
    return set(patiently(lambda: stack.kubectl("get", "workspaces", "-o", "name")).split())


@contextmanager
def nothing_left(stack: ReconciledStack) -> Iterator[None]:
    """Whatever the scenario made is deleted, and then the cluster is as it was and no run is under way."""
    before, known = everything(stack), workspaces(stack)
    try:
        yield
    except Exception:  # not when somebody stops the tests
        clear(stack, before, known)
        raise
    clear(stack, before, known)
    assert everything(stack) == before


def clear(stack: ReconciledStack, before: set[str], known: set[str]) -> None:
    """Delete the Workspaces that were not known before, and wait until there is no more than there was."""
    stack.heal()
    if made := workspaces(stack) - known:
        patiently(lambda: stack.kubectl("delete", *made, "--wait=false", "--ignore-not-found"), 150)
        wait(lambda: not made & workspaces(stack) or None, RELEASE, f"the end of {sorted(made)}")
    wait(lambda: everything(stack) <= before or None, RELEASE, f"the baseline {sorted(before)}")
    wait(lambda: not stack.in_flight() or None, RELEASE, "the end of all runs")


def pushed(stack: ReconciledStack, name: str) -> None:
    """The status names what the registry has, and no GPU is held for it any more."""
    status = patiently(lambda: stack.get("workspace", name))["status"]
    assert stack.registry_digest(name, "0.0.1") == status["adapter"]["digest"]
    assert patiently(lambda: stack.claims_of(name)) == patiently(lambda: stack.pods_of(name)) == []


def one_tuning_through(stack: ReconciledStack, name: str, strike: Strike, steps: int = STEPS) -> None:
    """A tuning is struck in the middle, and its pod goes on as if nothing had happened."""
    with nothing_left(stack), Seen(stack) as seen:
        stack.kubectl.apply(stack.tuning(name, steps=steps))
        before = stack.running_pod(name, "tuning")["metadata"]["uid"]
        strike.down(stack)
        strike.up(stack)

        def succeeded() -> bool | None:
            told = seen.condition(name, "WorkspaceSucceeded")
            assert told.get("reason") != "workspaceFailed", told["message"]
            return told.get("status") == "True" or None

        wait(succeeded, PATIENCE, f"the success of {name}")
        assert seen.uids[name, "tuning"] == {before}
        pushed(stack, name)


def test_a_tuning_survives_the_scheduler(reconciled_stack: ReconciledStack) -> None:
    one_tuning_through(reconciled_stack, "without-scheduler", Kill("", "scheduler"), steps=120)


def test_a_tuning_survives_the_loss_of_airflows_database(reconciled_stack: ReconciledStack) -> None:
    one_tuning_through(reconciled_stack, "without-history", LoseTheDatabase(""), steps=150)


def marked_as_failed(stack: ReconciledStack, name: str) -> None:
    run_id = patiently(lambda: stack.get("workspace", name))["status"]["run"]["id"]
    path = f"/api/v2/dags/kaito_tune/dagRuns/{run_id}"
    patiently(lambda: stack.api._http.patch(path, json={"state": "failed"}).raise_for_status())


def marked_as_failed_while_paused(stack: ReconciledStack, name: str) -> None:
    stack.kubectl("annotate", "workspace", name, "kaito.sh/paused=true")
    marked_as_failed(stack, name)


def deleted_in_the_push(stack: ReconciledStack, name: str) -> None:
    stack.kubectl("delete", "workspace", name, "--wait=false")


ENDS_OF_A_PUSH: dict[str, Callable[[ReconciledStack, str], None]] = {
    "marked": marked_as_failed,
    "paused": marked_as_failed_while_paused,
    "deleted": deleted_in_the_push,
}


def pushing(stack: ReconciledStack, *named: str) -> None:
    """Tune Workspaces that are served next, until each pushes through a shut door with its machine handed over."""
    for name in named:
        document = stack.tuning(name, roll_out=True)
        document["tuning"]["output"]["image"] = f"{stack.registry_door.address}/{name}:0.0.1"
        stack.kubectl.apply(document)
    for name in named:
        stack.running_pod(name, "adapter", PATIENCE)
        assert [one.stopped for one in stack.rentals(name)] == [None], name
        (claim,) = (stack.get(*one.split("/")) for one in stack.claims_of(name))
        assert claim["metadata"]["labels"]["kaito.sh/pool"] == "serving", name


@pytest.fixture
def shut_registry(reconciled_stack: ReconciledStack) -> Iterator[ReconciledStack]:
    reconciled_stack.registry_door.shut()
    yield reconciled_stack
    reconciled_stack.registry_door.open()


def test_a_machine_that_waits_for_the_push_goes_whatever_ends_it(shut_registry: ReconciledStack) -> None:
    stack, ended = shut_registry, {f"push-{how}": end for how, end in ENDS_OF_A_PUSH.items()}
    with nothing_left(stack):
        pushing(stack, *ended)
        for name, end in ended.items():
            end(stack, name)
        for name in ended:
            wait(lambda name=name: not stack.claims_of(name) or None, RELEASE, f"the end of {name}'s machine")
            assert all(one.stopped for one in stack.rentals(name)), name


@pytest.mark.reliability
def test_a_machine_that_waits_for_a_push_that_airflow_forgot_serves(shut_registry: ReconciledStack) -> None:
    stack, name, strike = shut_registry, "push-lost", LoseTheDatabase("")
    with nothing_left(stack):
        pushing(stack, name)
        strike.down(stack)
        stack.registry_door.open()
        strike.up(stack)
        stack.reaches(name, "WorkspaceReady", seconds=PATIENCE)
        assert [one.stopped for one in stack.rentals(name)] == [None], "one machine tuned and serves"


@dataclass
class Outcome:
    """What came of a scenario."""

    #: By moment, then by phase; a moment that was not reached is missing.
    wrong: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Why the scenario itself did not come to its end.
    broken: str = ""
    #: What is there that was not there before.
    left: str = ""


@pytest.fixture(scope="module")
def adapter(reconciled_stack: ReconciledStack) -> str:
    """An adapter in the registry, for the services that a scenario rolls out: repository and tag."""
    stack, name = reconciled_stack, "x-adapter"
    stack.kubectl.apply(stack.tuning(name))
    stack.reaches(name, "WorkspaceSucceeded", seconds=PATIENCE)
    stack.kubectl("delete", "workspace", name, "--timeout=120s")
    return f"{name}:0.0.1"


def life(stack: ReconciledStack, tag: str, adapter: str, act: Callable[[Lives, Outcome], None]) -> Outcome:
    """Bring Workspaces into all phases, let something happen to them, and see that all of it goes."""
    outcome = Outcome()
    try:
        with nothing_left(stack), Seen(stack) as seen:
            lives = Lives(stack, seen, tag, adapter)
            try:
                lives.begin()
                act(lives, outcome)
            except Exception as error:
                outcome.broken = _words(error)
                log.exception("%s broke off", tag)
            finally:
                lives.open()
    except (AssertionError, TimeoutError) as error:
        outcome.left = _words(error)
        log.error("%s: %s", tag, outcome.left)
    return outcome


def judged(lives: Lives, look: Callable[[str], bool | None]) -> dict[str, str]:
    """Return what is wrong with each phase, in words. ``look`` fails as a test would, or returns None to wait.

    Whatever it is that comes, every Workspace's status has to become true by then, field by field.
    """
    found = {}
    for phase in PHASES:
        lies: list[str] = []

        def right(phase: str = phase, lies: list[str] = lies) -> bool | None:
            if not look(phase):
                return None
            lies[:] = lives.untruths(phase)
            return not lies or None

        try:
            wait(right, PATIENCE, f"what was to become of {phase}")
        except (AssertionError, TimeoutError) as error:
            found[phase] = " ".join([_words(error), *lies])
            log.error("%s: %s", phase, found[phase])
    return found


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def unharmed(lives: Lives, phase: str, *, same_pods: bool) -> None:
    """Nothing has failed, nothing is done twice; where nothing kills pods, the first of a step is its only one."""
    name, component = lives.name(phase), PHASES[phase].component
    assert not (told := lives.failure(phase)), told
    assert lives.seen.at_once[name, "tuning"] <= 1, "two pods tuned at the same time"
    if same_pods and component:
        assert len(lives.seen.uids[name, component]) <= 1, f"a {component} pod was made twice"


def done(lives: Lives, phase: str, generation: int, *, same_pods: bool) -> bool | None:
    unharmed(lives, phase, same_pods=same_pods)
    if not lives.succeeded(phase, generation):
        return None
    if PHASES[phase].goal == "WorkspaceSucceeded":
        pushed(lives.stack, lives.name(phase))
    return True


def struck_by(strike: Strike) -> Callable[[Lives, Outcome], None]:
    def act(lives: Lives, outcome: Outcome) -> None:
        same = strike.spares_pods
        strike.in_the_middle(lives)
        outcome.wrong[MIDDLE] = judged(lives, lambda phase: unharmed(lives, phase, same_pods=same) or True)
        strike.while_they_end(lives)
        outcome.wrong[END] = judged(lives, lambda phase: done(lives, phase, 1, same_pods=same))

    return act


def change(lives: Lives, phase: str) -> None:
    patiently(lambda: lives.stack.kubectl.apply(lives.document(phase, changed=True)))


def changed_in_the_middle(lives: Lives, outcome: Outcome) -> None:
    for phase in PHASES:
        change(lives, phase)
    lives.open()
    outcome.wrong[MIDDLE] = judged(lives, lambda phase: done(lives, phase, 2, same_pods=False))


def changed_at_the_end(lives: Lives, outcome: Outcome) -> None:
    lives.open()
    lives.until_ended(also=lambda phase: change(lives, phase))
    outcome.wrong[END] = judged(lives, lambda phase: done(lives, phase, 2, same_pods=False))


def deleted(lives: Lives, phase: str) -> None:
    patiently(lambda: lives.stack.kubectl("delete", "workspace", lives.name(phase), "--wait=false"))


def gone(lives: Lives, phase: str) -> bool | None:
    return lives.name(phase) not in lives.seen.now["workspaces"] or None


def deleted_at_the_end(lives: Lives, outcome: Outcome) -> None:
    lives.open()
    lives.until_ended(also=lambda phase: deleted(lives, phase))
    outcome.wrong[END] = judged(lives, lambda phase: gone(lives, phase))


SCENARIOS: dict[str, Callable[[Lives, Outcome], None]] = {
    **{strike.what: struck_by(strike) for strike in STRIKES},
    "a new spec": changed_in_the_middle,
    "another new spec": changed_at_the_end,
    "deletion": deleted_at_the_end,
}
#: Deletion in the middle of each phase is the matter of test_release.py.
MOMENTS = {"a new spec": (MIDDLE,), "another new spec": (END,), "deletion": (END,)}


@pytest.fixture(scope="module")
def outcome_of(reconciled_stack: ReconciledStack, adapter: str) -> Callable[[str], Outcome]:
    """Return what came of a scenario, for all phases; it happens once."""

    @functools.cache
    def happen(what: str) -> Outcome:
        strike = next((s for s in STRIKES if s.what == what), Strike(what))
        strike.before(reconciled_stack)
        try:
            return life(reconciled_stack, f"x{list(SCENARIOS).index(what)}", adapter, SCENARIOS[what])
        finally:
            strike.after(reconciled_stack)

    return happen


def cases() -> list[Any]:
    """Return each scenario, moment and phase, with a sentence for a name."""
    found = [(w, m, p) for w in SCENARIOS for m in MOMENTS.get(w, (MIDDLE, END)) for p in PHASES]
    return [pytest.param(w, m, p, id=f"{w} {m} {p}") for w, m, p in found]


@pytest.mark.reliability
@pytest.mark.parametrize(("what", "moment", "phase"), cases())
def test_it_survives(outcome_of: Callable[[str], Outcome], what: str, moment: str, phase: str) -> None:
    outcome = outcome_of(what)
    assert not outcome.broken, outcome.broken
    assert phase not in outcome.wrong[moment], outcome.wrong[moment][phase]


@pytest.mark.reliability
@pytest.mark.parametrize("what", SCENARIOS)
def test_nothing_is_left_after(outcome_of: Callable[[str], Outcome], what: str) -> None:
    left = outcome_of(what).left
    assert not left, left


@pytest.fixture(scope="module")
def service(reconciled_stack: ReconciledStack) -> Iterator[str]:
    """One service that is broken again and again, and is whole again each time."""
    stack, name = reconciled_stack, "x-back"
    with nothing_left(stack):
        stack.kubectl.apply(stack.service(name))
        stack.reaches(name, "WorkspaceReady", seconds=PATIENCE)
        yield name


BREAKS: dict[str, Callable[[ReconciledStack, str, dict[str, Any]], object]] = {
    "its pod is deleted": lambda stack, name, pod: stack.kubectl(
        "delete", "pod", f"{name}-0", "--wait=false"
    ),
    "its Service is deleted": lambda stack, name, pod: stack.kubectl("delete", "service", name),
    "its node is lost": lambda stack, name, pod: stack.fault("node-loss", target=pod["spec"]["nodeName"]),
    "its machine is deleted": lambda stack, name, pod: stack.kubectl(
        "delete", *stack.claims_of(name), "--wait=false"
    ),
}


@pytest.mark.reliability
@pytest.mark.parametrize("what", BREAKS)
def test_a_service_comes_back_when(reconciled_stack: ReconciledStack, service: str, what: str) -> None:
    stack, name = reconciled_stack, service
    pod = stack.get("pod", f"{name}-0")
    BREAKS[what](stack, name, pod)

    def restored() -> bool | None:
        told = patiently(lambda: stack.condition(name, "WorkspaceReady"))
        live = stack.get("pod", f"{name}-0") or {}
        same = (live.get("metadata") or {}).get("uid") == pod["metadata"]["uid"]
        there = stack.get("service", name) is not None and bool(stack.claims_of(name))
        ready = told.get("status") == "True" and there
        return (ready and same == (what == "its Service is deleted")) or None

    wait(restored, PATIENCE, "the service to come back")
