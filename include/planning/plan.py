"""Decides the plan of a Workspace's pools from the catalogue and the user's configs.

Pure functions. They only describe a valid Workspace (run the rules first: an unknown preset is a KeyError here), and
they must never create anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from include.catalog import Catalog, Machine, Model, engines, sizing
from include.catalog.machines import unlisted
from include.contracts import sharding
from include.contracts.methods import TuningMethod
from include.contracts.plural import plural
from include.contracts.purpose import Purpose
from include.planning import precision, throughput
from include.planning.inference_config import asked_context, asked_pooling
from include.planning.pool_plan import TEMPLATE, Plan
from include.planning.runtimes import RUNTIMES, VLLM, choose_runtime
from include.workspace.api import names
from include.workspace.api.models import Workspace
from include.workspace.validation.notices import notices

__all__ = ["Plan", "Purpose", "plan", "plan_serving"]

TRIED = "it is tried because resource checks are passed over."
TIGHT = 0.9  # above this share of a GPU a plan warns


def plan(
    ws: Workspace,
    catalog: Catalog,
    config: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    runtimes: Sequence[str] = RUNTIMES,
) -> Plan:
    """The plan of the Workspace's first pool: tuning for a tuning, serving otherwise.

    `config` is what the user's ConfigMap holds, parsed: the training_config.yaml of a tuning, which decides memory and
    time, or the inference_config.yaml of a service, which decides the context. `machine` is what BYO nodes are;
    without it, the catalogue's entry of the Workspace's machine type. `runtimes` are those that the pods' images have.
    Raises KeyError (with a suggestion) for an unknown preset or machine, ValueError for a preset that is not tunable
    and DoesNotFit (a ValueError) for a model that the machine cannot serve.
    """
    if not ws.is_tuning:
        return plan_serving(ws, catalog, config=config, machine=machine, runtimes=runtimes)
    model = catalog.model(ws.preset.name if ws.preset else "")
    asked = sizing.TrainingShape.from_config(config or {}, ws.objective)
    made = _tuning(
        model, machine or catalog.machine(ws.instance_type), ws.method, asked, notices(ws, catalog)
    )
    return replace(made, own_nodes=machine is not None, model_image=model_image(ws, model))


def model_image(ws: Workspace, model: Model) -> str:
    """The container image that the model's files come from: the Workspace's, else the preset's, else none."""
    if names.MODEL_VOLUME in ws.annotations:
        return ""
    return ws.annotations.get(names.MODEL_IMAGE, "").strip() or model.image


def plan_serving(
    ws: Workspace,
    catalog: Catalog,
    *,
    strategy: sizing.Strategy = "exact",
    context: int | None = None,
    config: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    runtimes: Sequence[str] = RUNTIMES,
) -> Plan:
    """The plan of the serving pool: of an inference Workspace, or of a finished tuning that is rolled out.

    Strategy "exact" counts what the model needs; the runtime vllm spreads it over machines where one is too small, the
    runtime transformers needs one that holds it. "kaito" reproduces the node count of KAITO v0.12's estimator.
    `context` in tokens is what must fit, by default the inference config's max-model-len, or 2048. `machine` and
    `runtimes` are as for `plan`. The annotation that passes over resource checks turns a refusal into a warning.
    Raises KeyError for unknown names and DoesNotFit when the model does not fit.
    """
    found = _part(ws, machine or _machine_of(ws, catalog))
    if ws.preset is None:
        made = _template(ws, found, notices(ws, catalog))
    else:
        model = catalog.model(ws.preset.name)
        wanted = context or asked_context(config)
        trusted = names.BYPASS_RESOURCE_CHECKS in ws.annotations
        runtime, doubts = choose_runtime(ws, runtimes)
        notes = [*doubts, *notices(ws, catalog)]
        made = replace(
            _serving(model, found, wanted, strategy, trusted, runtime, notes),
            model_image=model_image(ws, model),
            pooling=_pools(model, config),
        )
    if ws.preset is not None and ws.node_count > made.node_count:
        told = f"resource.count is {ws.node_count}, but {made.node_count} will do, so no more are made."
        made = replace(made, warnings=(*made.warnings, told))
    return replace(made, own_nodes=machine is not None)


