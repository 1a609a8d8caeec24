"""Decoding quantised weights once gives the numbers of decoding them in every pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.workloads.hardware import Hardware, Precision

pytestmark = [pytest.mark.integration, pytest.mark.weights]

ROOMY = Hardware("cpu", "a CPU", 0, 64 * 2**30, bf16=False, cpu_threads=2)
FULL = Precision("float32", "")


def test_a_roomy_cpu_keeps_the_rounded_weights_decoded(tmp_path: Path) -> None:
    import bitsandbytes
    import torch

    from include.workloads.tuning.model import load_model
    from include.workloads.tuning.standin import make_standin

    make_standin(tmp_path)
    decoded = load_model(tmp_path, {}, ROOMY, FULL)
    packed = load_model(tmp_path, {}, replace(ROOMY, memory_bytes=1), FULL)
    exact = load_model(tmp_path, None, ROOMY, FULL)

    def packs(model: torch.nn.Module) -> bool:
        return any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())

    assert packs(packed)
    assert not packs(decoded)
    ids = torch.arange(4, 36)[None]
    with torch.inference_mode():
        one, other, unrounded = (model(input_ids=ids).logits for model in (decoded, packed, exact))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, unrounded, atol=1e-4)
