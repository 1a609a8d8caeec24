"""What a step has made of what, for OpenLineage: dataset -> adapter -> service.

Airflow's provider `openlineage` asks each operator when its task has succeeded; where the provider is not installed
nobody asks, and nothing is imported. Names carry no secret: a URL goes without its query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from include.retraining.places import Place, adapter_place, dataset_places, service_place

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

__all__ = ["LineageTask", "Place", "adapter_place", "dataset_places", "service_place"]


class LineageTask:
    """Mixin of the steps that make something that others look for."""

    lineage_inputs: Sequence[Place] = ()
    lineage_outputs: Sequence[Place] = ()

    def tell_lineage(self, inputs: Sequence[Place], outputs: Sequence[Place]) -> None:
        """Remember what was made of what, until the provider asks."""
        self.lineage_inputs, self.lineage_outputs = tuple(inputs), tuple(outputs)

    def get_openlineage_facets_on_complete(self, task_instance: object) -> OperatorLineage | None:
        """Return it in the provider's words; called by the provider's listener, None without anything to tell."""
        if not self.lineage_outputs:
            return None
        from airflow.providers.openlineage.extractors import OperatorLineage

        return OperatorLineage(
            inputs=[_dataset(one) for one in self.lineage_inputs],
            outputs=[_dataset(one) for one in self.lineage_outputs],
        )


def _dataset(place: Place) -> Any:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from openlineage.client.facet_v2 import dataset_version_dataset

    facets: Mapping[str, Any] = {}
    if place.version:
        version = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=place.version)
        facets = {"version": version}
    return Dataset(namespace=place.namespace, name=place.name, facets=dict(facets))
