"""Requests that run together get the answers that they get alone, on small random models of several kinds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.serving.adapters import find_adapters, read_adapter
from include.workloads.serving.batching import highest
from include.workloads.serving.engine import Engine
from include.workloads.serving.generation import Request, Settings, sampling
from include.workloads.serving.packed import PackedLinear
from include.workloads.serving.sequences import Apart, Rows
from include.workloads.tuning.standin import _tokenizer

HERE = Hardware("cpu", "a processor", 0, 1 << 30, True, 1)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
KINDS = {
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **SMALL)),
    "sliding": lambda size: MistralForCausalLM(MistralConfig(vocab_size=size, sliding_window=6, **SMALL)),
    "some layers slide": lambda size: Qwen2ForCausalLM(
        Qwen2Config(vocab_size=size, use_sliding_window=True, sliding_window=6, max_window_layers=1, **SMALL)
    ),
    "state": lambda size: MambaForCausalLM(
        MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=0)
    ),
}


def weights(folder: Path, kind: str) -> Path:
    torch.manual_seed(3)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    KINDS[kind](len(tokenizer)).save_pretrained(folder)
    return folder


def engine(folder: Path, dtype: str = "float32", adapters: Path | None = None) -> Engine:
    found = find_adapters(adapters) if adapters else []
    return Engine(folder, found, HERE, Precision(dtype, ""))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        base = LlamaForCausalLM.from_pretrained(llama)
        config = LoraConfig(
            r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
        get_peft_model(base, config).save_pretrained(folder / name)
    return folder


def asked(rng: random.Random, adapters: list[str | None], longest: int = 40) -> Request:
    ids = [rng.randrange(1, 250) for _ in range(rng.randrange(1, longest))]
    return Request(ids, rng.randrange(1, 30), Settings(rng.choice(adapters)))


def alone(loaded: Engine, request: Request) -> list[int]:
    """What transformers' own generate() answers."""
    ids = torch.tensor([request.prompt_ids])
    with torch.inference_mode(), loaded.with_adapter(request.settings.adapter):
        model = loaded.model
        inner = model.base_model.model if hasattr(model, "peft_config") else model
        made = inner.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(loaded.stop_ids),
        )
    found = made[0, ids.shape[1] :].tolist()
    return found[:-1] if found[-1] in loaded.stop_ids else found


def run_with_arrivals(loaded: Engine, requests: list[Request], rng: random.Random) -> None:
    """They come one after the other, in the middle of the others' answers."""
    waiting, batch = list(requests), loaded.batch
    while waiting or batch.running:
        while waiting and len(batch.running) < 6 and rng.random() < 0.6:
            batch.begin(waiting.pop(0))
        batch.step()
        batch.sweep()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_that_the_model_gives_alone(kind: str, tmp_path: Path) -> None:
    loaded = engine(weights(tmp_path, kind))
    assert isinstance(loaded.batch.sequences, Apart if kind == "state" else Rows)
    rng = random.Random(1)
    requests = [asked(rng, [None]) for _ in range(20)]
    run_with_arrivals(loaded, requests, rng)
    for request in requests:
        assert list(request.stream()) == alone(loaded, request)


@pytest.mark.parametrize("seed", range(4))
def test_adapters_and_the_base_model_answer_side_by_side(llama: Path, adapters: Path, seed: int) -> None:
    loaded = engine(llama, adapters=adapters)
    rng = random.Random(seed)
    requests = [asked(rng, [None, "one", "two"]) for _ in range(24)]
    run_with_arrivals(loaded, requests, rng)
    answers = {}
    for request in requests:
        answers[tuple(request.prompt_ids), request.settings.adapter] = found = list(request.stream())
        assert found == alone(loaded, request), request.settings.adapter
    same = Request([5, 6, 7], 20, Settings(None)), Request([5, 6, 7], 20, Settings("one"))
    loaded.generate(same)
    assert list(same[0].stream()) != list(same[1].stream()), "the adapter does something"


@pytest.mark.parametrize("at_once", [1, 3, None])
def test_many_requests_run_few_at_once_and_one_that_ends_makes_room(llama: Path, at_once: int | None) -> None:
    loaded = engine(llama)
    rng = random.Random(2)
    requests = [asked(rng, [None]) for _ in range(8)]
    seen, ended = list[int](), list[int]()
    before = loaded.batch.step
    loaded.batch.step = lambda: (seen.append(len(loaded.batch.running)), before())[1]  # type: ignore[method-assign]
    loaded.generate(requests, at_once, ended.append)
    assert max(seen) == (at_once or len(requests))
    assert sum(ended) == len(requests)
    if at_once == 3:
        assert seen.count(3) > len(seen) / 2, "a row that is free is used at once"
    for request in requests:
        assert list(request.stream()) == alone(loaded, request)


