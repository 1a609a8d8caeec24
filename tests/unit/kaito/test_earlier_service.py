"""A rollout that changes a service's pods and fails: what answered before it comes back, and nothing else ever does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from kaito.hooks.api import CONFIG_MAP, EVENT, STATEFUL_SET, WORKSPACE, ClusterError
from kaito.operators.rollout import RollOutOperator
from kaito.providers.nodeclaim import NODE_CLAIM
from kaito.tasks.earlier_service import EARLIER

from tests.support.fake_cluster import RUN_ID, FakeCluster
from tests.support.rollouts import NAME
from tests.support.tasks import create, release

LATER = RUN_ID.replace(".g1", ".g2")
DIGESTS = ["registry.example.com/a@sha256:" + number * 64 for number in "12"]


def roll_out(
    cluster: FakeCluster, context: dict[str, Any], run: str, mode: str, image: str = DIGESTS[0]
) -> dict[str, Any]:
    """Run the task for a Workspace whose annotation changes the server's command line; returns what stands then."""
    context |= {"run_id": run}
    metadata = context["ti"].xcoms["preflight"]["workspace"]["metadata"]
    metadata["annotations"] = {"kaito.sh/performance-mode": mode}
    context["ti"].xcoms["publish_adapter"] = {"reference": image}
    operator = RollOutOperator(task_id="roll_out", adapter_task_id="publish_adapter")
    operator.cluster = cluster
    operator.execute(context)
    return cluster.objects["statefulsets", "default", NAME]


def ready(found: dict[str, Any], replicas: int = 1) -> dict[str, Any]:
    found["status"] = {"readyReplicas": replicas}
    return copy.deepcopy(found)


def end(cluster: FakeCluster, context: dict[str, Any], state: str = "failed") -> None:
    context["ti"].states = {"serve.ask": state}
    release(cluster, "serving", keep="serve.ask").execute(context)


@pytest.fixture
def before(cluster: FakeCluster, context: dict[str, Any]) -> dict[str, Any]:
    """A service that answers, and its machine, which has gone over to the later run."""
    create(cluster, "serving").execute({**context, "run_id": LATER})
    return ready(roll_out(cluster, context, RUN_ID, "balanced"))


def adapters(cluster: FakeCluster) -> str:
    return str(cluster.find(CONFIG_MAP, f"{NAME}-adapters", "default")["data"]["adapters.json"])


def test_what_answered_is_put_back_and_keeps_its_machines(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    after = roll_out(cluster, context, LATER, "throughput", DIGESTS[1])
    assert after["spec"]["template"] != before["spec"]["template"]
    assert DIGESTS[1] in adapters(cluster)
    end(cluster, context)
    now = cluster.find(STATEFUL_SET, NAME, "default")
    assert now["spec"] == before["spec"]
    assert now["metadata"]["labels"] == before["metadata"]["labels"]
    assert now["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert now["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert DIGESTS[0] in adapters(cluster)
    assert len(cluster.list(NODE_CLAIM)) == 1
    assert "ServicePutBack" in [one["reason"] for one in cluster.list(EVENT)]
    # The same edit again is a rollout again, and what is put back is still what answered.
    ready(cluster.objects["statefulsets", "default", NAME])
    again = roll_out(cluster, context, LATER, "throughput")
    assert again["spec"]["template"] == after["spec"]["template"]


def test_a_task_that_is_tried_again_still_knows_what_it_replaced(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    for _ in range(2):
        roll_out(cluster, context, LATER, "throughput")
    end(cluster, context)
    assert cluster.find(STATEFUL_SET, NAME, "default")["spec"] == before["spec"]


def test_a_rollout_that_succeeds_keeps_what_is_new(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    after = roll_out(cluster, context, LATER, "throughput")
    end(cluster, context, "success")
    assert cluster.find(STATEFUL_SET, NAME, "default")["spec"] == after["spec"]


def test_a_repair_that_fails_brings_nothing_older_back(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    roll_out(cluster, context, LATER, "throughput")
    end(cluster, context, "success")
    repair = LATER + ".repair"
    found = roll_out(cluster, context, repair, "throughput")
    assert EARLIER not in found["metadata"]["annotations"]
    end(cluster, context)
    assert cluster.find(STATEFUL_SET, NAME, "default") is None


@pytest.mark.parametrize("replicas", [0, None])
def test_what_did_not_answer_is_not_brought_back(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any], replicas: int | None
) -> None:
    cluster.objects["statefulsets", "default", NAME]["status"] = {"readyReplicas": replicas}
    roll_out(cluster, context, LATER, "throughput")
    end(cluster, context)
    assert cluster.find(STATEFUL_SET, NAME, "default") is None
    assert cluster.list(NODE_CLAIM) == []


def test_a_later_run_is_left_to_roll_out_what_is_wanted_now(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    after = roll_out(cluster, context, LATER, "throughput")
    ready(after)
    cluster.objects["workspaces", "default", NAME]["metadata"]["generation"] = 7
    end(cluster, context)
    assert cluster.find(STATEFUL_SET, NAME, "default")["spec"] == after["spec"]


@pytest.mark.parametrize(
    "note", ["{", "[]", "null", json.dumps({"run": LATER}), json.dumps({"run": "x", "template": {}})]
)
def test_a_note_that_is_none_is_left_aside(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any], note: str
) -> None:
    roll_out(cluster, context, LATER, "throughput")["metadata"]["annotations"][EARLIER] = note
    end(cluster, context)
    assert cluster.find(STATEFUL_SET, NAME, "default") is None


def test_a_cluster_that_refuses_ends_no_teardown(
    cluster: FakeCluster, context: dict[str, Any], before: dict[str, Any]
) -> None:
    roll_out(cluster, context, LATER, "throughput")
    cluster.refuse["apply", "statefulsets"] = ClusterError(403, "Forbidden", "no")
    end(cluster, context)
    assert cluster.list(NODE_CLAIM) == []
    assert cluster.find(WORKSPACE, NAME, "default")
