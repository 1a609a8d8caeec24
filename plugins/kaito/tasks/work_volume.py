"""Looks at what a Workspace's work volume is or will be made of, before money is spent on machines for it.

A role without the rights for this (storageclasses, persistentvolumes) is no fault: then the scheduler says it later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from include.contracts.purpose import Purpose
from include.pools.volume_placement import VolumePlacement, missing_class, placement, reading_zones, zone_of
from include.workspace import Fault
from include.workspace.api import names
from include.workspace.api.selector import node_labels
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


def placed(cluster: KaitoClusterHook, document: Mapping[str, Any]) -> VolumePlacement:
    """Return where the Workspace's work volume can be mounted, as far as that is settled and may be seen."""
    try:
        name = (_claim(cluster, document).get("spec") or {}).get("volumeName")
        return placement(cluster.find(VOLUME, name) if name else None)
    except ClusterError as error:
        if error.transient:
            raise
        log.info("Where the work volume is cannot be seen: %s", error)
        return VolumePlacement()


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
    claim = cluster.find(VOLUME_CLAIM, name, names.namespace(document)) if name else None
    volume = ((claim or {}).get("spec") or {}).get("volumeName")
    return placement(cluster.find(VOLUME, volume) if volume else None)


def beyond_reach(document: Mapping[str, Any], volume: VolumePlacement) -> str:
    """Return what is said of a volume that no new machine can mount."""
    return (
        f"The work volume {names.work_volume(document)} belongs to Node {', '.join(sorted(volume.nodes or ()))}, so no "
        "new machine can mount it: set [kaito] storage_class to a class whose volumes every node can mount, delete "
        f"that PersistentVolumeClaim, and give {names.RERUN} a new value."
    )
