"""What OpenLineage's provider is told when it asks, and that nobody needs it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
from kaito.operators.promotion import PromoteOperator
from kaito.operators.publishing import PublishAdapterOperator
from kaito.operators.rollout import RollOutOperator
from kaito.tasks.open_lineage import LineageTask, Place


@dataclass
class Said:
    """As the provider's and its client's classes of these names: what they are given, they have."""

    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    namespace: str = ""
    name: str = ""
    facets: dict[str, Any] = field(default_factory=dict)
    datasetVersion: str = ""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands where the provider is not installed; what it is given is looked at, not what it does with it."""
    names = {
        "airflow.providers.openlineage": {},
        "airflow.providers.openlineage.extractors": {"OperatorLineage": Said},
        "airflow.providers.common.compat.openlineage.facet": {"Dataset": Said},
        "openlineage": {},
        "openlineage.client": {},
        "openlineage.client.facet_v2": {},
    }
    for name, parts in names.items():
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    version = ModuleType("dataset_version_dataset")
    vars(version)["DatasetVersionDatasetFacet"] = Said
    vars(sys.modules["openlineage.client.facet_v2"])["dataset_version_dataset"] = version


def test_a_step_tells_what_it_made_of_what(provider: None) -> None:
    task = LineageTask()
    task.tell_lineage([Place("https://x.io", "/a.csv", "sha256:d")], [Place("oci://r.io", "phi")])
    found: Any = task.get_openlineage_facets_on_complete(None)
    ((read,), (made,)) = found.inputs, found.outputs
    assert (read.namespace, read.name) == ("https://x.io", "/a.csv")
    assert read.facets["version"].datasetVersion == "sha256:d"
    assert (made.name, made.facets) == ("phi", {})


def test_a_step_that_made_nothing_needs_no_provider() -> None:
    assert LineageTask().get_openlineage_facets_on_complete(None) is None


@pytest.mark.parametrize("operator", [PublishAdapterOperator, PromoteOperator, RollOutOperator])
def test_the_steps_on_the_way_from_a_dataset_to_a_service_tell(operator: type) -> None:
    assert operator.get_openlineage_facets_on_complete is LineageTask.get_openlineage_facets_on_complete  # type: ignore[attr-defined]
