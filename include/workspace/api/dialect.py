"""Which version of the API the author wrote, and what follows from it.

The quick start's v1alpha1 promises a service after tuning, v1beta1 does not. But the API server converts between the
two by renaming only, and gives v1beta1 to whoever asks for v1beta1: the author's version survives in kubectl's
last-applied annotation and in managedFields. It must never trust `apiVersion` before having looked there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from include.workspace.api.names import GROUP, ROLLOUT

V1ALPHA1 = f"{GROUP}/v1alpha1"
V1BETA1 = f"{GROUP}/v1beta1"
API_VERSIONS = (V1ALPHA1, V1BETA1)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def dialect(
    api_version: str,
    annotations: Mapping[str, str] | None = None,
    managed_fields: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The apiVersion in which the workload was last written; `api_version` when nothing tells."""
    applied = _last_applied((annotations or {}).get(LAST_APPLIED))
    if applied:
        return applied
    for entry in managed_fields or ():
        written = entry.get("fieldsV1") if isinstance(entry, Mapping) else None
        if not isinstance(written, Mapping) or entry.get("subresource"):
            continue
        if ("f:tuning" in written or "f:inference" in written) and entry.get("apiVersion") in API_VERSIONS:
            return str(entry["apiVersion"])
    return api_version


def rolls_out(written_in: str, annotations: Mapping[str, str] | None = None) -> bool:
    """Whether a finished tuning becomes a service: v1alpha1 unless told not to, v1beta1 only when told to."""
    default = "true" if written_in == V1ALPHA1 else "false"
    return (annotations or {}).get(ROLLOUT, default) == "true"


def dialect_of(workspace: Mapping[str, Any]) -> str:
    """`dialect` of a Workspace as the cluster returned it."""
    meta = workspace.get("metadata") or {}
    return dialect(
        str(workspace.get("apiVersion") or V1BETA1), meta.get("annotations"), meta.get("managedFields")
    )


def as_written(live: Mapping[str, Any]) -> dict[str, Any]:
    """A live Workspace in its author's dialect, without the records that told it."""
    metadata = {k: v for k, v in live["metadata"].items() if k != "managedFields"}
    if metadata.get("annotations"):
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED}
    return {**live, "apiVersion": dialect_of(live), "metadata": metadata}


def serves(workspace: Mapping[str, Any]) -> bool:
    """Whether this Workspace (as the cluster returned it) ends with a service."""
    if workspace.get("tuning") is None:
        return True
    return rolls_out(dialect_of(workspace), (workspace.get("metadata") or {}).get("annotations"))


def _last_applied(text: str | None) -> str | None:
    if not text:
        return None
    try:
        version = json.loads(text).get("apiVersion")
    except (ValueError, AttributeError, RecursionError):
        return None
    return version if version in API_VERSIONS else None
