"""Which addresses may be fetched from."""

from __future__ import annotations

import socket

import pytest

from include.contracts.network_policy import NetworkPolicy
from include.workloads.contract import TryAgain, UserConfigError
from include.workloads.network import AddressPolicy, network_policy, system_resolve

PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "192.0.0.1",
    "192.0.0.192",
    "192.88.99.1",
    "198.18.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "2002:a00:1::",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::a83f:8110",
    "2001:0:a00:1::",
    "2001:0:808:808:0:ffff:f5ff:fffe",
    "2001:2::1",
    "2001:10::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "100:0:0:1::1",
    "fec0::1",
    "4000::1",
    "::ffff:0:7f00:1",
    "2001:db8::1",
    "::127.0.0.1",
]


def policy(addresses: list[str], allowed: list[str] | None = None) -> AddressPolicy:
    return AddressPolicy(NetworkPolicy.of(allowed or []), lambda host, port: addresses)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused(address):
    with pytest.raises(UserConfigError, match=r"data\.example \(.*is not a public address"):
        policy([address]).addresses("data.example", 443)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "20.60.0.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "192.0.0.9",
        "2001:3::1",
    ],
)
def test_public_addresses_pass_in_order(address):
    assert policy([address, "1.1.1.1"]).addresses("data.example", 443) == [address, "1.1.1.1"]


def test_one_private_address_among_public_ones_is_enough_to_refuse():
    with pytest.raises(UserConfigError, match=r"10\.0\.0\.7"):
        policy(["8.8.8.8", "10.0.0.7"]).addresses("data.example", 443)


@pytest.mark.parametrize("port", [22, 6443, 8080, 10250])
def test_public_addresses_only_on_web_ports(port):
    with pytest.raises(UserConfigError, match=f"port {port}"):
        policy(["8.8.8.8"]).addresses("data.example", port)


def test_an_allowed_network_passes_on_any_port_and_nothing_beside_it_does():
    allowed = ["10.0.0.0/8", "fd00::/8"]
    assert policy(["10.1.2.3", "::ffff:10.9.9.9", "fd00::5"], allowed).addresses("minio.example", 9000)
    with pytest.raises(UserConfigError):
        policy(["10.1.2.3", "192.168.0.1"], allowed).addresses("minio.example", 9000)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost"])
def test_other_spellings_of_loopback_are_seen_through(host):
    with pytest.raises(UserConfigError):
        AddressPolicy(resolve=system_resolve).addresses(host, 80)


def test_lookup_faults_are_told_apart():
    def fail(code: int):
        def resolve(host: str, port: int) -> list[str]:
            raise socket.gaierror(code, "x")

        return AddressPolicy(resolve=resolve)

    with pytest.raises(UserConfigError, match="does not exist"):
        fail(socket.EAI_NONAME).addresses("nope.example", 443)
    with pytest.raises(TryAgain):
        fail(socket.EAI_AGAIN).addresses("nope.example", 443)


def test_a_bad_network_in_the_setting_is_named(monkeypatch):
    monkeypatch.setenv("ALLOWED_NETWORKS", "10.0.0.0/8, 10.0.0.0/99")
    with pytest.raises(UserConfigError, match=r"ALLOWED_NETWORKS: '10\.0\.0\.0/99'"):
        network_policy()


@pytest.mark.parametrize("host", ["localhost", "x.localhost", "metadata.google.internal", "METADATA."])
def test_names_that_lead_inside_are_not_even_looked_up(host):
    def resolve(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    with pytest.raises(UserConfigError, match="inside the cluster's own network"):
        AddressPolicy(NetworkPolicy.of(["127.0.0.0/8"]), resolve).addresses(host, 80)
