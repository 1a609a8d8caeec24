"""The record of the adapter on a work volume: it must never promise an adapter that does not lie there as asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from include.workspace.api import names
from include.workspace.status.kept_adapter import KeptAdapter, State, recipe

RECIPES, RUNS, RERUNS = ("a", "b"), ("run-1", "run-2", "run-3"), ("", "1", "2")
DOCUMENT: dict[str, Any] = {
    "metadata": {"name": "w", "uid": "u", "annotations": {}},
    "resource": {"instanceType": "Standard_NC24ads_A100_v4"},
    "tuning": {
        "preset": {"name": "phi-3"},
        "method": "qlora",
        "input": {"urls": ["https://example.com/rows.jsonl?version=1"]},
        "output": {"image": "registry.example.com/a:1", "imagePushSecret": "push"},
    },
}
FACTS = {"model": "phi-3", "revision": "abc", "method": "qlora"}


class Volume(RuleBasedStateMachine):
    """Runs that begin, die, end late and meet; `lies` is what is really there, None while somebody may write to it."""

    def __init__(self) -> None:
        super().__init__()
        self.record: KeptAdapter | None = None
        self.lies: str | None = None
        self.training: dict[str, str] = {}

    @rule(run=st.sampled_from(RUNS), wanted=st.sampled_from(RECIPES), rerun=st.sampled_from(RERUNS))
    def begin(self, run: str, wanted: str, rerun: str) -> None:
        """The record is taken first, then the pod may write; what another training wrote until now is lost."""
        if self.record is None or not self.record.serves_for(wanted, rerun):
            self.record = KeptAdapter.begun(wanted, run, rerun, {})
            self.training = {run: wanted}
            self.lies = None

    @rule(run=st.sampled_from(RUNS))
    def die(self, run: str) -> None:
        self.training.pop(run, None)

    @rule(run=st.sampled_from(RUNS), real=st.booleans())
    def finish(self, run: str, real: bool) -> None:
        """A training ends; or the task of a run whose training was replaced tells late that it has."""
        if run in self.training and real:
            self.lies = self.training.pop(run)
        elif run in self.training:
            return
        elif self.record is not None and (self.record.run, self.record.state) == (run, State.TRAINING):
            return  # its own training has died: it has nothing to tell
        known = self.record and self.record.finished(run, {})
        self.record = known or self.record

    @rule(run=st.sampled_from(RUNS), rerun=st.sampled_from(RERUNS))
    def deliver(self, run: str, rerun: str) -> None:
        known = self.record and self.record.delivered(run, rerun)
        self.record = known or self.record

    @rule()
    def delete_the_volume(self) -> None:
        self.record, self.lies, self.training = None, None, {}

    @invariant()
    def what_is_pushed_is_what_was_asked_for(self) -> None:
        for wanted in RECIPES:
            for rerun in RERUNS:
                if self.record is not None and self.record.serves_for(wanted, rerun):
                    assert self.lies == wanted

    @invariant()
    def a_new_request_after_a_success_trains(self) -> None:
        if self.record is not None and self.record.state is State.DELIVERED:
            assert not self.record.serves_for(self.record.recipe, self.record.rerun + "x")


TestVolume = Volume.TestCase
TestVolume.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)


def claim(record: KeptAdapter, uid: str = "u", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"annotations": record.annotation(), "ownerReferences": [{"uid": uid}], **metadata}}


def test_a_record_is_read_as_it_was_written() -> None:
    made = KeptAdapter.begun("a", "run-1", "1", {"digest": "sha256:d", "rows": 3, "sentence": "left out"})
    done = made.finished("run-1", {"steps": 5, "adapter": {"sha256": "x"}, "tokens": 7})
    assert done is not None
    assert KeptAdapter.of(claim(done), "u") == done
    assert (done.dataset, done.tuning) == (
        {"digest": "sha256:d", "rows": 3},
        {"steps": 5, "adapter": {"sha256": "x"}},
    )


def test_what_is_another_workspaces_or_going_or_garbled_is_no_record() -> None:
    made = KeptAdapter("a", "run-1", State.TRAINED)
    assert KeptAdapter.of(claim(made), "another") is None
    assert KeptAdapter.of(claim(made, deletionTimestamp="2026-01-01T00:00:00Z"), "u") is None
    assert KeptAdapter.of(claim(made, annotations={names.ADAPTER: "{"}), "u") is None
    assert KeptAdapter.of(claim(made, annotations={names.ADAPTER: '{"state": "eaten"}'}), "u") is None
    assert KeptAdapter.of(None, "u") is None


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split(".")
    part = document
    for parent in parents:
        part = part.setdefault(parent, {})
    part[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tuning.output.image", "registry.example.com/a:2"),
        ("tuning.output.imagePushSecret", "other"),
        ("tuning.input.imagePullSecrets", ["pull"]),
        ("tuning.input.name", "rows"),
        ("resource.instanceType", "Standard_ND96asr_v4"),
        ("metadata.annotations", {names.RERUN: "1"}),
    ],
)
def test_where_it_goes_and_what_it_is_made_on_train_nothing_anew(path: str, value: Any) -> None:
    assert recipe(changed(path, value), FACTS, "c") == recipe(DOCUMENT, FACTS, "c")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tuning.input.urls", ["https://example.com/rows.jsonl?version=2"]),
        ("tuning.input.image", "registry.example.com/data:1"),
        ("tuning.input.volumeSource", {"emptyDir": {}}),
        ("tuning.preset.name", "phi-4"),
        ("metadata.annotations", {names.USE_LOCAL_WEIGHTS: "true"}),
    ],
)
def test_what_is_learnt_trains_anew(path: str, value: Any) -> None:
    assert recipe(changed(path, value), FACTS, "c") != recipe(DOCUMENT, FACTS, "c")


def test_model_method_and_config_train_anew() -> None:
    told = {recipe(DOCUMENT, {**FACTS, key: "x"}, "c") for key in FACTS} | {recipe(DOCUMENT, FACTS, "d")}
    assert len(told | {recipe(DOCUMENT, FACTS, "c")}) == len(FACTS) + 2
