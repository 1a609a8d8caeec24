"""The CustomResourceDefinition of Workspaces, generated from the pydantic models.

kubectl asks for a CRD's preferred version, which is v1beta1 whatever the order in the manifest, so the columns of the
quick start must stand there: both versions show INSTANCE RESOURCEREADY INFERENCEREADY WORKSPACEREADY AGE, and KAITO's
other columns have priority 1 (`kubectl get workspace -o wide`). The manifest must never be edited by hand:
`python -m include.cli crd` writes it and a test compares.
"""

from __future__ import annotations

import copy
from typing import Any

from include.workspace.api import crd_rules
from include.workspace.api.crd_status import status_schema
from include.workspace.api.models import Workspace
from include.workspace.api.names import (
    GROUP,
    KIND,
    PLURAL,
    STORED_VERSION,
)

Schema = dict[str, Any]


def workspace_crd() -> dict[str, Any]:
    """The CustomResourceDefinition as a dict, ready to apply."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "workspace",
                "shortNames": ["wk", "wks"],
                "categories": ["workspace"],
            },
            "scope": "Namespaced",
            "versions": [_version("v1alpha1"), _version("v1beta1")],
        },
    }


def _version(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": name == STORED_VERSION,
        "subresources": {"status": {}},
        "additionalPrinterColumns": printer_columns(),
        "schema": {"openAPIV3Schema": _workspace_schema(alpha=name == "v1alpha1")},
    }


def printer_columns() -> list[dict[str, Any]]:
    """The quick start's columns, and KAITO's later ones for `-o wide`."""

    def condition(kind: str, wide: bool = False) -> dict[str, Any]:
        path = f'.status.conditions[?(@.type=="{kind}")].status'
        return {"name": kind, "type": "string", "jsonPath": path} | ({"priority": 1} if wide else {})

    return [
        {"name": "Instance", "type": "string", "jsonPath": ".resource.instanceType"},
        condition("ResourceReady"),
        condition("InferenceReady"),
        condition("WorkspaceReady"),
        condition("JobStarted", wide=True),
        condition("WorkspaceSucceeded", wide=True),
        {"name": "TargetNodeCount", "type": "integer", "jsonPath": ".status.targetNodeCount", "priority": 1},
        {"name": "State", "type": "string", "jsonPath": ".status.state", "priority": 1},
        {"name": "Stage", "type": "string", "jsonPath": ".status.progress.stage", "priority": 1},
        {"name": "Percent", "type": "integer", "jsonPath": ".status.progress.percent", "priority": 1},
        {"name": "Adapter", "type": "string", "jsonPath": ".status.adapter.digest", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]


def _workspace_schema(alpha: bool) -> Schema:
    source = Workspace.model_json_schema(by_alias=True)
    schema = _Structural(source.get("$defs", {}), alpha).schema(source, "")
    schema["description"] = (
        "Workspace describes a model workload: tuning or inference of a preset on GPU machines."
    )
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"]["status"] = copy.deepcopy(status_schema())
    schema.pop("required", None)  # apiVersion, kind and metadata go without saying
    schema["x-kubernetes-validations"] = copy.deepcopy(crd_rules.root_rules(alpha))
    return schema


class _Structural:
    """A JSON schema of pydantic's as a structural schema: no $ref, no anyOf with null, no titles."""

    def __init__(self, defs: dict[str, Schema], alpha: bool) -> None:
        self._defs = defs
        self._lacks = crd_rules.ALPHA_LACKS if alpha else set()
        self._extras = crd_rules.extras(alpha)
        self._rules = crd_rules.rules(alpha)

    def schema(self, node: Schema, path: str) -> Schema:
        """The schema of the field at this path; a list's items are at `path[]`, a map's values at `path{}`."""
        if "anyOf" in node:
            inner = next(part for part in node["anyOf"] if part.get("type") != "null")
            described = {key: node[key] for key in ("description",) if key in node}
            return self.schema({**inner, **described}, path)
        if "$ref" in node:
            target = self._defs[node["$ref"].rpartition("/")[2]]
            return self.schema({**target, **{k: v for k, v in node.items() if k != "$ref"}}, path)
        kept = {
            k: v
            for k, v in node.items()
            if k in ("type", "description", "x-kubernetes-preserve-unknown-fields")
        }
        if node.get("type") == "array":
            kept["items"] = self.schema(node["items"], f"{path}[]")
        if "properties" in node:
            kept["properties"] = self._properties(node["properties"], path)
            if node.get("required"):
                kept["required"] = list(node["required"])
        elif isinstance(node.get("additionalProperties"), dict):
            kept["additionalProperties"] = self.schema(node["additionalProperties"], f"{path}{{}}")
        if path in self._rules:
            kept["x-kubernetes-validations"] = copy.deepcopy(self._rules[path])
        return kept | copy.deepcopy(self._extras.get(path, {}))

    def _properties(self, properties: dict[str, Schema], path: str) -> Schema:
        inside = {name: f"{path}.{name}" if path else name for name in properties}
        return {
            name: self.schema(properties[name], where)
            for name, where in inside.items()
            if where not in self._lacks
        }
