"""The Workspace API of KAITO: its shape, its rules, its conditions and its CustomResourceDefinition.

Everything here is a pure function of values. It must never import Airflow, talk to a cluster or open a URL.
"""

from include.workspace import conditions, crd, names
from include.workspace.conditions import ConditionType, Phase, Reason, StaleGeneration
from include.workspace.convert import convert
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
    "convert",
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
