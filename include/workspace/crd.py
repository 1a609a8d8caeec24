"""The CustomResourceDefinition of Workspaces, generated from the pydantic models.

kubectl asks for a CRD's preferred version, which is v1beta1 whatever the order in the manifest, so the columns of the
quick start must stand there: both versions show INSTANCE RESOURCEREADY INFERENCEREADY WORKSPACEREADY AGE, and KAITO's
other columns have priority 1 (`kubectl get workspace -o wide`). The manifest must never be edited by hand:
`python -m include.workspace crd` writes it and a test compares.
"""

from __future__ import annotations

from typing import Any

from include.workspace.models import V1ALPHA1_INSTANCE_TYPE, Workspace
from include.workspace.names import GROUP, KIND, PLURAL, STORED_VERSION

Schema = dict[str, Any]

METHOD_PATTERN = "^([lL][oO][rR][aA]|[qQ][lL][oO][rR][aA])$"
NAME_RULE = {
    "rule": "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "message": "metadata.name must be a DNS label: at most 63 lower-case letters, digits and '-'",
}
ROOT_RULES = [
    NAME_RULE,
    {
        "rule": "has(self.inference) != has(self.tuning)",
        "message": "exactly one of inference and tuning is needed",
    },
    {
        "rule": "has(self.tuning) == has(oldSelf.tuning) && has(self.inference) == has(oldSelf.inference)",
        "message": "a Workspace cannot change between inference and tuning; make a new one",
    },
    {
        "rule": "!has(self.tuning) || !has(self.resource) || !has(self.resource.count) || self.resource.count == 1",
        "message": "resource.count: tuning runs on a single node",
    },
]
# Rules by the place of the schema that they stand at.
RULES: dict[str, list[dict[str, str]]] = {
    "tuning": [
        {"rule": "has(self.preset)", "message": "tuning.preset is required"},
        {"rule": "has(self.method)", "message": "tuning.method is required"},
        {
            "rule": "!has(oldSelf.preset) || (has(self.preset) && self.preset.name == oldSelf.preset.name)",
            "message": "tuning.preset is immutable",
        },
        {
            "rule": "!has(oldSelf.method) || (has(self.method) && self.method.lowerAscii() == "
            "oldSelf.method.lowerAscii())",
            "message": "tuning.method is immutable",
        },
    ],
    "tuning.input": [
        {
            "rule": "[has(self.urls) && size(self.urls) > 0, has(self.image) && self.image != '', "
            "has(self.volumeSource)].filter(x, x).size() == 1",
            "message": "tuning.input needs exactly one of urls, image and volumeSource",
        }
    ],
    "tuning.output": [
        {
            "rule": "(has(self.image) && self.image != '') != has(self.volumeSource)",
            "message": "tuning.output needs exactly one of image and volumeSource",
        },
        {
            "rule": "!has(self.image) || self.image == '' || (has(self.imagePushSecret) && self.imagePushSecret != '')",
            "message": "tuning.output.imagePushSecret is required with tuning.output.image",
        },
    ],
    "inference": [
        {
            "rule": "has(self.preset) != has(self.template)",
            "message": "inference needs exactly one of preset and template",
        },
        {
            "rule": "!has(oldSelf.preset) || (has(self.preset) && self.preset.name == oldSelf.preset.name)",
            "message": "inference.preset is immutable",
        },
    ],
    "resource": [
        {
            "rule": "!has(oldSelf.instanceType) || (has(self.instanceType) && self.instanceType == "
            "oldSelf.instanceType)",
            "message": "resource.instanceType is immutable",
        }
    ],
}
# Bounds and defaults that the models leave to the API server.
EXTRAS: dict[str, Schema] = {
    "resource.count": {"default": 1, "minimum": 1},
    "inference.adapters": {"maxItems": 10},
    "tuning.method": {"pattern": METHOD_PATTERN, "maxLength": 16},
    "tuning.input.urls": {"maxItems": 64},
    "tuning.input.urls[]": {"pattern": "^[hH][tT][tT][pP][sS]?://", "maxLength": 4096},
    "tuning.preset.name": {"maxLength": 253},
    "inference.preset.name": {"maxLength": 253},
    "tuning.preset.accessMode": {"default": "public", "enum": ["public", "private"]},
    "inference.preset.accessMode": {"default": "public", "enum": ["public", "private"]},
}
ALPHA_EXTRAS: dict[str, Schema] = {"resource.instanceType": {"default": V1ALPHA1_INSTANCE_TYPE}}
ALPHA_LACKS = {
    "resource.partition",
    "tuning.preset.presetOptions.modelAccessSecret",
    "inference.preset.presetOptions.modelAccessSecret",
}
BETA_EXTRAS: dict[str, Schema] = {
    "resource.partition.mode": {"enum": ["mig", "accelerator"]},
    "resource.partition.count": {"minimum": 1},
}


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
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]


