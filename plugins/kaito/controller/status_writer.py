"""How a Workspace's status is written: server-side apply of what is ours, refused when anybody wrote since.

Other controllers' fields and conditions are never sent, so they survive. That needs a CustomResourceDefinition whose
conditions are a map by type; with another one (KAITO's own) the whole status is sent as a merge patch, fenced the same
way. The reconciler looks at the definition; the tasks of a run, which are processes of their own, look at the
Workspace: what was applied before can be applied again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from include.workspace.status.conditions import ConditionType
from kaito.controller.read_cache import ReadingOnce
from kaito.hooks import api
from kaito.hooks.api import CRD, FIELD_MANAGER, WORKSPACE, ClusterError, Request

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import AsyncKaitoClusterHook

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
        written: dict[str, Any] = await self.hook.send(request(live, status, by_apply=self._by_apply))
        if self._by_apply and (rest := what_is_left(written, status)):
            written = await self.hook.send(rest)
        return written

    async def _definition(self) -> Object | None:
        try:
            return await self._reads.find(CRD, DEFINITION)
        except ClusterError as error:
            if error.status != 403:
                raise
            return None


def request(live: Object, status: Object, *, by_apply: bool) -> Request:
    """Return the request that writes the whole new ``status`` onto ``live``."""
    if by_apply:
        return api.status_apply(WORKSPACE, live, ours(status))
    return api.status_patch(WORKSPACE, live, status)


def was_applied(live: Object) -> bool:
    """Whether our part of this Workspace's status was applied before."""
    owners = live["metadata"].get("managedFields") or ()
    ours_by_apply = (FIELD_MANAGER, "Apply", "status")
    return any((o.get("manager"), o.get("operation"), o.get("subresource")) == ours_by_apply for o in owners)


def what_is_left(written: Object, status: Object) -> Request | None:
    """Return the request that takes away what an apply could not, None where nothing is left.

    What a merge patch of ours wrote is owned by that patch too, and goes only by another one.
    """
    found = written.get("status") or {}
    left = {key for key in found if key in OURS and key not in status}
    if not left:
        return None
    return api.status_patch(WORKSPACE, written, {k: v for k, v in found.items() if k not in left})


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
