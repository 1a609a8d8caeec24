"""Tuning memory against figures that others published, each with its settings and a tolerance that is stated.

What was not compared: figures without settings (vendors' "70% less"), encoder-decoder models, and runs whose trainer
moves activations to the CPU or fuses them by compiling beyond what the tolerance says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from include.catalog import Model, ModelShape, load_catalog, sizing
from include.catalog.models import GIB
from include.catalog.sizing import TrainingShape

CATALOG = load_catalog()
LLAMA_3_1_8B = CATALOG.model("llama-3.1-8b-instruct")
LLAMA_3_2_3B = replace(
    LLAMA_3_1_8B,
    name="llama-3.2-3b",
    weights_gib=3_212_749_824 * 2 / GIB,
    shape=ModelShape(
        hidden=3072, layers=28, heads=24, kv_heads=8, head_dim=128, intermediate=8192, vocab=128256
    ),
)
LLAMA_65B = replace(
    LLAMA_3_1_8B,
    name="llama-65b",
    weights_gib=65_285_660_672 * 2 / GIB,
    shape=ModelShape(
        hidden=8192, layers=80, heads=64, kv_heads=64, head_dim=128, intermediate=22016, vocab=32000
    ),
)
ATTENTION = ("q_proj", "v_proj")
# LLaMA-Factory publishes estimates without settings; these are its quick start's: one short row, rank 8.
FACTORY = TrainingShape(512, 1, 8, gradient_checkpointing=True, tiled_loss=False)
TUNE = TrainingShape(2048, 2, 8, gradient_checkpointing=True, optimizer="adamw_torch_fused")
TUNE_LONG = replace(TUNE, sequence_length=4096, packing=False)


@dataclass(frozen=True)
class Published:
    """`bytes` as published; `least` and `most` bound our estimate as a share of it."""

    source: str
    model: Model
    method: str
    shape: TrainingShape
    bytes: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.source}: {self.model.name} {self.method}"


GB = 1e9
FIGURES = [
    # LLaMA-Factory, README, "Hardware Requirement": rounded up to parameters x bytes and a little more.
    Published("LLaMA-Factory", CATALOG.model("mistral-7b"), "qlora", FACTORY, 6 * GB, 0.85, 1.15),
    Published("LLaMA-Factory", CATALOG.model("phi-4"), "qlora", FACTORY, 12 * GB, 0.85, 1.15),
    Published(
        "LLaMA-Factory", CATALOG.model("qwen2.5-coder-32b-instruct"), "qlora", FACTORY, 24 * GB, 0.85, 1.15
    ),
    Published("LLaMA-Factory", CATALOG.model("mistral-7b"), "lora", FACTORY, 16 * GB, 0.9, 1.15),
    Published("LLaMA-Factory", CATALOG.model("phi-4"), "lora", FACTORY, 32 * GB, 0.9, 1.15),
    Published(
        "LLaMA-Factory", CATALOG.model("qwen2.5-coder-32b-instruct"), "lora", FACTORY, 64 * GB, 0.9, 1.15
    ),
    Published(
        "LLaMA-Factory",
        CATALOG.model("phi-4"),
        "qlora",
        replace(FACTORY, load_in_8bit=True),
        20 * GB,
        0.85,
        1.15,
    ),
    # torchtune README: batch 2, packed to 2048, compiled, adapter and its optimizer in bfloat16; ours is eager, fp32.
    Published("torchtune, RTX 4090", LLAMA_3_1_8B, "qlora", TUNE, 7.4 * GIB, 0.9, 1.3),
    Published("torchtune, RTX 4090", LLAMA_3_1_8B, "lora", TUNE, 16.2 * GIB, 0.9, 1.2),
    # torchtune README, A100: batch 2 x 4096, compiled.
    Published("torchtune, A100", LLAMA_3_2_3B, "lora", TUNE_LONG, 8.5 * GIB, 0.9, 1.3),
    Published("torchtune, A100", LLAMA_3_2_3B, "qlora", TUNE_LONG, 4.6 * GIB, 0.9, 1.45),
    # PEFT's MetaMathQA comparison on an L40S: rank 32 on q_proj and v_proj, batch 4 of up to 768 tokens, every logit
    # kept, no checkpointing. Peak 22.3 GB reserved.
    Published(
        "PEFT, L40S",
        LLAMA_3_2_3B,
        "lora",
        TrainingShape(768, 4, 32, False, target_modules=ATTENTION, packing=False, tiled_loss=False),
        22.3 * GB,
        0.9,
        1.1,
    ),
    # QLoRA paper (arXiv 2305.14314): 65B below 48 GB, rank 64, sequences of 512, one at a time, paged optimizer.
    Published(
        "QLoRA paper",
        LLAMA_65B,
        "qlora",
        TrainingShape(512, 1, 64, True, optimizer="paged_adamw_8bit", tiled_loss=False),
        48 * GB,
        0.9,
        1.05,
    ),
]


@pytest.mark.parametrize("figure", FIGURES, ids=str)
def test_the_estimate_is_near_the_published_figure(figure: Published) -> None:
    estimate = sizing.total(sizing.tuning_memory(figure.model, figure.method, figure.shape))
    assert figure.least <= estimate / figure.bytes <= figure.most, f"{estimate / figure.bytes:.2f}"
