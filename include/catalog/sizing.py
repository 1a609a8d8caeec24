"""How much GPU memory a preset needs on a machine: pure arithmetic on catalogue records.

It stands on the catalogue's floor because two floors above need the same figures: the rule that refuses a Workspace
that cannot fit (include.workspace) and the plan that explains itself (include.planning). It must never read a
Workspace, and every constant names its source.

A memory estimate is a list of (term, bytes) for ONE GPU: data-parallel training keeps a full copy on each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.catalog.machines import Machine
from include.catalog.models import GIB, Model

Terms = list[tuple[str, int]]

# KAITO v0.12 pkg/workspace/estimator/nodesestimator/estimator.go
UTILISATION = 0.84  # share of a GPU that vLLM is told to use
WEIGHT_EXPANSION = 1.02  # loaded weights against file size
BASE_OVERHEAD = round(2.3 * GIB)  # 0.6 GiB CUDA and NCCL + 1.7 GiB activations and graphs
SCALED_OVERHEAD = 0.05  # further overhead, as a share of the weights on the GPU
DEFAULT_CONTEXT = 2048  # tokens

NF4_BITS = 4.127  # QLoRA paper (arXiv 2305.14314, section 3): 4 bits + 0.127 for double-quantised constants
INT8_BITS = 8.0 + 32 / 64  # LLM.int8 keeps a float scale a row; half a bit a weight is ample
ADAM_BYTES = 16  # a trained parameter in fp32: weight 4 + gradient 4 + two Adam moments 8
CUDA_CONTEXT = round(0.6 * GIB)  # the same 0.6 GiB as KAITO's estimator
FRAGMENTATION = 0.08  # caching allocator; PyTorch's expandable segments keep it below a tenth
LAYER_ACTIVATIONS = 34  # bytes / (sequence x batch x hidden) of one layer, arXiv 2205.05198 section 4.1
LOGIT_BYTES = 10  # a logit: 16-bit value 2, fp32 copy for the loss 4, its gradient 4


class DoesNotFit(ValueError):
    """A machine that cannot hold the model at any node count; the text says by how much it is too small."""


@dataclass(frozen=True, slots=True)
class TrainingShape:
    """The settings of a training config that decide memory.

    The defaults are what the trainer chooses for ordinary chat rows; where a config leaves it free, it takes longer
    sequences only while they fit.
    """

    sequence_length: int = 1024
    batch_size: int = 1
    rank: int = 16
    gradient_checkpointing: bool = True
    load_in_8bit: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainingShape:
        """Reads a parsed `training_config.yaml`; a missing or unusable value keeps the default."""
        sections = config.get("training_config")
        sections = sections if isinstance(sections, Mapping) else {}
        training, lora, quantization = (
            section if isinstance(section := sections.get(name), Mapping) else {}
            for name in ("TrainingArguments", "LoraConfig", "QuantizationConfig")
        )
        default = cls()
        return cls(
            sequence_length=_positive(
                training.get("max_length", training.get("max_seq_length")), default.sequence_length
            ),
            batch_size=_positive(training.get("per_device_train_batch_size"), default.batch_size),
            rank=_positive(lora.get("r"), default.rank),
            gradient_checkpointing=training.get("gradient_checkpointing") is not False,
            load_in_8bit=quantization.get("load_in_8bit") is True,
        )


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def linear_layers(model: Model) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the linear layers of one block, by their names in transformers; empty when unknown."""
    shape = model.shape
    if shape is None:
        return {}
    hidden, inner = shape.hidden, shape.intermediate
    query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    split = {"q_proj": (hidden, query), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
    if model.architecture == "Phi3ForCausalLM":
        return {
            "qkv_proj": (hidden, query + 2 * keys),
            "o_proj": (query, hidden),
            "gate_up_proj": (hidden, 2 * inner),
            "down_proj": (inner, hidden),
        }
    if model.architecture == "FalconForCausalLM":
        return {
            "query_key_value": (hidden, query + 2 * keys),
            "dense": (query, hidden),
            "dense_h_to_4h": (hidden, inner),
            "dense_4h_to_h": (inner, hidden),
        }
    if model.architecture == "PhiForCausalLM":
        return split | {"dense": (query, hidden), "fc1": (hidden, inner), "fc2": (inner, hidden)}
    return split | {
        "o_proj": (query, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def adapter_parameters(model: Model, rank: int) -> int:
    """Trained parameters of a LoRA adapter: rank x (inputs + outputs) for each target of each layer."""
    layers = linear_layers(model)
    targets = [layers[name] for name in model.tuning.target_modules if name in layers]
    return (model.shape.layers if model.shape else 0) * rank * sum(a + b for a, b in targets)


def tuning_memory(model: Model, method: str, training: TrainingShape | None = None) -> Terms:
    """Memory of LoRA or QLoRA tuning on one GPU, term by term.

    `method` is "lora" (16-bit base weights) or "qlora" (NF4, or int8 when the config says load_in_8bit).
    Raises ValueError for a model whose shape the catalogue does not hold: its tuning cannot be estimated.
    """
    shape, training = model.shape, training or TrainingShape()
    if shape is None:
        raise ValueError(f"{model.name} has no shape in presets/models, so its tuning memory is unknown")
    layers = linear_layers(model)
    block = sum(a * b for a, b in layers.values())
    linear = block * shape.layers
    others = max(model.weights_bytes // 2 - linear, 0)  # embeddings, head and norms stay in 16 bit
    bits = 16.0 if method == "lora" else INT8_BITS if training.load_in_8bit else NF4_BITS
    tokens = training.sequence_length * training.batch_size
    kept = shape.layers if not training.gradient_checkpointing else 1
    checkpoints = 0 if kept > 1 else shape.layers * tokens * shape.hidden * 2
    terms = [
        ("base weights", round(linear * bits / 8) + others * 2),
        ("adapter, gradients and optimizer", adapter_parameters(model, training.rank) * ADAM_BYTES),
        ("activations", kept * tokens * shape.hidden * LAYER_ACTIVATIONS + checkpoints),
        ("logits and loss", tokens * shape.vocab * LOGIT_BYTES),
        ("dequantised layer", 0 if method == "lora" else 2 * max(a * b for a, b in layers.values())),
        ("CUDA context", CUDA_CONTEXT),
    ]
    fragmentation = round(FRAGMENTATION * sum(size for _, size in terms))
    return [(term, size) for term, size in [*terms, ("fragmentation", fragmentation)] if size]


def serving_memory(model: Model, machine: Machine, context: int = DEFAULT_CONTEXT, nodes: int = 1) -> Terms:
    """Memory of serving on one GPU by KAITO's figures, with the weights spread over all GPUs of all nodes."""
    weights = math.ceil(model.weights_bytes * WEIGHT_EXPANSION / (machine.gpus * nodes))
    return [
        ("weights", weights),
        ("KV cache of one context", context * model.kv_bytes_per_token // machine.gpus),
        ("CUDA context, activations and graphs", BASE_OVERHEAD + round(SCALED_OVERHEAD * weights)),
    ]


def serving_nodes(model: Model, machine: Machine, context: int = DEFAULT_CONTEXT) -> int:
    """Nodes that KAITO v0.12's estimator asks for; reproduces the table of its preset sheet.

    `context` is in tokens. Raises DoesNotFit when one GPU cannot even hold the fixed part.
    """
    usable = machine.gpu_memory_bytes * UTILISATION
    fixed = BASE_OVERHEAD + context * model.kv_bytes_per_token / machine.gpus
    if usable <= fixed:
        raise DoesNotFit(
            f"{model.name} needs more than {gib(fixed)} on each GPU for its context of {context} tokens, but "
            f"{UTILISATION:.0%} of one {machine.gpu} is {gib(usable)}"
        )
    room = (usable - fixed) / (1 + SCALED_OVERHEAD)
    gpus = math.floor(model.weights_bytes * WEIGHT_EXPANSION / room) + 1
    return math.ceil(gpus / machine.gpus)


def single_node_fits(model: Model, machine: Machine, context: int = DEFAULT_CONTEXT) -> bool:
    """Whether one machine holds the model with one context, by the exact sum.

    KAITO's estimator leaves 16% of each GPU unused and rounds up a GPU too many; a machine that it would double may
    well do, which is why refusing is decided here and only node counts for KAITO's own server come from it.
    """
    return total(serving_memory(model, machine, context)) <= machine.gpu_memory_bytes


def total(terms: Terms) -> int:
    """Sum of a memory estimate in bytes."""
    return sum(size for _, size in terms)


def gib(size: float) -> str:
    """A size for people: 7516192768 -> "7.0 GiB"."""
    return f"{size / GIB:.1f} GiB"
