"""TensorBoard's files and other people's trackers: one curve over all attempts, nothing that can stop a training."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from include.workloads.tuning import tracking
from include.workloads.tuning.tracking import Watcher, watchers


def state(step: int = 0) -> Any:
    return SimpleNamespace(
        is_world_process_zero=True, is_hyper_param_search=False, global_step=step, trial_name=None
    )


ARGS: Any = SimpleNamespace(to_json_string=lambda: "{}", output_dir="x")


@pytest.fixture(autouse=True)
def no_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, *_ in tracking.TRACKERS:
        monkeypatch.delenv(variable, raising=False)


def events(folder: Path) -> Iterator[Event]:
    """What is in the event files: records of length, its checksum, content and its checksum."""
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event()
            event.ParseFromString(content[place + 12 : place + 12 + length])
            yield event
            place += length + 16


def attempt(output: Path, begin: int, end: int) -> None:
    [watcher] = watchers(output, begin)
    watcher.on_train_begin(ARGS, state(begin), None)
    for step in range(begin + 1, end + 1):
        watcher.on_log(ARGS, state(step), None, logs={"loss": 1.0 / step, "eval_rewards/margins": 0.5})
    watcher.on_train_end(ARGS, state(end), None)


def test_the_files_have_one_value_a_step_over_all_attempts(tmp_path: Path) -> None:
    attempt(tmp_path, 0, 4)
    attempt(tmp_path, 2, 5)  # the first was killed after a checkpoint at step 2
    found: dict[int, float] = {}
    for event in events(tmp_path / tracking.TENSORBOARD):
        if event.session_log.status == event.session_log.START and event.step:
            found = {
                step: value for step, value in found.items() if step < event.step
            }  # as TensorBoard reads it
        for value in event.summary.value:
            if value.tag == "train/loss":
                assert event.step not in found, "the step stands twice"
                found[event.step] = value.simple_value
    assert found == pytest.approx({step: 1.0 / step for step in range(1, 6)})


def test_a_tracker_that_fails_is_told_of_once_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        calls = 0

        def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
            assert "model" not in kwargs

        def on_log(self, *_: Any, **__: Any) -> None:
            Broken.calls += 1
            raise ConnectionError("https://me:hunter2@tracker.example.com is away")

    watcher = Watcher("MLflow", Broken)
    with caplog.at_level(logging.WARNING, "workload"):
        watcher.on_train_begin(ARGS, state(), None, model=object())
        for step in range(3):
            watcher.on_log(ARGS, state(step), None, logs={})
        watcher.on_train_end(ARGS, state(3), None)
    assert Broken.calls == 1
    assert [record.message.partition(":")[0] for record in caplog.records] == ["MLflow is told nothing more"]
    assert "hunter2" not in caplog.text

    def refuses() -> Any:
        raise RuntimeError("no room")

    Watcher("TensorBoard", refuses).on_log(ARGS, state(), None, logs={})  # made, and failed at that


def test_a_tracker_whose_package_is_missing_is_said_and_one_that_is_there_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")
    known = {"tensorboardX", "wandb"}
    monkeypatch.setattr(
        tracking.importlib.util,  # type: ignore[attr-defined]
        "find_spec",
        lambda name: object() if name in known else None,
    )
    made = SimpleNamespace()
    trackers = [(*one[:3], lambda: made) for one in tracking.TRACKERS]
    monkeypatch.setattr(tracking, "TRACKERS", trackers)
    with caplog.at_level(logging.WARNING, "workload"):
        found = watchers(tmp_path, 0)
    assert [one._name for one in found] == ["TensorBoard", "Weights & Biases"]
    assert "does not have the package mlflow: MLflow is told nothing" in caplog.text
    from include.contracts.redaction import redact

    assert "abcdef123456" not in redact("key abcdef123456")


def test_where_nothing_is_installed_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    assert watchers(tmp_path, 0) == []
    assert list(tmp_path.iterdir()) == []