def _machine_of(ws: Workspace, catalog: Catalog) -> Machine:
    """The catalogue's machine; for a pod template one that is not in it as well. Raises KeyError."""
    try:
        return catalog.machine(ws.instance_type)
    except KeyError:
        other = unlisted(ws.instance_type) if ws.preset is None else None
        if other is None:
            raise
        return other


def _part(ws: Workspace, machine: Machine) -> Machine:
    """The machine as far as a service may use it: one MIG slice, or some of its GPUs (resource.partition)."""
    partition = ws.resource.partition if ws.resource else None
    if partition is None:
        return machine
    if partition.mode == "mig":
        from include.catalog import mig  # few Workspaces have a partition

        return mig.slice_of(machine, partition.profile or "")
    return replace(machine, gpus=min(partition.count or machine.gpus, machine.gpus))


def _tuning(
    model: Model, machine: Machine, method: str, asked: sizing.TrainingShape, notes: Sequence[str]
) -> Plan:
    training = sizing.placed(model, method, asked, machine)
    memory = sizing.tuning_memory(model, method, training)
    dtype, warnings = precision.dtype(model, machine)
    if training.sharded and asked.optimizer not in ("", training.optimizer):
        warnings.append(sharding.replaced(asked.optimizer, training.optimizer))
    if old := sizing.kernels_missing(method, machine, training.load_in_8bit):
        warnings.append(f"{machine.name} {old}.")
    if method == TuningMethod.QLORA and not sizing.quantisable(model):
        warnings.append(f"the layers of {model.name} cannot be quantised, so qlora takes the memory of lora.")
    return Plan(
        purpose=Purpose.TUNING,
        method=method,
        target_modules=training.target_modules or model.tuning.target_modules,
        node_count=1,
        dtype=dtype,
        memory=tuple(memory),
        training=training,
        tokens_per_second=round(throughput.training_tokens_per_second(model, machine, method, training), 1),
        why=f"A tuning runs on one machine.{_over_gpus(model, machine, method, asked, training)}",
        warnings=(*warnings, *_room(memory, machine, "shorter sequences"), *notes),
        **_common(model, machine, 1),
    )


def _over_gpus(
    model: Model,
    machine: Machine,
    method: str,
    asked: sizing.TrainingShape,
    training: sizing.TrainingShape,
) -> str:
    """How the GPUs of a machine share a tuning, and why so."""
    if machine.gpus == 1:
        return ""
    rows = f"Each of its {machine.gpus} GPUs trains on its own share of the rows"
    if not training.sharded:
        return f" {rows}, with the whole model."
    whole = sizing.total(sizing.tuning_memory(model, method, asked.settled(model, method, machine)))
    return (
        f" {rows}, and the model is sharded over them (FSDP), a layer at a time whole on each: a GPU with the whole "
        f"model would need {sizing.gib(whole)}, and one {machine.gpu} has {sizing.gib(machine.gpu_memory_bytes)}."
    )


def _serving(
    model: Model,
    machine: Machine,
    wanted: int | None,
    strategy: sizing.Strategy,
    trusted: bool,
    runtime: str,
    notes: Sequence[str],
) -> Plan:
    if not trusted and (unloadable := engines.why_not(model, runtime)):
        raise sizing.NotLoadable(f"{model.name} cannot be served by the runtime {runtime}: {unloadable}")
    context = sizing.context_of(model, wanted)
    nodes, why, doubts = _nodes(model, machine, context, wanted, strategy, trusted, runtime)
    memory = sizing.serving_memory(model, machine, context, nodes)
    dtype, warnings = precision.dtype(model, machine)
    longest = max(sizing.max_model_len(model, machine, nodes), context)
    return Plan(
        purpose=Purpose.SERVING,
        node_count=nodes,
        dtype=dtype,
        memory=tuple(memory),
        max_model_len=min(longest, context) if wanted else longest,
        kv_cache_tokens=max(sizing.kv_cache_tokens(model, machine, nodes), context)
        if model.kv_bytes_per_token
        else 0,
        why=why,
        runtime=runtime,
        weights_format=model.load_format if runtime == VLLM and model.load_format != "auto" else "",
        warnings=(*doubts, *warnings, *_room(memory, machine, "a shorter context"), *notes),
        **_common(model, machine, nodes),
    )


