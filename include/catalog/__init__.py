"""The data of presets/ as typed objects: models, machines, images, default tuning configs.

It exists so that every part resolves a name the same way (aliases, any letter case, suggestions for a typing error).
It must never know what a Workspace is, nor reach for the network: only include.catalog.hub does, and only when called.
"""

from include.catalog.loading import Catalog, load_catalog
from include.catalog.machines import Machine
from include.catalog.models import Model, ModelShape, Tuning
from include.catalog.node_labels import NodeLabelsIncomplete, machine_from_labels

__all__ = [
    "Catalog",
    "Machine",
    "Model",
    "ModelShape",
    "NodeLabelsIncomplete",
    "Tuning",
    "load_catalog",
    "machine_from_labels",
]
