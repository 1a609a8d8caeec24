"""What a server is started with: the environment of ours, and the flags of vLLM as KAITO v0.12 chooses them.

The user's inference config is merged over the defaults, so the last word is theirs. It must never start anything, and
it leaves out what the pod itself knows (addresses, volumes, secrets).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from include.catalog import Catalog, engines, sizing
from include.contracts.purpose import Purpose
from include.planning.inference_config import server_arguments, server_flags, whole
from include.planning.pool_plan import Plan

# KAITO v0.12 pkg/model/interface.go and presets/workspace/inference/vllm
UTILISATION, UTILISATION_A10 = 0.84, 0.82
DIVIDED = ("weights", "KV cache of one context")  # terms of include/catalog/serving_memory.py
LORA_STEPS = (2, 4, 10)  # ten is the most that a Workspace lists
SIZES = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
DTYPES = {"half": "float16", "float": "float32"}  # vLLM's other words
PERFORMANCE_MODES = ("interactivity", "throughput")


def server_environment(
    plan: Plan, adapters: Sequence[str] = (), config: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Environment of this project's server (include/workloads/serving): names, precision, the adapter of /chat.

    `config` is the parsed inference_config.yaml: what this server can do of its `vllm` mapping is done
    (include.catalog.engines.TRANSFORMERS_ARGUMENTS), the rest has no effect.
    """
    found = {"SERVED_MODEL_NAME": plan.model, "DTYPE": plan.dtype}
    if plan.model_id:
        found["MODEL_ID"] = plan.model_id  # what adapters say that they were made for
    if len(adapters) == 1:
        found["KAITO_DEFAULT_ADAPTER"] = adapters[0]
    return found | _applied(plan, server_flags(config))


def _applied(plan: Plan, flags: Mapping[str, Any]) -> dict[str, str]:
    """The user's arguments as the server's environment."""
    result: dict[str, str] = {}
    for name, variable, least in (
        ("max-model-len", "MAX_MODEL_LEN", 1),
        ("max-num-seqs", "MAX_NUM_SEQS", 1),
        ("seed", "SEED", 0),
    ):
        if (number := whole(flags.get(name), least)) is not None:
            result[variable] = str(number)
    dtype = str(flags.get("dtype") or "auto")
    if dtype != "auto":
        result["DTYPE"] = DTYPES.get(dtype, dtype)
    if name := str(flags.get("served-model-name") or "").strip():
        result |= {"SERVED_MODEL_NAME": name, "MODEL_NAME": plan.model}
    return result


def launch_arguments(
    plan: Plan,
    catalog: Catalog,
    *,
    adapters: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    performance_mode: str | None = None,
) -> list[str]:
    """The arguments of `python -m include.workloads.serving.vllm`, which starts `vllm serve`, for a serving plan.

    KAITO's defaults, then the preset's own; after `--` come the user's. `config` is the parsed inference_config.yaml:
    its `vllm` mapping wins key by key, in any mix of dashes and underscores, and a false value turns a switch off. What
    only the pod knows (where weights and adapters lie, its rank, its device) is left to it. Raises ValueError for a
    plan that serves no preset.
    """
    if plan.purpose != Purpose.SERVING or not plan.model_id:
        raise ValueError(f"a plan to {plan.purpose} {plan.model} has no server of its own to start")
    preset = {**_format(plan), **_preset(catalog, plan.model)}
    flags: dict[str, Any] = {
        "served-model-name": plan.model,
        "dtype": plan.dtype,
        "gpu-memory-utilization": _utilisation(plan),
        # As in KAITO. vLLM dies of a length that its cache does not hold, and alone knows how large that will be.
        "max-model-len": "auto",
        # vLLM takes a MistralModel for a writer where its folder lacks the files of sentence-transformers.
        "runner": "pooling" if plan.pooling else None,
        **_layout(plan),
        **_lora(adapters),
        "performance-mode": performance_mode if performance_mode in PERFORMANCE_MODES else None,
        **preset,
    }
    users = server_flags(config)
    said = {*users, *(name.removeprefix("no-") for name in users)}
    if plan.node_count == 1 and said & set(
        SIZES
    ):  # the user's layout in place of the plan's, not mixed with it
        said |= set(SIZES)
    ours = [part for name, value in flags.items() if name not in said for part in _flag(name, value)]
    theirs = server_arguments(users)
    return [*ours, "--", *theirs] if theirs else ours


def _format(plan: Plan) -> dict[str, Any]:
    """Mistral's own files, which have a config of their own beside them."""
    if not plan.weights_format:
        return {}
    return {"load-format": plan.weights_format, "config-format": plan.weights_format}


def _preset(catalog: Catalog, name: str) -> dict[str, Any]:
    """The preset's own flags; a model that was looked up on the hub has none."""
    try:
        model = catalog.model(name)
    except KeyError:
        return {}
    return {
        "tokenizer-mode": None if model.tokenizer_mode == "auto" else model.tokenizer_mode,
        "chat-template": model.chat_template,
        "tool-call-parser": model.tool_parser,
        "enable-auto-tool-choice": bool(model.tool_parser),
        "reasoning-parser": model.reasoning_parser,
        **{name: value or True for name, value in model.vllm_args.items()},
    }


def _utilisation(plan: Plan) -> float:
    """The share of each GPU that vLLM may take: KAITO's, or more where a plan that fits the GPU needs more."""
    usual = UTILISATION_A10 if plan.gpu == "NVIDIA A10" else UTILISATION
    if not plan.gpu_memory_bytes:
        return usual
    # The plan divides weights and cache among all GPUs; where each has a copy, each has them whole.
    times = _layout(plan).get("data-parallel-size", 1)
    needed = sum(size * (times if term in DIVIDED else 1) for term, size in plan.memory)
    share = math.ceil(100 * needed / sizing.seen(plan.gpu, plan.gpu_memory_bytes)) / 100
    return min(max(usual, share), sizing.MOST)


def _layout(plan: Plan) -> dict[str, Any]:
    """KAITO's tiers: a copy on each GPU for small models, one over all GPUs, a pipeline over several machines.

    Machines are joined by vLLM's own multi-node mode; one front end answers for all copies, because the gateway counts
    what is in use where it answers.
    """
    if plan.node_count > 1:
        return {
            "tensor-parallel-size": plan.gpus_per_node,
            "pipeline-parallel-size": plan.node_count,
            "distributed-executor-backend": "mp",
            "nnodes": plan.node_count,
        }
    split = engines.tensor_parallel(plan.weights_bytes, plan.gpus_per_node, plan.gpu_memory_bytes)
    if plan.gpus_per_node > 1 and split == 1:
        return {
            "data-parallel-size": plan.gpus_per_node,
            "tensor-parallel-size": 1,
            "api-server-count": 1,
        }
    return {"tensor-parallel-size": plan.gpus_per_node}


def _lora(adapters: Sequence[str]) -> dict[str, Any]:
    """All adapters answer at once (KAITO's default is one at a time), and the next version of each fits beside it.

    In steps, so that one more or less is no new command line: a live service takes it without a new pod.
    """
    if not adapters:
        return {}
    slots = lora_slots(len(adapters))
    return {"enable-lora": True, "max-loras": slots, "max-cpu-loras": 2 * slots}


def lora_slots(adapters: int) -> int:
    """How many adapters a server is to have room for, at least so many as are listed."""
    return next(step for step in LORA_STEPS if step >= min(adapters, LORA_STEPS[-1]))


def _flag(name: str, value: object) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    text = json.dumps(value, separators=(",", ":")) if isinstance(value, Mapping | list) else str(value)
    return [f"--{name}={text}"]
