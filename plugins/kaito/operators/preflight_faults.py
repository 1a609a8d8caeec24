"""What may be wrong with a Workspace for this very run, beyond the rules of its document: decided without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from include.catalog import Catalog, Machine, sizing
from include.contracts.purpose import Purpose
from include.planning import plan, plan_serving
from include.workspace import (
    Fault,
    Workspace,
)
from include.workspace.api import names
from include.workspace.api.dialect import serves
from include.workspace.status.adapter import published
from kaito.params import differences


def purpose_faults(purpose: Purpose, document: Mapping[str, Any]) -> list[Fault]:
    """P2: the Workspace asks for something else than what this DAG does.

    :param purpose: what the DAG does.
    """
    here, there, dag = (
        ("tuning", "inference", "kaito_serve")
        if purpose == Purpose.TUNING
        else ("inference", "tuning", "kaito_tune")
    )
    if document.get(there) and not document.get(here):
        if purpose == Purpose.SERVING and serves(document):
            if published(document):
                return []
            hint = "start kaito_tune, which serves it at the end"
            return [Fault(there, None, "P2", "this Workspace has published no adapter to serve yet", hint)]
        return [Fault(there, None, "P2", f"this DAG is for Workspaces with {here}", f"start {dag} instead")]
    return []


def difference_faults(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[Fault]:
    """P3: the run was started with another Workspace than that of its name in the cluster."""
    parts = {key: wanted[key] for key in ("resource", "tuning", "inference") if key in wanted}
    hint = "kubectl apply the change first, or start the run with the Workspace's name alone"
    return [
        Fault(path, None, "P3", "the Workspace in the cluster has another value here", hint)
        for path in differences(parts, live)
    ]


def fit_faults(
    workspace: Workspace, machine: Machine, catalog: Catalog, config: Mapping[str, Any]
) -> list[Fault]:
    """F9 and R16 for a tuning: what the rules ask of a machine type, asked of BYO nodes."""
    if names.BYPASS_RESOURCE_CHECKS in workspace.annotations:
        return []
    faults: list[Fault] = []
    made = plan(workspace, catalog, config, machine)
    if made.memory_bytes > made.gpu_memory_bytes:
        message = (
            f"{made.method} tuning of {made.model} needs about {sizing.gib(made.memory_bytes)} on a GPU, but one "
            f"{made.gpu} has {sizing.gib(made.gpu_memory_bytes)}"
        )
        faults.append(Fault("resource.labelSelector", None, "F9", message, "select nodes with larger GPUs"))
    try:
        if workspace.rollout:
            plan_serving(workspace, catalog, machine=machine)
    except sizing.DoesNotFit as error:
        faults.append(Fault("resource.labelSelector", None, "R16", str(error), "select larger nodes"))
    return faults


def unplanned(workspace: Workspace, error: sizing.DoesNotFit) -> Fault:
    """F45, R16: what passes the rules and yet has no plan, such as where another runtime than the asked one serves."""
    preset = workspace.preset
    if isinstance(error, sizing.NotLoadable) and preset:
        path = f"{'tuning' if workspace.is_tuning else 'inference'}.preset.name"
        return Fault(path, preset.name, "F45", str(error), "choose another model")
    if workspace.instance_type:
        return Fault(
            "resource.instanceType", workspace.instance_type, "R16", str(error), "name a larger machine"
        )
    return Fault("resource.labelSelector", None, "R16", str(error), "select larger nodes")
