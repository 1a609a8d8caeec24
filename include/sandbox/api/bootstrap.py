"""What every fresh cluster holds before anybody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.sandbox.api.store import Cluster

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


def _ensure(cluster: Cluster, resource: str, obj: Json, namespace: str | None) -> None:
    info = cluster.kinds.named(resource)
    if cluster.storage.get(info.key, (namespace or "", obj["metadata"]["name"])) is None:
        cluster.create_now(info, obj, namespace)


def service_account(cluster: Cluster, namespace: str) -> None:
    """Every namespace has the account that its pods run under."""
    _ensure(cluster, "serviceaccounts", {"metadata": {"name": "default"}}, namespace)
