"""An update is the same whatever the number of processes that share it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.hardware import Hardware
from include.workloads.tuning import processes
from include.workloads.tuning.recipe import DataFacts, choose_batch

SIZE = st.integers(1, 16)


def training(batch: int, accumulation: int | None = None) -> dict[str, object]:
    return {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 2e-4,
    }


@given(SIZE, SIZE, SIZE, SIZE)
def test_an_update_takes_as_many_sequences_on_another_machine(
    batch: int, accumulation: int, before: int, now: int
) -> None:
    total = processes.sequences(training(batch, accumulation), before)
    kept = processes.spread(training(batch, accumulation), now, total)
    if total % now:
        assert kept is None
        return
    assert kept is not None
    assert processes.sequences(kept, now) == total
    assert 1 <= kept["per_device_train_batch_size"] <= batch  # never more memory than was asked for
    assert kept["learning_rate"] == 2e-4


def test_the_first_attempt_and_an_equal_one_need_no_word() -> None:
    first = training(2, 4)
    assert processes.as_before(first, 1, None) == (first, "")
    assert processes.as_before(first, 1, 8) == (first, "")


def test_a_later_attempt_takes_what_the_first_took_or_says_why_not() -> None:
    kept, told = processes.as_before(training(2, 4), 4, 8)
    assert (kept["per_device_train_batch_size"], kept["gradient_accumulation_steps"]) == (2, 1)
    assert told == (
        "The attempts before took 8 sequences an update: 4 processes with 2 at a time, one update every 1."
    )
    _, told = processes.as_before(training(1, 4), 1, 1)
    assert told.startswith("The attempts before took 1 sequence an update: 1 process with 1 at a time")
    own = training(2, 1)
    kept, told = processes.as_before(own, 3, 8)
    assert kept is own
    assert told == (
        "The attempts before took 8 sequences an update, which 3 processes cannot share: with 6 an update the "
        "training starts anew."
    )


def test_the_note_is_of_one_training(tmp_path: Path) -> None:
    assert processes.noted(tmp_path, "mine") is None
    processes.note(tmp_path, "mine", 8)
    assert processes.noted(tmp_path, "mine") == 8
    assert processes.noted(tmp_path, "another") is None
    (tmp_path / processes.NOTE).write_text("{")
    assert processes.noted(tmp_path, "mine") is None


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("tokens", [10_000_000, 2_000_000])
def test_the_gpus_share_an_update_so_the_adapter_does_not_hang_on_their_number(
    gpus: int, tokens: int
) -> None:
    machine = Hardware("cuda", "NVIDIA H100", gpus, 80 << 30, True, 16)
    batch, accumulation = choose_batch(machine, DataFacts([tokens]), 2048)
    assert batch * accumulation * gpus == 8


def test_how_many_processes_there_are_is_the_launchers_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.count() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert processes.count() == 4
