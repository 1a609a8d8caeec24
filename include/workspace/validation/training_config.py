"""The content of a tuning ConfigMap, key `training_config.yaml`, as faults and notices for whoever has read it.

The rules are the trainer's own (include.contracts.training_config).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from include.catalog import Catalog, sizing
from include.catalog.architectures import TARGET_MODULES
from include.catalog.layers import ALL_LINEAR
from include.contracts import weight_init
from include.contracts.adapter_keys import ENDS
from include.contracts.faults import Fault
from include.contracts.methods import Objective, TuningMethod
from include.contracts.training_config import KEY, TrainingConfig, read_config
from include.workspace.api import names
from include.workspace.api.models import Workspace
from include.workspace.validation.rules.context import Context, Policy

__all__ = ["KEY", "check_training_config", "config_faults", "config_notices", "layer_notices"]


def config_faults(text: str, method: str, objective: str = Objective.SFT) -> list[Fault]:
    """Everything wrong with a `training_config.yaml` for this method ("lora" or "qlora"): M3 to M9, F11, F12."""
    return list(read_config(text, method, objective).faults)


def config_notices(text: str, objective: str = Objective.SFT) -> list[str]:
    """Sentences about keys of a training config that the trainer takes and does not need."""
    return list(read_config(text, objective=objective).notices)


def check_training_config(ws: Workspace, text: str, catalog: Catalog) -> list[Fault]:
    """`config_faults` of a Workspace's own method and objective, F12 for layers that its model lacks, and F9 for what
    keeps a model whole that one GPU of its machine does not hold.

    LoraConfig.target_modules as a list of names is judged here; a pattern is judged by the dataset step.
    """
    context, read = Context(ws, catalog, Policy()), read_config(text, objective=ws.objective)
    found = [*config_faults(text, ws.method, ws.objective), *_too_large_as_one(context, read)]
    there, lacking, layers = _layers(context, read)
    if there or context.model is None:
        return found
    path, hint = "training_config.LoraConfig.target_modules", f"it has {', '.join(layers)}"
    told = f"is no layer of {context.model.name}"
    return [*found, *(Fault(path, name, "F12", told, hint) for name in lacking)]


def layer_notices(ws: Workspace, text: str, catalog: Catalog) -> list[str]:
    """A sentence about names in LoraConfig.target_modules that the model lacks beside others that it has.

    Lists for several families of models are common (KAITO's own for Phi-3 names the layers of Llama), and PEFT passes
    over what is not there.
    """
    context = Context(ws, catalog, Policy())
    there, lacking, layers = _layers(context, read_config(text, objective=ws.objective))
    if context.model is None or not (there and lacking):
        return []
    return [
        f"LoraConfig.target_modules: {context.model.name} has no {', '.join(lacking)}; only {', '.join(there)} will "
        f"be adapted (it has {', '.join(layers)})."
    ]


def _layers(context: Context, read: TrainingConfig) -> tuple[list[str], list[str], Sequence[str]]:
    """Names of a list of target modules that the model has, those that it lacks, and what its blocks have."""
    layers = TARGET_MODULES.get(context.model.architecture) if context.model else None
    asked = read.section("LoraConfig").get("target_modules")
    if layers is None or not isinstance(asked, list):
        return [], [], ()
    known = {*layers, *ENDS, ALL_LINEAR}
    lacking = [name for name in asked if name.rpartition(".")[2] not in known]
    return [name for name in asked if name not in lacking], lacking, layers


def _too_large_as_one(context: Context, read: TrainingConfig) -> Iterator[Fault]:
    model, machine, method = context.model, context.machine, context.ws.method
    if model is None or machine is None or machine.gpus == 1 or not model.tuning.supported:
        return
    if names.BYPASS_RESOURCE_CHECKS in context.ws.annotations:
        return
    lora, bits = read.section("LoraConfig"), read.section("QuantizationConfig")
    least = sizing.TrainingShape(load_in_8bit=method == TuningMethod.QLORA and bool(bits.get("load_in_8bit")))
    if (needed := sizing.base_weights(model, method, least)) <= machine.gpu_memory_bytes:
        return
    told = (
        f"keeps {model.name} from being sharded over GPUs, and its weights alone take {sizing.gib(needed)}, but one "
        f"{machine.gpu} has {sizing.gib(machine.gpu_memory_bytes)}"
    )
    if least.load_in_8bit:
        yield Fault("training_config.QuantizationConfig.load_in_8bit", True, "F9", told, "use load_in_4bit")
    if key := weight_init.needs_whole_weights(lora):
        yield Fault(f"training_config.LoraConfig.{key}", lora[key], "F9", told, "leave it out")
