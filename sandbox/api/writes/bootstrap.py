"""What every fresh cluster holds before anybody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.meta import dig

if TYPE_CHECKING:
    from sandbox.api.writes.store import Store

Json = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
KUBERNETES_SERVICE_IP = "127.96.0.1"


def fill(store: Store) -> None:
    """Make what is missing; safe to repeat at every start."""
    for name in NAMESPACES:
        _ensure(store, "namespaces", {"metadata": {"name": name}}, None)
    service = {
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": KUBERNETES_SERVICE_IP,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }
    _ensure(store, "services", service, "default")


def publish(store: Store, host: str, port: int, authority: str) -> None:
    """Say inside the cluster where the API server is and what certificate to trust."""
    store.root_certificate = authority
    for _, entry in list(store.storage.entries("namespaces")):
        if not dig(entry.obj, "metadata", "deletionTimestamp"):
            root_certificate(store, entry.obj["metadata"]["name"])
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    subsets = [{"addresses": [{"ip": host}], "ports": ports}]
    _replace(store, "endpoints", {"metadata": {"name": "kubernetes"}, "subsets": subsets})
    labels = {"kubernetes.io/service-name": "kubernetes"}
    endpoints = [{"addresses": [host], "conditions": {"ready": True}}]
    _replace(
        store,
        "endpointslices.discovery.k8s.io",
        {
            "metadata": {"name": "kubernetes", "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        },
    )


def root_certificate(store: Store, namespace: str) -> None:
    """Every namespace has the certificate authority in a ConfigMap."""
    if store.root_certificate:
        data = {"ca.crt": store.root_certificate}
        _replace(store, "configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": data}, namespace)


def _replace(store: Store, resource: str, obj: Json, namespace: str = "default") -> None:
    info = store.kinds.named(resource)
    key = (namespace, obj["metadata"]["name"])
    if store.storage.get(info.key, key) is None:
        store.create_now(info, obj, namespace)
    else:
        store.change_now(info, key, lambda current: {**current, **obj, "metadata": current["metadata"]})


def _ensure(store: Store, resource: str, obj: Json, namespace: str | None) -> None:
    info = store.kinds.named(resource)
    if store.storage.get(info.key, (namespace or "", obj["metadata"]["name"])) is None:
        store.create_now(info, obj, namespace)


def service_account(store: Store, namespace: str) -> None:
    """Every namespace has the account that its pods run under."""
    _ensure(store, "serviceaccounts", {"metadata": {"name": "default"}}, namespace)
