"""What matters about an object to the reconciler, as a short digest: two that are equal need no second look.

Status and heartbeats change all the time and mean nothing here, or every idle Workspace would keep a worker busy.
Pure functions over the cluster's dicts; what is left out here is noticed by the resync at the latest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from include.workspace.api import names

Object = Mapping[str, Any]
#: (namespace, name) of a Workspace.
Key = tuple[str, str]

#: Written by ourselves on a Workspace; reacting to them would be talking to ourselves.
_OWN_ANNOTATIONS = "workspace.kaito.io/"


def owner_key(obj: Object) -> Key | None:
    """Return the Workspace that an object belongs to by its labels, None when it has none."""
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    name = labels.get(names.WORKSPACE)
    namespace = metadata.get("namespace") or labels.get(names.WORKSPACE_NAMESPACE)
    return (namespace, name) if name and namespace else None


def key_of(workspace: Object) -> Key:
    return names.namespace(workspace), workspace["metadata"]["name"]


def fingerprint(plural: str, obj: Object) -> str:
    """Return the digest of what matters about an object of this kind."""
    metadata = obj["metadata"]
    common = (metadata.get("uid"), metadata.get("deletionTimestamp"))
    told = json.dumps((common, _PARTS.get(plural, _other)(obj)), sort_keys=True, default=str)
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def _workspace(obj: Object) -> object:
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    return (
        metadata.get("generation"),
        metadata.get("labels"),
        {k: v for k, v in annotations.items() if not k.startswith(_OWN_ANNOTATIONS)},
        [f for f in metadata.get("finalizers") or () if f != names.FINALIZER],
    )


def _pod(obj: Object) -> object:
    status = obj.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return (
        status.get("phase"),
        status.get("reason"),
        _conditions(obj, "Ready", "PodScheduled"),
        [(c.get("name"), c.get("ready"), c.get("restartCount"), _state(c.get("state"))) for c in containers],
        (obj["metadata"].get("labels") or {}).get(names.RUN_ID),
    )


def _state(state: Object | None) -> object:
    return sorted(
        (name, (told or {}).get("reason"), (told or {}).get("exitCode"))
        for name, told in (state or {}).items()
    )


def _stateful_set(obj: Object) -> object:
    status = obj.get("status") or {}
    return (
        obj["metadata"].get("generation"),
        obj["metadata"].get("ownerReferences"),
        [status.get(name) for name in ("replicas", "readyReplicas", "updatedReplicas")],
    )


def _service(obj: Object) -> object:
    return obj.get("spec"), obj["metadata"].get("ownerReferences")


def _pool(obj: Object) -> object:
    """Whatever a provider makes machines as, and watches."""
    return (
        _conditions(obj, "Launched", "Registered", "Initialized", "Ready"),
        (obj.get("status") or {}).get("nodeName"),
        (obj["metadata"].get("labels") or {}).get(names.RUN_ID),
    )


def _node(obj: Object) -> object:
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    return (
        _conditions(obj, "Ready"),
        (status.get("allocatable") or {}).get("nvidia.com/gpu"),
        spec.get("taints"),
        spec.get("unschedulable"),
    )


def _other(obj: Object) -> object:
    if names.POOL in (obj["metadata"].get("labels") or {}):
        return _pool(obj)
    return obj["metadata"].get("resourceVersion")


def _conditions(obj: Object, *types: str) -> object:
    found = (obj.get("status") or {}).get("conditions") or ()
    return sorted((c["type"], c.get("status"), c.get("reason")) for c in found if c.get("type") in types)


_PARTS = {
    "workspaces": _workspace,
    "pods": _pod,
    "statefulsets": _stateful_set,
    "services": _service,
    "nodes": _node,
}
