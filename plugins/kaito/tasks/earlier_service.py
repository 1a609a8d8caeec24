"""What a service was before a rollout changed its pods: if the new ones never answer, it is put back.

It stands in an annotation of the StatefulSet itself: whoever can write that can make any pod already, which is not so
for a ConfigMap. It must never put back anything but what answered when this very run replaced it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from include.reconcile import surge
from include.workspace.api import names
from kaito.hooks.api import CONFIG_MAP, STATEFUL_SET

if TYPE_CHECKING:
    from kaito.hooks.kubernetes import KaitoClusterHook
    from kaito.tasks.base import Run

log = logging.getLogger(__name__)

EARLIER, TEMPLATE_DIGEST = "kaito.sh/earlier-service", "kaito.sh/template-digest"
#: All annotations of an object may have 256 KiB.
MOST_BYTES = 128 << 10

Object = Mapping[str, Any]


def note(cluster: KaitoClusterHook, run: Run, wanted: dict[str, Any], live: Object | None) -> None:
    """Write into the StatefulSet that is `wanted` what it replaces, where that answers.

    :param wanted: with the digest of its pods' template; it is changed.
    :param live: what stands now, None where nothing does.
    """
    if live is None:
        return
    before, after = _annotations(live), wanted["metadata"].setdefault("annotations", {})
    if before.get(TEMPLATE_DIGEST) == after.get(TEMPLATE_DIGEST):
        if _of(live, run):  # an earlier try of this task has replaced it
            after[EARLIER] = before[EARLIER]
        return
    replicas = live["spec"].get("replicas")
    ready = (live.get("status") or {}).get("readyReplicas") or 0
    if not replicas or ready < replicas or replicas != wanted["spec"]["replicas"]:
        return
    adapters = cluster.find(CONFIG_MAP, names.adapters_config_map(run.document), run.namespace)
    kept = {
        "run": run.run_id,
        "labels": live["metadata"].get("labels") or {},
        "annotations": {key: value for key, value in before.items() if key in _KEPT},
        "template": live["spec"]["template"],
        "adapters": (adapters or {}).get("data"),
    }
    text = json.dumps(kept, separators=(",", ":"))
    if len(text) <= MOST_BYTES:
        after[EARLIER] = text


_KEPT = (TEMPLATE_DIGEST, names.MODEL_IMAGE)


def put_back(cluster: KaitoClusterHook, run: Run, live: Object) -> bool:
    """Apply what this run replaced; False where it replaced nothing that answered."""
    kept = _of(live, run)
    if kept is None:
        return False
    shown = {
        key: live["metadata"][key]
        for key in ("name", "namespace", "ownerReferences")
        if key in live["metadata"]
    }
    spec = {key: live["spec"][key] for key in _SPEC if key in live["spec"]}
    spec["updateStrategy"] = surge.up_to(0)
    if kept["adapters"]:
        name = names.adapters_config_map(run.document)
        labels = {key: value for key, value in kept["labels"].items() if key != names.RUN_ID}
        metadata = {**shown, "name": name, "labels": labels}
        cluster.apply(
            CONFIG_MAP,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": kept["adapters"]},
        )
    cluster.apply(
        STATEFUL_SET,
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {**shown, "labels": kept["labels"], "annotations": kept["annotations"]},
            "spec": {**spec, "template": kept["template"]},
        },
    )
    return True


_SPEC = ("replicas", "serviceName", "podManagementPolicy", "selector")


def _annotations(found: Object) -> dict[str, str]:
    return dict(found["metadata"].get("annotations") or {})


def _of(live: Object, run: Run) -> dict[str, Any] | None:
    """What this run has noted, None where nothing or another run has."""
    try:
        kept = json.loads(_annotations(live).get(EARLIER) or "null")
        return kept if kept["run"] == run.run_id and isinstance(kept["template"], dict) else None
    except (ValueError, TypeError, KeyError):
        return None
