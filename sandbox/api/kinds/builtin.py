"""The table of built-in kinds: what a Kubernetes 1.36 API server serves, as far as the sandbox has a use for it.

Webhook configurations are kept and listed, as sign of who is installed; the sandbox calls no webhooks.
"""

from __future__ import annotations

from typing import Any

from sandbox.api.kinds.resources import Conversion, Resource

Json = dict[str, Any]

_CORE = "io.k8s.api.core.v1."
_ALL = ("all",)

# Events are served in two groups with different field names; the store keeps the core/v1 form.
_TO_CORE = {
    "note": "message",
    "regarding": "involvedObject",
    "reportingController": "reportingComponent",
    "deprecatedCount": "count",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedSource": "source",
}
_FROM_CORE = {core: new for new, core in _TO_CORE.items()}


def _to_core(event: Json) -> Json:
    return {_TO_CORE.get(k, k): v for k, v in event.items()} | {"apiVersion": "v1"}


def _from_core(event: Json) -> Json:
    return {_FROM_CORE.get(k, k): v for k, v in event.items()} | {"apiVersion": "events.k8s.io/v1"}


_EVENTS_CONVERSION = Conversion(_to_core, _from_core)


def _core(plural: str, kind: str, *short: str, **more: object) -> Resource:
    return Resource("", "v1", plural, kind, short_names=short, definition=_CORE + kind, **more)  # type: ignore[arg-type]


def _apps(plural: str, kind: str, *short: str, **more: object) -> Resource:
    definition = f"io.k8s.api.apps.v1.{kind}"
    return Resource("apps", "v1", plural, kind, short_names=short, definition=definition, **more)  # type: ignore[arg-type]


def _rbac(plural: str, kind: str, namespaced: bool) -> Resource:
    definition = f"io.k8s.api.rbac.v1.{kind}"
    return Resource("rbac.authorization.k8s.io", "v1", plural, kind, namespaced, definition=definition)


def _review(group: str, kind: str, namespaced: bool = False) -> Resource:
    """A kind that is answered, never stored."""
    definition = f"io.k8s.api.{group.split('.')[0]}.v1.{kind}"
    return Resource(
        group, "v1", f"{kind.lower()}s", kind, namespaced, verbs=("create",), definition=definition
    )


_WORKLOAD = {"categories": _ALL, "tracks_generation": True}

BUILTINS: tuple[Resource, ...] = (
    _core("namespaces", "Namespace", "ns", namespaced=False, subresources=("status", "finalize")),
    _core("nodes", "Node", "no", namespaced=False, subresources=("status", "proxy")),
    _core(
        "pods",
        "Pod",
        "po",
        categories=_ALL,
        tracks_generation=True,
        subresources=(
            "status",
            "log",
            "binding",
            "eviction",
            "attach",
            "exec",
            "portforward",
            "proxy",
            "resize",
            "ephemeralcontainers",
        ),
    ),
    _core("services", "Service", "svc", categories=_ALL, subresources=("status", "proxy")),
    _core("endpoints", "Endpoints", "ep"),
    _core("events", "Event", "ev"),
    _core("configmaps", "ConfigMap", "cm"),
    _core("secrets", "Secret"),
    _core("serviceaccounts", "ServiceAccount", "sa", subresources=("token",)),
    _core("persistentvolumeclaims", "PersistentVolumeClaim", "pvc", subresources=("status",)),
    _core("persistentvolumes", "PersistentVolume", "pv", namespaced=False, subresources=("status",)),
    _core("resourcequotas", "ResourceQuota", "quota", subresources=("status",)),
    _core("limitranges", "LimitRange", "limits"),
    _core("podtemplates", "PodTemplate"),
    _core("bindings", "Binding", verbs=("create",)),
    _apps("deployments", "Deployment", "deploy", subresources=("status", "scale"), **_WORKLOAD),
    _apps("statefulsets", "StatefulSet", "sts", subresources=("status", "scale"), **_WORKLOAD),
    _apps("replicasets", "ReplicaSet", "rs", subresources=("status", "scale"), **_WORKLOAD),
    _apps("daemonsets", "DaemonSet", "ds", subresources=("status",), **_WORKLOAD),
    _apps("controllerrevisions", "ControllerRevision"),
    Resource(
        "batch",
        "v1",
        "jobs",
        "Job",
        categories=_ALL,
        subresources=("status",),
        tracks_generation=True,
        definition="io.k8s.api.batch.v1.Job",
    ),
    Resource(
        "batch",
        "v1",
        "cronjobs",
        "CronJob",
        short_names=("cj",),
        categories=_ALL,
        subresources=("status",),
        tracks_generation=True,
        definition="io.k8s.api.batch.v1.CronJob",
    ),
    Resource(
        "events.k8s.io",
        "v1",
        "events",
        "Event",
        short_names=("ev",),
        definition="io.k8s.api.events.v1.Event",
        store_as="events",
        conversion=_EVENTS_CONVERSION,
    ),
    Resource(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        tracks_generation=True,
        definition="io.k8s.api.discovery.v1.EndpointSlice",
    ),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", definition="io.k8s.api.coordination.v1.Lease"),
    Resource(
        "storage.k8s.io",
        "v1",
        "storageclasses",
        "StorageClass",
        namespaced=False,
        short_names=("sc",),
        definition="io.k8s.api.storage.v1.StorageClass",
    ),
    Resource(
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        namespaced=False,
        short_names=("pc",),
        tracks_generation=True,
        definition="io.k8s.api.scheduling.v1.PriorityClass",
    ),
    Resource(
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        short_names=("pdb",),
        subresources=("status",),
        tracks_generation=True,
        definition="io.k8s.api.policy.v1.PodDisruptionBudget",
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "ingresses",
        "Ingress",
        short_names=("ing",),
        subresources=("status",),
        tracks_generation=True,
        definition="io.k8s.api.networking.v1.Ingress",
    ),
    Resource(
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        short_names=("netpol",),
        tracks_generation=True,
        definition="io.k8s.api.networking.v1.NetworkPolicy",
    ),
    _rbac("roles", "Role", True),
    _rbac("rolebindings", "RoleBinding", True),
    _rbac("clusterroles", "ClusterRole", False),
    _rbac("clusterrolebindings", "ClusterRoleBinding", False),
    _review("authorization.k8s.io", "SelfSubjectAccessReview"),
    _review("authorization.k8s.io", "SelfSubjectRulesReview"),
    _review("authorization.k8s.io", "SubjectAccessReview"),
    _review("authorization.k8s.io", "LocalSubjectAccessReview", namespaced=True),
    _review("authentication.k8s.io", "SelfSubjectReview"),
    _review("authentication.k8s.io", "TokenReview"),
    Resource(
        "admissionregistration.k8s.io",
        "v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        namespaced=False,
        categories=("api-extensions",),
        tracks_generation=True,
        definition="io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    ),
    Resource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        subresources=("status",),
        tracks_generation=True,
        definition="io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    ),
)
