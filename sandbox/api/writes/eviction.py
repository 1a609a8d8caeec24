"""`pods/eviction`: a deletion that disruption budgets may refuse (k8s.io/kubernetes/pkg/registry/core/pod/storage).

The budgets' own arithmetic is done here from the pods at hand, where a real cluster's disruption controller does it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sandbox.api.errors import ApiError
from sandbox.api.meta import copied_object, dig, metadata, timestamp
from sandbox.api.storage.selectors import matches_label_selector
from sandbox.api.writes.subresources import SUCCESS

if TYPE_CHECKING:
    from sandbox.api.storage.database import Key
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

_FINISHED = ("Succeeded", "Failed")
_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


def evict(store: Store, key: Key, eviction: Json, dry_run: bool = False) -> Json:
    """Mark a pod as a disruption's target and delete it; raises ApiError (429) where a budget does not allow it."""
    info, options = store.kinds.named("pods"), eviction.get("deleteOptions") or {}
    pod = store.stored(info, key)
    running = dig(pod, "status", "phase") not in _FINISHED and not dig(pod, "metadata", "deletionTimestamp")
    if running:
        _check_budgets(store, key[0], pod)
    dry_run = dry_run or "All" in (options.pop("dryRun", None) or ())
    if running and not dry_run:
        store.put(info, key, _marked(pod))
    store.delete_now(info, key, options, dry_run)
    return SUCCESS


def _marked(pod: Json) -> Json:
    new = copied_object(pod)
    status = new.setdefault("status", {})
    kept = [c for c in status.get("conditions") or () if c["type"] != "DisruptionTarget"]
    mark = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(),
        "observedGeneration": metadata(new).get("generation", 1),
    }
    status["conditions"] = [*kept, mark]
    return new


def _is_healthy(pod: Json) -> bool:
    conditions = dig(pod, "status", "conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _check_budgets(store: Store, namespace: str, pod: Json) -> None:
    """A pod that is not ready may go where its budget lets unhealthy pods go (AlwaysAllow) or is met without it."""
    for _, entry in store.storage.entries("poddisruptionbudgets.policy", namespace):
        selector = dig(entry.obj, "spec", "selector")
        if selector is None or not matches_label_selector(selector, metadata(pod).get("labels") or {}):
            continue
        pods = [
            other.obj
            for _, other in store.storage.entries("pods", namespace)
            if matches_label_selector(selector, metadata(other.obj).get("labels") or {})
            and dig(other.obj, "status", "phase") not in _FINISHED
        ]
        healthy = sum(_is_healthy(one) and not dig(one, "metadata", "deletionTimestamp") for one in pods)
        needed = _needed(entry.obj.get("spec") or {}, len(pods))
        if not _is_healthy(pod) and (
            dig(entry.obj, "spec", "unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= needed
        ):
            continue
        if healthy - 1 < needed:
            _refuse(metadata(entry.obj)["name"], needed, healthy)


def _needed(spec: Json, pods: int) -> int:
    """How many pods a budget wants healthy; percentages are rounded up, as there."""
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None:
        return _share(least, pods)
    return max(0, pods - _share(most, pods)) if most is not None else 0


def _share(value: int | str, pods: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(int(value[:-1]) * pods / 100)
    return int(value)


def _refuse(budget: str, needed: int, healthy: int) -> None:
    counted = f"The disruption budget {budget} needs {needed} healthy pods and has {healthy} currently"
    raise ApiError(
        429, "TooManyRequests", _REFUSED, {"causes": [{"reason": "DisruptionBudget", "message": counted}]}
    )
