"""What the reliability matrix holds against the cluster at each look: every field of a status, by the same eyes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.support.phases import Lives, Seen
from tests.support.reconciled import ReconciledStack

NAME, RUN, NODE = "x-ready", "default.x-ready.u.g1", "node-1"
CLAIM = {
    "metadata": {"name": "claim", "labels": {"kaito.sh/workspace": NAME}},
    "status": {"nodeName": NODE},
}
READY_NODE = {"metadata": {"name": NODE}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
MACHINES = ("NodeClaimReady", "NodesReady", "ResourceReady")


class Stack:
    """Airflow, as far as the sweep asks it."""

    def __init__(self, **runs: str) -> None:
        self.runs = runs

    def run_states(self) -> dict[str, str]:
        return {RUN: self.runs["state"]}


def lives(state: str = "running", **now: Any) -> Lives:
    stack = cast(ReconciledStack, Stack(state=state))
    seen = Seen(stack)
    status = {
        "run": {"id": RUN, "generation": 1, "state": "started"},
        "conditions": [{"type": kind, "status": "True"} for kind in (*MACHINES, "InferenceReady")],
        "workerNodes": [NODE],
    }
    workspace = {"metadata": {"name": NAME, "generation": 1}, "inference": {}, "status": status}
    served = {"metadata": {"name": NAME}, "spec": {"replicas": 1}, "status": {"readyReplicas": 1}}
    seen.now |= {"workspaces": {NAME: workspace}, "claims": {"claim": CLAIM}}
    seen.now |= {"nodes": {NODE: READY_NODE}, "sets": {NAME: served}} | now
    return Lives(stack, seen, "x", "adapter:1")


def test_a_true_status_has_none() -> None:
    assert lives().untruths("ready") == []
    assert lives(workspaces={}).untruths("ready") == [], "a Workspace that is gone says nothing"


@pytest.mark.parametrize(
    ("state", "now", "words"),
    [
        ("success", {}, "run.state is started"),
        ("running", {"claims": {}}, "without a machine"),
        ("running", {"nodes": {}}, "no Node is Ready"),
        ("running", {"sets": {}}, "InferenceReady is True with 0 of 0"),
    ],
)
def test_what_is_not_so_is_said(state: str, now: dict[str, Any], words: str) -> None:
    assert words in " ".join(lives(state, **now).untruths("ready"))
