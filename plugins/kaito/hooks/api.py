"""One request, described once, for both Kubernetes clients.

The synchronous and the asyncio client differ only in how a request is *sent*. What is sent (path, query, content
type, body) is decided here, in functions without I/O, so that the two hooks cannot drift apart and a new kind needs
one line. Nothing here may import a Kubernetes client.

Names come from people. One that would change which path or which selection a request is about is refused here, before
anything is sent: a ClusterError with status 400, as the API server would say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_request
from typing import Any
from urllib.parse import quote

from kaito.hooks.errors import CloudError as CloudError
from kaito.hooks.errors import ClusterError as ClusterError

FIELD_MANAGER = "kaito-airflow"
JSON_TYPE = "application/json"
MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
METADATA_EVENTS = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
APPLY_PATCH = "application/apply-patch+yaml"

Labels = Mapping[str, str | Sequence[str] | None]

_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_OBJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")


@dataclass(frozen=True)
class Kind:
    """A Kubernetes resource type: where its objects live in the API."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str | None = None, namespace: str | None = None, subresource: str = "") -> str:
        """Return the URL path of the collection, or of one object in it.

        :param name: None for the collection.
        :param namespace: None for all namespaces; a namespaced object is in one.
        :raises ClusterError: a name that is no segment of a path, or that is missing.
        """
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and (namespace is not None or name is not None):
            parts += ["namespaces", segment("Namespace", namespace)]
        parts.append(self.plural)
        if name is not None:
            parts.append(segment(self.name, name))
        parts += [segment("path", part) for part in subresource.split("/") if part]
        return "/".join(parts)


WORKSPACE = Kind("kaito.sh", "v1beta1", "workspaces", "Workspace")
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
POD = Kind("", "v1", "pods", "Pod")
SERVICE = Kind("", "v1", "services", "Service")
SECRET = Kind("", "v1", "secrets", "Secret")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
VOLUME_CLAIM = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
VOLUME = Kind("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
STORAGE_CLASS = Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
EVENT = Kind("", "v1", "events", "Event")
STATEFUL_SET = Kind("apps", "v1", "statefulsets", "StatefulSet")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
DISRUPTION_BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
CONTROLLER_REVISION = Kind("apps", "v1", "controllerrevisions", "ControllerRevision")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
WEBHOOKS = Kind(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    namespaced=False,
)
CRD = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)

#: The kinds that the reconciler may be told to delete or to apply, by their names in a manifest.
OWNED = {
    kind.name: kind for kind in (POD, SERVICE, CONFIG_MAP, VOLUME_CLAIM, STATEFUL_SET, CONTROLLER_REVISION)
}


def workspace_kind(api_version: str | None) -> Kind:
    """Return the Workspace kind in the dialect of ``api_version`` (``kaito.sh/v1alpha1``), v1beta1 by default."""
    if not api_version:
        return WORKSPACE
    return Kind("kaito.sh", api_version.rpartition("/")[2], "workspaces", "Workspace")


@dataclass(frozen=True)
class Request:
    """An HTTP request to the API server, before any client has seen it."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content_type: str = JSON_TYPE
    timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that both clients' ``ApiClient.call_api`` take."""
        return {
            "resource_path": self.path,
            "method": self.method,
            "query_params": list(self.query),
            "header_params": {"Accept": JSON_TYPE, "Content-Type": self.content_type, **self.headers},
            "body": self.body,
            "auth_settings": ["BearerToken"],
            "response_types_map": {200: "object", 201: "object", 202: "object"},
            "_return_http_data_only": True,
            "_request_timeout": self.timeout,
        }


def segment(kind: str, name: str | None) -> str:
    """Return a name as one segment of a path.

    Quoting alone would not do: the server decodes ``%2F`` before it looks where a path leads, and clients resolve
    ``..``. So what Kubernetes itself takes for no segment of a path (IsValidPathSegmentName) is refused.

    :raises ClusterError: it is no such name.
    """
    if not name or name in (".", "..") or "/" in name or "%" in name or not name.isprintable():
        raise ClusterError(400, "BadRequest", f"{name or ''!r} cannot be the name of a {kind}.")
    return quote(name, safe=":")


