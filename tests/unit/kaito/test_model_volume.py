"""A model's volume is looked at before money is spent: it is there, and as many nodes can mount it as need it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from kaito.hooks.api import VOLUME_CLAIM, ClusterError
from kaito.operators import model_volume

from include.workspace import parse_workspace
from tests.support.fake_cluster import FakeCluster
from tests.support.tasks import preflight

pytestmark = pytest.mark.usefixtures("established_crd")

NAME = "workspace-tuning-phi-3"
BY_NAME = {"name": NAME}


@pytest.fixture(autouse=True)
def named(workspace: dict[str, Any]) -> dict[str, Any]:
    workspace["metadata"]["annotations"] = {"kaito.sh/model-volume": "models/phi-3"}
    return workspace


def claim(cluster: FakeCluster, *modes: str, **status: Any) -> None:
    document = {"metadata": {"name": "models"}, "spec": {"accessModes": list(modes)}, "status": status}
    cluster.add(VOLUME_CLAIM, document)


def test_a_claim_that_is_there_is_taken_and_the_status_says_so(cluster: FakeCluster) -> None:
    claim(cluster, "ReadWriteOnce", phase="Bound")
    assert preflight(cluster, BY_NAME)["plan"]
    said = cluster.objects["workspaces", "default", NAME]["status"]["model"]
    assert (said["volume"], "revision" in said) == ("models/phi-3", False)


def test_a_claim_that_is_not_there_or_lost_is_refused(cluster: FakeCluster) -> None:
    with pytest.raises(
        AirflowFailException, match=r"model-volume.*no PersistentVolumeClaim models in namespace"
    ):
        preflight(cluster, BY_NAME)
    claim(cluster, "ReadOnlyMany", phase="Lost")
    with pytest.raises(AirflowFailException, match="models is lost"):
        preflight(cluster, BY_NAME)


def test_claims_that_may_not_be_read_do_not_stop_the_run(cluster: FakeCluster) -> None:
    cluster.refuse["get", "persistentvolumeclaims"] = ClusterError(403, "Forbidden", "claims are forbidden")
    assert model_volume.faults(cluster, parse_workspace(_document(cluster))) == []


@pytest.mark.parametrize(
    ("nodes", "labels", "modes", "refused"),
    [
        (2, {}, ["ReadWriteOnce"], True),
        (2, {}, ["ReadWriteOnce", "ReadOnlyMany"], False),
        (1, {"kaito.sh/retrain-of": "other"}, ["ReadWriteOncePod"], True),
        (1, {"kaito.sh/retrain-of": "other"}, ["ReadWriteMany"], False),
    ],
)
def test_one_node_at_a_time_is_not_enough_for_several(
    cluster: FakeCluster, nodes: int, labels: dict[str, str], modes: list[str], refused: bool
) -> None:
    claim(cluster, *modes)
    document = _document(cluster)
    document["metadata"]["labels"] = labels
    told = model_volume.faults(cluster, parse_workspace(document), nodes)
    assert bool(told) is refused
    if told:
        assert "2 nodes need it at a time, and it has" in str(told[0])


def _document(cluster: FakeCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.objects["workspaces", "default", NAME]
    return {key: value for key, value in found.items() if key != "status"}


@pytest.mark.parametrize(
    ("modes", "nodes", "told"),
    [
        (["ReadOnlyMany"], 1, "nothing can be kept on it"),
        (["ReadWriteOnce", "ReadOnlyMany"], 2, "use a volume whose claim has ReadWriteMany"),
        (["ReadWriteOnce"], 1, ""),
        (["ReadWriteMany"], 2, ""),
    ],
)
def test_a_cache_must_be_written_by_all_that_need_it(
    cluster: FakeCluster, modes: list[str], nodes: int, told: str
) -> None:
    claim(cluster, *modes)
    document = _document(cluster)
    document["metadata"]["annotations"] = {"kaito.sh/model-cache": "models"}
    found = model_volume.faults(cluster, parse_workspace(document), nodes)
    assert told in str(found)
    assert bool(found) is bool(told)
