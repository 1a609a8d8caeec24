"""How many Workspaces there are in which phase, and what they hold, by the names of KAITO's own gauges.

KAITO counts every Workspace whose condition WorkspaceSucceeded is False as an error, also one that only waits. Here an
error is one that has failed for good; whoever has it is pending until it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.workspace.status.conditions import condition
from include.workspace.status.phases import ConditionType, Reason

#: Why a Workspace has failed for good, until somebody mends it.
FAILED_REASONS = frozenset({Reason.FAILED, Reason.BUDGET_EXCEEDED})
PHASES = ("succeeded", "error", "pending", "deleting")
WORKSPACES, PRESETS, VOLUMES, VOLUME_BYTES = (
    *("kaito_workspace_count", "kaito_workspace_preset_count"),
    *("kaito_workspace_pvc_count", "kaito_workspace_pvc_allocated_bytes"),
)
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "k": 10**3, "M": 10**6, "G": 10**9}

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Gauge:
    """A number as it is now."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def gauges(workspaces: Iterable[Object], volumes: Iterable[Object]) -> Iterator[Gauge]:
    """The gauges of an installation; each phase has one, so that none keeps an old value.

    :param workspaces: all Workspaces.
    :param volumes: the PersistentVolumeClaims that are theirs.
    """
    seen = list(workspaces)
    phases = Counter(map(phase, seen))
    for name in PHASES:
        yield Gauge(WORKSPACES, phases[name], {"phase": name})
    for preset, count in sorted(Counter(filter(None, map(_served_preset, seen))).items()):
        yield Gauge(PRESETS, count, {"preset_name": preset})
    claims = list(volumes)
    yield Gauge(VOLUMES, len(claims))
    yield Gauge(VOLUME_BYTES, sum(map(_bytes, claims)))


def phase(workspace: Object) -> str:
    """One of `PHASES`."""
    status = workspace.get("status") or {}
    if (workspace.get("metadata") or {}).get("deletionTimestamp"):
        return "deleting"
    succeeded = condition(status, ConditionType.WORKSPACE_SUCCEEDED) or {}
    if succeeded.get("status") == "True":
        return "succeeded"
    return "error" if succeeded.get("reason") in FAILED_REASONS else "pending"


def _served_preset(workspace: Object) -> str:
    inference = workspace.get("inference")
    preset = inference.get("preset") if isinstance(inference, Mapping) else None
    return str(preset.get("name") or "") if isinstance(preset, Mapping) else ""


def _bytes(claim: Object) -> int:
    """What a claim has, or asks for while it has nothing."""
    has = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    asked = (((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}).get("storage")
    return quantity(str(has or asked or "0"))


def quantity(text: str) -> int:
    """Kubernetes' quantity of bytes as a number; 0 for what is none."""
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        return int(float(text.removesuffix(unit)) * _UNITS.get(unit, 1))
    except (ValueError, OverflowError):
        return 0
