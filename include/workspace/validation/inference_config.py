"""Rules for the content of an inference ConfigMap, key `inference_config.yaml` (kaito-api.md#rules, V), key by key.

KAITO appends every key below `vllm:` to the server's command line and checks one of them; the rest shows when the
server dies at its start, on machines that are already paid for. As with training_config.py, the content is only known
once somebody has read the ConfigMap, so these rules take its text, and must never raise. vLLM gets them all; where
the runtime transformers stands in for it, only `engines.TRANSFORMERS_ARGUMENTS` are applied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from include.catalog import Catalog, Machine, Model, engines, records, sizing
from include.contracts.faults import (
    NAME_LENGTH,
    Fault,
    Hints,
    nearest,
)
from include.contracts.yaml_documents import reader as documents
from include.workspace.api import names
from include.workspace.api.dialect import V1ALPHA1, V1BETA1
from include.workspace.api.models import Workspace
from include.workspace.validation.rules.context import Context, Policy

KEY = "inference_config.yaml"
ROOT = "vllm"
OFFLOAD = "kv_cache_cpu_memory_utilization"
ROOT_KEYS = frozenset({ROOT, OFFLOAD, "max_probe_steps"})
IDLE = {
    "max_probe_steps": "max_probe_steps (not used by KAITO v0.12 either)",
    OFFLOAD: f"{OFFLOAD} (use kv-offloading-size below {ROOT}, in GiB)",
}
FILE = records.PRESETS / "schemas" / "vllm_arguments.yaml"
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "flag": "true or false",
    "json": "JSON as text",
    "list": "words with spaces between",
    "text": "text",
}
SERVICE_PORT = 5000
LISTED = 30  # names that one sentence lists
SMALL_GPU_GIB = 20  # KAITO's figure: below it, several GPUs need an explicit context (V7)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# (lowest, highest) of numbers; those without an entry take any.
LIMITS: Mapping[str, tuple[float, float]] = {
    "gpu-memory-utilization": (0.01, 1.0),
    "cpu-offload-gb": (0, math.inf),
    "kv-offloading-size": (0, math.inf),
    "max-model-len": (1, math.inf),
    "max-num-seqs": (1, math.inf),
    "max-num-batched-tokens": (1, math.inf),
    "max-loras": (1, math.inf),
    "max-cpu-loras": (1, math.inf),
    "tensor-parallel-size": (1, math.inf),
    "pipeline-parallel-size": (1, math.inf),
    "data-parallel-size": (1, math.inf),
    "block-size": (1, math.inf),
    "max-logprobs": (-1, math.inf),
    "port": (SERVICE_PORT, SERVICE_PORT),
}
#: Numbers outside of these that leave the choice to vLLM.
AUTO: Mapping[str, int] = {"max-model-len": -1}


@dataclass(frozen=True)
class _Arguments:
    """The arguments that a server takes, by the kind of their value, and those that it took once."""

    kinds: Mapping[str, str]
    choices: Mapping[str, list[str]]
    refused: Mapping[str, str]
    dropped: frozenset[str]
    replaced: Mapping[str, str]

    @property
    def not_passed(self) -> frozenset[str]:
        """Names that never reach the server with a value that means something."""
        return self.dropped | frozenset(self.refused) | frozenset(self.replaced)


@cache
def _arguments() -> _Arguments:
    loaded = yaml.load(FILE.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    facts = engines.vllm_facts()
    return _Arguments(
        kinds=facts.arguments,
        choices={**facts.choices, **loaded["choices"]},
        refused=loaded["refused"],
        dropped=frozenset(loaded["dropped"].split()),
        replaced=loaded["replaced"],
    )


def check_inference_config(ws: Workspace, text: str, catalog: Catalog) -> list[Fault]:
    """`inference_config_faults` of a Workspace's own model, machine and node count.

    The transformers runtime takes no such file (KAITO does not look at it either), so there nothing is judged.
    """
    context = Context(ws, catalog, Policy())
    if context.runtime != "vllm":
        return []
    sized = None if names.BYPASS_RESOURCE_CHECKS in ws.annotations else context.machine
    return inference_config_faults(text, context.model, sized, ws.node_count, ws.dialect)


def inference_config_faults(
    text: str, model: Model | None, machine: Machine | None, count: int = 1, dialect: str = V1BETA1
) -> list[Fault]:
    """Everything wrong with an `inference_config.yaml`: V4 to V7, and F11 to F13, which KAITO does not check.

    `model` and `machine` may be None when they are not known: then nothing is compared with them. `count` is the number
    of nodes, `dialect` the version of the API that the author wrote (V7 is v1alpha1's).
    """
    try:
        loaded = documents.load_one(text)
    except documents.BadDocument as error:
        return [Fault(KEY, None, "V4", str(error))]
    if not isinstance(loaded, Mapping):
        return [Fault(KEY, None, "V4", f"must be a mapping, with the server's arguments below {ROOT}")]
    faults = list(_root_faults(loaded))
    given = loaded.get(ROOT)
    if given is not None and not isinstance(given, Mapping):
        return [*faults, Fault(ROOT, None, "V4", "must be a mapping of arguments and values")]
    values: dict[str, Any] = {}
    faults += _value_faults(given or {}, values)
    faults += _length_faults(values, model)
    faults += _machine_faults(values, model, machine, count)
    if dialect == V1ALPHA1:
        faults += _missing_length(given or {}, machine, count)
    return faults


def config_notices(text: str) -> list[str]:
    """One sentence about which keys have no effect; [] for none. All other arguments below `vllm` reach the server."""
    try:
        loaded = documents.load_one(text)
    except documents.BadDocument:
        return []
    if not isinstance(loaded, Mapping):
        return []
    idle = [IDLE[name] for name in sorted(IDLE) if name in loaded]
    below = loaded.get(ROOT)
    given = [str(name).replace("_", "-") for name in (below if isinstance(below, Mapping) else ())]
    dropped = sorted(set(given) & _arguments().dropped)
    if dropped:
        idle.append(f"{_listed(dropped)} (which vLLM {engines.vllm_facts().version} has no longer)")
    if not idle:
        return []
    return [f"{KEY}: {' and '.join(idle)} {'have' if len(idle) > 1 else 'has'} no effect."]


def _listed(items: Sequence[str]) -> str:
    """Names in a sentence; of very many the first."""
    shown = [name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}..." for name in items[:LISTED]]
    more = [f"{len(items) - LISTED} more"] if len(items) > LISTED else []
    return ", ".join([*shown, *more])


def _root_faults(loaded: Mapping[Any, Any]) -> Iterator[Fault]:
    hints = Hints()
    for key in loaded:
        if key not in ROOT_KEYS:
            arguments = _arguments().kinds
            below = str(key).replace("_", "-") in {*arguments, *_arguments().dropped}
            close = hints.nearest(str(key), ROOT_KEYS)
            hint = f"write it below {ROOT}" if below else f"did you mean {close}?" if close else ""
            yield Fault(str(key), None, "F11", f"is no key of {KEY}", hint)
    offload = loaded.get(OFFLOAD)
    if offload is not None and (_number(offload) is None or (_number(offload) or 0) > 1):
        hint = "0.5 is KAITO's default; 0 or less turns it off"
        yield Fault(OFFLOAD, offload, "F12", "must be a share of the node's memory, at most 1", hint)
    steps = loaded.get("max_probe_steps")
    if steps is not None and _whole(steps) is None:
        yield Fault("max_probe_steps", steps, "F12", "must be a whole number")


def _value_faults(given: Mapping[Any, Any], values: dict[str, Any]) -> Iterator[Fault]:
    """Faults of single arguments; `values` gets the usable ones by their proper name."""
    known, hints, all_names = _arguments(), Hints(), frozenset(_arguments().kinds)
    not_passed = known.not_passed
    for raw, value in given.items():
        path, name = f"{ROOT}.{raw}", str(raw).replace("_", "-")
        head, dot, _ = name.partition(".")
        positive = name.removeprefix("no-")
        if name in not_passed:
            yield from _not_passed(name, value, known, path)
        elif isinstance(value, list) and known.kinds.get(name) == "list":
            values[name] = value
        elif isinstance(value, Mapping | list | tuple):
            hint = f"write it as JSON in quotes: '{json.dumps(value, default=str)[:60]}'"
            yield Fault(path, None, "V4", "must be text, a number, true or false", hint)
        elif dot and known.kinds.get(str(raw).partition(".")[0].replace("_", "-")) == "json":
            continue  # --compilation-config.pass_config.x: one value inside a JSON argument
        elif name in values:
            yield Fault(path, None, "F11", "is given twice, with dashes and with underscores")
        elif positive != name and name not in known.kinds and known.kinds.get(positive) == "bool":
            values[positive] = False
        elif head not in known.kinds or dot:
            close = hints.nearest(name, all_names)
            hint = f"did you mean {close}?" if close else "see `vllm serve --help`"
            yield Fault(path, None, "F11", "is no argument of the server", hint)
        else:
            values[name] = value
            yield from _one_value(name, value, known, path)


def _not_passed(name: str, value: object, known: _Arguments, path: str) -> Iterator[Fault]:
    """What this server may not be told, or vLLM does not take any more. Of the dropped ones `config_notices` tells."""
    if name in known.refused and not _off(value):
        yield Fault(path, None, "F11", "is not possible here", known.refused[name])
    if name in known.replaced:
        message = f"is no argument of vLLM {engines.vllm_facts().version} any more"
        yield Fault(path, None, "F11", message, known.replaced[name])


def _one_value(name: str, value: object, known: _Arguments, path: str) -> Iterator[Fault]:
    kind = known.kinds[name]
    if value is None or value == "":
        if kind in ("int", "float", "json") and name != "max-model-len":  # an empty length counts as none
            yield Fault(path, None, "F12", f"must be {KINDS[kind]}, and is empty")
        return
    choices = known.choices.get(name)
    if choices and str(value) not in choices:
        close = nearest(str(value), frozenset(choices))
        hint = f"did you mean {close}?" if close else f"use one of {', '.join(choices)}"
        yield Fault(path, value, "F12", "is not a value it can have", hint)
    elif not _fits(kind, value):
        rule = "V5" if name == "max-model-len" else "F12"
        hint = "leave it out: the server then takes as much as fits" if rule == "V5" else ""
        yield Fault(path, value, rule, f"must be {KINDS[kind]}", hint)
    elif name in LIMITS:
        low, high = LIMITS[name]
        number = _number(value)
        if number is not None and number != AUTO.get(name) and not low <= number <= high:
            words = (
                f"must be {low:g}, where the Service expects the server"
                if low == high
                else f"must be {low:g} or more"
                if high == math.inf
                else f"must be from {low:g} to {high:g}"
            )
            yield Fault(path, value, "F12", words)


def _length_faults(values: Mapping[str, Any], model: Model | None) -> Iterator[Fault]:
    """V6."""
    wanted = _whole(values.get("max-model-len"))
    if wanted is not None and model is not None and wanted > model.context:
        message = f"is more than {model.name} can read: its context window has {model.context} tokens"
        yield Fault(f"{ROOT}.max-model-len", wanted, "V6", message, f"use at most {model.context}")


def _machine_faults(
    values: Mapping[str, Any], model: Model | None, machine: Machine | None, count: int
) -> Iterator[Fault]:
    """F13: what the machines cannot do."""
    if machine is None:
        return
    sizes = [_whole(values.get(f"{kind}-parallel-size")) or 1 for kind in ("tensor", "pipeline", "data")]
    gpus = machine.gpus * max(count, 1)
    if math.prod(sizes) > gpus:
        message = f"asks for {math.prod(sizes)} GPUs, but {count} x {machine.name} has {gpus}"
        field = "tensor" if sizes[0] > 1 else "pipeline" if sizes[1] > 1 else "data"
        yield Fault(f"{ROOT}.{field}-parallel-size", values.get(f"{field}-parallel-size"), "F13", message)
    elif model is not None and (reason := _unshared(model, machine, sizes, count, values)):
        yield Fault(f"{ROOT}.tensor-parallel-size", values.get("tensor-parallel-size"), "F13", reason)
    if values.get("dtype") == "bfloat16" and machine.nvidia and not machine.bf16:
        message = f"{machine.gpu} has no bfloat16 (compute capability {machine.compute_capability})"
        yield Fault(f"{ROOT}.dtype", "bfloat16", "F13", message, "use auto or float16")
    wanted = _whole(values.get("max-model-len"))
    if wanted is None or model is None or not machine.nvidia or wanted > model.context:
        return
    needed = sizing.total(sizing.serving_memory(model, machine, wanted, max(count, 1)))
    if needed > sizing.usable(machine):
        message = (
            f"a context of this length needs about {sizing.gib(needed)} on each GPU with {model.name}, but one "
            f"{machine.gpu} has {sizing.room(machine)}"
        )
        yield Fault(
            f"{ROOT}.max-model-len", wanted, "F13", message, "use a shorter context or a larger machine"
        )


def _unshared(
    model: Model, machine: Machine, sizes: Sequence[int], count: int, values: Mapping[str, Any]
) -> str:
    """Why the GPUs cannot share the model's heads, in the layout that results."""
    if any(f"{kind}-parallel-size" in values for kind in ("tensor", "pipeline", "data")):
        return engines.indivisible(model, sizes[0])
    nodes = 1 if sizing.single_node_fits(model, machine) else max(count, 2)
    split = engines.tensor_parallel(model.weights_bytes, machine.gpus, machine.gpu_memory_bytes, nodes)
    return engines.indivisible(model, split) if machine.nvidia else ""


def _missing_length(given: Mapping[Any, Any], machine: Machine | None, count: int) -> Iterator[Fault]:
    """V7."""
    if any(
        str(key).replace("_", "-") == "max-model-len" and value not in (None, "")
        for key, value in given.items()
    ):
        return
    small = machine is not None and machine.gpus > 1 and machine.gpu_memory_gib < SMALL_GPU_GIB
    if small or count > 1:
        why = (
            f"{machine.gpus} GPUs of {machine.gpu_memory_gib:g} GiB"
            if small and machine
            else f"{count} nodes"
        )
        yield Fault(f"{ROOT}.max-model-len", None, "V7", f"is required with {why}", "for example 4096")


def _fits(kind: str, value: object) -> bool:
    if kind == "int":
        return _whole(value) is not None
    if kind == "float":
        return _number(value) is not None
    if kind in ("bool", "flag"):
        return isinstance(value, bool) or str(value).strip().lower() in ("true", "false", "1", "0")
    return kind in ("text", "list") or (isinstance(value, str) and _is_json(value))


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _off(value: object) -> bool:
    return not value or str(value).strip().lower() in ("false", "none", "null")
