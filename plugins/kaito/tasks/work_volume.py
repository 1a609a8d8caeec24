"""Looks at what a Workspace's volumes are or will be made of, before money is spent on machines for them.

A role without the rights for this (storageclasses, persistentvolumes) is no fault: then the scheduler says it later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts.purpose import Purpose
from include.pools.volume_placement import VolumePlacement, missing_class, placement, reading_zones, zone_of
from include.workspace import Fault
from include.workspace.api import names
from include.workspace.api.selector import node_labels
from include.workspace.validation import model_volume
from kaito.hooks.api import NODE, STORAGE_CLASS, VOLUME, VOLUME_CLAIM, ClusterError
from kaito.hooks.kubernetes import KaitoClusterHook
from kaito.tasks.base import Run

log = logging.getLogger(__name__)

RULE = "P12"


def _claim(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> dict[str, Any]:
    return cluster.find(VOLUME_CLAIM, names.work_volume(document), names.namespace(document)) or {}


def faults(cluster: KaitoClusterHook, document: Mapping[str, Any], storage_class: str | None) -> list[Fault]:
    """Return P12 when nothing in the cluster would provide the work volume.

    :param storage_class: the installation's, None for the cluster's default one.
    """
    try:
        if (_claim(cluster, document).get("status") or {}).get("phase") == "Bound":
            return []
        fault = missing_class(storage_class, cluster.list(STORAGE_CLASS), ())
        if fault and not storage_class:
            fault = missing_class(storage_class, cluster.list(STORAGE_CLASS), cluster.list(VOLUME))
    except ClusterError as error:
        if error.transient:
            raise
        log.info("What volumes the cluster makes cannot be seen: %s", error)
        return []
    return [Fault("tuning", None, RULE, *fault)] if fault else []


def mounted(document: Mapping[str, Any], purpose: Purpose) -> list[str]:
    """Return the claims that the machines of a purpose mount: of the work volume and of the model's files."""
    notes = document["metadata"].get("annotations") or {}
    own = [names.work_volume(document)] if purpose == Purpose.TUNING else []
    named = [model_volume.named(notes, one) for one in (names.MODEL_VOLUME, names.MODEL_CACHE)]
    return [*own, *(volume.claim for volume in named if volume)]


def whose(claims: Sequence[str], document: Mapping[str, Any]) -> str:
    """Return how a sentence about the volumes of these claims begins, with its verb."""
    if len(claims) > 1:
        return "the run's volumes are"
    return (
        "the work volume is" if claims[0] == names.work_volume(document) else f"the volume of {claims[0]} is"
    )


def placed(cluster: KaitoClusterHook, document: Mapping[str, Any], claim: str) -> VolumePlacement:
    """Return where the volume of a claim can be mounted, as far as that is settled and may be seen."""
    try:
        return _placed(cluster, document, claim)
    except ClusterError as error:
        if error.transient:
            raise
        log.info("Where the volume of PersistentVolumeClaim %s is cannot be read: %s", claim, error)
        return VolumePlacement()


def _placed(cluster: KaitoClusterHook, document: Mapping[str, Any], claim: str) -> VolumePlacement:
    found = cluster.find(VOLUME_CLAIM, claim, names.namespace(document)) or {}
    volume = (found.get("spec") or {}).get("volumeName")
    return placement(cluster.find(VOLUME, volume) if volume else None)


def zones_to_write_in(cluster: KaitoClusterHook, run: Run) -> tuple[str, ...]:
    """Return the zones for the pod that writes to the work volume first, () for anywhere.

    A volume that exists already decides by itself.
    """
    plans = run.candidates(Purpose.TUNING)
    if not any(plan.zone or plan.own_nodes for plan in plans):
        return ()
    try:
        if (_claim(cluster, run.document).get("spec") or {}).get("volumeName"):
            return ()
        nodes = cluster.list(NODE)
        own = cluster.list(NODE, labels=node_labels(run.workspace)) if run.tuning_plan.own_nodes else []
        choices = [plan.zone for plan in plans] + sorted(map(zone_of, own))
        return reading_zones(choices, nodes, _source(cluster, run.document))
    except ClusterError as error:
        if error.transient:
            raise
        log.info("In which zones Nodes stand cannot be seen: %s", error)
        return ()


def _source(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> VolumePlacement:
    """Where the volume with the dataset can be mounted, if there is one."""
    source = ((document.get("tuning") or {}).get("input") or {}).get("volumeSource") or {}
    name = (source.get("persistentVolumeClaim") or {}).get("claimName")
    return _placed(cluster, document, name) if name else VolumePlacement()


def beyond_reach(document: Mapping[str, Any], claim: str, volume: VolumePlacement) -> str:
    """Return what is said of a volume that no new machine can mount."""
    own = claim == names.work_volume(document)
    remedy = (
        "set [kaito] storage_class to a class whose volumes every node can mount, delete that "
        f"PersistentVolumeClaim, and give {names.RERUN} a new value."
        if own
        else "name one that every node can mount."
    )
    which = f"The {'work volume' if own else 'volume of PersistentVolumeClaim'} {claim}"
    return f"{which} belongs to Node {', '.join(sorted(volume.nodes or ()))}, so no new machine can mount it: {remedy}"
