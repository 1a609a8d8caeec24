"""What every fresh cluster holds before anybody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.api.meta import dig

if TYPE_CHECKING:
    from sandbox.api.store import Cluster

Json = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
KUBERNETES_SERVICE_IP = "127.96.0.1"


def fill(cluster: Cluster) -> None:
    """Make what is missing; safe to repeat at every start."""
    for name in NAMESPACES:
        _ensure(cluster, "namespaces", {"metadata": {"name": name}}, None)
    service = {
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": KUBERNETES_SERVICE_IP,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }
    _ensure(cluster, "services", service, "default")


def publish(cluster: Cluster, host: str, port: int, authority: str) -> None:
    """Say inside the cluster where the API server is and what certificate to trust."""
    cluster.root_certificate = authority
    for _, entry in list(cluster.storage.entries("namespaces")):
        if not dig(entry.obj, "metadata", "deletionTimestamp"):
            root_certificate(cluster, entry.obj["metadata"]["name"])
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    subsets = [{"addresses": [{"ip": host}], "ports": ports}]
    _replace(cluster, "endpoints", {"metadata": {"name": "kubernetes"}, "subsets": subsets})
    labels = {"kubernetes.io/service-name": "kubernetes"}
    endpoints = [{"addresses": [host], "conditions": {"ready": True}}]
    _replace(
        cluster,
        "endpointslices.discovery.k8s.io",
        {
            "metadata": {"name": "kubernetes", "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports,
        },
    )


def root_certificate(cluster: Cluster, namespace: str) -> None:
    """Every namespace has the certificate authority in a ConfigMap."""
    if cluster.root_certificate:
        data = {"ca.crt": cluster.root_certificate}
        _replace(cluster, "configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": data}, namespace)


def _replace(cluster: Cluster, resource: str, obj: Json, namespace: str = "default") -> None:
    info = cluster.kinds.named(resource)
    key = (namespace, obj["metadata"]["name"])
    if cluster.storage.get(info.key, key) is None:
        cluster.create_now(info, obj, namespace)
    else:
        cluster.change_now(info, key, lambda current: {**current, **obj, "metadata": current["metadata"]})


def _ensure(cluster: Cluster, resource: str, obj: Json, namespace: str | None) -> None:
    info = cluster.kinds.named(resource)
    if cluster.storage.get(info.key, (namespace or "", obj["metadata"]["name"])) is None:
        cluster.create_now(info, obj, namespace)


def service_account(cluster: Cluster, namespace: str) -> None:
    """Every namespace has the account that its pods run under."""
    _ensure(cluster, "serviceaccounts", {"metadata": {"name": "default"}}, namespace)
