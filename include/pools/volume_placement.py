"""Where the work volume can be mounted, and what that means for the machines that are asked for: pure judgements.

A disk of a cloud belongs to a zone, a local one to a node: a machine elsewhere is paid for and never runs the pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from include.pools.status import GPU_RESOURCE

Object = Mapping[str, Any]

ZONE = "topology.kubernetes.io/zone"
#: The labels by which volumes tell their zone: Kubernetes' own, and those of the clouds' disk drivers.
ZONE_KEYS = frozenset(
    {
        ZONE,
        "failure-domain.beta.kubernetes.io/zone",
        "topology.disk.csi.azure.com/zone",
        "topology.ebs.csi.aws.com/zone",
        "topology.gke.io/zone",
    }
)
HOST = "kubernetes.io/hostname"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class VolumePlacement:
    """Where a volume can be mounted; None for everywhere. A zone "" is that of machines outside all zones."""

    zones: frozenset[str] | None = None
    nodes: frozenset[str] | None = None

    @property
    def named_zones(self) -> tuple[str, ...]:
        """The zones to ask for, where the volume is in some and not outside all of them."""
        return tuple(sorted(self.zones)) if self.zones and "" not in self.zones else ()

    def and_also(self, other: VolumePlacement) -> VolumePlacement:
        """Where both can be mounted."""
        if self.zones is None or other.zones is None:
            return VolumePlacement(other.zones if self.zones is None else self.zones)
        return VolumePlacement(self.zones & other.zones)

    def holds(self, zone: str) -> bool:
        """Whether a machine in this zone, as a Workspace writes it (`2` or `westeurope-2`), can mount it."""
        return self.zones is None or any(_same(zone, one) for one in self.zones if one)


def placement(volume: Object | None) -> VolumePlacement:
    """What a PersistentVolume's node affinity says; its terms are alternatives."""
    required = (((volume or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    terms = required.get("nodeSelectorTerms") or ()
    return VolumePlacement(_values(terms, ZONE_KEYS), _values(terms, {HOST}))


def reading_zones(
    choices: Iterable[str], nodes: Iterable[Object], bound: VolumePlacement | None = None
) -> tuple[str, ...]:
    """The zones, by their whole names, to write the work volume in, so that the machines can mount it afterwards.

    A disk is made where its first pod runs. So that pod goes to the first zone that a machine is wanted in and where a
    Node without GPUs stands that takes any pod; where there is none, no zone is better than another.

    :param choices: the zones of the machines in the order of asking, as a Workspace writes them; "" for any, which is
        the volume's own then.
    :param nodes: the cluster's Nodes.
    :param bound: where a volume that this pod reads can be mounted.
    """
    bound = bound or VolumePlacement()
    if bound.nodes:
        return ()
    zones = {zone_of(node) for node in nodes if _takes_any_pod(node)} - {""}
    for choice in filter(None, choices):
        found = sorted(zone for zone in zones if _same(choice, zone) and bound.holds(zone))
        if found:
            return tuple(found)
    return ()


def _same(wanted: str, zone: str) -> bool:
    return zone == wanted or zone.endswith(f"-{wanted}")


def zone_of(node: Object) -> str:
    """A Node's zone by its whole name, "" outside all zones."""
    return str((node["metadata"].get("labels") or {}).get(ZONE, ""))


def _takes_any_pod(node: Object) -> bool:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    ready = any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ()
    )
    barred = spec.get("unschedulable") or any(
        taint.get("effect") in ("NoSchedule", "NoExecute") for taint in spec.get("taints") or ()
    )
    # A machine with GPUs is some Workspace's and goes with it.
    has_gpus = str((status.get("allocatable") or {}).get(GPU_RESOURCE, "0")) != "0"
    return ready and not barred and not has_gpus


def _values(terms: Iterable[Object], keys: Iterable[str]) -> frozenset[str] | None:
    result: set[str] = set()
    for term in terms:
        asked = [
            set(map(str, one.get("values") or ()))
            for one in term.get("matchExpressions") or ()
            if one.get("key") in keys and one.get("operator") == "In"
        ]
        if not asked:
            return None  # this alternative is for everywhere
        result |= set.intersection(*asked)
    return frozenset(result) or None


def missing_class(
    wanted: str | None, classes: Iterable[Object], volumes: Iterable[Object]
) -> tuple[str, str] | None:
    """(what is wrong, what would be right) when no volume could be made or found for a claim, else None.

    :param wanted: the class that the claim names, None for the default one.
    """
    listed = list(classes)
    have = ", ".join(sorted(str(one["metadata"]["name"]) for one in listed)) or "none"
    if wanted:
        if any(one["metadata"]["name"] == wanted for one in listed):
            return None
        message = f"there is no StorageClass {wanted}, which [kaito] storage_class names for the work volume"
        return message, f"the cluster has: {have}"
    if wanted is None and any(_is_default(one) for one in listed):
        return None
    if any(not (one.get("spec") or {}).get("storageClassName") and _is_free(one) for one in volumes):
        return None
    message = "the cluster has no default StorageClass, so the work volume would never come"
    return message, f"set [kaito] storage_class, or make one the default (the cluster has: {have})"


def _is_default(storage_class: Object) -> bool:
    return (storage_class["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"


def _is_free(volume: Object) -> bool:
    return (volume.get("status") or {}).get("phase") == "Available"
