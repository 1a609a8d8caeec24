"""Everything about some Workspaces at one moment: read with one set of lists, not one set for each Workspace.

Workspaces are read before what they own: an object that a Workspace does not know of yet is harmless, one that is
missing in an older list would be made again. What we may not see must never look as if it were not there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from include.pools.observed import ObservedPool
from include.reconcile import Observed
from include.workspace.api import names
from include.workspace.api.dialect import serves
from kaito.controller.fingerprints import Key, key_of, owner_key
from kaito.hooks import api
from kaito.hooks.api import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    NODE,
    POD,
    SERVICE,
    STATEFUL_SET,
    VOLUME_CLAIM,
    WEBHOOKS,
    WORKSPACE,
    ClusterError,
    Kind,
)
from kaito.hooks.kubernetes import AsyncKaitoClusterHook
from kaito.providers.base import PoolProvider
from kaito.providers.registry import readers, watched

log = logging.getLogger(__name__)

#: Up to that many Workspaces, what they own is asked for by name; more of them, and everything is listed.
FEW = 20
PROGRESS_SECONDS = 3.0
#: Labels of the Deployment in KAITO's chart (its name is the chart's), and its webhook's name.
UPSTREAM_LABELS = {"app.kubernetes.io/name": ("workspace", "kaito-workspace", "kaito")}
UPSTREAM_WEBHOOK = "validation.workspace.kaito.sh"

Object = dict[str, Any]
_NAMED = (STATEFUL_SET, SERVICE, VOLUME_CLAIM)


@dataclass
class Snapshot:
    """``workspaces`` as they were read; ``children`` by Workspace and plural; ``config_maps`` by (namespace, name)."""

    workspaces: dict[Key, Object] = field(default_factory=dict)
    children: dict[Key, dict[str, list[Object]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    config_maps: dict[Key, str | None] = field(default_factory=dict)
    upstream: str = ""
    #: Who reads pools out of what was listed.
    readers: tuple[type[PoolProvider], ...] = field(default_factory=readers)

    def of(self, key: Key, kind: Kind) -> list[Object]:
        return self.children[key][kind.plural]

    def renew(self, key: Key, other: Snapshot) -> None:
        """Take over what a later snapshot has of one Workspace."""
        self.workspaces[key] = other.workspaces[key]
        self.children[key] = other.children[key]
        self.config_maps |= other.config_maps

    def stateful_set(self, key: Key) -> Object | None:
        """Return the StatefulSet of a Workspace's name, whoever made it."""
        return next((s for s in self.of(key, STATEFUL_SET) if s["metadata"]["name"] == key[1]), None)

    def pools(self, key: Key) -> list[ObservedPool]:
        """Return a Workspace's pools that show at every look, whoever makes them."""
        objects, nodes = self.children[key], self.of(key, NODE)
        return [pool for reader in self.readers for pool in reader.read(objects, nodes)]

    def observed(
        self, key: Key, runs: Mapping[str, str | None], progress: Mapping[str, Any] | None, **more: Any
    ) -> Observed:
        """Return all of it that is about one Workspace.

        :param more: what was asked about it besides, by the names of :class:`Observed`.
        """
        named = {name: self.config_maps.get((key[0], name)) for name in config_maps_of(self.workspaces[key])}
        return Observed(
            pods=self.of(key, POD),
            stateful_sets=self.of(key, STATEFUL_SET),
            services=self.of(key, SERVICE),
            volume_claims=self.of(key, VOLUME_CLAIM),
            nodes=self.of(key, NODE),
            revisions=self.of(key, CONTROLLER_REVISION),
            config_maps=named,
            runs=runs,
            progress=progress,
            upstream=self.upstream,
            **more,
        )


