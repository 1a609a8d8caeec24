"""PiSSA and LoftQ: what is published belongs to the base model as it is, and says what the trained model said."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from include.contracts import weight_init
from include.contracts.training_config import read_config
from include.workloads import contract
from include.workloads.adapter.check import check_adapter
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import beginning
from include.workloads.tuning import model as models
from include.workloads.tuning.beginning import FOLDER, Beginning
from include.workloads.tuning.standin import make_standin
from include.workloads.tuning.start import Start, check

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
PISSA = {**LORA, "init_lora_weights": "pissa_niter_4"}
FULL = Precision("float32", "")
CPU = Hardware("cpu", "a CPU", 1, 2**34, bf16=True, cpu_threads=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_standin(tmp_path_factory.mktemp("weights"), layers=1)


def base(weights: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)


def rounded(weights: Path, *, decoded: bool) -> Any:
    """The base model in 4 bits, kept decoded or not."""
    room = CPU if decoded else replace(CPU, memory_bytes=1)
    return models.load_model(weights, {"load_in_4bit": True}, room, FULL)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def adapted(model: Any, lora: dict[str, Any]) -> Any:
    made = get_peft_model(model, LoraConfig(**weight_init.plain(lora), task_type="CAUSAL_LM"))
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return made


def begin(
    output: Path,
    lora: dict[str, Any],
    model: Any,
    files: Path | None = None,
    identity: str = "me",
    seed: int = 0,
) -> Beginning:
    rounding = models.rounding({"load_in_4bit": True}, FULL) if files else None
    made = Beginning(output, identity, lora, files, rounding)
    made.settle(model, seed)
    return made


def train(model: Any, far: float = 0.02) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += far * torch.randn_like(parameter)


def publish(model: Any, made: Beginning, folder: Path) -> dict[str, Any]:
    model.save_pretrained(folder, save_embedding_layers=False)
    config = made.converted(json.loads((folder / "adapter_config.json").read_text()))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    file = folder / "adapter_model.safetensors"
    save_file(made.difference(load_file(file)), file)
    return config


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"init_lora_weights": "pissa"},
        {"use_rslora": True, "rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 6}},
        {"r": 100},  # more than the smallest layer has
    ],
    ids=["randomised", "exact", "rsLoRA with patterns", "high rank"],
)
def test_the_published_adapter_is_the_trained_model_on_the_untouched_base(
    more: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    lora = {**PISSA, **more}
    model, before = adapted(base(weights), lora), logits(base(weights))
    made = begin(tmp_path, lora, model)
    assert torch.allclose(logits(model), before, atol=2e-4), "untrained, it says what the base says"
    kept = (tmp_path / FOLDER / "adapter_model.safetensors").read_bytes()
    train(model)
    trained = logits(model)
    assert not torch.allclose(trained, before, atol=0.05)
    published = tmp_path / "adapter"
    config = publish(model, made, published)
    assert config["r"] == 2 * lora["r"]
    assert config["init_lora_weights"] is True
    assert (tmp_path / FOLDER / "adapter_model.safetensors").read_bytes() == kept
    check_adapter(published, "The adapter")
    served = PeftModel.from_pretrained(base(weights), published)
    assert torch.allclose(logits(served), trained, atol=2e-4)


def test_all_processes_and_attempts_of_a_training_begin_with_the_same_values(
    weights: Path, tmp_path: Path
) -> None:
    first = adapted(base(weights), PISSA)
    begin(tmp_path, PISSA, first)
    for rank in (0, 1):
        other = adapted(base(weights), PISSA)
        Beginning(tmp_path, "me", PISSA).settle(other, 7, rank, 2)  # another seed: nothing is drawn
        mine, its = first.state_dict(), other.state_dict()
        assert all(torch.equal(mine[name], its[name]) for name in mine)
    anew = adapted(base(weights), PISSA)
    begin(tmp_path, PISSA, anew, identity="another", seed=7)
    assert any(not torch.equal(one, anew.state_dict()[name]) for name, one in first.state_dict().items())


def test_processes_share_the_layers_and_come_to_what_one_comes_to(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alone computed all, and the others stood at a barrier that gives up after half an hour."""
    monkeypatch.setattr(beginning, "WAIT_SECONDS", 0.01)
    exact = {**PISSA, "init_lora_weights": "pissa"}  # threads, unlike processes, share the random numbers
    alone = adapted(base(weights), exact)
    begin(tmp_path / "alone", exact, alone)
    together = [adapted(base(weights), exact) for _ in range(3)]
    computed: list[list[int]] = [[], [], []]
    decompose = Beginning._keep_part

    def counting(self: Beginning, index: int, *others: Any) -> None:
        computed[index % 3].append(index)
        decompose(self, index, *others)

    monkeypatch.setattr(Beginning, "_keep_part", counting)
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(Beginning(tmp_path / "out", "me", exact).settle, model, 0, rank, 3)
            for rank, model in enumerate(together)
        ]
        for run in runs:
            run.result(60)
    assert [len(one) for one in computed] == [2, 1, 1]
    for model in together:
        assert all(torch.equal(one, model.state_dict()[name]) for name, one in alone.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [FOLDER]


def test_what_a_stopped_attempt_has_computed_is_not_computed_again(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([False, False, True])
    monkeypatch.setattr(contract, "stop_requested", lambda: next(asked, False))
    with pytest.raises(TryAgain, match="after 2 of 4 layers"):
        begin(tmp_path, PISSA, adapted(base(weights), PISSA))
    found: list[int] = []
    decompose = beginning._decomposed

    def counting(*of: Any) -> Any:
        found.append(1)
        return decompose(*of)

    monkeypatch.setattr(beginning, "_decomposed", counting)
    resumed, whole = (adapted(base(weights), PISSA) for _ in range(2))
    begin(tmp_path, PISSA, resumed)
    assert len(found) == 2
    begin(tmp_path / "whole", PISSA, whole)
    assert all(torch.equal(one, resumed.state_dict()[name]) for name, one in whole.state_dict().items())


@pytest.mark.parametrize("decoded", [True, False], ids=["decoded", "in 4 bits"])
@pytest.mark.parametrize("init", ["pissa", "loftq"])
def test_a_layer_that_is_not_rounded_is_left_whole_and_learns(
    init: str, decoded: bool, weights: Path, tmp_path: Path
) -> None:
    """Of the output head nothing is rounded away: LoftQ gave it an adapter of zeros, which never learns."""
    lora = {**LORA, "init_lora_weights": init, "target_modules": ["o_proj", "lm_head"]}
    model = adapted(rounded(weights, decoded=decoded), lora)
    begin(tmp_path, lora, model, weights)
    head = model.base_model.model.lm_head
    a, b = head.lora_A["default"].weight, head.lora_B["default"].weight
    assert a.abs().sum() > 0
    if init == "pissa":
        whole = head.get_base_layer().weight + head.scaling["default"] * (b @ a)
        assert torch.allclose(whole, base(weights).lm_head.weight, atol=1e-5)
    else:
        assert b.abs().sum() == 0


def test_a_plain_adapter_keeps_nothing(tmp_path: Path) -> None:
    assert not begin(tmp_path / "plain", LORA, None).asked
    assert not (tmp_path / "plain").exists()


def _off(model: Any, original: Any) -> float:
    """How far the adapted layers are from the published weights: the mean of |W - (Q + s B A)| / |W|."""
    found = []
    plain = dict(original.named_modules())
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        weight = plain[name.removeprefix("base_model.model.")].weight
        base_weight = dequantize_module_weight(layer.get_base_layer()).float()
        added = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        rest = weight - base_weight - layer.scaling["default"] * added
        found.append(float(rest.norm() / weight.norm()))
    return sum(found) / len(found)


@pytest.mark.parametrize("decoded", [True, False], ids=["decoded", "in 4 bits"])
@pytest.mark.parametrize("init", ["pissa_niter_4", "loftq"])
def test_a_quantised_model_begins_nearer_to_the_published_one(
    init: str, decoded: bool, weights: Path, tmp_path: Path
) -> None:
    lora = {**LORA, "r": 32, "init_lora_weights": init}
    usual = adapted(rounded(weights, decoded=decoded), {**LORA, "r": 32})
    model = adapted(rounded(weights, decoded=decoded), lora)
    before = logits(model) if init == "loftq" else None
    made = begin(tmp_path, lora, model, weights)
    with torch.no_grad():
        near, far = _off(model, base(weights)), _off(usual, base(weights))
    assert near < (0.75 if init == "loftq" else 0.97) * far
    assert before is None or not torch.equal(logits(model), before)
    train(model, 0.1)
    trained = logits(model)
    publish(model, made, tmp_path / "adapter")
    served = logits(PeftModel.from_pretrained(base(weights), tmp_path / "adapter"))
    plain = logits(base(weights))
    told = float((served - trained).norm() / (trained - plain).norm())
    assert told < 0.5, "what is served differs from what was trained by the rounding only"


def test_layers_are_found_where_the_files_name_their_parents_otherwise(weights: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in weights.glob("*.safetensors"):
        named = {f"language_model.{name}": one for name, one in load_file(path).items()}
        vision = {name.replace("language_model.model", "vision"): torch.zeros(4, 4) for name in named}
        save_file(named | vision, renamed / path.name)
    lora = {**LORA, "init_lora_weights": "loftq"}
    begin(tmp_path / "out", lora, adapted(rounded(weights, decoded=True), lora), renamed)
    save_file({"something": torch.zeros(1)}, renamed / "model.safetensors")
    with pytest.raises(UserConfigError, match=r"needs the weights of model\.layers\.0\.\S+ as they were"):
        begin(tmp_path / "other", lora, adapted(rounded(weights, decoded=True), lora), renamed)


def test_it_stops_between_layers(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "stop_requested", lambda: True)
    with pytest.raises(TryAgain, match="after 0 of 4 layers"):
        begin(tmp_path, PISSA, adapted(base(weights), PISSA))
    assert not (tmp_path / FOLDER).exists()


def test_what_is_no_linear_layer_is_named(weights: Path, tmp_path: Path) -> None:
    lora = {**PISSA, "target_modules": ["embed_tokens", "o_proj"]}
    with pytest.raises(UserConfigError, match=r"model\.embed_tokens is none: leave it out of target_modules"):
        begin(tmp_path, lora, adapted(base(weights), lora))


@pytest.mark.parametrize(
    ("init", "method", "objective", "more", "words"),
    [
        ("loftq", "lora", "sft", {}, "method lora rounds nothing"),
        ("pissa", "lora", "dpo", {}, "cannot be compared with the base model"),
        ("loftq", "qlora", "kto", {}, "cannot be compared with the base model"),
        ("pissa_niter_16", "lora", "sft", {}, ""),
        ("pissa_niter_16", "qlora", "sft", {}, ""),
        ("loftq", "qlora", "sft", {"loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}, ""),
        ("loftq", "qlora", "sft", {"loftq_config": {"loftq_bits": 8}}, "loftq_config.loftq_bits: must be 4"),
        ("loftq", "qlora", "sft", {"loftq_config": {"bits": 4}}, "is no setting of LoftQ"),
        ("gaussian", "qlora", "sft", {"loftq_config": {"loftq_bits": 4}}, "init_lora_weights: loftq only"),
        ("pissa", "qlora", "sft", {"load_in_8bit": True}, "load_in_8bit is true"),
    ],
)
def test_what_it_cannot_go_with_is_refused_by_check(
    init: str, method: str, objective: str, more: dict[str, Any], words: str
) -> None:
    bits = "load_in_8bit" if more.pop("load_in_8bit", False) else "load_in_4bit"
    sections: dict[str, Any] = {"LoraConfig": {"init_lora_weights": init, **more}}
    if method == "qlora":
        sections["QuantizationConfig"] = {bits: True}
    found = read_config(json.dumps({"training_config": sections}), method, objective).faults
    assert len(found) == bool(words), [str(one) for one in found]
    assert words in " ".join(map(str, found))


def test_a_training_that_goes_on_from_an_adapter_cannot_begin_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    with pytest.raises(UserConfigError, match=r"init_lora_weights is pissa_niter_4\): leave that out"):
        check(Start(tmp_path, "sha256:1"), "", PISSA)
