"""How fast machines tune, from arithmetic: operations a token against what a GPU can do.

An estimate, within a factor of two, and said so wherever it is shown. It must never be used to refuse anything.
"""

from __future__ import annotations

from include.catalog import Machine, Model
from include.catalog.training_shape import TrainingShape
from include.contracts.methods import Objective, TuningMethod

# Dense 16-bit matrix peak of one GPU in TFLOP/s, by the makers' data sheets (A10G: AWS g5; without sparsity).
PEAK_TFLOPS = {
    "NVIDIA K80": 4.1,
    "NVIDIA M60": 4.8,
    "NVIDIA P40": 11.8,  # fp32: its 16-bit rate is a 64th of that
    "NVIDIA P100": 18.7,
    "NVIDIA V100": 112,
    "NVIDIA T4": 65,
    "NVIDIA A2": 18,
    "NVIDIA A16": 18,
    "NVIDIA A10": 125,
    "NVIDIA A10G": 70,
    "NVIDIA A100": 312,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "NVIDIA H100": 756,  # the PCIe card's; SXM has 989
    "NVIDIA H200": 989,
}
UNKNOWN_TFLOPS = 15.0  # a GPU that is in no table: slow on purpose
PHYSICAL_GIB = {
    "NVIDIA A10": 24.0
}  # machines with a part of one (Azure NVads A10 v5) get that part of its speed

# Published runs reach, of 4 or 6 x parameters x tokens/s: PEFT on an L40S 16%, torchtune on an A100 50%, on an
# RTX 4090 70% and more (compiled). Ours is packed and not compiled, and decoding NF4 costs time.
UTILISATION: dict[str, float] = {TuningMethod.LORA: 0.35, TuningMethod.QLORA: 0.28}
# Operations a token and parameter of the forward passes without gradient: dpo's reference; kto's too, and both models
# again on the answers that estimate the divergence.
REFERENCE_PASSES: dict[str, int] = {Objective.DPO: 2, Objective.KTO: 6}
SCALING = 0.9  # of each GPU when several train together: gradients are exchanged
LAYER_SECONDS = 0.003  # a step takes at least this long a layer: some 300 kernels are launched from Python


def training_tokens_per_second(model: Model, machine: Machine, method: str, training: TrainingShape) -> float:
    """Tokens a second of all GPUs of one machine together. 0.0 for a model whose shape is unknown.

    Operations a token are 2 N forward and 2 N for the gradients of activations (frozen weights have none of their
    own), and 2 N more when checkpointing computes them again (arXiv 2001.08361, section 2.1, for 2 N and 4 N); N are
    the base model's parameters.
    """
    if model.shape is None:
        return 0.0
    parameters = model.weights_bytes / 2
    passes = 6 if training.gradient_checkpointing is not False else 4
    operations = (passes + REFERENCE_PASSES.get(training.objective, 0)) * parameters
    rate = peak_flops(machine) * UTILISATION.get(method, min(UTILISATION.values())) / operations
    ceiling = training.tokens / (LAYER_SECONDS * model.shape.layers)
    gpus = 1 if machine.gpus == 1 else machine.gpus * SCALING
    return min(rate, ceiling) * gpus


def peak_flops(machine: Machine) -> float:
    """Operations a second of one GPU; a part of a GPU has its share."""
    whole = PHYSICAL_GIB.get(machine.gpu, machine.gpu_memory_gib)
    part = min(1.0, machine.gpu_memory_gib / whole) if whole else 1.0
    return PEAK_TFLOPS.get(machine.gpu, UNKNOWN_TFLOPS) * 1e12 * part


__all__ = ["PEAK_TFLOPS", "peak_flops", "training_tokens_per_second"]
