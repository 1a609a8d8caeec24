"""The janitor in a real Airflow: it reports orphans, deletes them when it is told to, and leaves what lives alone."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.support.airflow_run import wait
from tests.support.reconciled import ReconciledStack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

GONE, LIVE = "janitor-gone", "janitor-live"
MACHINE = "Standard_NC6s_v3"
NOBODY = f"default.{GONE}.00000000.g1"


def _labels(owner: str, component: str, run: str, **more: str) -> dict[str, str]:
    found = {"kaito.sh/workspace": owner, "kaito.sh/workspacenamespace": "default", **more}
    return {**found, "kaito.sh/component": component, "kaito.sh/run-id": run}


def _machine(name: str, owner: str, run: str) -> dict[str, Any]:
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": name, "labels": _labels(owner, "pool", run, **{"kaito.sh/pool": "tuning"})},
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [MACHINE]}
            ],
        },
    }


def _pod(name: str, owner: str, run: str) -> dict[str, Any]:
    """A pod that waits for a node which never comes."""
    container = {"name": "main", "image": "busybox", "command": ["sleep", "600"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": _labels(owner, "tuning", run)},
        "spec": {"containers": [container], "nodeSelector": {"never": "there"}},
    }


def _volume(owner: str, run: str) -> dict[str, Any]:
    size = {"requests": {"storage": "1Gi"}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": f"{owner}-work", "labels": _labels(owner, "tuning", run)},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": size},
    }


def _sweep(stack: ReconciledStack, *, delete: bool) -> dict[str, Any]:
    """Let the janitor look once, without a grace time, and return its report."""
    run = f"test-{uuid.uuid4().hex[:8]}"
    stack.api.trigger("kaito_janitor", run, {"delete": delete, "grace_minutes": 0})
    assert wait(lambda: _ended(stack, run), 90, "the end of the sweep") == "success", stack.log(
        run, "sweep", "kaito_janitor"
    )
    found: dict[str, Any] = stack.api.xcom("kaito_janitor", run, "sweep")
    found["log"] = stack.log(run, "sweep", "kaito_janitor")
    return found


def _ended(stack: ReconciledStack, run: str) -> str | None:
    state = str(stack.api.run("kaito_janitor", run)["state"])
    return state if state in ("success", "failed") else None


def _orphans(report: dict[str, Any], owner: str) -> set[str]:
    return {row["object"] for row in report["orphans"] if row["workspace"] == f"default/{owner}"}


def test_orphans_are_reported_then_deleted_and_the_living_stay(reconciled_stack: ReconciledStack) -> None:
    stack = reconciled_stack
    document = stack.tuning(LIVE)
    document["tuning"]["input"]["urls"] = [f"http://{stack.hanging}/train.parquet"]
    stack.kubectl.apply(document)
    wait(lambda: stack.pods(LIVE, "dataset") or None, 90, "the dataset pod")
    try:
        stack.kubectl.apply(_machine("wsjanitor01", LIVE, stack.run_id(LIVE)))
        for orphan in (
            _machine("wsjanitor02", GONE, NOBODY),
            _pod(f"{GONE}-g1-tuning-x7", GONE, NOBODY),
            _volume(GONE, NOBODY),
        ):
            stack.kubectl.apply(orphan)
        expected = {
            "NodeClaim wsjanitor02",
            f"Pod default/{GONE}-g1-tuning-x7",
            f"PersistentVolumeClaim default/{GONE}-work",
        }

        report = _sweep(stack, delete=False)
        assert _orphans(report, GONE) == expected
        assert _orphans(report, LIVE) == set()
        assert report["deleted"] == 0
        assert f"Workspace default/{GONE} is gone" in report["log"]
        assert "cannot be" not in report["log"], "what was seen is remembered in Airflow"
        assert stack.get("pod", f"{GONE}-g1-tuning-x7") is not None

        before = set(stack.children(LIVE))
        report = _sweep(stack, delete=True)
        assert report["deleted"] >= len(expected)
        wait(lambda: not stack.children(GONE), 60, "the end of the orphans")
        assert before <= set(stack.children(LIVE))
        told = stack.get("events", "--field-selector", "reason=OrphanDeleted")["items"]
        assert f"{GONE}-work" in {event["involvedObject"]["name"] for event in told}
    finally:
        stack.kubectl(
            "delete", "nodeclaim", "wsjanitor01", "wsjanitor02", "--ignore-not-found", "--wait=false"
        )
        stack.kubectl("delete", "workspace", LIVE, "--wait=false")
        stack.gone(LIVE)
