"""Who uses a thing at this moment: pods, by their node, their volumes, their labels.

A pod that is going in the same sweep uses nothing any more; one that belongs to a node's own equipment never keeps a
machine. Any other pod does, whoever it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from include.janitor.orphans import Inventory, Object
from include.janitor.things import (
    CONFIG_MAP,
    SERVICE,
    VOLUME_CLAIM,
    Item,
)
from include.reconcile.case import controller, ended

#: Who runs on each node of a cluster, or is a part of the node.
EQUIPMENT = ("DaemonSet", "Node")


def nodes_of(item: Item) -> frozenset[str]:
    """The names of a pool's nodes."""
    return item.thing.pool.nodes if item.thing.pool else frozenset()


def user(item: Item, inventory: Inventory, going: Collection[str]) -> str:
    """The first pod that uses a thing, in words; "" when none does."""
    working = (
        pod
        for pod in _every(inventory.pods, inventory.others)
        if not ended(pod) and str(pod["metadata"].get("uid")) not in going
    )
    nodes = nodes_of(item)
    for pod in working:
        meta = pod["metadata"]
        where = f"Pod {meta.get('namespace') or 'default'}/{meta['name']}"
        if item.thing.pool:
            node = (pod.get("spec") or {}).get("nodeName")
            if node in nodes and (controller(pod) or {}).get("kind") not in EQUIPMENT:
                return f"{where} runs on its node {node}"
        elif (meta.get("namespace") or "default") == item.thing.namespace and _uses(pod, item):
            return f"{where} uses it"
    return ""


def _every(*lists: Iterable[Object]) -> Iterator[Object]:
    told: set[str] = set()
    for pods in lists:
        for pod in pods:
            uid = str(pod["metadata"].get("uid") or id(pod))
            if uid not in told:
                told.add(uid)
                yield pod


def _uses(pod: Object, item: Item) -> bool:
    kind, name = item.thing.kind, item.thing.name
    if kind == SERVICE:
        selector = (item.obj.get("spec") or {}).get("selector") or {}
        return bool(selector) and all(_label(pod, key) == value for key, value in selector.items())
    if kind == VOLUME_CLAIM:
        return name in {(v.get("persistentVolumeClaim") or {}).get("claimName") for v in _volumes(pod)}
    return kind == CONFIG_MAP and name in set(_config_maps(pod))


def _volumes(pod: Object) -> list[Any]:
    return (pod.get("spec") or {}).get("volumes") or []


def _config_maps(pod: Object) -> Iterator[str]:
    for volume in _volumes(pod):
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        yield from ((source.get("configMap") or {}).get("name") or "" for source in sources)
    spec = pod.get("spec") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        for source in container.get("envFrom") or ():
            yield (source.get("configMapRef") or {}).get("name") or ""
        for variable in container.get("env") or ():
            yield ((variable.get("valueFrom") or {}).get("configMapKeyRef") or {}).get("name") or ""


def _label(obj: Object, key: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(key) or "")