def _label_value(value: str) -> str:
    """Return a label's value; one with a comma or a bracket would select something else."""
    if not _LABEL_VALUE.fullmatch(value):
        raise ClusterError(400, "BadRequest", f"{value!r} cannot be the value of a label.")
    return value


def selector(labels: Labels) -> str:
    """Return a label selector that matches all of ``labels``: a value, one of several values, or (None) any value.

    :raises ClusterError: a value that no label can have.
    """
    terms = []
    for key, value in sorted(labels.items()):
        if value is None:
            terms.append(key)
        elif isinstance(value, str):
            terms.append(f"{key}={_label_value(value)}")
        else:
            terms.append(f"{key} in ({','.join(map(_label_value, sorted(value)))})")
    return ",".join(terms)


def get(kind: Kind, name: str, namespace: str | None = None) -> Request:
    return Request("GET", kind.path(name, namespace))


def listing(
    kind: Kind,
    namespace: str | None = None,
    labels: Labels | None = None,
    fields: str = "",
    *,
    limit: int = 0,
    token: str = "",
    metadata_only: bool = False,
) -> Request:
    """List a collection, or one page of it: at most ``limit`` objects after ``token``."""
    query = []
    if labels:
        query.append(("labelSelector", selector(labels)))
    if fields:
        query.append(("fieldSelector", fields))
    if limit:
        query.append(("limit", str(limit)))
    if token:
        query.append(("continue", token))
    headers = {"Accept": METADATA_ONLY} if metadata_only else {}
    return Request("GET", kind.path(namespace=namespace), tuple(query), headers=headers)


def events_of(namespace: str, name: str) -> Request:
    """List the events about one object.

    :raises ClusterError: the name would select others.
    """
    if not _OBJECT_NAME.fullmatch(name):
        raise ClusterError(400, "BadRequest", f"{name!r} cannot be the name of an object.")
    return listing(EVENT, namespace, fields=f"involvedObject.name={name}")


def watching(
    kind: Kind,
    namespace: str | None,
    labels: Labels | None,
    version: str,
    seconds: int,
    *,
    metadata_only: bool = False,
) -> Request:
    """Watch from ``version`` for at most ``seconds``.

    The provider's clients cut every call off after 60 s unless the call says otherwise, so the client's own timeout
    is set just above the server's.
    """
    base = listing(kind, namespace, labels)
    query = (
        *base.query,
        ("watch", "true"),
        ("allowWatchBookmarks", "true"),
        ("resourceVersion", version),
        ("timeoutSeconds", str(seconds)),
    )
    headers = {"Accept": METADATA_EVENTS} if metadata_only else {}
    return Request("GET", base.path, query, timeout=seconds + 10, headers=headers)


def create(kind: Kind, manifest: Mapping[str, Any]) -> Request:
    namespace = manifest["metadata"].get("namespace")
    return Request("POST", kind.path(namespace=namespace), (("fieldManager", FIELD_MANAGER),), dict(manifest))


def dry_run(request: Request) -> Request:
    """Return a write as one that goes through all of admission and stores nothing."""
    return replace_request(request, query=(*request.query, ("dryRun", "All")))


def access_review(verb: str, kind: Kind) -> Request:
    """Ask whether the caller may do something with objects of a kind that has no namespaces."""
    attributes = {"verb": verb, "group": kind.group, "resource": kind.plural}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    return Request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)


def apply(kind: Kind, manifest: Mapping[str, Any], *, force: bool = True) -> Request:
    """Server-side apply. ``force`` takes fields over from other managers: right for objects that are ours alone."""
    metadata = manifest["metadata"]
    body = {"apiVersion": kind.api_version, "kind": kind.name, **manifest}
    return Request(
        "PATCH",
        kind.path(metadata["name"], metadata.get("namespace")),
        (("fieldManager", FIELD_MANAGER), ("force", "true" if force else "false")),
        body,
        APPLY_PATCH,
    )


