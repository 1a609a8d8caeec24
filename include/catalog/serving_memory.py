"""How much memory serving a preset takes on each GPU, how long a context fits, and how many machines that means.

Two named strategies. "kaito" is KAITO v0.12's estimator to the node (pkg/workspace/estimator/nodesestimator); it is
known to be wrong in five ways, which "exact", the default, does not share:

* it leaves 16% of each GPU unused and then takes the run-time's overhead from the rest as well;
* an exact fit costs a GPU more (floor + 1);
* over several machines the KV cache of one context is divided by the GPUs of one of them only;
* with tensor parallelism it divides the KV cache by more GPUs than there are heads to divide: multi-query attention
  has one head, and the latent of MLA is whole on every GPU;
* it asks for 2048 tokens of context even where the model's window is shorter.

It must never read a Workspace, and every constant names its source.
"""

from __future__ import annotations

import math
from typing import Literal

from include.catalog.machines import Machine
from include.catalog.memory import DoesNotFit, Terms, gib, total
from include.catalog.models import GIB, Model

Strategy = Literal["exact", "kaito"]
Split = Literal["layers", "tensors"]

# KAITO v0.12 pkg/workspace/estimator/nodesestimator/estimator.go
UTILISATION = 0.84  # share of a GPU that vLLM is told to use
WEIGHT_EXPANSION = 1.02  # loaded weights against file size
BASE_OVERHEAD = round(2.3 * GIB)  # 0.6 GiB CUDA and NCCL + 1.7 GiB activations and graphs
SCALED_OVERHEAD = 0.05  # further overhead, as a share of the weights on the GPU
DEFAULT_CONTEXT = 2048  # tokens
CONTEXT_STEP = 256  # a chosen context is rounded down to this many tokens
NODES_MAX = 64
# What a server may take of a GPU at most, and what a card shows of the memory in its name: an A10 22.5 of 24 GiB.
MOST = 0.95
SEEN, SEEN_A10 = 0.99, 22.5 / 24
GROUP_MAX = 8  # machines of one server: each adds a step to every token, and a failure to the whole


def seen(gpu: str, memory_bytes: int) -> float:
    """Bytes that a GPU shows of the memory in its name."""
    return (SEEN_A10 if gpu == "NVIDIA A10" else SEEN) * memory_bytes


def usable(machine: Machine) -> int:
    """Bytes of one GPU that a server can take: the driver and CUDA keep the rest."""
    return math.floor(MOST * seen(machine.gpu, machine.gpu_memory_bytes))


def room(machine: Machine) -> str:
    """The same in a sentence's words."""
    return f"{gib(machine.gpu_memory_bytes)}, of which a server can take {gib(usable(machine))}"


def kv_bytes_per_gpu(model: Model, gpus: int, split: Split = "layers") -> float:
    """Bytes of KV cache that a token takes on each of `gpus` GPUs.

    Split by layers (our server: transformers' device_map) every GPU holds its own layers' share. Split by tensors
    (vLLM) a GPU holds whole heads at least, so the share stops at the number of heads; MLA's latent is not divided.
    """
    if split == "layers":
        return model.kv_bytes_per_token / gpus
    heads = 1 if model.attention in ("MLA", "MQA") else model.shape.kv_heads if model.shape else gpus
    return model.kv_bytes_per_token / min(gpus, heads)


def serving_memory(
    model: Model,
    machine: Machine,
    context: int = DEFAULT_CONTEXT,
    nodes: int = 1,
    split: Split = "layers",
) -> Terms:
    """Memory in bytes of serving on one GPU, with the weights spread over all GPUs of all nodes.

    `context` is in tokens. Quantised weights count as they are in the files; KAITO's rates for the rest.
    """
    gpus = machine.gpus * nodes
    weights = math.ceil(model.weights_bytes * WEIGHT_EXPANSION / gpus)
    token = kv_bytes_per_gpu(model, machine.gpus, split) / nodes  # a pipeline stage holds its own layers only
    return [
        ("weights", weights),
        ("KV cache of one context", round(context * token)),
        ("CUDA context, activations and graphs", BASE_OVERHEAD + round(SCALED_OVERHEAD * weights)),
    ]


def context_of(model: Model, wanted: int | None = None) -> int:
    """Tokens of context that must fit: what the user asked for, or 2048, never more than the model's window."""
    return min(wanted or DEFAULT_CONTEXT, model.context or DEFAULT_CONTEXT)


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


def exact_nodes(model: Model, machine: Machine, context: int | None = None, split: Split = "layers") -> int:
    """The fewest nodes whose GPUs hold weights, one context and the overhead. Raises DoesNotFit when none do."""
    tokens = context_of(model, context)
    for nodes in range(1, NODES_MAX + 1):
        if total(serving_memory(model, machine, tokens, nodes, split)) <= usable(machine):
            return nodes
    raise DoesNotFit(
        f"{model.name} does not fit {NODES_MAX} machines of type {machine.name}: one {machine.gpu} has "
        f"{gib(machine.gpu_memory_bytes)}, and {gib(BASE_OVERHEAD)} of it is overhead"
    )


def group_nodes(model: Model, machine: Machine, context: int | None = None) -> int:
    """The fewest nodes that one server spreads the model over. Raises DoesNotFit for more than a server spans."""
    nodes = exact_nodes(model, machine, context)
    if nodes > GROUP_MAX:
        raise DoesNotFit(
            f"{model.name} would take {nodes} machines of type {machine.name}; one server spans {GROUP_MAX} at most"
        )
    return nodes


def single_node_fits(model: Model, machine: Machine, context: int | None = None) -> bool:
    """Whether one machine holds the model with one context, by the exact sum."""
    memory = serving_memory(model, machine, context_of(model, context))
    return total(memory) <= usable(machine)


def kv_cache_tokens(model: Model, machine: Machine, nodes: int = 1, split: Split = "layers") -> int:
    """Tokens of KV cache that a server's usual share of the memory holds beside weights and overhead; 0 for none."""
    share = UTILISATION * seen(machine.gpu, machine.gpu_memory_bytes)
    left = share - total(serving_memory(model, machine, 0, nodes, split))
    each = kv_bytes_per_gpu(model, machine.gpus, split) / nodes
    return max(0, math.floor(left / each)) if each else 0


def max_model_len(model: Model, machine: Machine, nodes: int = 1, split: Split = "layers") -> int:
    """The longest context in tokens that fits, up to the model's window; rounded down to a multiple of 256."""
    if not model.kv_bytes_per_token:  # a text is read at once and nothing of it is kept
        return model.context
    tokens = kv_cache_tokens(model, machine, nodes, split)
    if model.context and tokens >= model.context:
        return model.context
    return tokens // CONTEXT_STEP * CONTEXT_STEP
