"""Preference rows as token ids: where the prompt ends, what a cut leaves, and what the recipe makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from include.workloads.chat import Conversation, Marked, Pair
from include.workloads.contract import UserDataError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import losses, memory, preferences, processes
from include.workloads.tuning.config import TuningConfig
from include.workloads.tuning.recipe import DataFacts, ModelFacts, Recipe, decide, needs_checkpointing
from include.workloads.tuning.standin import _tokenizer

ASK = {"role": "user", "content": "2 + 2?"}
FOUR, FIVE = ({"role": "assistant", "content": text} for text in ("four", "a five"))
PAIR = Pair([ASK, FOUR], None, [ASK, FIVE])
GIB = 1024**3
H100 = Hardware("cuda", "NVIDIA H100", 1, 80 * GIB, True, 16)
CPU = Hardware("cpu", "a CPU", 0, 16 * GIB, False, 2)
SMALL = ModelFacts(layers=30, hidden=576, context=8192, weight_bytes=270_000_000)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _tokenizer()


def test_a_pair_s_ids_are_the_conversations_and_the_answer_begins_where_the_assistant_speaks(
    tokenizer: Any,
) -> None:
    [row] = preferences.tokenise([PAIR], tokenizer, "dpo")
    prompt = tokenizer.decode(row["prompt_ids"])
    assert prompt == "<|user|>\n2 + 2?<|end|>\n<|assistant|>\n"
    assert tokenizer.decode(row["chosen_ids"]).startswith("four<|end|>")
    assert tokenizer.decode(row["rejected_ids"]).startswith("a five<|end|>")


def test_a_marked_answer_keeps_its_label(tokenizer: Any) -> None:
    [row] = preferences.tokenise([Marked([ASK, FIVE], None, False)], tokenizer, "kto")
    assert tokenizer.decode(row["completion_ids"]).startswith("a five<|end|>")
    assert row["label"] is False


@pytest.mark.parametrize("values", [[Conversation([ASK, FOUR])], ["text"], [Marked([ASK, FOUR])]])
def test_a_table_of_another_objective_is_refused(values: list[Any], tokenizer: Any) -> None:
    with pytest.raises(UserDataError, match=r"the same annotation kaito\.sh/tuning-objective"):
        preferences.tokenise(values, tokenizer, "dpo")


def test_a_row_that_the_template_refuses_is_named(tokenizer: Any) -> None:
    strict = _tokenizer()
    strict.chat_template = (
        "{% for m in messages %}{% if 'five' in m.content %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.role }}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(UserDataError, match="Row 2 "):
        preferences.tokenise(
            [Pair([ASK, FOUR], None, [ASK, {**FIVE, "content": "six"}]), PAIR], strict, "dpo"
        )


def row(prompt: int, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt_ids": [0] * prompt,
        "chosen_ids": list(map(ord, chosen)),
        "rejected_ids": list(map(ord, rejected)),
    }


def test_a_cut_drops_what_has_nothing_left_to_compare() -> None:
    rows = [row(4, "ab", "cd"), row(4, "abcdX", "abcdY"), row(8, "ab", "cd"), row(4, "abcdefgh", "x")]
    kept, shortened, dropped = preferences.cut(rows, 8)
    assert [(len(one["chosen_ids"]), len(one["rejected_ids"])) for one in kept] == [(2, 2), (4, 1)]
    assert (shortened, dropped) == (3, 2)
    with pytest.raises(UserDataError, match="max_length higher"):
        preferences.cut(rows, 4)


def chosen(objective: str, hardware: Hardware = CPU, rows: int = 200, **training: Any) -> Recipe:
    config = TuningConfig("qlora", {}, {}, {}, training, {}, (), "", objective)
    return decide(config, hardware, Precision("float32", ""), DataFacts([300] * rows), SMALL)


def test_the_recipe_of_compared_rows() -> None:
    dpo, kto = chosen("dpo").training, chosen("kto").training
    assert "packing" not in dpo
    assert (dpo["learning_rate"], dpo["loss_type"], dpo["max_length"]) == (1e-5, ["sigmoid"], 320)
    assert (dpo["per_device_train_batch_size"], dpo["gradient_accumulation_steps"]) == (1, 8)
    assert (kto["per_device_train_batch_size"], kto["gradient_accumulation_steps"]) == (2, 4)
    assert chosen("kto", gradient_accumulation_steps=3).training["per_device_train_batch_size"] == 2
    assert chosen("kto", loss_type="apo_zero_unpaired").training["per_device_train_batch_size"] == 1
    assert chosen("sft").training["packing"] is True


def test_two_answers_need_the_memory_of_two_sequences() -> None:
    facts = ModelFacts(layers=32, hidden=3072, context=4096, weight_bytes=7_600_000_000)
    training = {"per_device_train_batch_size": 3, "max_length": 2048}
    small = Hardware("cuda", "a GPU", 1, 79 * GIB, True, 6)
    assert not needs_checkpointing(small, facts, training, "kto")
    assert needs_checkpointing(small, facts, training, "dpo")


def test_less_memory_never_means_less_than_the_loss_needs() -> None:
    training = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "loss_type": "kto"}
    once = memory.lighter(training, {})
    assert once is not None
    assert (once["per_device_train_batch_size"], once["gradient_accumulation_steps"]) == (2, 2)
    twice = memory.lighter({**once, "per_device_eval_batch_size": 1}, {})
    assert twice is not None
    assert twice["per_device_train_batch_size"] == 2
    assert twice["gradient_checkpointing"] is True
    odd = memory.lighter({**training, "per_device_train_batch_size": 3, "per_device_eval_batch_size": 1}, {})
    assert odd is not None
    assert odd["per_device_train_batch_size"] == 3, "an update keeps its rows"
    assert processes.spread(training, 2, 2) is None
    assert (processes.spread(training, 2, 8) or {})["per_device_train_batch_size"] == 4


def test_rewards_of_an_evaluation() -> None:
    entry = {"eval_loss": 0.5, "eval_rewards/chosen": 0.25, "eval_rewards/rejected": -0.5}
    assert losses.rewards(entry) == {"reward_margin": 0.75}
    assert losses.rewards({**entry, "eval_rewards/accuracies": 0.875})["reward_accuracy"] == 0.875
    assert losses.rewards({"eval_loss": 1.0}) == {}


@pytest.mark.parametrize(("good", "told"), [(True, "All 3 rows have label true"), (False, "label false")])
def test_answers_that_are_all_good_or_all_bad_after_the_split_are_no_training(good: bool, told: str) -> None:
    """The dataset has both, and what is held out may take the only one of a kind: the loss then stays where it is."""
    row = {"prompt_ids": [1], "completion_ids": [2]}
    with pytest.raises(UserDataError, match=f"Of the rows that are left to train on: .*{told}"):
        preferences.require_both([{**row, "label": good}] * 3)
    preferences.require_both([{**row, "label": good}, {**row, "label": not good}])
    preferences.require_both([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}])
