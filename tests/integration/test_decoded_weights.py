"""4-bit base weights mean the same numbers on every processor: decoded or packed, before and after an evaluation.

On a CPU with avx512_bf16 bitsandbytes repacks a layer at its first forward pass in evaluation, and multiplies in
bfloat16 from then on. Each test runs on the processor that is there, and on one with that instruction: where it is
missing, the fused product is computed here, from bitsandbytes' own packed form.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from include.workloads.hardware import Hardware, Precision

pytestmark = [pytest.mark.integration, pytest.mark.weights]

ROOMY = Hardware("cpu", "a CPU", 0, 64 * 2**30, bf16=False, cpu_threads=2)
SMALL = replace(ROOMY, memory_bytes=1)
FULL = Precision("float32", "")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from include.workloads.tuning.standin import make_standin

    return make_standin(tmp_path_factory.mktemp("weights"))


@pytest.fixture(params=["this processor", "avx512_bf16"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where bitsandbytes finds avx512_bf16 by itself, both are the real thing."""
    from bitsandbytes import functional
    from bitsandbytes.nn import modules

    if request.param == "avx512_bf16" and not functional.has_avx512bf16():
        monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
        monkeypatch.setattr(functional, "gemv_4bit", fused_product)
    return str(request.param)


def fused_product(A: Any, B: Any, out: Any = None, state: Any = None) -> Any:
    """As bitsandbytes' kernel for avx512_bf16: scales, inputs and sums in bfloat16, and nothing to differentiate."""
    import torch
    from bitsandbytes import functional

    assert state.packing_format_for_cpu
    scales = state.absmax.T.reshape(-1).float()
    plain = copy.copy(state)
    plain.original_nested = False
    with torch.no_grad():
        codes, plain = functional._convert_weight_packed_for_cpu_inverse(B, plain)
        matrix = torch.ops.bitsandbytes.dequantize_4bit.default(
            codes, scales, plain.blocksize, plain.quant_type, plain.shape, torch.bfloat16
        )
        return torch.nn.functional.linear(A.bfloat16(), matrix).to(A.dtype)


def load(weights: Path, hardware: Hardware, quantization: dict[str, Any] | None) -> Any:
    from include.workloads.tuning.model import load_model

    return load_model(weights, quantization, hardware, FULL).eval()


def layers(model: Any) -> dict[str, Any]:
    import torch

    return {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}


def packed_layers(model: Any) -> dict[str, Any]:
    import bitsandbytes

    return {name: one for name, one in layers(model).items() if isinstance(one, bitsandbytes.nn.Linear4bit)}


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(4, 36)[None]).logits


@pytest.mark.parametrize("double", [True, False])
def test_a_roomy_cpu_keeps_exactly_the_rounded_weights(weights: Path, processor: str, double: bool) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit

    asked = {"bnb_4bit_use_double_quant": double}
    packed, decoded = load(weights, SMALL, asked), load(weights, ROOMY, asked)
    unrounded = layers(load(weights, ROOMY, None))
    rounded = packed_layers(packed)
    assert rounded
    assert not packed_layers(decoded)
    for name, layer in rounded.items():
        kept = layers(decoded)[name].weight
        assert kept.dtype == torch.float32
        assert torch.equal(kept, dequantize_4bit(layer.weight.data, layer.weight.quant_state))
        assert not torch.allclose(kept, unrounded[name].weight, atol=1e-3)


def test_packed_weights_answer_as_decoded_ones(weights: Path, processor: str) -> None:
    """Both multiply the same float32 matrices: what differs is the order of sums of 256 terms at most."""
    import torch

    packed, decoded = load(weights, SMALL, {}), load(weights, ROOMY, {})
    found = logits(packed)
    torch.testing.assert_close(found, logits(decoded), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, logits(packed)), "the first pass must not change the weights"


def test_an_evaluation_changes_nothing_in_the_training_after_it(weights: Path, processor: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    ids = torch.arange(4, 36)[None]
    found: list[dict[str, Any]] = []
    for hardware in (ROOMY, SMALL):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["qkv_proj", "o_proj"], init_lora_weights=False)
        model = get_peft_model(load(weights, hardware, {}), config)
        logits(model.eval())
        model.train()(input_ids=ids, labels=ids).loss.backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    decoded, packed = found
    assert decoded.keys() == packed.keys()
    for name, gradient in decoded.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-5)
