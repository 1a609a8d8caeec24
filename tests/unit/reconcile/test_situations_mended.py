"""A failure that lies in a Secret or a ConfigMap ends by itself when that is corrected, and nothing else does that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from include.reconcile import Decision, StartRun, decide
from include.workspace.status.conditions import Phase, progress
from tests.support.reconcile.story import RECONCILE_CONFIG, Story, of, run_ended

SECRET = "secrets/push"
P_FAULT = "tuning.output.imagePushSecret: the registry refuses a push (it answered 401) [P10]"


class Failed:
    """A tuning whose run has failed in a phase, and what the reconciler sees from then on."""

    def __init__(self, phase: Phase, message: str, inputs: Mapping[str, str] | None) -> None:
        self.story = Story("tuning").lives(run_ended)
        ws = self.story.ws
        status = progress(ws, Phase.ACCEPTED, message="planned", now=self.now)
        status = progress({**ws, "status": status}, phase, message=message, now=self.now)
        self.live: dict[str, Any] = {**ws, "status": {**status, "inputs": dict(inputs or {})}}
        self.live["status"].pop("retry", None)
        self.versions: dict[str, str] = {SECRET: "u.1"}
        self.looks = 0
        self.seconds = 0.0

    @property
    def now(self) -> Any:
        return self.story.look().now

    def look(self, **observed: Any) -> Decision:
        def versions(_: Any) -> dict[str, str]:
            self.looks += 1
            return self.versions

        seen = self.story.look(**observed)
        now = seen.now + timedelta(seconds=self.seconds)
        decision = decide(self.live, seen.observed, now, replace(RECONCILE_CONFIG, versions=versions))
        if decision.status is not None:
            self.live = {**self.live, "status": dict(decision.status)}
        return decision


FAILURES = [
    (Phase.INVALID, P_FAULT),
    (Phase.PUBLISH_FAILED, "the registry refuses access (it answered 401)"),
    (Phase.DATASET_FAILED, "the registry refuses access (it answered 401)"),
]


@pytest.mark.parametrize(("phase", "message"), FAILURES)
def test_a_corrected_secret_starts_a_new_run_once(phase: Phase, message: str) -> None:
    failed = Failed(phase, message, {SECRET: "u.1"})
    first = failed.look()
    assert of(first, StartRun) == []
    assert first.requeue_after is not None
    failed.versions[SECRET] = "u.2"
    failed.seconds += first.requeue_after
    (run,) = of(failed.look(), StartRun)
    assert run.dag_id == "kaito_tune"
    assert failed.live["status"]["run"]["cause"] == "mended"
    assert of(failed.look(), StartRun) == [], "the run is recorded"


def test_a_secret_that_is_made_starts_a_new_run() -> None:
    failed = Failed(Phase.INVALID, "there is no such Secret [P4]", {SECRET: "absent"})
    assert of(failed.look(), StartRun)


def test_looks_grow_rare_and_have_a_bound() -> None:
    failed = Failed(*FAILURES[0], {SECRET: "u.1"})
    pauses = []
    for _ in range(9):
        pauses.append(failed.look().requeue_after)
        failed.seconds += pauses[-1] or 0
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300, 300]
    assert failed.looks == 9
    failed.seconds -= 100
    assert failed.look().requeue_after == 100
    assert failed.looks == 9, "a look that comes early asks for nothing"


@pytest.mark.parametrize(
    ("phase", "message", "inputs"),
    [
        (Phase.TUNING_FAILED, "CUDA out of memory", {SECRET: "u.0"}),
        (Phase.NODES_FAILED, "quota: no GPUs for you", {SECRET: "u.0"}),
        (Phase.INVALID, "resource.instanceType: unknown [R13]", {SECRET: "u.0"}),
        (Phase.PUBLISH_FAILED, "refused", {}),
    ],
)
def test_what_failed_for_something_else_asks_for_no_secret(
    phase: Phase, message: str, inputs: dict[str, str]
) -> None:
    failed = Failed(phase, message, inputs)
    decision = failed.look()
    assert of(decision, StartRun) == []
    assert decision.requeue_after is None
    assert failed.looks == 0


def test_a_corrected_config_map_starts_a_new_run() -> None:
    failed = Failed(Phase.INVALID, "training_config: unknown key [M3]", {"cfg": "old"})
    assert of(failed.look(config_maps={"cfg": "old"}), StartRun) == []
    assert of(failed.look(config_maps={"cfg": None}), StartRun) == []
    assert of(failed.look(config_maps={"cfg": "new"}), StartRun)
