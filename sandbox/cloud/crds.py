"""The karpenter.sh definitions that a cluster with a node provisioner has: NodeClaim and NodePool (v1).

Minimal but structural; the shapes follow sigs.k8s.io/karpenter, the fields that nobody here reads are preserved.
"""

from __future__ import annotations

from typing import Any

from sandbox.api.cluster import ApiError, Cluster
from sandbox.controllers.reconciler import CONFLICT

Object = dict[str, Any]

GROUP = "karpenter.sh"
NODECLAIMS, NODEPOOLS = f"nodeclaims.{GROUP}", f"nodepools.{GROUP}"
TEXT: Object = {"type": "string"}
TEXT_MAP: Object = {"type": "object", "additionalProperties": TEXT}
QUANTITIES: Object = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
    },
}
TAINTS: Object = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["effect", "key"],
        "properties": {
            "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            "key": TEXT,
            "value": TEXT,
            "timeAdded": {"type": "string", "format": "date-time"},
        },
    },
}
CONDITIONS: Object = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "message": TEXT,
            "observedGeneration": {"type": "integer", "format": "int64"},
            "reason": TEXT,
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "type": TEXT,
        },
    },
}
CLAIM_SPEC: Object = {
    "type": "object",
    "required": ["nodeClassRef", "requirements"],
    "properties": {
        "nodeClassRef": {"type": "object", "properties": {"group": TEXT, "kind": TEXT, "name": TEXT}},
        "requirements": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "operator"],
                "properties": {
                    "key": TEXT,
                    "operator": {
                        "type": "string",
                        "enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"],
                    },
                    "values": {"type": "array", "items": TEXT},
                    "minValues": {"type": "integer"},
                },
            },
        },
        "resources": {"type": "object", "properties": {"requests": QUANTITIES}},
        "taints": TAINTS,
        "startupTaints": TAINTS,
        "expireAfter": TEXT,
        "terminationGracePeriod": TEXT,
    },
}
CLAIM_STATUS: Object = {
    "type": "object",
    "properties": {
        "providerID": TEXT,
        "nodeName": TEXT,
        "imageID": TEXT,
        "capacity": QUANTITIES,
        "allocatable": QUANTITIES,
        "conditions": CONDITIONS,
        "lastPodEventTime": {"type": "string", "format": "date-time"},
    },
}
POOL_SPEC: Object = {
    "type": "object",
    "required": ["template"],
    "properties": {
        "replicas": {"type": "integer", "minimum": 0},
        "weight": {"type": "integer"},
        "limits": QUANTITIES,
        "disruption": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "template": {
            "type": "object",
            "required": ["spec"],
            "properties": {
                "metadata": {"type": "object", "properties": {"labels": TEXT_MAP, "annotations": TEXT_MAP}},
                "spec": CLAIM_SPEC,
            },
        },
    },
}
POOL_STATUS: Object = {
    "type": "object",
    "properties": {
        "conditions": CONDITIONS,
        "nodes": {"type": "integer"},
        "resources": QUANTITIES,
        "nodeClassObservedGeneration": {"type": "integer"},
    },
}


def _condition_column(name: str, condition: str, priority: int = 0) -> Object:
    path = f'.status.conditions[?(@.type=="{condition}")].status'
    return {"name": name, "type": "string", "jsonPath": path, "priority": priority}


def _column(name: str, path: str, type_: str = "string", priority: int = 0) -> Object:
    return {"name": name, "type": type_, "jsonPath": path, "priority": priority}


AGE = _column("Age", ".metadata.creationTimestamp", "date")
CLAIM_COLUMNS = [
    _column("Type", r".metadata.labels.node\.kubernetes\.io/instance-type"),
    _column("Capacity", r".metadata.labels.karpenter\.sh/capacity-type"),
    _column("Zone", r".metadata.labels.topology\.kubernetes\.io/zone"),
    _column("Node", ".status.nodeName"),
    _condition_column("Ready", "Ready"),
    AGE,
    _column("ID", ".status.providerID", priority=1),
    _column("NodePool", r".metadata.labels.karpenter\.sh/nodepool", priority=1),
]
POOL_COLUMNS = [
    _column("NodeClass", ".spec.template.spec.nodeClassRef.name"),
    _column("Nodes", ".status.nodes", "integer"),
    _condition_column("Ready", "Ready"),
    AGE,
]


def _definition(kind: str, spec: Object, status: Object, columns: list[Object]) -> Object:
    plural = f"{kind.lower()}s"
    schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": TEXT,
            "kind": TEXT,
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    version: Object = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "categories": ["karpenter"],
            },
            "scope": "Cluster",
            "versions": [version],
        },
    }


def definitions() -> list[Object]:
    return [
        _definition("NodeClaim", CLAIM_SPEC, CLAIM_STATUS, CLAIM_COLUMNS),
        _definition("NodePool", POOL_SPEC, POOL_STATUS, POOL_COLUMNS),
    ]


async def install(cluster: Cluster) -> None:
    """Define the kinds; what an earlier start defined stays."""
    for definition in definitions():
        try:
            await cluster.create("customresourcedefinitions.apiextensions.k8s.io", definition)
        except ApiError as error:
            if error.code != CONFLICT:
                raise
