"""What a Workspace means where its author said nothing, written out.

A model keeps what was written (parse -> to_dict is the same document); this gives what kaito-api.md#defaults and
the author's version of the API make of it, with names in their canonical spelling. It must never be written back to the
cluster as the user's own: a default that becomes a value can no longer change.
"""

from __future__ import annotations

import copy
from typing import Any

from include.catalog import Catalog, load_catalog
from include.workspace.api.models import Workspace
from include.workspace.api.names import ROLLOUT
from include.workspace.validation.rules.context import Context, Policy

Json = dict[str, Any]
STRENGTH = "1.0"


def with_defaults(ws: Workspace, catalog: Catalog | None = None) -> Workspace:
    """The Workspace with every default written out; a second time changes nothing.

    count 1, the machine type of v1alpha1, accessMode public, strength "1.0" of adapters, the rollout annotation of a
    tuning, the namespace; method in lower case, preset and machine type as the catalogue spells them (a name that it
    does not know stays as it is, without surrounding spaces).
    """
    context = Context(ws, catalog or load_catalog(), Policy())
    document: Json = copy.deepcopy(ws.to_dict())
    metadata = document["metadata"]
    metadata["namespace"] = ws.namespace
    resource = document["resource"] = document.get("resource") or {"labelSelector": {}}
    resource["count"] = ws.node_count
    machine = context.machine.name if context.machine else ws.instance_type
    if machine:
        resource["instanceType"] = machine
    for half in ("inference", "tuning"):
        _with_preset((document.get(half) or {}).get("preset"), context)
    for adapter in (document.get("inference") or {}).get("adapters") or ():
        if adapter.get("strength") is None:
            adapter["strength"] = STRENGTH
    if ws.tuning is not None:
        metadata["annotations"] = {ROLLOUT: "true" if ws.rollout else "false"} | (
            metadata.get("annotations") or {}
        )
        if ws.method:
            document["tuning"]["method"] = ws.method
    return Workspace.model_validate(document)


def _with_preset(preset: Json | None, context: Context) -> None:
    if not preset:
        return
    preset["accessMode"] = preset.get("accessMode") or "public"
    if context.model is not None and context.ws.preset and preset["name"] == context.ws.preset.name:
        preset["name"] = context.model.name