async def take(hook: AsyncKaitoClusterHook, keys: Collection[Key] | None) -> Snapshot:
    """Read these Workspaces (None: all) and everything that is theirs.

    :raises ClusterError: the cluster does not answer, or does not let us see what decisions need.
    """
    result = Snapshot()
    few = keys is not None and len(keys) <= FEW
    if keys is not None and few:
        read = await asyncio.gather(*(hook.find(WORKSPACE, name, namespace) for namespace, name in keys))
        result.workspaces = {key_of(obj): obj for obj in read if obj}
    else:
        async for page, _ in hook.pages(WORKSPACE):
            result.workspaces |= {key_of(o): o for o in page if keys is None or key_of(o) in keys}
    if not result.workspaces:
        return result
    selected = sorted({name for _, name in result.workspaces}) if few else None
    labelled = (POD, *watched(), NODE, *(_NAMED if few else ()))
    await asyncio.gather(
        *(_collect(hook, result, kind, {names.WORKSPACE: selected}) for kind in labelled),
        *(() if few else (_collect(hook, result, kind, None) for kind in _NAMED)),
        _collect(hook, result, CONTROLLER_REVISION, {names.REVISION_OF: selected}),
        _read_config_maps(hook, result),
        _look_for_upstream(hook, result),
    )
    await asyncio.gather(*(_strangers(hook, result) if few else ()), *_unlabelled_nodes(hook, result))
    return result


async def _collect(
    hook: AsyncKaitoClusterHook, found: Snapshot, kind: Kind, labels: api.Labels | None
) -> None:
    try:
        async for page, _ in hook.pages(kind, None, labels):
            for obj in page:
                key = _owner(found, kind, obj)
                if key is not None:
                    found.of(key, kind).append(obj)
            await asyncio.sleep(0)
    except ClusterError as error:
        if error.status != 404:  # a cluster need not know what some provider makes: then there is none
            raise


def _owner(found: Snapshot, kind: Kind, obj: Object) -> Key | None:
    """Return the Workspace that an object is about: by its labels, or because it has the name of a child."""
    if kind is CONTROLLER_REVISION:
        metadata = obj["metadata"]
        key: Key | None = (metadata["namespace"], metadata["labels"][names.REVISION_OF])
    else:
        key = owner_key(obj)
    if key in found.workspaces:
        return key
    metadata = obj["metadata"]
    name, ending = metadata["name"], {SERVICE: "-headless", VOLUME_CLAIM: "-work"}.get(kind, "")
    for candidate in {name, name.removesuffix(ending)}:
        key = (metadata.get("namespace") or "", candidate)
        if kind in _NAMED and key in found.workspaces:
            return key
    return None


def _strangers(hook: AsyncKaitoClusterHook, found: Snapshot) -> Iterable[Any]:
    """Look for objects of our names that do not carry our labels."""
    for key, workspace in found.workspaces.items():
        wanted: list[tuple[Kind, str]] = []
        if serves(workspace):
            wanted += [(STATEFUL_SET, names.stateful_set(workspace)), (SERVICE, names.service(workspace))]
            wanted += [(SERVICE, names.headless_service(workspace))]
        if workspace.get("tuning") is not None:
            wanted += [(VOLUME_CLAIM, names.work_volume(workspace))]
        for kind, name in wanted:
            if name not in {obj["metadata"]["name"] for obj in found.of(key, kind)}:
                yield _add(hook, found, key, kind, name)


def _unlabelled_nodes(hook: AsyncKaitoClusterHook, found: Snapshot) -> Iterable[Any]:
    """Look for the nodes of machines whose cloud does not copy labels, and for nodes that somebody brought."""
    for key, workspace in found.workspaces.items():
        have = {node["metadata"]["name"] for node in found.of(key, NODE)}
        named = {name for pool in found.pools(key) for name in pool.nodes}
        named |= set((workspace.get("status") or {}).get("workerNodes") or ())
        yield from (_add(hook, found, key, NODE, name) for name in named - have)


