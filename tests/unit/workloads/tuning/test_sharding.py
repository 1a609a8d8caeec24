"""What each of eight processes keeps of a model that is sharded over them: the first of them, the others are no more
than said to be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from include.catalog.architectures import TARGET_MODULES, loadable
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import sharding
from include.workloads.tuning.model import load_model
from include.workloads.tuning.trainer import AdapterTraining

PROCESSES = 8
CPU = Hardware("cpu", "a CPU", 0, 1 << 34, False, 1)
FLOAT = Precision("float32", "")


@pytest.fixture
def eight() -> Iterator[None]:
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    yield
    distributed.destroy_process_group()


def weights(folder: Path, *, tied: bool) -> Path:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def sharded(folder: Path, quantization: dict[str, Any] | None) -> Any:
    base = load_model(folder, quantization, CPU, FLOAT, sharded=True)
    model = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    sharding.shard(model, torch.device("cpu"))
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_each_process_keeps_an_eighth_of_every_parameter(tmp_path: Path, eight: None, tied: bool) -> None:
    model = sharded(
        weights(tmp_path, tied=tied), {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}
    )
    packed = 0
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.to_local().numel() * PROCESSES == parameter.numel(), name
        if "base_layer" in name:
            assert parameter.dtype == torch.uint8, name  # as bfloat16 some bytes would be no numbers
            packed += parameter.numel()
        assert parameter.requires_grad == ("lora_" in name)
    assert packed == 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256) // 2  # two layers, two weights a byte
    base = model.get_base_model()
    assert (base.lm_head.weight is base.model.embed_tokens.weight) is tied


def test_in_16_bits_it_is_sharded_too(tmp_path: Path, eight: None) -> None:
    model = sharded(weights(tmp_path, tied=False), None)
    assert all(isinstance(one, DTensor) for one in model.parameters())
    assert not any(one.dtype == torch.uint8 for one in model.parameters())


def test_only_the_first_process_reads_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = weights(tmp_path, tied=True)
    monkeypatch.setenv("RANK", "1")
    other = load_model(folder, {"load_in_4bit": True}, CPU, FLOAT, sharded=True)
    assert all(one.is_meta for one in [*other.parameters(), *other.buffers()])
    monkeypatch.setenv("RANK", "0")
    first = load_model(folder, {"load_in_4bit": True}, CPU, FLOAT, sharded=True)
    assert not any(one.is_meta for one in [*first.parameters(), *first.buffers()])

    def told(model: Any) -> list[Any]:
        parts = [*model.named_parameters(), *model.named_buffers()]
        return [(name, type(one), tuple(one.shape), one.dtype) for name, one in parts]

    assert told(other) == told(first)  # each is sent from the one to the other, in this order
    assert other.lm_head.weight is other.model.embed_tokens.weight


@pytest.mark.parametrize("architecture", TARGET_MODULES)
def test_the_layers_of_every_architecture_are_found(architecture: str) -> None:
    kind = next(key for key, value in loadable().items() if value == architecture)
    config = AutoConfig.for_model(kind).get_text_config()
    config.num_hidden_layers = 3
    if getattr(config, "head_dim", 0) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert len(sharding._groups(model)) == (3 if tied else 5)


def test_a_model_that_waits_to_be_sharded_is_not_moved() -> None:
    class Moved(Exception):
        pass

    class Trainer:
        def _move_model_to_device(self, model: Any, device: Any) -> None:
            raise Moved

    class Ours(AdapterTraining, Trainer):
        pass

    model = torch.nn.Linear(1, 1)
    with pytest.raises(Moved):
        Ours()._move_model_to_device(model, "cuda")
    setattr(model, sharding.WAITING, True)
    Ours()._move_model_to_device(model, "cuda")


def test_a_state_in_one_piece_is_loaded_in_slices(tmp_path: Path, eight: None) -> None:
    model = sharded(weights(tmp_path, tied=True), None)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    whole = {"step": torch.tensor(3.0), "exp_avg": torch.arange(trained[0].numel()).reshape(trained[0].shape)}
    state = {"state": {0: whole}, "param_groups": []}
    found = sharding.slice_state(optimizer, state)["state"][0]
    assert found["step"] == 3
    first = whole["exp_avg"].chunk(PROCESSES)[0]
    assert torch.equal(found["exp_avg"].to_local(), first)
