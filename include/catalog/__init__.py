"""The data of presets/ as typed objects: models, machines, images, default tuning configs.

It exists so that every part resolves a name the same way (aliases, any letter case, suggestions for a typing error).
It must never reach for the network or know what a Workspace is.
"""

from include.catalog.loading import Catalog, load_catalog
from include.catalog.machines import Machine
from include.catalog.models import Model, ModelShape, Tuning

__all__ = ["Catalog", "Machine", "Model", "ModelShape", "Tuning", "load_catalog"]
