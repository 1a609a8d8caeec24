"""The Workspace API of KAITO: its shape, its rules, its conditions and its CustomResourceDefinition.

Everything here is a pure function of values. It must never import Airflow, talk to a cluster or open a URL. A name is
imported when it is first used: the command line starts in half the time, and DAG files that need a name only are quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.workspace.api import crd, names
    from include.workspace.api.crd import workspace_crd
    from include.workspace.api.defaults import with_defaults
    from include.workspace.api.models import Workspace
    from include.workspace.api.parse import (
        admit_workspace,
        examine_update,
        examine_workspace,
        parse_workspace,
    )
    from include.workspace.status import conditions
    from include.workspace.status.conditions import (
        ConditionType,
        Phase,
        Reason,
        StaleGeneration,
    )
    from include.workspace.status.transitions import Event, transition_events
    from include.workspace.validation.faults import Fault, WorkspaceInvalid
    from include.workspace.validation.rules import (
        Policy,
        byo_faults,
        update_faults,
        validate,
    )

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

_MODULES = {"conditions": "status.conditions", "crd": "api.crd", "names": "api.names"}
_HOMES = {
    "status.conditions": ("ConditionType", "Phase", "Reason", "StaleGeneration"),
    "api.crd": ("workspace_crd",),
    "api.defaults": ("with_defaults",),
    "validation.faults": ("Fault", "WorkspaceInvalid"),
    "api.models": ("Workspace",),
    "api.parse": ("admit_workspace", "examine_update", "examine_workspace", "parse_workspace"),
    "validation.rules": ("Policy", "byo_faults", "update_faults", "validate"),
    "status.transitions": ("Event", "transition_events"),
}
_HOME = {name: module for module, names_ in _HOMES.items() for name in names_}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
