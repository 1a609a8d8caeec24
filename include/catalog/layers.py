"""The linear layers of one transformer block by architecture, and how many parameters LoRA adds to them.

Memory and time both follow from these. Names are those of the modules in transformers, because LoraConfig names them.
It must never load a model: everything comes from the numbers of its config.json.
"""

from __future__ import annotations

from collections.abc import Sequence

from include.catalog.models import Model

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the output head
FUSED_ATTENTION = ("Phi3ForCausalLM", "FalconForCausalLM")  # one projection makes queries, keys and values
UNGATED = ("FalconForCausalLM", "PhiForCausalLM")  # feed-forward without a gate


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


def quantisable(model: Model) -> bool:
    """Whether bitsandbytes reaches the model's layers: Falcon in transformers has linear layers of its own kind, which
    are passed over with a warning and stay in 16 bits (transformers 5.23; tests/bench/plan_memory.py shows it).
    """
    return model.architecture != "FalconForCausalLM"


def broadcasts_keys(model: Model) -> bool:
    """Whether one key and value serve all heads unrepeated (Falcon 7B), which sdpa's fused kernels do not take."""
    return model.architecture == "FalconForCausalLM" and model.shape is not None and model.shape.kv_heads == 1


def block_parameters(model: Model) -> int:
    """Weights of the linear layers of one block: what quantisation reaches."""
    return sum(inputs * outputs for inputs, outputs in linear_layers(model).values())


def targets(model: Model, asked: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """The layers that LoRA adapts: those of `asked`, or the preset's own; "all-linear" means every one."""
    layers = linear_layers(model)
    wanted = tuple(asked) or model.tuning.target_modules
    if not wanted or ALL_LINEAR in wanted:
        return layers
    return {name: size for name, size in layers.items() if name in wanted}


def adapter_parameters(model: Model, rank: int, asked: Sequence[str] = ()) -> int:
    """Trained parameters of a LoRA adapter: rank x (inputs + outputs) a target and layer (arXiv 2106.09685)."""
    layers = model.shape.layers if model.shape else 0
    return layers * rank * sum(inputs + outputs for inputs, outputs in targets(model, asked).values())