def _pools(model: Model, config: Mapping[str, Any] | None) -> bool:
    asked = asked_pooling(config)
    return engines.pools(model) if asked is None else asked


def _nodes(
    model: Model,
    machine: Machine,
    context: int,
    wanted: int | None,
    strategy: sizing.Strategy,
    trusted: bool,
    runtime: str,
) -> tuple[int, str, list[str]]:
    """Machines, the sentence that says why so many, and warnings. Raises DoesNotFit."""
    if strategy == "kaito":
        nodes = sizing.serving_nodes(model, machine, wanted or sizing.DEFAULT_CONTEXT)
        return nodes, f"KAITO's estimator asks for {nodes} for a context of {context:,} tokens.", []
    if sizing.single_node_fits(model, machine, context):
        return 1, "One machine holds the model.", []
    needed = sizing.total(sizing.serving_memory(model, machine, context))
    short = (
        f"serving {model.name} with a context of {context:,} tokens needs {sizing.gib(needed)} on each of "
        f"{plural(machine.gpus, 'GPU')} of one {machine.name}, but one {machine.gpu} has {sizing.room(machine)}"
    )
    count = sizing.group_nodes if runtime == VLLM else sizing.exact_nodes
    try:
        several = count(model, machine, context)
    except sizing.DoesNotFit as error:
        if trusted:
            return 1, "", [f"{short}; {TRIED}"]
        raise sizing.DoesNotFit(f"{short}; {error}") from None
    if runtime == VLLM:
        return several, f"One machine is too small, {several} together hold the model: {short}.", []
    if trusted:
        return 1, "", [f"{short}; {TRIED}"]
    more = f"it would take {several} of them, and the runtime {runtime} runs on one machine"
    raise sizing.DoesNotFit(f"{short}; {more}")


def _template(ws: Workspace, machine: Machine, notes: Sequence[str]) -> Plan:
    """A pod template says itself what it runs; only the machines are ours."""
    return Plan(
        purpose=Purpose.SERVING,
        model=TEMPLATE,
        model_id="",
        revision="",
        node_count=ws.node_count,
        dtype="auto",
        why="A pod template says itself what it needs.",
        warnings=tuple(notes),
        **_machine(machine, ws.node_count),
    )


def _common(model: Model, machine: Machine, nodes: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "model_id": model.hf_id,
        "revision": model.revision,
        "weights_bytes": model.weights_bytes,
        **_machine(machine, nodes),
    }


def _machine(machine: Machine, nodes: int) -> dict[str, Any]:
    price = None if machine.usd_per_hour is None else round(machine.usd_per_hour * nodes, 4)
    return {
        "instance_type": machine.name,
        "gpus_per_node": machine.gpus,
        "gpu": machine.gpu,
        "gpu_memory_bytes": machine.gpu_memory_bytes,
        "estimate_usd_per_hour": price,
        "price_as_of": machine.price_as_of,
    }


def _room(memory: sizing.Terms, machine: Machine, remedy: str) -> list[str]:
    needed = sizing.total(memory)
    if needed <= TIGHT * machine.gpu_memory_bytes:
        return []
    share = needed / machine.gpu_memory_bytes
    return [f"the estimate takes {share:.0%} of one {machine.gpu}; {remedy} or a bigger GPU are safer."]
