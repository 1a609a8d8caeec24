"""The content of a tuning ConfigMap, key `training_config.yaml`, as faults and notices for whoever has read it.

The rules are the trainer's own (include.contracts.training_config).
"""

from __future__ import annotations

from include.catalog import Catalog
from include.catalog.architectures import TARGET_MODULES
from include.catalog.layers import ALL_LINEAR
from include.contracts.faults import Fault
from include.contracts.methods import Objective
from include.contracts.training_config import KEY, read_config
from include.workspace.api.models import Workspace
from include.workspace.validation.rules.context import Context, Policy

__all__ = ["KEY", "check_training_config", "config_faults", "config_notices"]

#: Layers beside those of the blocks that LoRA can adapt, by the names that models have for them.
_AROUND = frozenset({"lm_head", "embed_out", "embed_tokens", "word_embeddings", "wte"})


def config_faults(text: str, method: str, objective: str = Objective.SFT) -> list[Fault]:
    """Everything wrong with a `training_config.yaml` for this method ("lora" or "qlora"): M3 to M9, F11, F12."""
    return list(read_config(text, method, objective).faults)


def config_notices(text: str, objective: str = Objective.SFT) -> list[str]:
    """Sentences about keys of a training config that the trainer takes and does not need."""
    return list(read_config(text, objective=objective).notices)


def check_training_config(ws: Workspace, text: str, catalog: Catalog) -> list[Fault]:
    """`config_faults` of a Workspace's own method and objective, and F12 for layers that its model lacks.

    LoraConfig.target_modules as a list of names is judged here; a pattern is judged by the dataset step.
    """
    found, model = config_faults(text, ws.method, ws.objective), Context(ws, catalog, Policy()).model
    layers = TARGET_MODULES.get(model.architecture) if model else None
    asked = read_config(text, objective=ws.objective).section("LoraConfig").get("target_modules")
    if model is None or layers is None or not isinstance(asked, list):
        return found
    lacking = [name for name in asked if name.rpartition(".")[2] not in {*layers, *_AROUND, ALL_LINEAR}]
    path, hint = "training_config.LoraConfig.target_modules", f"it has {', '.join(layers)}"
    return [*found, *(Fault(path, name, "F12", f"is no layer of {model.name}", hint) for name in lacking)]
