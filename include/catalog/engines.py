"""What each serving runtime can load: architectures, quantisations, generations of GPUs, splits over several of them.

The runtime vllm's answers are those of vLLM itself, kept in presets/vllm.yaml (`make vllm-facts`), because Airflow's
image has no vLLM; the runtime transformers' are the model types of presets/architectures.yaml and the packages of the
workloads image. It must never know a Workspace or read a model's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from include.catalog import records
from include.catalog.architectures import loadable
from include.catalog.machines import Machine
from include.catalog.models import Model

VLLM, TRANSFORMERS = "vllm", "transformers"
FILE = records.PRESETS / "vllm.yaml"

# What a preset's `quantization` (the format in its config.json) is among vLLM's methods.
VLLM_METHODS: Mapping[str, str] = {
    "float-quantized": "compressed-tensors",
    "int-quantized": "compressed-tensors",
    "naive-quantized": "compressed-tensors",
    "pack-quantized": "compressed-tensors",
    "nvfp4-pack-quantized": "compressed-tensors",
    "mxfp4-pack-quantized": "compressed-tensors",
    "marlin-24": "compressed-tensors",
    "mixed-precision": "compressed-tensors",
    "mixed_precision": "modelopt_mixed",
    "nvfp4": "modelopt_fp4",
    "mxfp8": "modelopt_mxfp8",
}
DATA_PARALLEL_SHARE = (
    0.5  # KAITO's: weights below this share of one GPU are copied to each GPU instead of split
)
# transformers' own loaders that need no package besides those of the workloads image. Without the package `kernels`
# it writes mxfp4 out to 16 bits, which takes four times the memory.
TRANSFORMERS_METHODS = frozenset({"fp8", "bitsandbytes"})
# What it does as well as vLLM of the arguments in an inference_config.yaml; include/planning/launch.py hands it over.
TRANSFORMERS_ARGUMENTS = ("dtype", "max-model-len", "max-num-seqs", "seed", "served-model-name")
PACKAGES: Mapping[str, str] = {
    "awq": "gptqmodel",
    "gptq": "gptqmodel",
    "mxfp4": "kernels",
    "compressed-tensors": "compressed-tensors",
}
# vLLM, "Supported Hardware" of quantisation: the oldest generation with a kernel. NVFP4 without Blackwell is decoded.
QUANTISED_SINCE: Mapping[str, tuple[int, int]] = {
    "awq": (7, 5),
    "gptq": (7, 0),
    "fp8": (8, 0),
    "float-quantized": (8, 0),
    "mxfp4": (8, 0),
    "pack-quantized": (8, 0),
    "nvfp4-pack-quantized": (8, 0),
    "mixed_precision": (8, 0),
}


class VllmFacts(NamedTuple):
    """The content of presets/vllm.yaml. `arguments` are those of `vllm serve` with the kind of their value.

    `architectures` write text; those of `pooling` embed, rank or score it, and of these `encoders` keep no KV cache.
    """

    version: str
    architectures: frozenset[str]
    pooling: frozenset[str]
    encoders: frozenset[str]
    config_types: frozenset[str]
    quantizations: frozenset[str]
    arguments: Mapping[str, str]
    choices: Mapping[str, list[str]]

    @property
    def served(self) -> frozenset[str]:
        """All architectures that it serves."""
        return self.architectures | self.pooling


@cache
def vllm_facts() -> VllmFacts:
    """What the pinned vLLM loads and takes."""
    loaded = records.read(FILE)
    return VllmFacts(
        version=str(loaded["version"]),
        architectures=frozenset(loaded["architectures"].split()),
        pooling=frozenset(loaded["pooling"].split()),
        encoders=frozenset(loaded["encoders"].split()),
        config_types=frozenset(loaded["config_types"].split()),
        quantizations=frozenset(loaded["quantizations"].split()),
        arguments={name: kind for kind, names in loaded["arguments"].items() for name in names.split()},
        choices=loaded["choices"],
    )


def pools(model: Model) -> bool:
    """Whether a model embeds, ranks or scores texts (vLLM: a pooling model) and writes none."""
    return model.pooling or model.architecture in vllm_facts().pooling


def why_not(model: Model, runtime: str) -> str:
    """Why `runtime` ("vllm", "transformers") cannot load a model; "" when it can."""
    if model.remote_code:
        return (
            f"{model.hf_id} loads only with Python code from its repository (trust-remote-code), "
            "which is never run here"
        )
    return _vllm(model) if runtime == VLLM else _transformers(model)


def loads(model: Model, runtime: str) -> bool:
    """Whether `runtime` can load a model."""
    return not why_not(model, runtime)


def _vllm(model: Model) -> str:
    facts = vllm_facts()
    if model.architecture not in facts.served:
        return f"vLLM {facts.version} has no model class for {model.architecture}"
    if model.quantization and _vllm_method(model.quantization) not in facts.quantizations:
        return f"vLLM {facts.version} has no kernels for {model.quantization} weights"
    return ""


def _vllm_method(quantization: str) -> str:
    lowered = quantization.lower()
    return VLLM_METHODS.get(lowered, lowered)


def _transformers(model: Model) -> str:
    if pools(model):
        return f"{model.architecture} embeds, ranks or scores texts, and this runtime only writes them"
    # AutoModelForCausalLM goes by the model type, and takes the language part of a model with more than text.
    text_part = model.architecture.replace("ForConditionalGeneration", "ForCausalLM")
    if not {model.architecture, text_part} & set(loadable().values()):
        return f"transformers has no class for text generation with {model.architecture}"
    quantization = (model.quantization or "").lower()
    if quantization and quantization not in TRANSFORMERS_METHODS:
        package = PACKAGES.get(quantization) or PACKAGES.get(VLLM_METHODS.get(quantization, ""))
        lack = f"without the package {package}, which the image lacks" if package else "at all"
        return f"transformers cannot compute on {model.quantization} weights {lack}"
    return ""


def kernels_too_old(model: Model, machine: Machine) -> str:
    """Why a machine's GPUs cannot compute on a model's quantised weights; "" when they can."""
    needed = QUANTISED_SINCE.get((model.quantization or "").lower())
    if needed is None or not machine.nvidia or machine.capability >= needed:
        return ""
    return (
        f"the {model.quantization} weights of {model.name} need compute capability {needed[0]}.{needed[1]}, but "
        f"{machine.gpu} has {machine.compute_capability}"
    )


def tensor_parallel(weights_bytes: int, gpus: int, gpu_memory_bytes: int, nodes: int = 1) -> int:
    """Over how many GPUs of a machine the runtime vllm splits each layer: all, or 1 if each has its own copy."""
    if nodes <= 1 and weights_bytes < DATA_PARALLEL_SHARE * gpu_memory_bytes:
        return 1
    return gpus


def indivisible(model: Model, tensor_parallel: int) -> str:
    """Why vLLM cannot split a model over so many GPUs; "" when it can, or when its heads are not known.

    vLLM (ModelConfig.verify_with_parallel_config, and each model's attention): every GPU computes the same whole
    number of query heads; heads of keys and values are divided among the GPUs or copied to the same number of them.
    """
    shape = model.shape
    if shape is None or tensor_parallel <= 1:
        return ""
    if shape.heads % tensor_parallel:
        return f"{model.name} has {shape.heads} attention heads, which {tensor_parallel} GPUs cannot share evenly"
    few, many = sorted((shape.kv_heads, tensor_parallel))
    if many % few:
        return f"{model.name} has {shape.kv_heads} key-value heads, which {tensor_parallel} GPUs cannot share evenly"
    return ""