def test_what_a_row_holds_is_read_once(llama: Path, adapters: Path) -> None:
    """A second turn of a talk begins with the first; another adapter's keys are not for it."""
    loaded = engine(llama, adapters=adapters)
    read: list[int] = []
    kept = loaded.batch.sequences
    before = kept.read
    kept.read = lambda row, ids, start: (read.append(len(ids)), before(row, ids, start))[1]  # type: ignore[method-assign]
    rng = random.Random(5)
    start = [rng.randrange(1, 250) for _ in range(60)]

    def ask(ids: list[int], adapter: str | None = None) -> list[int]:
        request = Request(ids, 12, Settings(adapter))
        loaded.generate([asked(rng, [None]), request, asked(rng, ["two"])])
        found = list(request.stream())
        assert found == alone(loaded, request)
        return found

    answer = ask(start)
    read.clear()
    ask([*start, *answer, 9, 9, 9])
    assert max(read) < 60
    read.clear()
    ask([*start, 8], "one")
    assert max(read) == 61


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_first_of_the_highest_scores_is_the_choice(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    scores = torch.randint(-5, 5, (50, 300)).to(dtype)  # many are equal
    scores[3, 7] = float("nan")
    with torch.inference_mode():
        found = highest(scores)
        assert found == scores.argmax(-1).tolist()
    assert found[3] == 7
    rows = [row for row in range(50) if row != 3]
    assert [found[row] for row in rows] == [
        scores[row].tolist().index(max(scores[row].tolist())) for row in rows
    ]


def test_cancelled_and_failing_requests_leave_the_others_alone(llama: Path) -> None:
    loaded = engine(llama)
    rng = random.Random(2)
    requests = [asked(rng, [None]) for _ in range(5)]
    for request in requests:
        request.max_new_tokens = 20
        loaded.batch.begin(request)
    loaded.batch.step()
    requests[1].cancelled.set()
    requests[3].fail(RuntimeError("gone"))
    while loaded.batch.running:
        loaded.batch.step()
        loaded.batch.sweep()
    assert requests[1].finish_reason == "cancelled"
    for place in (0, 2, 4):
        assert list(requests[place].stream()) == alone(loaded, requests[place])


def test_a_seed_gives_the_same_answer_whoever_runs_beside(llama: Path) -> None:
    loaded = engine(llama)
    rng = random.Random(3)

    def draw(seed: int) -> list[int]:
        wished = sampling(do_sample=True, temperature=1.0, top_k=0)
        request = Request([4, 5, 6], 15, Settings(None, wished, seed))
        loaded.generate([asked(rng, [None]), request, asked(rng, [None])])
        return list(request.stream())

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(-1) == draw(-1), "any whole number is a seed"


def test_no_room_is_said_before_memory_is_taken(llama: Path) -> None:
    """All rows together hold eight contexts: wide requests run a few at a time, one always runs."""
    loaded = engine(llama)
    wide = [Request([1, 2, 3], 500, Settings(None)) for _ in range(9)]
    begun = 0
    for request in wide:
        if loaded.batch.running and not loaded.batch.fits(request):
            break
        loaded.batch.begin(request)
        begun += 1
    assert begun == 8


def test_an_adapter_that_does_not_fit_is_refused_and_the_others_answer_on(
    llama: Path, adapters: Path, tmp_path: Path
) -> None:
    other = LlamaForCausalLM(LlamaConfig(vocab_size=261, **{**SMALL, "hidden_size": 64}))
    get_peft_model(other, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "other")
    loaded = engine(llama, adapters=adapters)
    with pytest.raises(UserConfigError, match="Adapter other does not fit this model"):
        loaded.add_adapter(read_adapter(tmp_path / "other"))
    again = read_adapter(adapters / "one", name="again")
    loaded.add_adapter(again)
    pair = [Request([7, 8, 9], 10, Settings(name)) for name in ("one", "again")]
    loaded.generate(pair)
    assert list(pair[0].stream()) == list(pair[1].stream())
    loaded.remove_adapter("again")
    loaded.remove_adapter("one")
    loaded.remove_adapter("two")
    base = Request([7, 8, 9], 10, Settings(None))
    loaded.generate([base])
    assert list(base.stream()) == alone(loaded, base)
    with pytest.raises(UserConfigError, match="taken away"):
        loaded.generate([Request([1], 1, Settings("one"))])
    loaded.add_adapter(read_adapter(adapters / "two"))
    two = Request([7, 8, 9], 10, Settings("two"))
    loaded.generate([two])
    assert list(two.stream()) == alone(loaded, two)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 units"
)
def test_packed_weights_give_the_model_s_scores(llama: Path) -> None:
    loaded = engine(llama, "bfloat16")
    packed = [one for one in loaded.model.modules() if isinstance(one, PackedLinear)]
    assert len(packed) == 3 * 4 + 1, "and three layers that are parts of one, three times"
    plain = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        mine, right = loaded.model(input_ids=ids).logits, plain(input_ids=ids).logits
    assert torch.nn.functional.cosine_similarity(mine.float(), right.float(), dim=-1).min() > 0.999
