"""Random lives of a Workspace in a model cluster: what may happen, and what must hold after each step."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from include.reconcile import Activity, awaits_initial_status, initial_status
from include.workspace.api import names
from include.workspace.status.conditions import condition, timestamp
from tests.support.reconcile.airflow import OVER, STEPS, Airflow
from tests.support.reconcile.cluster import KINDS, NAME, NAMESPACE, Cluster, Obj, going, label, node_status
from tests.support.reconcile.shell import Look, Shell
from tests.support.status_truth import untruths


def lasting(status: Any) -> dict[str, Any]:
    """A status without what counts the attempts at something that does not pass."""
    return {key: value for key, value in status.items() if key not in ("retry", "cost", "idle")}


THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"

PASSES = 120

FOREIGN = "example.com/theirs"

#: What was gone through so far: lives, their steps, and decisions that were carried out.
DONE: Counter[str] = Counter()


class Life(RuleBasedStateMachine):
    """One Workspace from its creation to wherever the dice take it."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.airflow = Airflow(self.cluster)
        self.shell = Shell(self.cluster, self.airflow)
        self.looks: list[Look] = []
        self.kind = "tuning"
        self.had_foreign = False

    # -- the user ---------------------------------------------------------------------------------------------------

    @initialize(
        kind=st.sampled_from(["tuning", "quick", "inference"]),
        rounds=st.integers(0, 30),
        reported=st.integers(0, 3),
        hands_over=st.booleans(),
    )
    def born(self, kind: str, rounds: int, reported: int, hands_over: bool) -> None:
        self.kind = kind
        self.airflow.hands_over = hands_over
        self._apply()
        self.wait_says_the_initial_status(reported)
        self._live(rounds)

    def _apply(self) -> None:
        annotations = {names.ROLLOUT: "true" if self.kind == "quick" else "false"}
        spec: Obj = {"preset": "good", "config": "cfg", "variant": 0}
        meta = {"name": NAME, "namespace": NAMESPACE, "generation": 1, "annotations": annotations}
        part = "inference" if self.kind == "inference" else "tuning"
        version = "kaito.sh/v1beta1"
        self.cluster.create(
            "Workspace", {"apiVersion": version, "kind": "Workspace", "metadata": meta, part: spec}
        )

    @property
    def ws(self) -> Obj | None:
        return self.cluster.workspace

    def _annotate(self, key: str, value: str | None) -> None:
        if self.ws:
            annotations = {**self.ws["metadata"]["annotations"], key: value}
            kept = {k: v for k, v in annotations.items() if v is not None}
            self.cluster.change("Workspace", self.ws, annotations=kept)

    @precondition(lambda self: self.ws is None)
    @rule()
    def apply_again(self) -> None:
        self.had_foreign = False
        self._apply()

    @precondition(lambda self: self.ws is not None and not going(self.ws))
    @rule(variant=st.integers(0, 12), preset=st.sampled_from(["good", "good", "good", "bad"]))
    def edit_spec(self, variant: int, preset: str) -> None:
        assert self.ws is not None
        part = "inference" if self.kind == "inference" else "tuning"
        spec = {**self.ws[part], "variant": variant, "preset": preset}
        if spec != self.ws[part]:
            changed = {**self.ws, part: spec}
            self.cluster.change("Workspace", changed, generation=names.generation(self.ws) + 1)

    @rule(value=st.sampled_from(["1", "2", "3"]))
    def rerun(self, value: str) -> None:
        self._annotate(names.RERUN, value)

    @rule(
        what=st.sampled_from(
            ["config", "config back", "no secret", "secret", "secret", "pause", "go on", "go on"]
        )
    )
    def user_changes(self, what: str) -> None:
        if what.startswith("config"):
            self.shell.config = "digest-0" if what.endswith("back") else "digest-1"
        elif what.endswith("secret"):
            self.shell.secret = what == "secret"
        else:
            self._annotate(names.PAUSED, "true" if what == "pause" else None)

    @rule(what=st.sampled_from(["1", "1", "0.5", "absurd", None]))
    def scale_to_zero(self, what: str | None) -> None:
        self._annotate(names.SCALE_TO_ZERO, what)

    @rule(what=st.sampled_from(["never", "just now", "counted", "counted", "busy", "silent"]))
    def requests(self, what: str) -> None:
        """What the servers tell of their use from now on."""
        now = self.cluster.now.timestamp()
        counted = Activity(0, self.cluster.count % 3, None)
        told = {"never": Activity(0, 0, 0.0), "just now": Activity(0, 1, now), "busy": Activity(1, 1, now)}
        self.shell.activity = {**told, "counted": counted}.get(what)

    @rule()
    def scaled_by_hand(self) -> None:
        found = self.cluster.find("StatefulSet", NAME)
        if found and found["metadata"]["ownerReferences"][0]["kind"] != "Other":
            generation = found["metadata"]["generation"] + 1
            grown = {**found, "spec": {**found["spec"], "replicas": 1}}
            self.cluster.change("StatefulSet", grown, generation=generation)

    @precondition(lambda self: self.ws is not None)
    @rule(
        what=st.sampled_from(["nothing", "nothing", "delete", "delete", "finalizer", "no finalizer", "force"])
    )
    def deletion(self, what: str) -> None:
        assert self.ws is not None
        if what == "delete":
            self.cluster.delete("Workspace", NAME)
        elif what == "force" and going(self.ws):
            self._annotate(names.FORCE_RELEASE, "true")
        elif what.endswith("finalizer") and not going(self.ws):
            rest = [f for f in self.ws["metadata"].get("finalizers", []) if f != FOREIGN]
            self.had_foreign = what == "finalizer"
            self.cluster.change(
                "Workspace", self.ws, finalizers=[*rest, FOREIGN] if self.had_foreign else rest
            )

    # -- the world --------------------------------------------------------------------------------------------------

    @rule(kinds=st.sets(st.sampled_from(KINDS), min_size=1))
    def controllers(self, kinds: set[str]) -> None:
        self.cluster.tick([kind for kind in KINDS if kind in kinds])

    @rule(steps=st.integers(1, 6))
    def runs_go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._advance_runs()

    def _advance_runs(self) -> None:
        for run in list(self.airflow.runs.values()):
            self.airflow.advance(run)

    @rule(seconds=st.sampled_from([1, 10, 61, 400]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.advance(seconds)

    @rule(step=st.sampled_from(sorted({step for steps in STEPS.values() for step in steps})))
    def doom(self, step: str) -> None:
        """The runs under way will fail at a step."""
        for run in self.airflow.runs.values():
            if run.state not in OVER and run.dag != "kaito_release":
                run.doomed = step

    @rule(what=st.sampled_from(["nothing", "crash", "reset"]))
    def airflow_breaks(self, what: str) -> None:
        """The runs under way end without teardown and without a word, or Airflow knows of no run any more."""
        if what == "reset":
            self.airflow.runs.clear()
        for run in self.airflow.runs.values():
            if what == "crash" and run.state not in OVER:
                run.state = "failed"

    @rule(kind=st.sampled_from(["Pod", "NodeClaim", "StatefulSet", "Service"]), index=st.integers(0, 3))
    def deleted_by_hand(self, kind: str, index: int) -> None:
        names_there = sorted(self.cluster.objects[kind])
        if names_there:
            self.cluster.delete(kind, names_there[index % len(names_there)])

    @rule(what=st.sampled_from(["ready", "ready", "unknown", "gone"]))
    def node(self, what: str) -> None:
        for node in self.cluster.all("Node"):
            if what == "gone":
                self.cluster.delete("Node", node["metadata"]["name"])
            else:
                status = node_status("True" if what == "ready" else "Unknown", timestamp(self.cluster.now))
                self.cluster.change("Node", node, status=status)

    @rule(what=st.sampled_from(["nothing", "comes", "goes", "goes"]))
    def stranger(self, what: str) -> None:
        """A StatefulSet of the Workspace's name that belongs to somebody else."""
        found = self.cluster.find("StatefulSet", NAME)
        if what == "comes" and not found:
            owner = {"kind": "Other", "name": "theirs", "uid": "other", "controller": True}
            meta = {"name": NAME, "namespace": NAMESPACE, "ownerReferences": [owner], "generation": 1}
            status = {"readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1}
            self.cluster.create("StatefulSet", {"metadata": meta, "spec": {"replicas": 1}, "status": status})
        elif what == "goes" and found and found["metadata"]["ownerReferences"][0]["kind"] == "Other":
            self.cluster.delete("StatefulSet", NAME)

    # -- the reconciler ---------------------------------------------------------------------------------------------

    def _pass(self, acts: int = 1000, twice: bool = False) -> None:
        look = self.shell.look()
        if look is None:
            return
        self.looks = [*self.looks[-3:], look]
        decision = self.shell.decide(look)
        DONE["decisions"] += 1
        done = self.shell.carry_out(look, decision, acts)
        if twice and done:
            self.shell.carry_out(look, decision, acts)

    @rule(how=st.sampled_from(["once", "once", "twice", "die"]), acts=st.integers(0, 4))
    def reconcile(self, how: str, acts: int) -> None:
        self._pass(acts if how == "die" else 1000, twice=how == "twice")

    @rule(acts=st.integers(0, 3))
    def wait_says_the_initial_status(self, acts: int) -> None:
        """The wait in the triggerer tells the author of a new Workspace something, or dies on the way."""
        look = self.shell.look()
        if look is not None and awaits_initial_status(look.workspace):
            self.looks = [*self.looks[-3:], look]
            self.shell.carry_out(look, initial_status(look.workspace, self.shell.decide(look)), acts)

    @rule()
    def reconcile_until_nothing_is_left_to_do(self) -> None:
        """While the world holds its breath, a few passes get everything done, and one more finds nothing."""
        for _ in range(4):
            self._pass()
        look = self.shell.look()
        if look is not None:
            decision = self.shell.decide(look)
            assert decision.actions == (), decision
            assert decision.status is None, decision
            self._expect_no_untruth()

    @precondition(lambda self: self.looks)
    @rule(index=st.integers(0, 3))
    def reconcile_from_an_old_look(self, index: int) -> None:
        look = self.looks[index % len(self.looks)]
        self.shell.carry_out(look, self.shell.decide(look))

    @rule(rounds=st.integers(1, 6))
    def life(self, rounds: int) -> None:
        self._live(rounds)

    @rule(
        rounds=st.integers(1, 18),
        what=st.sampled_from(["crash", "reset", "edit", "edit", "rerun", "delete", "fail", "sleep"]),
        acts=st.integers(0, 6),
    )
    def in_the_middle_of_life(self, rounds: int, what: str, acts: int) -> None:
        """Something happens at a random point of an ordinary life, and the shell may die at the next one."""
        self._live(rounds)
        if what in ("crash", "reset"):
            self.airflow_breaks(what)
        elif what == "edit" and self.ws is not None and not going(self.ws):
            self.edit_spec(names.generation(self.ws) + 1, "good")
        elif what == "rerun":
            self._annotate(names.RERUN, str(rounds))
        elif what == "delete":
            self.cluster.delete("Workspace", NAME)
        elif what == "sleep":
            self._annotate(names.SCALE_TO_ZERO, "0.5")
            self.shell.activity = Activity(0, 0, 0.0)
        else:
            for run in self.airflow.runs.values():
                run.doomed = STEPS[run.dag][min(run.step, len(STEPS[run.dag]) - 1)]
        self._pass(acts)

    def _live(self, rounds: int) -> None:
        for _ in range(rounds):
            self._pass()
            self._advance_runs()
            self.cluster.tick()
            self.cluster.advance(5)

    # -- what must hold at all times --------------------------------------------------------------------------------

    @invariant()
    def never_two_tuning_pods(self) -> None:
        uid = self.ws["metadata"]["uid"] if self.ws else None
        working = [
            p["metadata"]["name"]
            for p in self.cluster.children("tuning")
            if p["metadata"]["ownerReferences"][0]["uid"] == uid
        ]
        assert len(working) <= 1, f"two tuning pods: {working}"

    @invariant()
    def foreign_finalizer_stays(self) -> None:
        if self.ws is not None and self.had_foreign:
            assert FOREIGN in self.ws["metadata"]["finalizers"]

    @invariant()
    def step_is_counted(self) -> None:
        DONE["steps"] += 1

    def teardown(self) -> None:
        """The world falls quiet: the Workspace gets where it should, and stays there."""
        DONE["lives"] += 1
        self._settle()
        if self.ws is None or going(self.ws):
            self._expect_gone()
        elif self.ws["metadata"]["annotations"].get(names.PAUSED) != "true":
            self._expect_truth()

    def _settle(self) -> None:
        self.shell.deadline = 1e9  # nothing is stuck, so nothing needs it
        for run in self.airflow.runs.values():
            run.doomed = ""
        for node in self.cluster.all("Node"):
            self.cluster.change("Node", node, status=node_status("True", timestamp(self.cluster.now)))
        quiet = 0
        for _ in range(PASSES):
            self._pass()
            before = self.cluster.count
            look = self.shell.look()
            still = look is None or self._nothing_to_do(look)
            self._advance_runs()
            self.cluster.tick()
            moved = self.cluster.count != before or any(
                r.state not in OVER for r in self.airflow.runs.values()
            )
            quiet = quiet + 1 if still and not moved else 0
            if quiet >= 9:
                return
            self.cluster.advance(40)
        raise AssertionError(f"not settled after {PASSES} passes: {self._words()}")

    def _expect_no_untruth(self) -> None:
        """Every field of the status, held against what is there: at every step at which nothing is left to do."""
        if self.ws is not None:
            found = untruths(
                self.ws,
                stateful_sets=self.cluster.all("StatefulSet"),
                node_claims=self.cluster.all("NodeClaim"),
                nodes=self.cluster.all("Node"),
                runs={run.id: run.state for run in self.airflow.runs.values()},
                plans=("Accepted",),
            )
            assert not found, (found, self._words())

    def _nothing_to_do(self, look: Look) -> bool:
        decision = self.shell.decide(look)
        return decision.actions == () and (
            decision.status is None or lasting(decision.status) == lasting(look.workspace["status"])
        )

    def _words(self) -> dict[str, Any]:
        status = (self.ws or {}).get("status") or {}
        return {
            "run": status.get("run"),
            "retry": status.get("retry"),
            "state": status.get("state"),
            "conditions": {c["type"]: (c["status"], c["message"]) for c in status.get("conditions") or ()},
            "airflow": {r.id: (r.state, r.step, r.teardown) for r in self.airflow.runs.values()},
            "objects": {k: sorted(v) for k, v in self.cluster.objects.items() if v},
        }

    def _expect_gone(self) -> None:
        if self.ws is not None and names.FORCE_RELEASE in self.ws["metadata"]["annotations"]:
            return  # let go by order, and what is left goes with the object that another finalizer holds
        assert not self.cluster.all("NodeClaim"), self._words()
        assert not self.cluster.all("Pod"), self._words()
        if self.ws is not None:
            assert self.ws["metadata"]["finalizers"] == [FOREIGN], self._words()

    def _expect_truth(self) -> None:
        assert self.ws is not None
        self._expect_no_untruth()
        status = self.ws["status"]
        assert not self.cluster.claims("tuning"), self._words()
        if not self.cluster.find("StatefulSet", NAME):
            assert not self.cluster.claims("serving"), self._words()
        assert not [p for p in self.cluster.all("Pod") if label(p, names.COMPONENT) != "serving"]
        summary = condition(status, "WorkspaceReady")
        assert summary is not None
        assert summary["observedGeneration"] == names.generation(self.ws)
        stranger = any(
            s["metadata"]["ownerReferences"][0]["kind"] == "Other" for s in self.cluster.all("StatefulSet")
        )
        spec = self.ws.get("tuning") or self.ws["inference"]
        judged = status.get("run", {}).get("generation") == names.generation(self.ws)
        if spec["preset"] == "bad" and not judged:
            assert status["state"] in ("Failed", "NotReady"), self._words()
        if summary["status"] == "True" and self.kind != "tuning":
            assert self.cluster.find("StatefulSet", NAME)["status"]["readyReplicas"], self._words()
            assert len(self.cluster.claims("serving")) == 1, self._words()
        elif not stranger and not self.cluster.find("StatefulSet", NAME):
            assert not self.cluster.claims("serving"), self._words()
        at_zero = summary["reason"] == "ScaledToZero"
        if at_zero:
            assert condition(status, "InferenceReady")["reason"] == "ScaledToZero", self._words()
            assert self.ws["metadata"]["annotations"].get(names.SCALE_TO_ZERO) == status["idle"]["minutes"]
            assert status["idle"]["released"], self._words()
            assert not self.cluster.claims("serving"), self._words()
            assert not self.cluster.children("serving"), self._words()
        if judged and not stranger:
            over = summary["reason"] == "workspaceFailed" or at_zero
            assert summary["status"] == "True" or over, self._words()
