"""Which objects are ours to judge: by labels, name and controller together, never by one of them alone.

Upstream's objects share the label kaito.sh/workspace, a user's may copy any of ours; both are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from include.janitor.orphans import Inventory, Object, Thing
from include.pools import aks as agent_pools
from include.reconcile.backoff import moment
from include.reconcile.case import RUN_COMPONENTS, SERVING, TUNING, controller
from include.workspace.api import names

STATEFUL_SET, SERVICE, POD, CONFIG_MAP = "StatefulSet", "Service", "Pod", "ConfigMap"
NODE_POOL, NODE_CLAIM, AGENT_POOL, VOLUME_CLAIM = (
    "NodePool",
    "NodeClaim",
    "AgentPool",
    "PersistentVolumeClaim",
)
POOLS = frozenset({NODE_POOL, NODE_CLAIM, AGENT_POOL})
#: The annotation of an agent pool is a tag; Azure's tag names take no slash.
KEEP_TAG = "kaito-keep"
#: Who makes others of these, and is judged in their place.
MAKERS = {POD: STATEFUL_SET, NODE_CLAIM: NODE_POOL}


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
        (NODE_POOL, inventory.node_pools),
        (NODE_CLAIM, inventory.node_claims),
    )
    for kind, objects in kinds:
        yield from (_item(kind, obj) for obj in objects)
    yield from (_agent_pool(pool) for pool in inventory.agent_pools)
    yield from (_item(VOLUME_CLAIM, obj) for obj in inventory.volume_claims)


def _item(kind: str, obj: Object) -> Item:
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    namespace = None if kind in POOLS else meta.get("namespace") or "default"
    workspace = (namespace or labels.get(names.WORKSPACE_NAMESPACE) or "", labels.get(names.WORKSPACE) or "")
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
        deleting = f"since {meta['deletionTimestamp']}" + (
            f", held by the finalizer(s) {held}" if held else ""
        )
    keep = (meta.get("annotations") or {}).get(names.KEEP) == "true"
    return Item(thing, obj, labels, keep, deleting, moment(meta.get("creationTimestamp")))


def _agent_pool(pool: Object) -> Item:
    labels, properties = agent_pools.labels(pool), agent_pools.properties(pool)
    workspace = (labels.get(names.WORKSPACE_NAMESPACE) or "", labels.get(names.WORKSPACE) or "")
    thing = Thing(AGENT_POOL, str(pool["name"]), None, "", str(properties.get("eTag") or ""), workspace)
    state = agent_pools.state(pool)
    keep = (properties.get("tags") or {}).get(KEEP_TAG) == "true"
    deleting = f"its state is {state}" if state in agent_pools.LEAVING_STATES else ""
    return Item(thing, pool, labels, keep, deleting, None)  # Azure does not tell when a pool was made


def stranger(item: Item) -> str:
    """Why a thing is not ours to judge, "" when it is."""
    thing, labels = item.thing, item.labels
    name = thing.workspace[1]
    if not name or not (item.run_label or item.component):
        return "it lacks our labels"
    if thing.kind in POOLS:
        if not thing.workspace[0] or item.purpose not in (TUNING, SERVING) or not item.run_label:
            return "it lacks our labels"
    elif labels.get(names.WORKSPACE_NAMESPACE, thing.namespace) != thing.namespace:
        return "its labels name another namespace"
    if thing.kind == AGENT_POOL and not agent_pools.is_ours(item.obj):
        return f"it lacks our tag {agent_pools.MANAGED_BY_TAG}"
    if not _our_name(item, name):
        return "it has our labels, but not a name that we give"
    owner = _owner(item)
    if owner and owner.get("kind") not in (names.KIND, MAKERS.get(thing.kind)):
        return f"{owner.get('kind')} {owner.get('name')} controls it"
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


def _owner(item: Item) -> Mapping[str, Any] | None:
    if item.thing.kind == AGENT_POOL:
        return None
    # Karpenter owns its NodeClaims without calling itself their controller.
    owners = item.obj["metadata"].get("ownerReferences") or ()
    made_by = (owner for owner in owners if owner.get("kind") == MAKERS.get(item.thing.kind))
    return controller(item.obj) or next(made_by, None)


def maker(item: Item) -> Mapping[str, Any] | None:
    """The StatefulSet or NodePool that made a thing: it is judged in its place."""
    owner = _owner(item)
    return owner if owner and owner.get("kind") == MAKERS.get(item.thing.kind) else None


def owner_uid(item: Item) -> str:
    """The uid of the Workspace that a thing was made for, or its first 8 characters, or "" when it is not told."""
    owner = _owner(item)
    if owner and owner.get("kind") == names.KIND:
        return str(owner.get("uid") or "")
    served = names.served_by(item.run_label)
    return served[0] if served else ""
