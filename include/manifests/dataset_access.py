"""What the dataset's pod is given so that it may read a dataset that is not public: keys of one Secret, or an identity.

An identity is a ServiceAccount that the administrator of the namespace has bound to one of a cloud. Nothing of it
reaches another pod, and no pod gets a token of the cluster's own API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.contracts.dataset_keys import PREFIX, keys_of
from include.contracts.dataset_urls import scheme_of
from include.manifests import pods
from include.manifests.pods import Manifest, env, workspace_of
from include.workspace import Workspace
from include.workspace.api import names

#: Azure's webhook gives an identity to pods with this label only; those of the other clouds look at the account.
AZURE_IDENTITY = "azure.workload.identity/use"
#: Google's metadata service and its GKE proxy, and EKS's agent: who gives a pod the token of its identity.
METADATA_PORTS = {"169.254.169.254/32": 80, "169.254.169.252/32": 988, "169.254.170.23/32": 80}


def variables(ws: Workspace, urls: Sequence[str]) -> list[Manifest]:
    """The Secret's keys for these URLs as variables of the pod, or the one that tells it to use its identity."""
    found: list[Manifest] = []
    if secret := ws.annotations.get(names.DATASET_CREDENTIALS):
        keys = [keys_of(scheme) for scheme in dict.fromkeys(map(scheme_of, urls))]
        required = dict.fromkeys(key for one in keys for key in one.required)
        others = dict.fromkeys(key for one in keys for key in (*one.one_of, *one.optional))
        found += [pods.env_from_secret(PREFIX + key, secret, key) for key in required]
        found += [pods.env_from_secret(PREFIX + key, secret, key, optional=True) for key in others]
    if identity(ws):
        found += env(DATASET_IDENTITY="true")
    return found


def identity(ws: Workspace) -> str:
    """The ServiceAccount as which the dataset is read, "" for none."""
    return ws.annotations.get(names.DATASET_IDENTITY, "").strip()


def service_account(ws: Workspace) -> Manifest:
    """Of the pod's spec; a token of the cluster's API is not mounted all the same."""
    return {"serviceAccountName": account} if (account := identity(ws)) else {}


def labels(ws: Workspace) -> Manifest:
    """Of the pod's metadata."""
    return {AZURE_IDENTITY: "true"} if identity(ws) else {}


def metadata_policy(ws: Workspace | Mapping[str, Any]) -> Manifest | None:
    """The NetworkPolicy that lets the dataset's pod alone reach its cloud's metadata service; None without an identity.

    It adds to the one of all pods of a tuning, since what any policy of a pod allows is allowed.
    """
    workspace = workspace_of(ws)
    if not identity(workspace):
        return None
    matching = {names.WORKSPACE: workspace.name, names.COMPONENT: "dataset"}
    rules = [
        {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": port}]}
        for cidr, port in METADATA_PORTS.items()
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pods.metadata(workspace, f"{workspace.name}-dataset-identity", "tuning"),
        "spec": {"podSelector": {"matchLabels": matching}, "policyTypes": ["Egress"], "egress": rules},
    }
