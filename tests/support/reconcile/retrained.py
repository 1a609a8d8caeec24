"""A service in the model that is to be given another version of its adapter."""

from __future__ import annotations

from typing import Any

from include.workspace.status import retraining
from include.workspace.status.conditions import condition
from tests.support.reconcile.story import Story, ready

OLD, NEW = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
ENTRY = {
    "version": "20261123.1",
    "state": "candidate",
    "digest": NEW,
    "reference": f"r.io/x@{NEW}",
    "image": "r.io/x:1-20261123.1",
}


def a_service(**annotations: str) -> Story:
    story = Story("quick", **annotations).lives(ready)
    adapter = {"digest": OLD, "reference": f"r.io/x@{OLD}", "image": "r.io/x:1"}
    return write(story, {**story.status, "adapter": adapter})


def write(story: Story, status: dict[str, Any]) -> Story:
    story.cluster.change("Workspace", {**story.ws, "status": status})
    return story


def wants(story: Story, bake: float = 0.0, cause: str = "promote", **more: Any) -> Story:
    """What the task `promote` writes."""
    known = {**retraining.of(story.status), "versions": [ENTRY]}
    status = retraining.with_retrain(story.status, known)
    return write(
        story, retraining.wanted(status, ENTRY, cause=cause, bake_seconds=bake, generation=1, **more)
    )


def told(story: Story) -> tuple[str, str]:
    found = condition(story.status, "RetrainReady") or {}
    return str(found.get("status")), str(found.get("reason"))


def digest(story: Story) -> str:
    return str(story.status["adapter"]["digest"])
