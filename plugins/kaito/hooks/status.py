"""How the reconciler writes a Workspace's status: server-side apply of what is ours, refused when anybody wrote since.

Other controllers' fields and conditions are never sent, so they survive. That needs a CustomResourceDefinition whose
conditions are a map by type; with another one (KAITO's own) the whole status is sent as a merge patch, fenced the same
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.conditions import ConditionType
from kaito.hooks import api
from kaito.hooks.api import CRD, WORKSPACE, ClusterError
from kaito.hooks.cluster import AsyncKaitoClusterHook
from kaito.hooks.reading_once import ReadingOnce

Object = Mapping[str, Any]
DEFINITION = f"{WORKSPACE.plural}.{WORKSPACE.group}"
OURS = frozenset(
    {
        "conditions",
        "state",
        "workerNodes",
        "targetNodeCount",
        "machines",
        "run",
        "progress",
        "adapter",
        "cost",
        "retry",
        "inputs",
        "idle",
    }
)
_OUR_CONDITIONS = frozenset(str(kind) for kind in ConditionType)


class StatusWriter:
    """Writes statuses with one hook; asks once what the installed definition of the kind can do."""

    def __init__(self, hook: AsyncKaitoClusterHook) -> None:
        self.hook = hook
        self._reads = ReadingOnce(hook)
        self._by_apply: bool | None = None

    async def write(self, live: Object, status: Object) -> dict[str, Any]:
        """Write the whole new ``status`` onto ``live``; returns the Workspace as it is then.

        :raises ClusterError: 409 when somebody wrote since ``live`` was read, 404 when it is gone.
        """
        if self._by_apply is None:
            self._by_apply = conditions_are_a_map(await self._definition())
        if not self._by_apply:
            written: dict[str, Any] = await self.hook.send(api.status_patch(WORKSPACE, live, status))
            return written
        written = await self.hook.send(api.status_apply(WORKSPACE, live, ours(status)))
        # What a run's task wrote is owned by its request too, and an apply alone does not take it away.
        left = {key for key in written.get("status") or {} if key in OURS and key not in status}
        if left:
            kept = {key: value for key, value in written["status"].items() if key not in left}
            written = await self.hook.send(api.status_patch(WORKSPACE, written, kept))
        return written

    async def _definition(self) -> Object | None:
        try:
            return await self._reads.find(CRD, DEFINITION)
        except ClusterError as error:
            if error.status != 403:
                raise
            return None


def ours(status: Object) -> dict[str, Any]:
    """Return the part of a status that we answer for."""
    found = {key: value for key, value in status.items() if key in OURS}
    if "conditions" in found:
        found["conditions"] = [c for c in found["conditions"] if c.get("type") in _OUR_CONDITIONS]
    return found


def conditions_are_a_map(definition: Object | None) -> bool:
    """Whether the served v1beta1 schema merges conditions by their type and knows our fields."""
    versions = ((definition or {}).get("spec") or {}).get("versions") or ()
    schema = next((v.get("schema") or {} for v in versions if v.get("name") == WORKSPACE.version), {})
    status = ((schema.get("openAPIV3Schema") or {}).get("properties") or {}).get("status") or {}
    fields = status.get("properties") or {}
    listed = fields.get("conditions") or {}
    by_type = (listed.get("x-kubernetes-list-type"), listed.get("x-kubernetes-list-map-keys"))
    known = bool(status.get("x-kubernetes-preserve-unknown-fields")) or set(fields) >= OURS
    return by_type == ("map", ["type"]) and known
