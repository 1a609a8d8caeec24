"""The content of a tuning ConfigMap, key `training_config.yaml`, as faults and notices for whoever has read it.

The rules are the trainer's own (include.contracts.training_config).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from include.catalog import Catalog, sizing
from include.catalog.architectures import TARGET_MODULES
from include.catalog.layers import ALL_LINEAR
from include.contracts import weight_init
from include.contracts.faults import Fault
from include.contracts.methods import Objective, TuningMethod
from include.contracts.training_config import KEY, TrainingConfig, read_config
from include.workspace.api import names
from include.workspace.api.models import Workspace
from include.workspace.validation.rules.context import Context, Policy

__all__ = ["KEY", "check_training_config", "config_faults", "config_notices", "layer_notices"]

#: Layers beside those of the blocks that LoRA can adapt, by the names that models have for them.
_AROUND = frozenset({"lm_head", "embed_out", "embed_tokens", "word_embeddings", "wte"})


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
    model = context.model
    layers = TARGET_MODULES.get(model.architecture) if model else None
    asked = read.section("LoraConfig").get("target_modules")
    if model is None or layers is None or not isinstance(asked, list):
        return found
    lacking = lacking_layers(asked, layers)
    if not lacking or len(lacking) < len(asked):
        return found
    path, hint = "training_config.LoraConfig.target_modules", f"it has {', '.join(layers)}"
    return [*found, *(Fault(path, name, "F12", f"is no layer of {model.name}", hint) for name in lacking)]


def layer_notices(ws: Workspace, text: str, catalog: Catalog) -> list[str]:
    """A sentence about names in LoraConfig.target_modules that the model lacks beside others that it has.

    Lists for several families of models are common (KAITO's own for Phi-3 names the layers of Llama), and PEFT passes
    over what is not there.
    """
    model, read = Context(ws, catalog, Policy()).model, read_config(text, objective=ws.objective)
    layers = TARGET_MODULES.get(model.architecture) if model else None
    asked = read.section("LoraConfig").get("target_modules")
    if model is None or layers is None or not isinstance(asked, list):
        return []
    lacking = lacking_layers(asked, layers)
    if not lacking or len(lacking) == len(asked):
        return []
    return [
        f"LoraConfig.target_modules: {model.name} has no {', '.join(lacking)}; only "
        f"{', '.join(name for name in asked if name not in lacking)} will be adapted (it has {', '.join(layers)})."
    ]


def lacking_layers(asked: Sequence[str], layers: Iterable[str]) -> list[str]:
    """Names of a list of target modules that are no layers of a model."""
    return [name for name in asked if str(name).rpartition(".")[2] not in {*layers, *_AROUND, ALL_LINEAR}]


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
