"""ControllerRevisions: the history of accepted specs, numbered and hashed as KAITO does (kaito-api.md#revisions).

Going back to an earlier spec finds its revision again, number included. KAITO gets stuck when two specs share the five
hexadecimal digits of a name; here the second one takes more digits. A spec with faults must never become a revision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from include.contracts.redaction import redact_url
from include.reconcile.case import Case, controller
from include.reconcile.decision import Annotate, ApplyObject, Object
from include.reconcile.decision_builder import DecisionBuilder
from include.workspace.api import names

HISTORY = 10
DIGITS = 5
PARTS = ("resource", "inference", "tuning")


def spec_hash(workspace: Mapping[str, Any]) -> str:
    """SHA-256 over the JSON of resource, inference and tuning, a line each, none as null (kaito-api.md#revisions)."""
    digest = hashlib.sha256()
    for part in PARTS:
        text = json.dumps(workspace.get(part), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def record(builder: DecisionBuilder) -> None:
    """Make sure that the accepted spec has its revision, that the Workspace names it, and that history has an end."""
    case = builder.case
    whole = spec_hash(case.workspace)
    own = [r for r in case.observed.revisions if _owned(case, r)]
    current = next((r for r in own if hash_of(r) == whole), None)
    if current is None:
        number = max((int(r.get("revision") or 0) for r in own), default=0) + 1
        builder.act(ApplyObject(_manifest(case, whole, number)))
    else:
        number = int(current.get("revision") or 1)
    wanted = {names.REVISION_HASH: whole, names.REVISION: str(number)}
    if any(case.annotations.get(key) != value for key, value in wanted.items()):
        builder.act(Annotate(wanted))
    old = sorted((r for r in own if r is not current), key=lambda r: int(r.get("revision") or 0))
    for revision in old[: max(0, len(old) + 1 - HISTORY)]:
        builder.delete("ControllerRevision", revision, f"history keeps {HISTORY}")


def hash_of(revision: Object) -> str:
    return str((revision["metadata"].get("annotations") or {}).get(names.REVISION_HASH) or "")


def _owned(case: Case, revision: Object) -> bool:
    return (controller(revision) or {}).get("uid") == case.uid


def _manifest(case: Case, whole: str, number: int) -> dict[str, Any]:
    taken = {r["metadata"]["name"] for r in case.observed.revisions}
    candidates = (f"{case.name}-{whole[:digits]}" for digits in range(DIGITS, len(whole) + 1))
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": next(name for name in candidates if name not in taken),
            "namespace": case.namespace,
            "labels": {names.REVISION_OF: case.name, names.WORKSPACE: case.name},
            "annotations": {names.REVISION_HASH: whole},
            "ownerReferences": [names.owner_reference(case.workspace)],
        },
        "revision": number,
        "data": {part: _without_secrets(case.workspace.get(part)) for part in PARTS},
    }


def _without_secrets(value: object) -> Any:
    """A part of a spec as history may keep it: dataset URLs may be signed, so their queries are cut off.

    The hash is of the spec itself, so specs that differ in a signature alone are still told apart.
    """
    if isinstance(value, str):
        return redact_url(value) if "://" in value else value
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
