"""An exact rerun is refused before a machine is asked for, where another training or other data would be its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import VOLUME_CLAIM
from kaito.operators import kept_adapter
from kaito.operators.dataset import FetchDatasetOperator
from kaito.operators.tuning import TuneOperator

from include.contracts.results import DatasetResult
from include.workspace.api import names
from include.workspace.status.kept_adapter import KeptAdapter, State
from tests.support.fake_cluster import FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd", "workspace")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"workspace": {"metadata": {"name": NAME}}}


@pytest.fixture
def trained(cluster: FakeCluster, workspace: dict[str, Any], context: dict[str, Any]) -> KeptAdapter:
    """The record of a training that was delivered."""
    plan = TuneOperator(task_id="tune").this_run(context).tuning_plan  # type: ignore[arg-type]
    document = cluster.objects["workspaces", "default", NAME]
    recipe = kept_adapter.recipe(cluster, document, plan)  # type: ignore[arg-type]
    return KeptAdapter(recipe, "first", State.DELIVERED, "", {"digest": "sha256:d"}, {})


def asked(
    cluster: FakeCluster, record: KeptAdapter | None, rerun: str = "exact", **notes: str
) -> dict[str, Any]:
    """The Workspace that asks, with this record on its volume."""
    document = cluster.objects["workspaces", "default", NAME]
    document["metadata"].setdefault("annotations", {}).update({names.RERUN: rerun, **notes})
    owner = {"kind": "Workspace", "name": NAME, "uid": document["metadata"]["uid"], "controller": True}
    metadata = {"name": f"{NAME}-work", "ownerReferences": [owner]}
    cluster.add(
        VOLUME_CLAIM, {"metadata": metadata | ({"annotations": record.annotation()} if record else {})}
    )
    return document


def test_the_same_training_is_let_through(cluster: FakeCluster, trained: KeptAdapter) -> None:
    asked(cluster, trained)
    assert preflight(cluster, BY_NAME)


@pytest.mark.parametrize("record", [None, "half"])
def test_without_a_finished_training_there_is_nothing_to_do_again(
    cluster: FakeCluster, trained: KeptAdapter, record: str | None
) -> None:
    asked(cluster, replace(trained, state=State.TRAINING) if record else None)
    with pytest.raises(AirflowFailException, match=r"no finished training.*\[P14\]"):
        preflight(cluster, BY_NAME)
    assert "[P14]" in cluster.condition(NAME, "ResourceReady")["message"]


def test_an_exact_rerun_that_was_stopped_goes_on(cluster: FakeCluster, trained: KeptAdapter) -> None:
    asked(cluster, replace(trained, state=State.TRAINING, rerun="exact-2"), rerun="exact-2")
    assert preflight(cluster, BY_NAME)


def test_another_training_is_refused_and_named(cluster: FakeCluster, trained: KeptAdapter) -> None:
    asked(cluster, trained, **{names.HELD_OUT: "0.2"})
    with pytest.raises(
        AirflowFailException, match=r"what run first trained is not what .*put them back.*\[P14\]"
    ):
        preflight(cluster, BY_NAME)


def test_an_ordinary_rerun_asks_for_nothing_of_it(cluster: FakeCluster) -> None:
    asked(cluster, None, rerun="exactly")
    assert preflight(cluster, BY_NAME)


def test_other_data_ends_the_run_before_a_machine_is_asked_for(
    cluster: FakeCluster, trained: KeptAdapter, context: dict[str, Any]
) -> None:
    asked(cluster, trained)
    fetch = FetchDatasetOperator(task_id="fetch_dataset")
    fetch.cluster = cluster
    run = fetch.this_run(context)  # type: ignore[arg-type]
    fetch.finished(run, DatasetResult(digest="sha256:d", rows=8))
    with pytest.raises(AirflowFailException, match="digest is sha256:e and was sha256:d in run first"):
        fetch.finished(run, DatasetResult(digest="sha256:e", rows=8))
    assert "exact cannot be kept" in cluster.condition(NAME, "DatasetReady")["message"]


def test_a_digest_in_the_form_of_an_earlier_release_is_not_called_other_data(
    cluster: FakeCluster, trained: KeptAdapter
) -> None:
    document = asked(cluster, replace(trained, dataset={"digest": "sha256:d", "rows": 8}))
    now = DatasetResult(digest="sha256+columns:e", rows=8)
    told = kept_adapter.other_data(cluster, document, now)  # type: ignore[arg-type]
    assert "run first recorded the dataset's digest (sha256:d) in the form of another release" in told
    assert "Give the data of then" not in told
    more = DatasetResult(digest="sha256+columns:e", rows=9)
    assert "Give the data of then" in kept_adapter.other_data(cluster, document, more)  # type: ignore[arg-type]