def delete(
    kind: Kind,
    name: str,
    namespace: str | None = None,
    uid: str | None = None,
    version: str | None = None,
    grace_seconds: int | None = None,
) -> Request:
    """Delete one object.

    ``uid`` guards against deleting a newer object of the same name, ``version`` (its resourceVersion) against one
    that somebody has changed since it was read. ``grace_seconds`` 0 forgets a pod without its machine's word.
    """
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    if grace_seconds is not None:
        body["gracePeriodSeconds"] = grace_seconds
    guards = {"uid": uid, "resourceVersion": version}
    if any(guards.values()):
        body["preconditions"] = {key: value for key, value in guards.items() if value}
    return Request("DELETE", kind.path(name, namespace), (), body)


def merge_patch(kind: Kind, name: str, namespace: str | None, change: Mapping[str, Any]) -> Request:
    """Change some fields. ``metadata.uid`` or ``.resourceVersion`` in ``change`` makes it a 409 when they differ."""
    query = (("fieldManager", FIELD_MANAGER),)
    return Request("PATCH", kind.path(name, namespace), query, dict(change), MERGE_PATCH)


def replace(kind: Kind, manifest: Mapping[str, Any]) -> Request:
    """Write the whole object; the resourceVersion that it was read with makes a concurrent writer a 409."""
    metadata = manifest["metadata"]
    path = kind.path(metadata["name"], metadata.get("namespace"))
    return Request("PUT", path, (("fieldManager", FIELD_MANAGER),), dict(manifest))


def status_patch(kind: Kind, live: Mapping[str, Any], status: Mapping[str, Any]) -> Request:
    """Write ``status`` onto ``live``; the resourceVersion makes a concurrent writer a 409 instead of a lost update.

    A merge patch leaves alone what it does not name, so what is to go is named as null.
    """
    metadata = live["metadata"]
    change = _with_nulls(live.get("status") or {}, status)
    body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": change}
    return Request(
        "PATCH",
        kind.path(metadata["name"], metadata.get("namespace"), "status"),
        (("fieldManager", FIELD_MANAGER),),
        body,
        MERGE_PATCH,
    )


def _with_nulls(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        key: _with_nulls(old[key], value)
        if isinstance(value, dict) and isinstance(old.get(key), dict)
        else value
        for key, value in new.items()
    }
    return {key: None for key in old if key not in new} | inner


def status_apply(kind: Kind, live: Mapping[str, Any], status: Mapping[str, Any]) -> Request:
    """Write our part of ``status`` by server-side apply, fenced like :func:`status_patch`.

    Only for a kind whose conditions are a map by type: then other managers' conditions and fields stay theirs.
    """
    metadata = live["metadata"]
    which = {key: metadata[key] for key in ("name", "namespace", "resourceVersion") if metadata.get(key)}
    body = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": which, "status": dict(status)}
    return Request(
        "PATCH",
        kind.path(metadata["name"], metadata.get("namespace"), "status"),
        (("fieldManager", FIELD_MANAGER), ("force", "true")),
        body,
        APPLY_PATCH,
    )


def pod_get(pod: str, namespace: str, path: str, *, port: int, timeout: float) -> Request:
    """GET from a pod through the API server's pod proxy."""
    return Request("GET", POD.path(f"{pod}:{port}", namespace, f"proxy/{path.lstrip('/')}"), timeout=timeout)


def pod_log(
    pod: str, namespace: str, container: str, *, lines: int, max_bytes: int, timeout: float
) -> Request:
    """Read the last lines of a container's log."""
    query = (("container", container), ("tailLines", str(lines)), ("limitBytes", str(max_bytes)))
    return Request("GET", POD.path(pod, namespace, "log"), query, timeout=timeout)


def service_get(
    service: str,
    namespace: str,
    path: str,
    *,
    port: int,
    timeout: float,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """GET through the API server's service proxy."""
    return Request(
        "GET",
        SERVICE.path(f"{service}:{port}", namespace, f"proxy/{path.lstrip('/')}"),
        timeout=timeout,
        headers=headers or {},
    )


def service_post(
    service: str,
    namespace: str,
    path: str,
    body: Mapping[str, Any],
    *,
    port: int,
    timeout: float,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """POST through the API server's service proxy, so that Airflow needs no route into the cluster's network."""
    return Request(
        "POST",
        SERVICE.path(f"{service}:{port}", namespace, f"proxy/{path.lstrip('/')}"),
        (),
        dict(body),
        timeout=timeout,
        headers=headers or {},
    )
