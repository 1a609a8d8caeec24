"""Whether the volumes that a run has its model's files on are there and can be mounted: asked before money is spent.

A role without the rights for this is no fault: then the scheduler says it later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from include.workspace import Fault, Workspace
from include.workspace.api import names
from include.workspace.validation import model_volume
from kaito.hooks.api import VOLUME_CLAIM, ClusterError

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import KaitoClusterHook

RULE = "P16"
#: By annotation, the access modes that more than one node can have at a time.
SHARED = {
    names.MODEL_VOLUME: ("ReadOnlyMany", "ReadWriteMany"),
    names.MODEL_CACHE: ("ReadWriteMany",),
}
log = logging.getLogger(__name__)


def faults(cluster: KaitoClusterHook, workspace: Workspace, nodes: int = 1) -> list[Fault]:
    """Return what keeps pods from mounting the volumes that a Workspace names for its model.

    :param nodes: how many of them there are at a time.
    """
    # A candidate is trained while the service that it is for runs on another node, with the same files.
    many = nodes if nodes > 1 else 2 if names.RETRAIN_OF in (workspace.metadata.labels or {}) else 1
    return [
        Fault(f"metadata.annotations[{annotation}]", str(volume), RULE, *told)
        for annotation in SHARED
        if (volume := model_volume.named(workspace.annotations, annotation))
        and (told := _told(cluster, volume.claim, workspace.namespace, annotation, many))
    ]


def _told(
    cluster: KaitoClusterHook, name: str, namespace: str, annotation: str, nodes: int
) -> tuple[str, str] | None:
    """Return what is wrong with a claim and what would be right, None where nothing is."""
    try:
        claim = cluster.find(VOLUME_CLAIM, name, namespace)
    except ClusterError as error:
        if error.transient:
            raise
        log.info("PersistentVolumeClaim %s cannot be read: %s", name, error)
        return None
    if claim is None:
        return (
            f"there is no PersistentVolumeClaim {name} in namespace {namespace}",
            "make it, or name another",
        )
    if (claim.get("status") or {}).get("phase") == "Lost":
        return f"the volume of PersistentVolumeClaim {name} is lost", "make another"
    modes, shared = _modes(claim), SHARED[annotation]
    hint = f"use a volume whose claim has {' or '.join(shared)}"
    if nodes > 1 and not set(shared) & set(modes):
        return f"{nodes} nodes need it at a time, and it has {', '.join(modes)}", hint
    if annotation == names.MODEL_CACHE and set(modes) == {"ReadOnlyMany"}:
        return "nothing can be kept on it: it has ReadOnlyMany", hint
    return None


def _modes(claim: Mapping[str, Any]) -> list[str]:
    """What a bound claim can do, else what it asks for."""
    found = (claim.get("status") or {}).get("accessModes") or (claim.get("spec") or {}).get("accessModes")
    return [str(mode) for mode in found or ()]