def _workspace_schema(alpha: bool) -> Schema:
    source = Workspace.model_json_schema(by_alias=True)
    lacks = ALPHA_LACKS if alpha else set()
    extras = EXTRAS | (ALPHA_EXTRAS if alpha else BETA_EXTRAS)
    schema = _structural(source, source.get("$defs", {}), "", lacks, extras)
    schema["description"] = (
        "Workspace describes a model workload: tuning or inference of a preset on GPU machines."
    )
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"]["status"] = _status_schema()
    schema.pop("required", None)  # apiVersion, kind and metadata go without saying
    schema["x-kubernetes-validations"] = ROOT_RULES
    return schema


def _structural(
    node: Schema, defs: dict[str, Schema], path: str, lacks: set[str], extras: dict[str, Schema]
) -> Schema:
    """A JSON schema of pydantic's as a structural schema: no $ref, no anyOf with null, no titles."""
    if "anyOf" in node:
        inner = [part for part in node["anyOf"] if part.get("type") != "null"]
        described = {key: node[key] for key in ("description",) if key in node}
        return _structural({**inner[0], **described}, defs, path, lacks, extras)
    if "$ref" in node:
        target = defs[node["$ref"].rpartition("/")[2]]
        return _structural(
            {**target, **{k: v for k, v in node.items() if k != "$ref"}}, defs, path, lacks, extras
        )
    kept = {
        k: v for k, v in node.items() if k in ("type", "description", "x-kubernetes-preserve-unknown-fields")
    }
    if node.get("type") == "array":
        kept["items"] = _structural(node["items"], defs, f"{path}[]", lacks, extras)
    if "properties" in node:
        inside = {name: f"{path}.{name}" if path else name for name in node["properties"]}
        kept["properties"] = {
            name: _structural(node["properties"][name], defs, where, lacks, extras)
            for name, where in inside.items()
            if where not in lacks
        }
        if node.get("required"):
            kept["required"] = list(node["required"])
    elif isinstance(node.get("additionalProperties"), dict):
        kept["additionalProperties"] = _structural(
            node["additionalProperties"], defs, f"{path}{{}}", lacks, extras
        )
    if path in RULES:
        kept["x-kubernetes-validations"] = RULES[path]
    return kept | extras.get(path, {})


def _status_schema() -> Schema:
    condition: Schema = {
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
            "message": {"type": "string", "maxLength": 32768},
        },
    }
    properties: Schema = {
        "workerNodes": {"type": "array", "items": {"type": "string"}},
        "conditions": {"type": "array", "items": condition},
    }
    beta: Schema = {
        "state": {"type": "string"},
        "targetNodeCount": {"type": "integer", "format": "int32"},
        "performance": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "adapter": {
            "type": "object",
            "description": "The pushed adapter image; not in KAITO's own definition.",
            "properties": {name: {"type": "string"} for name in ("image", "digest", "reference")},
        },
    }
    # v1alpha1 carries them too: a status written through it must not erase what v1beta1 shows (contract 1.1).
    return {"type": "object", "properties": properties | beta}
