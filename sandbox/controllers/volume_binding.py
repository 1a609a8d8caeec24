"""What a pod's claims demand of its node: the scheduler's VolumeBinding plug-in, in its words.

A bound volume may belong to a node or a zone; a claim whose class waits for its first consumer gets its volume where
the scheduler puts the pod; any other unbound claim keeps the pod from every node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.controllers.fitting import term_matches
from sandbox.controllers.ownership import is_terminating
from sandbox.controllers.reconciler import Object, read

CLAIMS, VOLUMES, CLASSES = "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io"
#: On a claim: the node that the scheduler has chosen for its first consumer.
SELECTED_NODE = "volume.kubernetes.io/selected-node"
#: The label by which Azure's disk driver tells a node's zone; "" on machines outside all zones. Disks go by it.
DISK_ZONE = "topology.disk.csi.azure.com/zone"

UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
NODE_CONFLICT = "node(s) didn't match PersistentVolume's node affinity"
BIND_CONFLICT = "node(s) didn't find available persistent volumes to bind"


@dataclass(frozen=True)
class PodVolumes:
    """`problem` keeps the pod from every node; the others are asked node by node."""

    problem: str = ""
    bound: tuple[Object, ...] = ()  # PersistentVolumes
    waiting: tuple[tuple[Object, Object], ...] = ()  # (claim, its StorageClass)


def is_bound(claim: Object) -> bool:
    return (claim.get("status") or {}).get("phase") == "Bound"


def waits_for_consumer(class_: Object | None) -> bool:
    return class_ is not None and class_.get("volumeBindingMode") == "WaitForFirstConsumer"


def selected_node(claim: Object) -> str:
    return str((claim["metadata"].get("annotations") or {}).get(SELECTED_NODE, ""))


async def class_of(cluster: Any, claim: Object) -> Object | None:
    name = claim["spec"].get("storageClassName")
    return await read(cluster, CLASSES, ("", name)) if name else None


async def pod_volumes(cluster: Any, pod: Object) -> PodVolumes:
    """The state of everything that the pod claims."""
    bound, waiting = [], []
    for volume in pod["spec"].get("volumes") or []:
        name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if not name:
            continue
        claim = await read(cluster, CLAIMS, (pod["metadata"]["namespace"], name))
        if claim is None:
            return PodVolumes(f'persistentvolumeclaim "{name}" not found')
        if is_terminating(claim):
            return PodVolumes(f'persistentvolumeclaim "{name}" is being deleted')
        if is_bound(claim):
            present = await read(cluster, VOLUMES, ("", claim["spec"]["volumeName"]))
            if present is None:
                missing = claim["spec"]["volumeName"]
                return PodVolumes(
                    f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{missing}"'
                )
            bound.append(present)
            continue
        class_ = await class_of(cluster, claim)
        if class_ is None or not waits_for_consumer(class_):
            return PodVolumes(UNBOUND)
        waiting.append((claim, class_))
    return PodVolumes("", tuple(bound), tuple(waiting))


def is_reachable(volume: Object, node: Object) -> bool:
    """Whether a volume can be mounted on a node: its required terms are alternatives."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    if required is None:
        return True
    return any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or [])


def is_allowed(class_: Object, node: Object) -> bool:
    """Whether a class may make volumes for a node (allowedTopologies are alternatives)."""
    topologies = class_.get("allowedTopologies") or []
    labels = node["metadata"].get("labels") or {}
    return not topologies or any(
        all(labels.get(e["key"]) in e["values"] for e in topology.get("matchLabelExpressions") or [])
        for topology in topologies
    )


def volume_obstacles(volumes: PodVolumes, node: Object) -> list[str]:
    """Why this node cannot have the pod's volumes; empty when it can."""
    if not all(is_reachable(volume, node) for volume in volumes.bound):
        return [NODE_CONFLICT]
    for claim, class_ in volumes.waiting:
        if selected_node(claim) not in ("", node["metadata"]["name"]) or not is_allowed(class_, node):
            return [BIND_CONFLICT]
    return []
