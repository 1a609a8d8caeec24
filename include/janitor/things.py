"""Which objects are ours to judge: by labels, name and controller together, never by one of them alone.

Upstream's objects share the label kaito.sh/workspace, a user's may copy any of ours; both are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from include.janitor.orphans import Inventory, Object, Thing
from include.pools.observed import ObservedPool, Owner
from include.reconcile.backoff import moment
from include.reconcile.case import RUN_COMPONENTS, SERVING, TUNING, controller
from include.workspace.api import names

STATEFUL_SET, SERVICE, POD, CONFIG_MAP = "StatefulSet", "Service", "Pod", "ConfigMap"
VOLUME_CLAIM = "PersistentVolumeClaim"
#: Who makes others of these, and is judged in their place; of a pool its provider tells it.
MAKERS = {POD: STATEFUL_SET}


@dataclass(frozen=True, slots=True)
class Item:
    """A thing with what the judgement reads of it."""

    thing: Thing
    obj: Object
    labels: Mapping[str, str]
    keep: bool
    deleting: str
    created: datetime | None

    @property
    def run_label(self) -> str:
        return self.labels.get(names.RUN_ID) or ""

    @property
    def purpose(self) -> str:
        return self.labels.get(names.POOL) or ""

    @property
    def component(self) -> str:
        return self.labels.get(names.COMPONENT) or ""


def items(inventory: Inventory) -> Iterator[Item]:
    """Everything to be judged, in the order of deletion: who makes others first, machines after what works on them."""
    kinds = (
        (STATEFUL_SET, inventory.stateful_sets),
        (SERVICE, inventory.services),
        (POD, inventory.pods),
        (CONFIG_MAP, inventory.config_maps),
    )
    for kind, objects in kinds:
        yield from (_item(kind, obj) for obj in objects)
    yield from (_pool(pool) for pool in inventory.pools)
    yield from (_item(VOLUME_CLAIM, obj) for obj in inventory.volume_claims)


def _item(kind: str, obj: Object) -> Item:
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    namespace = meta.get("namespace") or "default"
    workspace = (namespace, labels.get(names.WORKSPACE) or "")
    thing = Thing(
        kind,
        str(meta["name"]),
        namespace,
        str(meta.get("uid") or ""),
        str(meta.get("resourceVersion") or ""),
        workspace,
    )
    deleting = ""
    if meta.get("deletionTimestamp"):
        held = ", ".join(meta.get("finalizers") or ())
        deleting = f"since {meta['deletionTimestamp']}" + (f", held by its finalizers {held}" if held else "")
    keep = (meta.get("annotations") or {}).get(names.KEEP) == "true"
    return Item(thing, obj, labels, keep, deleting, moment(meta.get("creationTimestamp")))


def _pool(pool: ObservedPool) -> Item:
    labels = {names.RUN_ID: pool.run, names.POOL: pool.purpose, names.COMPONENT: pool.component}
    thing = Thing(pool.kind, pool.name, None, pool.uid, pool.version, pool.workspace, pool)
    return Item(thing, {"metadata": {"name": pool.name}}, labels, pool.keep, pool.deleting, pool.created)


def stranger(item: Item) -> str:
    """Why a thing is not ours to judge, "" when it is."""
    thing, labels = item.thing, item.labels
    name = thing.workspace[1]
    if not name or not (item.run_label or item.component):
        return "it lacks our labels"
    if thing.pool:
        if not thing.workspace[0] or item.purpose not in (TUNING, SERVING) or not item.run_label:
            return "it lacks our labels"
    elif labels.get(names.WORKSPACE_NAMESPACE, thing.namespace) != thing.namespace:
        return "its labels name another namespace"
    if thing.pool and thing.pool.mark:
        return f"it lacks {thing.pool.mark}"
    if not _our_name(item, name):
        return "it has our labels, but not a name that we give"
    owner = _owner(item)
    if owner and owner.kind != names.KIND and not owner.makes_pools:
        return f"{owner.kind} {owner.name} controls it"
    return ""


def _our_name(item: Item, workspace: str) -> bool:
    name = item.thing.name
    match item.thing.kind:
        case "StatefulSet":
            return name == workspace
        case "Service":
            return name in (workspace, f"{workspace}-headless")
        case "PersistentVolumeClaim":
            return name == f"{workspace}-work"
        case "ConfigMap":
            return bool(re.fullmatch(rf"{re.escape(workspace)}-g\d+-tuning", name))
        case "Pod":
            known = item.component in RUN_COMPONENTS or item.component == SERVING
            return known and bool(item.run_label) and name.startswith(f"{workspace}-")
    return True


def _owner(item: Item) -> Owner | None:
    if item.thing.pool:
        return item.thing.pool.owner
    found = controller(item.obj)
    if found is None:
        return None
    kind = str(found.get("kind"))
    made = kind == MAKERS.get(item.thing.kind)
    return Owner(kind, str(found.get("name")), str(found.get("uid") or ""), makes_pools=made)


def maker(item: Item) -> Owner | None:
    """Who made a thing and is judged in its place: a StatefulSet, or a pool that makes others."""
    owner = _owner(item)
    return owner if owner and owner.makes_pools else None


def owner_uid(item: Item) -> str:
    """The uid of the Workspace that a thing was made for, or its first 8 characters, or "" when it is not told."""
    owner = _owner(item)
    if owner and owner.kind == names.KIND:
        return owner.uid
    served = names.served_by(item.run_label)
    return served[0] if served else ""
