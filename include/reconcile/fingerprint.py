"""A short digest of what a decision depends on, so that a look at an unchanged Workspace can be left out.

Counted in: the Workspace without its status (its writers are the runs and the reconciler themselves), what matters of
its children, and of their nodes. Left out: versions, heartbeats and times, which change without meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from include.reconcile.contract import Object

_COUNTS = ("phase", "nodeName", "readyReplicas", "updatedReplicas", "observedGeneration", "reason")
_GPU = "nvidia.com/gpu"


def fingerprint(workspace: Object, children: Iterable[Object], nodes: Iterable[Object]) -> str:
    """A digest that changes when there may be something to decide, the same in every process.

    :param workspace: as the cluster returned it.
    :param children: its pods, StatefulSets, Services, volume claims, NodeClaims and ConfigMaps, in any order.
    :param nodes: the nodes of its NodeClaims, in any order.
    """
    meta = workspace["metadata"]
    whole = (
        meta.get("uid"),
        meta.get("generation"),
        meta.get("deletionTimestamp"),
        sorted(meta.get("finalizers") or ()),
        sorted((meta.get("labels") or {}).items()),
        sorted((meta.get("annotations") or {}).items()),
        sorted(_child(child) for child in children),
        sorted(_node(node) for node in nodes),
    )
    return hashlib.blake2b(repr(whole).encode(), digest_size=16).hexdigest()


def _child(child: Object) -> str:
    meta = child["metadata"]
    status = child.get("status") or {}
    spec = child.get("spec") or {}
    parts = (
        meta.get("uid"),
        meta.get("name"),
        bool(meta.get("deletionTimestamp")),
        meta.get("generation"),
        sorted((meta.get("labels") or {}).items()),
        [owner.get("uid") for owner in meta.get("ownerReferences") or ()],
        [status.get(key) for key in _COUNTS],
        spec.get("replicas"),
        spec.get("nodeName"),
        _conditions(status),
        [
            _container(c)
            for key in ("initContainerStatuses", "containerStatuses")
            for c in status.get(key) or ()
        ],
        child.get("revision"),
        _data(child.get("data")),
    )
    return repr(parts)


def _conditions(status: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
    return [(c.get("type"), c.get("status"), c.get("reason")) for c in status.get("conditions") or ()]


def _container(container: Mapping[str, Any]) -> tuple[Any, ...]:
    state = container.get("state") or {}
    kind = next(iter(state), "")
    inner = state.get(kind) or {}
    return (
        container.get("name"),
        container.get("ready"),
        container.get("restartCount"),
        kind,
        inner.get("reason"),
        inner.get("exitCode"),
    )


def _data(data: Any) -> str:
    if not data:
        return ""
    return hashlib.blake2b(repr(sorted(data.items())).encode(), digest_size=16).hexdigest()


def _node(node: Object) -> str:
    meta, status, spec = node["metadata"], node.get("status") or {}, node.get("spec") or {}
    ready = [(c.get("status")) for c in status.get("conditions") or () if c.get("type") == "Ready"]
    taints = sorted((t.get("key"), t.get("value"), t.get("effect")) for t in spec.get("taints") or ())
    gpus = (status.get("allocatable") or {}).get(_GPU)
    return repr((meta.get("name"), meta.get("uid"), bool(meta.get("deletionTimestamp")), ready, gpus, taints))
