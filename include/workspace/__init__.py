"""The Workspace API of KAITO: its shape, its rules, its conditions and its CustomResourceDefinition.

Everything here is a pure function of values. It must never import Airflow, talk to a cluster or open a URL. A name is
imported when it is first used: the command line starts in half the time, and DAG files that need a name only are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.workspace import conditions, crd, names
    from include.workspace.conditions import ConditionType, Phase, Reason, StaleGeneration
    from include.workspace.crd import workspace_crd
    from include.workspace.defaults import with_defaults
    from include.workspace.faults import Fault, WorkspaceInvalid
    from include.workspace.models import Workspace
    from include.workspace.parse import (
        admit_workspace,
        examine_update,
        examine_workspace,
        parse_workspace,
    )
    from include.workspace.rules import Policy, byo_faults, update_faults, validate
    from include.workspace.transitions import Event, transition_events

__all__ = [
    "ConditionType",
    "Event",
    "Fault",
    "Phase",
    "Policy",
    "Reason",
    "StaleGeneration",
    "Workspace",
    "WorkspaceInvalid",
    "admit_workspace",
    "byo_faults",
    "conditions",
    "crd",
    "examine_update",
    "examine_workspace",
    "names",
    "parse_workspace",
    "transition_events",
    "update_faults",
    "validate",
    "with_defaults",
    "workspace_crd",
]

_MODULES = ("conditions", "crd", "names")
_HOMES = {
    "conditions": ("ConditionType", "Phase", "Reason", "StaleGeneration"),
    "crd": ("workspace_crd",),
    "defaults": ("with_defaults",),
    "faults": ("Fault", "WorkspaceInvalid"),
    "models": ("Workspace",),
    "parse": ("admit_workspace", "examine_update", "examine_workspace", "parse_workspace"),
    "rules": ("Policy", "byo_faults", "update_faults", "validate"),
    "transitions": ("Event", "transition_events"),
}
_HOME = {name: module for module, names_ in _HOMES.items() for name in names_}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
