"""Whether the volume that a run has its model's files from is there and can be mounted: asked before money is spent.

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
PATH = f"metadata.annotations[{names.MODEL_VOLUME}]"
#: Access modes that more than one node can have at a time.
SHARED = frozenset({"ReadOnlyMany", "ReadWriteMany"})
HINT = "use a volume whose claim has ReadOnlyMany or ReadWriteMany"
log = logging.getLogger(__name__)


def faults(cluster: KaitoClusterHook, workspace: Workspace, nodes: int = 1) -> list[Fault]:
    """Return what keeps pods from mounting the Workspace's model volume.

    :param nodes: how many of them there are at a time.
    """
    volume = model_volume.named(workspace.annotations)
    if volume is None:
        return []
    try:
        claim = cluster.find(VOLUME_CLAIM, volume.claim, workspace.namespace)
    except ClusterError as error:
        if error.transient:
            raise
        log.info("The claim %s cannot be seen: %s", volume.claim, error)
        return []
    if claim is None:
        told = f"there is no PersistentVolumeClaim {volume.claim} in namespace {workspace.namespace}"
        return [Fault(PATH, str(volume), RULE, told)]
    if (claim.get("status") or {}).get("phase") == "Lost":
        return [Fault(PATH, str(volume), RULE, f"the volume of PersistentVolumeClaim {volume.claim} is lost")]
    modes = _modes(claim)
    # A candidate is trained while the service that it is for runs on another node, with the same files.
    many = nodes if nodes > 1 else 2 if names.RETRAIN_OF in (workspace.metadata.labels or {}) else 1
    if many > 1 and not SHARED & set(modes):
        told = f"{many} nodes need it at a time, and one can have it ({', '.join(modes)})"
        return [Fault(PATH, str(volume), RULE, told, HINT)]
    return []


def _modes(claim: Mapping[str, Any]) -> list[str]:
    """What a bound claim can do, else what it asks for."""
    found = (claim.get("status") or {}).get("accessModes") or (claim.get("spec") or {}).get("accessModes")
    return [str(mode) for mode in found or ()]