async def _add(hook: AsyncKaitoClusterHook, found: Snapshot, key: Key, kind: Kind, name: str) -> None:
    obj = await hook.find(kind, name, key[0] if kind.namespaced else None)
    if obj is not None:
        found.of(key, kind).append(obj)


def config_maps_of(workspace: Mapping[str, Any]) -> set[str]:
    """Return the names of the ConfigMaps that a Workspace names."""
    parts = (workspace.get("tuning"), workspace.get("inference"))
    found = (part.get("config") for part in parts if isinstance(part, Mapping))
    return {name for name in found if isinstance(name, str) and name}


async def _read_config_maps(hook: AsyncKaitoClusterHook, found: Snapshot) -> None:
    named = {(key[0], name) for key, obj in found.workspaces.items() for name in config_maps_of(obj)}
    if len(named) <= FEW:
        read = await asyncio.gather(*(hook.find(CONFIG_MAP, name, space) for space, name in named))
        found.config_maps = {place: _digest(obj) for place, obj in zip(named, read, strict=True)}
        return
    for space in {space for space, _ in named}:
        async for page, _ in hook.pages(CONFIG_MAP, space):
            for obj in page:
                if (place := (space, obj["metadata"]["name"])) in named:
                    found.config_maps[place] = _digest(obj)


def _digest(config_map: Object | None) -> str | None:
    if config_map is None:
        return None
    told = repr([sorted((config_map.get(part) or {}).items()) for part in ("data", "binaryData")])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


async def _look_for_upstream(hook: AsyncKaitoClusterHook, found: Snapshot) -> None:
    found.upstream = await upstream(hook)


async def upstream(hook: AsyncKaitoClusterHook) -> str:
    """Return the name of upstream KAITO's Workspace controller in this cluster, "" when there is none to be seen."""
    try:
        deployments = (await hook.send(api.listing(DEPLOYMENT, labels=UPSTREAM_LABELS))).get("items") or []
        for deployment in deployments:
            if _is_kaito(deployment) and (deployment.get("spec") or {}).get("replicas") != 0:
                metadata = deployment["metadata"]
                return f"KAITO's own controller (Deployment {metadata['namespace']}/{metadata['name']})"
    except ClusterError as error:
        _tolerate(error)
    try:
        if await hook.find(WEBHOOKS, UPSTREAM_WEBHOOK):
            return f"KAITO's own controller (ValidatingWebhookConfiguration {UPSTREAM_WEBHOOK})"
    except ClusterError as error:
        _tolerate(error)
    return ""


def _tolerate(error: ClusterError) -> None:
    if error.status not in (403, 404):
        raise error
    log.debug("Whether KAITO's own controller runs here cannot be seen: %s", error)


def _is_kaito(deployment: Object) -> bool:
    containers = ((deployment.get("spec") or {}).get("template") or {}).get("spec", {}).get(
        "containers"
    ) or ()
    return any(
        "kaito/workspace" in c.get("image", "") or "/workspace:" in c.get("image", "") for c in containers
    )


async def progress_of(hook: AsyncKaitoClusterHook, pods: Iterable[Object]) -> Object | None:
    """Return what the running tuning pod says of itself, None when none does."""
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        if labels.get(names.COMPONENT) != "tuning" or (pod.get("status") or {}).get("phase") != "Running":
            continue
        ports = [
            p for c in pod["spec"]["containers"] for p in c.get("ports") or () if p.get("name") == "metrics"
        ]
        if not ports:
            continue
        metadata = pod["metadata"]
        request = api.pod_get(
            metadata["name"],
            metadata["namespace"],
            "progress",
            port=ports[0]["containerPort"],
            timeout=PROGRESS_SECONDS,
        )
        try:
            async with hook.stream(request) as response:
                said = await response.json(content_type=None)
        except (ClusterError, ValueError) as error:
            log.info("Pod %s does not tell its progress: %s", metadata["name"], error)
            return None
        return said if isinstance(said, dict) else None
    return None
