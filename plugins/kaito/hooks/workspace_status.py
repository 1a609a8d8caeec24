"""The requests that write a Workspace's status: server-side apply of what is ours, or a merge patch of the whole.

Other controllers' fields and conditions are never sent, so they survive. That needs a CustomResourceDefinition whose
conditions are a map by type; with another one (KAITO's own) the whole status is sent as a merge patch. Both are refused
when anybody wrote since. Nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.workspace.status.conditions import ConditionType
from kaito.hooks import api
from kaito.hooks.api import FIELD_MANAGER, WORKSPACE, Request

Object = Mapping[str, Any]
OURS = frozenset(
    {
        "conditions",
        "state",
        "workerNodes",
        "targetNodeCount",
        "machines",
        "run",
        "model",
        "task",
        "progress",
        "adapter",
        "adapters",
        "performance",
        "cost",
        "retry",
        "inputs",
        "idle",
        "retrain",
    }
)
_OUR_CONDITIONS = frozenset(str(kind) for kind in ConditionType)


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
    result = {key: value for key, value in status.items() if key in OURS}
    if "conditions" in result:
        result["conditions"] = [c for c in result["conditions"] if c.get("type") in _OUR_CONDITIONS]
    return result


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
