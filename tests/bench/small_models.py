"""Small random models of several shapes, each with the trainer that a pod builds for it, for plan_memory.py.

They know nothing: only their sizes matter. It must never download anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.catalog import Model, ModelShape, layers
from include.catalog.models import GIB, Tuning
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import Objective
from include.workloads.tuning import preferences


@dataclass(frozen=True)
class Case:
    """A small model and how it is tuned. Dimensions differ from each other, so that shapes tell what a tensor is."""

    name: str
    architecture: str
    method: str = "qlora"
    checkpointing: bool = False
    eight_bit: bool = False
    double_quant: bool = True
    hidden: int = 256
    inner: int = 704
    count: int = 6
    heads: int = 8
    kv_heads: int = 2
    vocab: int = 263
    tokens: int = 512
    batch: int = 1
    rank: int = 16
    objective: str = Objective.SFT
    dora: bool = False

    def training(self) -> TrainingShape:
        """What the plan would read from this case's config."""
        return TrainingShape(
            sequence_length=self.tokens,
            batch_size=self.batch,
            rank=self.rank,
            gradient_checkpointing=self.checkpointing,
            load_in_8bit=self.eight_bit,
            double_quant=self.double_quant,
            optimizer="adamw_torch",
            packing=self.objective == Objective.SFT,
            objective=self.objective,
            dora=self.dora,
        )

    def model(self, weights_bytes: int) -> Model:
        """The catalogue's record of this case's model."""
        head_dim = self.hidden // self.heads
        shape = ModelShape(
            self.hidden, self.count, self.heads, self.kv_heads, head_dim, self.inner, self.vocab
        )
        return Model(
            name=self.name,
            hf_id=f"stand-in/{self.name}",
            revision="0",
            status="current",
            architecture=self.architecture,
            weights_gib=weights_bytes / GIB,
            context=4096,
            attention="GQA",
            kv_bytes_per_token=shape.kv_bytes_per_token,
            dtype="bfloat16",
            shape=shape,
            tuning=Tuning(True),
        )


LLAMA, PHI3, QWEN = "LlamaForCausalLM", "Phi3ForCausalLM", "Qwen2ForCausalLM"
CASES = (
    Case("llama-lora", LLAMA, "lora"),
    Case("llama-qlora", LLAMA),
    Case("llama-qlora-single-quant", LLAMA, double_quant=False),
    Case("llama-qlora-checkpointing", LLAMA, checkpointing=True, count=12),
    Case("llama-int8", LLAMA, eight_bit=True),
    Case("phi3-qlora", PHI3, kv_heads=8),
    Case("phi3-qlora-checkpointing", PHI3, kv_heads=8, checkpointing=True, count=12, batch=2),
    Case("qwen2-lora-long", QWEN, "lora", inner=1376, tokens=1024),
    Case("falcon-qlora", "FalconForCausalLM", kv_heads=1, inner=1024),
    Case("phi2-qlora", "PhiForCausalLM", kv_heads=8, inner=1024),
    Case("llama-dora", LLAMA, "lora", dora=True),
    Case("llama-dora-qlora", LLAMA, dora=True),
    Case("llama-dora-checkpointing", LLAMA, checkpointing=True, count=12, dora=True),
    Case("llama-lora-dpo", LLAMA, "lora", objective=Objective.DPO),
    Case("phi3-qlora-dpo", PHI3, kv_heads=8, objective=Objective.DPO),
    Case("llama-qlora-dpo-checkpointing", LLAMA, checkpointing=True, count=12, objective=Objective.DPO),
    Case("llama-qlora-kto", LLAMA, batch=2, objective=Objective.KTO),
)


def make_model(case: Case, folder: Path) -> Path:
    """A random model of the case's shape in bfloat16, with the stand-in's tokenizer."""
    import torch
    import transformers

    from include.workloads.tuning.standin import make_standin

    make_standin(folder)  # for its tokenizer; the model is replaced
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = getattr(transformers, case.architecture.replace("ForCausalLM", "Config"))(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=case.inner,
        num_hidden_layers=case.count,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_of_architecture(case),
    )
    torch.manual_seed(0)
    getattr(transformers, case.architecture)(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _of_architecture(case: Case) -> dict[str, Any]:
    if case.architecture == PHI3:
        return {"original_max_position_embeddings": 4096}
    if case.architecture == "FalconForCausalLM":
        return {"multi_query": True, "parallel_attn": True, "bias": False, "ffn_hidden_size": case.inner}
    return {}


def build_trainer(case: Case, weights: Path, folder: Path) -> Any:
    """The trainer that a pod builds for this case, on packed rows that fill the batch."""
    import torch

    from include.workloads.hardware import Hardware, Precision, prepare_environment
    from include.workloads.tuning import fit, losses, recipe
    from include.workloads.tuning.config import parse_config
    from include.workloads.tuning.model import load_model, load_tokenizer, model_facts
    from include.workloads.tuning.progress import Progress
    from include.workloads.tuning.trainer import Watch

    prepare_environment()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = Hardware(
        device, device, int(device == "cuda"), 1, True, 2
    )  # one byte: quantised weights stay so
    precision = Precision("bfloat16", "")
    config = parse_config(_config(case), case.method, case.objective)
    rows = _rows(case)
    facts = model_facts(weights)
    targets = list(layers.linear_layers(case.model(facts.weight_bytes)))
    lengths = recipe.DataFacts([case.tokens if "input_ids" not in row else case.tokens // 2 for row in rows])
    chosen = recipe.decide(config, hardware, precision, lengths, facts, targets)
    tokenizer = load_tokenizer(weights, None)
    progress = Progress(None)
    job = fit.Job(
        config, chosen, hardware, precision, progress, tokenizer, rows, [], folder, case.name, "", "bench"
    )
    base = load_model(weights, config.quantization if case.method == "qlora" else None, hardware, precision)
    trainer = fit.build_trainer(job, base, Watch(progress, "bench", 3600, losses.Patience(0, 0.0)))
    if case.checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    return trainer


def _rows(case: Case) -> list[dict[str, Any]]:
    """Rows that fill the batch: two in a packed sequence, or an answer as long as what was asked."""
    half, other = [5] * (case.tokens // 2), [6] * (case.tokens // 2)
    if case.objective == Objective.SFT:
        return [{"input_ids": half, "labels": half}] * (4 * case.batch)
    if case.objective == Objective.DPO:
        return [{preferences.PROMPT: half, preferences.CHOSEN: half, preferences.REJECTED: other}] * (
            4 * case.batch
        )
    marked = {preferences.PROMPT: half, preferences.COMPLETION: other}
    return [{**marked, preferences.LABEL: number % 2 == 0} for number in range(4 * case.batch)]


def _config(case: Case) -> str:
    quantization = {"load_in_8bit": True} if case.eight_bit else {"load_in_4bit": True}
    if not case.double_quant:
        quantization["bnb_4bit_use_double_quant"] = False
    sections = {
        "LoraConfig": {"r": case.rank, **({"use_dora": True} if case.dora else {})},
        "TrainingArguments": {
            "max_length": case.tokens,
            "per_device_train_batch_size": case.batch,
            "gradient_checkpointing": case.checkpointing,
            "max_steps": 2,
            "optim": "adamw_torch",
        },
    }
    if case.method == "qlora":
        sections["QuantizationConfig"] = quantization
    return json.dumps({"training_config": sections})
