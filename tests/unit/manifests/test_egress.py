"""Which addresses the pods of a tuning reach under their NetworkPolicy, asked address by address."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from kubernetes.client import ApiClient

from include import manifests
from include.manifests import ManifestSettings
from tests.support.manifests import QUICK


def policy(**settings: Any) -> dict[str, Any]:
    return manifests.egress_policy(QUICK, ManifestSettings("i", **settings))


def reaches(made: dict[str, Any], address: str) -> bool:
    """As a network plugin reads it: any rule that has no end, or a block with the address and no exception for it."""
    one = ipaddress.ip_address(address)
    for rule in made["spec"]["egress"]:
        if not rule:
            return True
        for peer in rule.get("to", []):
            block = peer["ipBlock"]
            inside = one in ipaddress.ip_network(block["cidr"])
            if inside and not any(one in ipaddress.ip_network(e) for e in block.get("except", [])):
                return True
    return False


@pytest.mark.parametrize(
    ("settings", "address", "reached"),
    [
        ({}, "140.82.112.3", True),
        ({}, "2606:4700::1111", True),
        ({}, "169.254.169.254", False),
        ({}, "10.0.0.1", False),
        ({}, "192.168.1.1", False),
        ({}, "fd00::1", False),
        ({"allowed_networks": ("10.1.0.0/16",)}, "10.1.2.3", True),
        ({"allowed_networks": ("10.1.0.0/16",)}, "10.2.2.3", False),
        ({"insecure_registries": ("10.3.0.4:5000",)}, "10.3.0.4", True),
        ({"insecure_registries": ("10.3.0.4:5000",)}, "10.3.0.5", False),
        ({"insecure_registries": ("[fd00::4]:5000",)}, "fd00::4", True),
        # Where a name leads is known when it is asked; preflight admits it, so it must be reached.
        ({"insecure_registries": ("registry.team.svc:5000",)}, "10.3.0.4", True),
        ({"pod_egress": "open"}, "10.0.0.1", True),
    ],
)
def test_which_addresses_are_reached(settings: dict[str, Any], address: str, reached: bool) -> None:
    assert reaches(policy(**settings), address) is reached


def test_names_are_resolved_and_nothing_is_said_of_who_asks_the_pods() -> None:
    spec = policy()["spec"]
    assert {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]} in spec["egress"]
    assert spec["policyTypes"] == ["Egress"], "the API server asks a training how far it is"


def test_it_holds_for_each_pod_of_a_tuning_and_for_no_server() -> None:
    made = policy()
    (chosen,) = made["spec"]["podSelector"]["matchExpressions"]
    assert chosen["values"] == ["adapter", "dataset", "evaluation", "tuning"]
    assert made["spec"]["podSelector"]["matchLabels"] == {"kaito.sh/workspace": "tune-phi"}
    typed = ApiClient()._ApiClient__deserialize(made, "V1NetworkPolicy")
    assert ApiClient().sanitize_for_serialization(typed)["metadata"] == made["metadata"]
