"""How much GPU memory a preset needs on a machine: the one door to the arithmetic on catalogue records.

It stands on the catalogue's floor because two floors above need the same figures: the rule that refuses a Workspace
that cannot fit (include.workspace) and the plan that explains itself (include.planning). It must never read a
Workspace. A memory estimate is a list of (term, bytes) for ONE GPU.
"""

from include.catalog.choice import Choice, judge, kernels_missing, recommend, would_do
from include.catalog.layers import adapter_parameters, linear_layers, quantisable
from include.catalog.memory import CUDA_CONTEXT, DoesNotFit, NotLoadable, Terms, gib, total
from include.catalog.serving_memory import (
    BASE_OVERHEAD,
    DEFAULT_CONTEXT,
    GROUP_MAX,
    MOST,
    UTILISATION,
    Strategy,
    context_of,
    exact_nodes,
    group_nodes,
    kv_cache_tokens,
    max_model_len,
    room,
    seen,
    serving_memory,
    serving_nodes,
    single_node_fits,
    usable,
)
from include.catalog.training_shape import TrainingShape
from include.catalog.tuning_memory import base_weights, placed, trained_parameters, tuning_memory

__all__ = [
    "BASE_OVERHEAD",
    "CUDA_CONTEXT",
    "DEFAULT_CONTEXT",
    "GROUP_MAX",
    "MOST",
    "UTILISATION",
    "Choice",
    "DoesNotFit",
    "NotLoadable",
    "Strategy",
    "Terms",
    "TrainingShape",
    "adapter_parameters",
    "base_weights",
    "context_of",
    "exact_nodes",
    "gib",
    "group_nodes",
    "judge",
    "kernels_missing",
    "kv_cache_tokens",
    "linear_layers",
    "max_model_len",
    "placed",
    "quantisable",
    "recommend",
    "room",
    "seen",
    "serving_memory",
    "serving_nodes",
    "single_node_fits",
    "total",
    "trained_parameters",
    "tuning_memory",
    "usable",
    "would_do",
]
