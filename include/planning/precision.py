"""In which number format a GPU computes, and what it says about the user's wish.

Facts by generation: bfloat16 matrix units came with Ampere (compute capability 8.0); Volta (7.0) and Turing (7.5)
have float16 ones only; Pascal (6.x) and older have none, so 16 bits save memory and no time. NF4 has no matrix units
on any of them: bitsandbytes decodes a layer to 16 bits and multiplies there, which a V100 can do as well.
It must never choose a machine.
"""

from __future__ import annotations

from include.catalog import Machine, Model
from include.catalog.engines import kernels_too_old, pools

TENSOR_CORES = (7, 0)


def dtype(model: Model, machine: Machine) -> tuple[str, list[str]]:
    """The format of compute ("bfloat16", "float16" or "auto") and a warning where the GPU decides it.

    "auto" is for weights that are quantised in their files, where the runtime reads the format, and for models that
    embed, rank or score: vLLM computes those in float16 where it can, which is nearer to the weights' 32 bits.
    """
    if pools(model):
        return "auto", _old_kernels(model, machine)
    warnings = _old_kernels(model, machine)
    if model.dtype == "float16" or machine.bf16:
        return model.dtype, warnings
    chosen = "float16" if model.dtype == "bfloat16" or not machine.bf16 else model.dtype
    warnings.append(
        f"{machine.gpu} has no bfloat16 (compute capability {machine.compute_capability}, 8.0 is needed), "
        f"so {chosen} is used."
    )
    if machine.capability < TENSOR_CORES:
        warnings.append(f"{machine.gpu} has no matrix units for 16 bits: expect it to be slow.")
    return chosen, warnings


def _old_kernels(model: Model, machine: Machine) -> list[str]:
    too_old = kernels_too_old(model, machine)
    return [f"{too_old}."] if too_old else []
