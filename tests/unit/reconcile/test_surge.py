"""A second pod beside the one that answers: when there is one, what is waited for, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from include.reconcile import surge
from include.reconcile.surge import Stage

OLD, NEW = "w-1", "w-2"


def live(replicas: int | None = 1, ready: int = 1, held: int = 0, observed: int = 1) -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    return {
        "metadata": {"name": "w", "generation": 1},
        "spec": {**spec, "updateStrategy": surge.up_to(held)},
        "status": {"readyReplicas": ready, "observedGeneration": observed, "updateRevision": NEW},
    }


def pod(ordinal: int, revision: str, ready: bool = False, **status: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}, *status.pop("conditions", ())]
    return {
        "metadata": {"name": f"w-{ordinal}", "labels": {"controller-revision-hash": revision}},
        "status": {"phase": "Running", "conditions": conditions, **status},
    }


@pytest.mark.parametrize(
    ("found", "rolls", "stage"),
    [
        (None, True, None),
        (live(), False, None),
        (live(), True, Stage.BESIDE),
        (live(None), True, Stage.BESIDE),
        (live(ready=0), True, None),
        (live(0, 0), True, None),
        (live(3, 3), True, None),
        (live(held=1), False, Stage.BESIDE),
        (live(2, held=1), False, Stage.BESIDE),
        (live(2), False, Stage.REPLACED),
        (live(2), True, Stage.BESIDE),
    ],
)
def test_it_begins_where_somebody_answers_and_goes_on_where_it_was(
    found: Any, rolls: bool, stage: Stage | None
) -> None:
    assert surge.begins(found, rolls) is stage


def test_each_stage_leaves_the_pod_that_answers_alone() -> None:
    wanted = {"metadata": {"name": "w"}, "spec": {"replicas": 1, "template": {"new": True}}}
    sizes = [surge.at(wanted, stage)["spec"] for stage in Stage] + [surge.withdrawn(wanted)["spec"]]
    assert [(one["replicas"], one["updateStrategy"]["rollingUpdate"]["partition"]) for one in sizes] == [
        (2, 1),
        (2, 0),
        (1, 1),
    ]
    assert wanted["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("found", "pods", "ordinal", "ready", "failed", "words"),
    [
        (None, [], 1, False, True, "gone"),
        (live(2, observed=0), [pod(1, NEW, True)], 1, False, False, "being made"),
        (live(2), [pod(0, OLD, True)], 1, False, False, "w-1 is being made"),
        (live(2), [pod(0, OLD, True), pod(1, NEW)], 1, False, False, "w-1 is starting"),
        (live(2), [pod(0, OLD, True), pod(1, NEW, True)], 1, True, False, "w-1 answers"),
        (live(2), [pod(0, OLD, True), pod(1, NEW, True)], 0, False, False, "w-0 still is the earlier one"),
        (live(2), [pod(0, NEW, True), pod(1, NEW, True)], 0, True, False, "w-0 answers"),
    ],
)
def test_the_new_pod_is_waited_for(
    found: Any, pods: list[Any], ordinal: int, ready: bool, failed: bool, words: str
) -> None:
    said = surge.status(found, pods, ordinal)
    assert (said.ready, said.failed) == (ready, failed)
    assert words in said.message


def test_a_pod_that_no_node_takes_is_told_from_one_that_fails() -> None:
    nowhere = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }  # fmt: skip
    said = surge.status(live(2), [pod(1, NEW, phase="Pending", conditions=[nowhere])], 1)
    assert (said.failed, said.reason) == (True, surge.NO_ROOM)
    bad = {"name": "serving", "state": {"waiting": {"reason": "InvalidImageName", "message": "no such form"}}}
    said = surge.status(live(2), [pod(1, NEW, phase="Pending", containerStatuses=[bad])], 1)
    assert said.failed
    assert said.reason != surge.NO_ROOM


def test_a_service_of_two_pods_for_a_while_answers() -> None:
    assert surge.keeps_answering(live(2), 1)
    assert not surge.keeps_answering(live(2, ready=0), 1)
    assert not surge.keeps_answering(live(1), 1)
    assert not surge.keeps_answering(live(2), 2)
    assert not surge.keeps_answering(None, 1)
