"""Reads what memory estimates and launch arguments need out of a model's config.json: pure, from a parsed document.

The document comes from a stranger: every number is checked before it is multiplied. It must never fetch anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from include.catalog.models import Attention, Dtype, ModelShape

# KAITO v0.12 presets/workspace/generator/generator.go, in its order
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_ctx",
    "seq_length",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
)
DEFAULT_CONTEXT = 2048  # tokens; KAITO's too
NESTED = ("text_config", "llm_config")  # where models with more than text keep the language model's numbers
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
LARGEST = 10**8  # no dimension, layer count or context of a real model comes near it


class Unreadable(ValueError):
    """A config.json that lacks, or misstates, a number that an estimate needs; the text names the key."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a config.json says. `shape` is None when the blocks are not plain dense ones (experts, latent attention)."""

    model_type: str
    architecture: str
    context: int
    attention: Attention
    kv_bytes_per_token: int
    dtype: Dtype
    quantization: str | None
    shape: ModelShape | None
    brings_code: bool


def read_config(document: Mapping[str, Any]) -> Facts:
    """The facts of a parsed config.json. Raises Unreadable naming the key that is missing or impossible."""
    flat = _flatten(document)
    architectures = document.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    heads = _number(flat, "num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = _number(flat, "hidden_size", "n_embd", "d_model")
    layers = _number(flat, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    kv_heads = _kv_heads(flat, heads)
    head_dim = _optional(flat, "head_dim") or hidden // heads
    quantization = _quantization(flat)
    attention, kv_bytes = _attention(flat, heads, kv_heads, head_dim, layers)
    return Facts(
        model_type=str(document.get("model_type") or ""),
        architecture=architecture,
        context=_optional(flat, *CONTEXT_KEYS) or DEFAULT_CONTEXT,
        attention=attention,
        kv_bytes_per_token=kv_bytes,
        dtype="auto" if quantization else _dtype(flat),
        quantization=quantization,
        shape=_shape(flat, attention, ModelShape(hidden, layers, heads, kv_heads, head_dim, 0, 0)),
        brings_code=bool(document.get("auto_map")),
    )


def _flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the keys of a nested language model added where the top has none, as in KAITO."""
    flat = dict(document)
    for key in NESTED:
        nested = document.get(key)
        if isinstance(nested, Mapping):
            flat |= {name: value for name, value in nested.items() if flat.get(name) is None}
    return flat


def _optional(flat: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these keys that has a value, checked; None when none has."""
    for key in keys:
        value = flat.get(key)
        if value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
            raise Unreadable(f"{key} of its config.json is not a number from 1 to {LARGEST}")
        return value
    return None


def _number(flat: Mapping[str, Any], *keys: str) -> int:
    value = _optional(flat, *keys)
    if value is None:
        raise Unreadable(f"its config.json has no {keys[0]}")
    return value


def _kv_heads(flat: Mapping[str, Any], heads: int) -> int:
    """Heads of the KV cache; Falcon says them in its own way, and a missing number means all or, multi-query, one."""
    if flat.get("model_type") == "falcon":
        grouped = flat.get("new_decoder_architecture") is True
        return (_optional(flat, "num_kv_heads") or heads) if grouped else _multi_query(flat, heads)
    return _optional(flat, "num_key_value_heads", "num_kv_heads") or _multi_query(flat, heads)


def _multi_query(flat: Mapping[str, Any], heads: int) -> int:
    return 1 if flat.get("multi_query") is True else heads


def _attention(
    flat: Mapping[str, Any], heads: int, kv_heads: int, head_dim: int, layers: int
) -> tuple[Attention, int]:
    """The kind of attention and the bytes of 16-bit KV cache a token, as KAITO's generator has them."""
    latent = _optional(flat, "kv_lora_rank")
    if latent is not None:
        return "MLA", (latent + (_optional(flat, "qk_rope_head_dim") or 0)) * layers * 2
    kind: Attention = "MHA" if heads == kv_heads else "MQA" if kv_heads == 1 else "GQA"
    return kind, 2 * kv_heads * head_dim * layers * 2


def _dtype(flat: Mapping[str, Any]) -> Dtype:
    """float32 weights are computed with in bfloat16, like those that say nothing."""
    said = str(flat.get("dtype") or flat.get("torch_dtype") or "").removeprefix("torch.")
    return "float16" if said == "float16" else "bfloat16"


def _quantization(flat: Mapping[str, Any]) -> str | None:
    """The method's name; compressed-tensors and ModelOpt say the real one in another key."""
    found = flat.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method") or "unknown")
    if method == "compressed-tensors":
        return str(found.get("format") or method)
    return str(found.get("quant_algo") or method) if method == "modelopt" else method


def _shape(flat: Mapping[str, Any], attention: Attention, shape: ModelShape) -> ModelShape | None:
    experts = any((_optional(flat, key) or 0) > 1 for key in EXPERTS)
    vocab = _optional(flat, "vocab_size")
    inner = _optional(flat, "intermediate_size", "ffn_hidden_size", "n_inner")
    if inner is None and flat.get("model_type") == "falcon":
        inner = 4 * shape.hidden
    if experts or attention == "MLA" or vocab is None or inner is None:
        return None
    return ModelShape(shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim, inner, vocab)
