"""Rules for BYO nodes: slices of them, and what their labels must say (kaito-api.md#rules, R).

`byo_faults` looks at nodes that somebody has listed, so it is no rule of the document and is called by whoever can see
the cluster. KAITO sizes by the first node and admits by all; here all that match are read, and every difference between
them is told at once. Nothing here lists anything itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from include.catalog import (
    Catalog,
    Machine,
    NodeLabelsIncomplete,
    engines,
    machine_from_labels,
    sizing,
)
from include.catalog.models import GIB
from include.contracts.plural import plural
from include.workspace.api import names
from include.workspace.api.models import Partition, Workspace
from include.workspace.api.selector import node_labels
from include.workspace.validation.faults import Fault
from include.workspace.validation.rules.context import Context, Policy, Rule

SELECTOR = "resource.labelSelector"
PARTITION = "resource.partition"


def partition_is_possible(context: Context) -> Iterator[Fault]:
    """R6, R7, R8, R12, T2."""
    resource = context.ws.resource
    if resource is None or resource.partition is None:
        return
    if context.ws.is_tuning:
        yield Fault(PARTITION, None, "T2", "a tuning needs whole GPUs", "remove it")
    elif not context.policy.byo:
        hint = "remove it, or bring nodes along"
        yield Fault(PARTITION, None, "R12", "GPUs of provisioned nodes cannot be split", hint)
    elif resource.partition.mode == "mig":
        yield from _slice_faults(context, resource.partition)
    elif resource.partition.mode == "accelerator":
        yield from _accelerator_faults(context, resource.partition)
    else:
        yield Fault(f"{PARTITION}.mode", resource.partition.mode, "R6", "must be mig or accelerator")


def _slice_faults(context: Context, partition: Partition) -> Iterator[Fault]:
    if not context.policy.mig:
        yield Fault(f"{PARTITION}.mode", "mig", "R6", "MIG is not enabled in this cluster", "remove it")
    if partition.count is not None:
        hint = "remove it: a pod gets one slice"
        yield Fault(f"{PARTITION}.count", partition.count, "R6", "belongs to mode accelerator", hint)
    from include.catalog import mig

    try:
        profile = mig.parse_profile(partition.profile or "")
    except mig.UnknownProfile as error:
        yield Fault(f"{PARTITION}.profile", partition.profile, "R6", str(error))
        return
    model = context.model
    if model is None or names.BYPASS_RESOURCE_CHECKS in context.ws.annotations:
        return
    room = profile.memory_gib * GIB
    if model.weights_bytes > room:
        message = (
            f"{model.name} has {sizing.gib(model.weights_bytes)} of weights; the slice has {sizing.gib(room)}"
        )
        yield Fault(f"{PARTITION}.profile", partition.profile, "R7", message, "choose a larger slice")


def _accelerator_faults(context: Context, partition: Partition) -> Iterator[Fault]:
    if not context.policy.accelerator:
        message = "single GPUs of a node are not enabled in this cluster"
        yield Fault(f"{PARTITION}.mode", "accelerator", "R8", message, "remove it")
    if partition.profile:
        yield Fault(f"{PARTITION}.profile", partition.profile, "R8", "belongs to mode mig", "remove it")
    if partition.count is None:
        yield Fault(f"{PARTITION}.count", None, "R8", "is required in mode accelerator", "say how many GPUs")
    elif partition.count < 1:
        yield Fault(f"{PARTITION}.count", partition.count, "R8", "must be at least 1")


def byo_faults(
    ws: Workspace, nodes: Sequence[Mapping[str, Any]] | None, catalog: Catalog, policy: Policy | None = None
) -> list[Fault]:
    """What is wrong with the nodes that a Workspace is to run on: R9, R10, R11, and R15 and R16 by their labels.

    `nodes` are the cluster's Node objects, all of them or those that match; None when they could not be listed. Only a
    preset without a partition is judged, as in KAITO: a template's needs nobody knows.
    """
    if ws.preset is None or (ws.resource and ws.resource.partition is not None):
        return []
    if nodes is None:
        return [Fault(SELECTOR, None, "R9", "the cluster's nodes could not be listed")]
    wanted = node_labels(ws)
    matching = [node for node in nodes if wanted.items() <= _labels(node).items()]
    if not matching:
        shown = ", ".join(f"{key}={value}" for key, value in sorted(wanted.items())) or "(no label)"
        hint = f"kubectl get nodes -l {shown.replace(', ', ',')}" if wanted else "label the nodes"
        return [Fault(SELECTOR, shown, "R9", f"none of {len(nodes)} nodes matches", hint)]
    machines: dict[str, Machine] = {}
    faults: list[Fault] = []
    for node in matching:
        name = str((node.get("metadata") or {}).get("name"))
        try:
            machines[name] = machine_from_labels(_labels(node))
        except NodeLabelsIncomplete as error:
            faults.append(Fault(SELECTOR, name, "R10", f"node {name}: {error}"))
    faults += _differences(machines)
    if not faults:
        faults += _fit(ws, next(iter(machines.values())), len(matching), catalog, policy or Policy(byo=True))
    return faults


def _differences(machines: Mapping[str, Machine]) -> Iterator[Fault]:
    """R11, one fault for each of product, count and memory."""
    facts = {
        "GPU product": "gpu",
        "GPUs a node": "gpus",
        "memory of a GPU in GiB": "gpu_memory_gib",
    }
    for what, field in facts.items():
        result: dict[Any, list[str]] = {}
        for name, machine in machines.items():
            result.setdefault(getattr(machine, field), []).append(name)
        if len(result) > 1:
            message = "; ".join(
                f"{value}: {', '.join(sorted(owners)[:3])}" for value, owners in result.items()
            )
            hint = "select nodes of one kind with a label"
            yield Fault(SELECTOR, None, "R11", f"the matching nodes differ in {what} ({message})", hint)


def _fit(ws: Workspace, machine: Machine, nodes: int, catalog: Catalog, policy: Policy) -> Iterator[Fault]:
    """R15, R16: whether the model fits the nodes that are there."""
    model = Context(ws, catalog, policy).model
    if model is None or ws.is_tuning or names.BYPASS_RESOURCE_CHECKS in ws.annotations:
        return
    used = min(nodes, ws.node_count)
    together = used * machine.gpus * machine.gpu_memory_bytes
    if model.weights_bytes > together:
        message = (
            f"{model.name} has {sizing.gib(model.weights_bytes)} of weights, but {plural(used, 'node')} with "
            f"{machine.gpus} x {machine.gpu} have {sizing.gib(together)}"
        )
        yield Fault(SELECTOR, None, "R15", message, "select larger nodes")
    elif not sizing.single_node_fits(model, machine):
        message = f"{model.name} does not fit one node with {machine.gpus} x {machine.gpu}, and the server runs on one"
        if ws.annotations.get(names.RUNTIME) != engines.TRANSFORMERS:
            try:
                needed = sizing.group_nodes(model, machine)
            except sizing.DoesNotFit as error:
                message = str(error)
            else:
                if needed <= used:
                    return
                message = (
                    f"{model.name} needs {needed} nodes with {machine.gpus} x {machine.gpu}, and has {used}"
                )
        yield Fault(SELECTOR, None, "R16", message, "select larger nodes")


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    return (node.get("metadata") or {}).get("labels") or {}


RULES: tuple[Rule, ...] = (partition_is_possible,)
