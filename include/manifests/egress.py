"""Where the pods of a tuning may connect to, in the cluster's own words: a NetworkPolicy beside what the pods check.

The pods judge every address themselves (include.contracts.network_policy); this holds when one of them is taken over by
what it reads. It says the same: public addresses, the installation's networks, and DNS. It must never be narrower than
what preflight admits, or a training would be paid for whose adapter cannot be pushed.
"""

from __future__ import annotations

import ipaddress

from include.manifests import pods
from include.manifests.pods import Manifest, workspace_of
from include.manifests.settings import ManifestSettings
from include.manifests.tuning import Subject
from include.workspace.api import names

PUBLIC, OPEN = "public", "open"
EGRESS_POLICIES = (PUBLIC, OPEN)
COMPONENTS = ("adapter", "dataset", "evaluation", "tuning")
EVERYWHERE = {"0.0.0.0/0": 4, "::/0": 6}
#: Networks of clusters, companies and machines: what a pod could reach that the internet cannot.
INSIDE = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fe80::/10",
)


def egress_policy(ws: Subject, settings: ManifestSettings) -> Manifest:
    """The NetworkPolicy of a Workspace's dataset, tuning, evaluation and adapter pods."""
    workspace = workspace_of(ws)
    selector = {
        "matchLabels": {names.WORKSPACE: workspace.name},
        "matchExpressions": [{"key": names.COMPONENT, "operator": "In", "values": list(COMPONENTS)}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": pods.metadata(workspace, f"{workspace.name}-tuning", "tuning"),
        "spec": {"podSelector": selector, "policyTypes": ["Egress"], "egress": _rules(settings)},
    }


def _rules(settings: ManifestSettings) -> list[Manifest]:
    vouched = [_address(registry) for registry in settings.insecure_registries]
    if settings.pod_egress == OPEN or None in vouched:  # a name may lead anywhere
        return [{}]
    dns: Manifest = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}
    public = [
        {
            "ipBlock": {
                "cidr": every,
                "except": [n for n in INSIDE if ipaddress.ip_network(n).version == version],
            }
        }
        for every, version in EVERYWHERE.items()
    ]
    allowed = [*settings.allowed_networks, *(address for address in vouched if address)]
    return [dns, {"to": [*public, *({"ipBlock": {"cidr": cidr}} for cidr in allowed)]}]


def _address(registry: str) -> str | None:
    """The one address of a `host:port`, as a network; None where the host is a name."""
    host = registry.rpartition(":")[0] or registry
    try:
        return str(ipaddress.ip_network(host.strip("[]")))
    except ValueError:
        return None
