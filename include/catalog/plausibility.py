"""What must be true of a model or a machine for its figures to be believed: each rule yields sentences.

A wrong size or price does not crash anything; it refuses good machines and buys bad ones. So the figures are held
against each other. It must never look at files, names of other records or the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from include.catalog.architectures import TARGET_MODULES
from include.catalog.layers import block_parameters
from include.catalog.machines import BYO, Machine
from include.catalog.models import Model
from include.contracts.image_reference import InvalidReference, parse_reference

CLOUDS = ("azure", "aws", "arc", BYO)
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,61}[a-z0-9]")  # a folder and the value of a label
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
REVISION = re.compile(r"main|[0-9a-f]{40}")
PARAMETERS = re.compile(r"~?(\d+(?:\.\d+)?)([MBT])\b")
MONTH = re.compile(r"20\d\d-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12]\d|3[01]))?")
UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}

# Bits a parameter that weight files of a method may have: quantised models keep some layers in 16 bit, and small
# ones embeddings that are large beside the rest; names of models round their size by up to a sixth.
BITS: dict[str | None, tuple[float, float]] = {
    None: (15.0, 19.0),
    "fp8": (7.5, 13.0),
    "float-quantized": (7.5, 13.0),
    "awq": (4.0, 8.0),
    "gptq": (4.0, 8.0),
    "mxfp4": (4.0, 6.0),
}
OTHER_BITS = (3.0, 11.0)
POOLING_BITS = 33.0  # most models that embed are published in 32 bits


def model_faults(model: Model) -> Iterator[str]:
    """Everything about one model that cannot be."""
    for rule in MODEL_RULES:
        yield from rule(model)


def machine_faults(machine: Machine) -> Iterator[str]:
    """Everything about one machine that cannot be."""
    for rule in MACHINE_RULES:
        yield from rule(machine)


def _names(model: Model) -> Iterator[str]:
    if not NAME.fullmatch(model.name):
        yield f"name {model.name!r} must be lower-case letters, digits, '-' and '.', at most 63"
    if not HUB_ID.fullmatch(model.hf_id):
        yield f"hf_id {model.hf_id!r} must be like org/model"
    if not REVISION.fullmatch(model.revision):
        yield f"revision {model.revision!r} must be a commit of 40 hex digits, or main where none is known"


def _image(model: Model) -> Iterator[str]:
    if not model.image:
        return
    try:
        parse_reference(model.image)
    except InvalidReference as error:
        yield f"image {model.image!r} is not an image reference: {error}"


def _ranges(model: Model) -> Iterator[str]:
    if not 0.05 <= model.weights_gib <= 4096:
        yield f"weights_gib {model.weights_gib} must be from 0.05 to 4096 GiB"
    if not 256 <= model.context <= 2**24:
        yield f"context {model.context} must be from 256 to {2**24} tokens"
    without_cache = model.pooling and model.kv_bytes_per_token == 0
    if not 256 <= model.kv_bytes_per_token <= 2**24 and not without_cache:
        yield f"kv_bytes_per_token {model.kv_bytes_per_token} must be from 256 to {2**24}"


def _precision(model: Model) -> Iterator[str]:
    if (model.dtype == "auto") != (model.quantization is not None):
        yield f"dtype {model.dtype} does not go with quantization {model.quantization}: auto is for quantised weights"


def _weights(model: Model) -> Iterator[str]:
    """Weight files against the stated number of parameters; "effective" counts leave embeddings out."""
    stated = PARAMETERS.match(model.parameters or "")
    if stated and "effective" not in (model.parameters or ""):
        bits = model.weights_bytes * 8 / (float(stated[1]) * UNITS[stated[2]])
        low, high = BITS.get(model.quantization, OTHER_BITS)
        high = max(high, POOLING_BITS) if model.pooling else high
        if not low <= bits <= high:
            yield (
                f"weights_gib {model.weights_gib} is {bits:.1f} bits for each of {model.parameters} parameters; "
                f"{model.quantization or 'unquantised'} weights have {low:g} to {high:g}"
            )
    elif model.parameters and not stated:
        yield f"parameters {model.parameters!r} must begin like 7B, 135M or ~1T"


def _shape(model: Model) -> Iterator[str]:
    shape = model.shape
    if shape is None:
        return
    if shape.kv_bytes_per_token != model.kv_bytes_per_token and model.kv_bytes_per_token:
        yield f"kv_bytes_per_token {model.kv_bytes_per_token} is {shape.kv_bytes_per_token} by its shape"
    kind = "MHA" if shape.heads == shape.kv_heads else "MQA" if shape.kv_heads == 1 else "GQA"
    if model.attention != kind:
        yield f"attention {model.attention} is {kind} by its shape"
    if model.quantization is None and model.architecture in TARGET_MODULES:
        linear, embeddings = shape.layers * block_parameters(model), shape.vocab * shape.hidden
        parameters = model.weights_bytes / 2
        # Embeddings are tied to the head or not; norms and biases are nobody's business.
        if not (linear + embeddings) * 0.99 <= parameters <= (linear + 2 * embeddings) * 1.01:
            by_shape = (
                f"{2 * (linear + embeddings) / 2**30:.2f} to {2 * (linear + 2 * embeddings) / 2**30:.2f}"
            )
            yield f"weights_gib {model.weights_gib} is {by_shape} by its shape"


def _tuning(model: Model) -> Iterator[str]:
    if not model.tuning.supported:
        if model.tuning.target_modules:
            yield "tuning.target_modules are given, but tuning.supported is false"
        return
    if not model.tuning.target_modules:
        yield "tuning.target_modules must name the layers to adapt"
    if model.quantization is not None:
        yield f"tuning.supported is true, but {model.quantization} weights cannot be tuned"
    if model.shape is None:
        yield "tuning.supported is true, but without a shape its memory is unknown"
    if not model.pinned:
        yield "tuning.supported is true, but an adapter needs a revision that stays: give a commit"
    layers = TARGET_MODULES.get(model.architecture)
    if layers is None:
        yield f"tuning.supported is true, but the linear layers of {model.architecture} are not known"
    for module in model.tuning.target_modules:
        if layers is not None and module not in layers:
            yield f"tuning.target_modules has {module!r}; {model.architecture} has {', '.join(layers)}"


def _ended(record: Model | Machine) -> Iterator[str]:
    if record.deprecated != (record.last_release is not None):
        yield f"status {record.status} does not go with last_release {record.last_release}: deprecated ones have one"


def _gpus(machine: Machine) -> Iterator[str]:
    if not 1 <= machine.gpus <= 32:
        yield f"gpus {machine.gpus} must be from 1 to 32"
    if not 2 <= machine.gpu_memory_gib <= 512:
        yield f"gpu_memory_gib {machine.gpu_memory_gib} must be from 2 to 512: GiB of one GPU"
    capability = machine.compute_capability
    if capability is not None and not re.fullmatch(r"[1-9]\d?\.\d", capability):
        yield f'compute_capability {capability!r} must be like "8.6"'
    if (capability is not None) != machine.gpu.startswith("NVIDIA"):
        yield f"compute_capability {capability} does not go with {machine.gpu!r}: NVIDIA GPUs have one, others none"


def _cloud(machine: Machine) -> Iterator[str]:
    if machine.cloud not in CLOUDS:
        yield f"cloud {machine.cloud!r} must be one of {', '.join(CLOUDS)}"


def _price(machine: Machine) -> Iterator[str]:
    if machine.usd_per_hour is None:
        return
    if not 0.01 <= machine.usd_per_hour <= 1000:
        yield f"usd_per_hour {machine.usd_per_hour} must be from 0.01 to 1000"
    if not MONTH.fullmatch(machine.price_as_of or ""):
        yield "usd_per_hour needs the file's prices.as_of as year and month, like 2024-06"
    if not machine.price_region:
        yield "usd_per_hour needs the file's prices.region"


ModelRule = Callable[[Model], Iterator[str]]
MachineRule = Callable[[Machine], Iterator[str]]
MODEL_RULES: tuple[ModelRule, ...] = (_names, _image, _ranges, _precision, _weights, _shape, _tuning, _ended)
MACHINE_RULES: tuple[MachineRule, ...] = (_cloud, _gpus, _price, _ended)
