"""Why a model cannot be tuned here, in words for its user.

Whether it can is data (tuning.supported of a record, held against the trainer by the checks); this only explains a no.
It must never say no by itself.
"""

from __future__ import annotations

from include.catalog import engines
from include.catalog.architectures import TARGET_MODULES
from include.catalog.models import Model


def why_not(model: Model) -> str:
    """The first reason that holds, as the end of a sentence about the model; "" for a model that can be tuned."""
    if model.tuning.supported:
        return ""
    if engines.pools(model):
        return "it embeds, ranks or scores texts, and a tuning teaches a model to write them"
    if model.quantization is not None:
        return (
            f"its weights are quantised ({model.quantization}), and an adapter is trained on 16-bit weights"
        )
    if "MoE" in (model.parameters or "") or "Moe" in model.architecture:
        return "it is a mixture of experts, and the trainer tunes dense models only"
    if model.architecture not in TARGET_MODULES:
        return f"the trainer does not know the layers of {model.architecture}"
    if model.shape is None:
        return "its shape is not in the catalogue, so what memory tuning takes is not known"
    if not model.pinned:
        return "its revision is not pinned to a commit, and an adapter fits one revision only"
    return "nobody has checked it here yet"
