from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.workloads.tuning import memory
from include.workloads.tuning.recipe import Recipe

SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size")


def training(batch: int, accumulation: int = 1, **more: Any) -> dict[str, Any]:
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, **more}


def test_half_the_sequences_twice_the_accumulation() -> None:
    found = memory.lighter(training(4, 2), {})
    assert found is not None
    assert [found[key] for key in SIZES] == [2, 4, 2]


def test_then_activations_are_computed_again_unless_the_user_decides_it() -> None:
    alone = training(1, 8, per_device_eval_batch_size=1)
    found = memory.lighter(alone, {})
    assert found is not None
    assert found["gradient_checkpointing"] is True
    assert memory.lighter(found, {}) is None
    assert memory.lighter(alone, {"gradient_checkpointing": False}) is None


def test_an_evaluation_of_many_at_a_time_is_made_smaller_too() -> None:
    found = memory.lighter(training(1, 2, per_device_eval_batch_size=8), {})
    assert found is not None
    assert [found[key] for key in SIZES] == [1, 2, 4]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 64), st.booleans())
def test_an_update_never_changes_and_it_ends(
    batch: int, accumulation: int, evaluated: int, fixed: bool
) -> None:
    now: dict[str, Any] | None = training(batch, accumulation, per_device_eval_batch_size=evaluated)
    asked = {"gradient_checkpointing": False} if fixed else {}
    for _ in range(20):
        assert now is not None
        former, now = now, memory.lighter(now, asked)
        if now is None:
            assert former["per_device_train_batch_size"] == former["per_device_eval_batch_size"] == 1
            return
        assert now["per_device_train_batch_size"] * now["gradient_accumulation_steps"] == batch * accumulation
        assert now["per_device_train_batch_size"] <= former["per_device_train_batch_size"]
    raise AssertionError("it goes on for ever")


def test_the_recipe_says_what_was_done() -> None:
    recipe, sentence = memory.reduced(Recipe(training(4, 2), {}, 60.0, ["first"]), {}, 1)
    assert recipe.training["per_device_train_batch_size"] == 2
    assert "2 sequences at a time now, one update every 4 (as many sequences an update as before)" in sentence
    assert recipe.reasons == ["first", sentence]
    untouched = Recipe(training(4, 2), {}, 60.0)
    assert memory.reduced(untouched, {}, 0) == (untouched, "")


def test_a_note_counts_for_the_run_that_it_is_about(tmp_path: Path) -> None:
    assert memory.times_noted(tmp_path, "a") == 0
    memory.note(tmp_path, "a", 2)
    assert (memory.times_noted(tmp_path, "a"), memory.times_noted(tmp_path, "b")) == (2, 0)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"identity": "a", "times": "x"}', "\0"])
def test_a_note_that_is_none_counts_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / memory.NOTE).write_text(content)
    assert memory.times_noted(tmp_path, "a") == 0


def test_a_rank_leaves_the_new_start_to_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        memory.start_again()
    assert ended.value.code == memory.AGAIN
