"""Loads the base model and its tokenizer from /workspace/weights: safetensors only, local files only, no model code."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from include.workloads import known_model
from include.workloads.contract import UserConfigError
from include.workloads.hardware import Hardware, Precision
from include.workloads.tuning import kernels
from include.workloads.tuning.recipe import ModelFacts

log = logging.getLogger("workload")


def model_facts(weights: Path) -> ModelFacts:
    """Sizes from config.json and the files, before anything is loaded.

    Raises UserConfigError when the folder does not hold a model in safetensors, or one that needs code of its own.
    """
    files = list(weights.glob("*.safetensors"))
    try:
        data = json.loads((weights / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserConfigError(f"{weights} holds no model: config.json cannot be read ({error}).") from error
    if not files:
        raise UserConfigError(f"{weights} holds no *.safetensors; weights in other formats are not loaded.")
    known_model.require_known(weights)
    text = known_model.text_config(data)
    return ModelFacts(
        layers=int(text.get("num_hidden_layers") or 0),
        hidden=int(text.get("hidden_size") or 0),
        context=text.get("max_position_embeddings"),
        weight_bytes=sum(file.stat().st_size for file in files),
    )


def load_tokenizer(weights: Path, chat_template: str | None) -> Any:
    """The model's tokenizer; a template from ModelConfig.chat_template (text, or a file's path) replaces its own."""
    tokenizer = known_model.load_tokenizer(weights)
    if chat_template:
        inline = any(mark in chat_template for mark in "{}\n")
        path = Path(chat_template)
        if not inline and not path.is_file():
            raise UserConfigError(
                f"ModelConfig.chat_template is neither a template (no braces) nor a file here: {chat_template!r}."
            )
        tokenizer.chat_template = _unescaped(chat_template) if inline else path.read_text()
        log.info("The chat template of ModelConfig.chat_template is used; serving uses the model's own.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


#: Keys of TrainingArguments that name one token.
TOKENS = ("eos_token", "pad_token")


def require_tokens(tokenizer: Any, training: Mapping[str, Any]) -> None:
    """UserConfigError when TrainingArguments name a token that is not in the vocabulary: no library would add it."""
    asked = {key: str(training[key]) for key in TOKENS if training.get(key)}
    if not asked:
        return
    known = tokenizer.get_vocab()
    for key, token in asked.items():
        if token not in known:
            own = ", ".join(sorted(set(map(str, tokenizer.all_special_tokens)))[:8])
            raise UserConfigError(
                f"TrainingArguments.{key} is {token!r}, which is no token of this model; its special ones are {own}. "
                "Leave it out to take the model's own."
            )


def _unescaped(template: str) -> str:
    """The template with its escape sequences decoded, as KAITO does, and all other letters as they are."""
    try:
        return template.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise UserConfigError(
            f"ModelConfig.chat_template has an escape sequence that is none: {error.reason}."
        ) from error


def load_model(
    weights: Path,
    quantization: Mapping[str, Any] | None,
    hardware: Hardware,
    precision: Precision,
    *,
    sharded: bool = False,
) -> Any:
    """The base model, quantised when `quantization` (the user's keys over NF4 with double quantisation) is given.

    :param sharded: it is to be sharded over the processes, and is what `sharding.load` gives.
    """
    import torch

    from include.workloads.tuning import packed_attention

    options: dict[str, Any] = {
        "dtype": getattr(torch, precision.dtype),
        "local_files_only": True,
        "attn_implementation": kernels.USUAL if sharded else kernels.attention(hardware, precision),
    }
    bits = None if quantization is None else _bits_and_bytes(quantization, precision)
    if sharded:
        from include.workloads.tuning import sharding

        model = sharding.load(weights, options, bits)
    else:
        if bits is not None:
            options["quantization_config"] = bits
        if hardware.device == "cuda":
            options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
        model = _loaded(weights, options)
    if quantization is not None and hardware.device == "cpu":
        _keep_layout(model)
        model = model if sharded else _decode_once(model, hardware, precision)
    model.config.use_cache = False
    if not sharded:  # its weights are not all here yet
        packed_attention.use(model)
    return model


def _loaded(weights: Path, options: dict[str, Any]) -> Any:
    """The model in one piece; with transformers' choice of attention where FlashAttention cannot serve it."""
    from transformers import AutoModelForCausalLM

    load = partial(AutoModelForCausalLM.from_pretrained, weights, use_safetensors=True)
    try:
        return load(**options)
    except (ValueError, ImportError) as error:
        if options["attn_implementation"] is kernels.USUAL:
            raise
        log.info("FlashAttention is not used: %s", error)
        return load(**{**options, "attn_implementation": kernels.USUAL})


def _keep_layout(model: Any) -> None:
    """Keep 4-bit layers from being repacked, so that they mean the same on every CPU and can be trained at all times.

    With avx512_bf16 bitsandbytes repacks a layer at its first pass in evaluation, for a fused product in bfloat16 that
    it cannot differentiate (`Linear4bit.forward`, `matmul_4bit`): a training that goes on after an evaluation then
    loses the gradients of all layers below, without a word.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


#: Share of a CPU pod's memory that decoded base weights may take; activations, adapter and optimiser need the rest.
DECODED_SHARE = 0.4


def _decode_once(model: Any, hardware: Hardware, precision: Precision) -> Any:
    """On a CPU with room, keep the quantised weights decoded: the same numbers as decoding them in every pass.

    What QLoRA rounds stays rounded to 4 bits; only the saving of memory is given up, which is what a GPU needs it for.
    Decoding took 1.4 of the 2.3 seconds of a step of one row (SmolLM2-135M, two AVX2 cores).
    """
    import bitsandbytes
    import torch

    rounded = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    if not any(isinstance(module, rounded) for module in model.modules()):
        log.info("The base weights are not rounded: this model has no layers that bitsandbytes knows.")
        return model
    size = model.num_parameters() * getattr(torch, precision.dtype).itemsize
    if size > DECODED_SHARE * hardware.memory_bytes:
        log.info("The base weights stay in 4 bits: decoded they would take %.1f GiB.", size / 2**30)
        return model
    log.info("The base weights were rounded to 4 bits and are kept decoded (%.1f GiB).", size / 2**30)
    return model.dequantize(dtype=getattr(torch, precision.dtype))


def _bits_and_bytes(asked: Mapping[str, Any], precision: Precision) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {
        "load_in_4bit": not asked.get("load_in_8bit"),
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        **asked,
    }
    wish = str(options.get("bnb_4bit_compute_dtype") or precision.dtype).removeprefix("torch.")
    if wish != precision.dtype:
        log.info("bnb_4bit_compute_dtype %s is read as %s on this machine.", wish, precision.dtype)
    options["bnb_4bit_compute_dtype"] = getattr(torch, precision.dtype)
    return BitsAndBytesConfig(**options)


def rounding(asked: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """How a base model's weights are rounded to 4 bits: what bitsandbytes' Params4bit is told.

    :param asked: the user's QuantizationConfig.
    """
    bits = _bits_and_bytes(asked, precision)
    return {
        "quant_type": bits.bnb_4bit_quant_type,
        "compress_statistics": bits.bnb_4bit_use_double_quant,
        "quant_storage": bits.bnb_4bit_quant_storage,
    }


def peak_memory_bytes(device: str) -> int:
    """The most memory this process had: of the GPU ("cuda"), or resident on a CPU (getrusage counts KiB)."""
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
