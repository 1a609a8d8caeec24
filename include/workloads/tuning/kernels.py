"""Kernels that make a training faster, where the pod's image and its GPU have them: Liger's, and FlashAttention's.

They compute what PyTorch's own compute, but for rounding, so a training without them is the same training.
"""

from __future__ import annotations

from importlib.util import find_spec

from include.workloads.hardware import Hardware, Precision

#: Both are written for GPUs: Liger's in Triton, FlashAttention's in CUDA from compute capability 8.0 on.
LIGER, FLASH = "liger_kernel", "flash_attn"
#: transformers chooses: PyTorch's `sdpa`, or `eager` for a model that it cannot compute (gpt-oss, Gemma 2).
USUAL = None


def lacks_liger(hardware: Hardware) -> str:
    """Why Liger's kernels cannot be used here; "" where they can."""
    if hardware.device != "cuda":
        return "there is no GPU"
    return "" if find_spec(LIGER) else "the image has no liger-kernel"


def attention(hardware: Hardware, precision: Precision) -> str | None:
    """The attention that a model is loaded with, in transformers' words; None for its own choice.

    FlashAttention-2 takes 16-bit numbers only, and its GPUs are those that have bfloat16.
    """
    fits = hardware.device == "cuda" and hardware.bf16 and precision.dtype in ("bfloat16", "float16")
    return "flash_attention_2" if fits and find_spec(FLASH) else USUAL
