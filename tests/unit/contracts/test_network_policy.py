"""The first wall against forged requests: literal addresses in every spelling, for datasets and for registries."""

from __future__ import annotations

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy, Refused


def url_fault(url: str, networks: tuple[str, ...] = ()) -> str | None:
    """Why a dataset URL is refused, or None."""
    try:
        NetworkPolicy.of(networks).check_dataset(url)
    except Refused as refused:
        return str(refused)
    return None


def registry_fault(image: str, *networks: str, insecure: str = "") -> str | None:
    """Why an image's registry is refused, or None."""
    try:
        NetworkPolicy.of(networks, [insecure] if insecure else []).check_registry(parse_reference(image))
    except Refused as refused:
        return str(refused)
    return None


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/a/b.parquet?download=true",
        "http://example.com:80/a",
        "HTTPS://EXAMPLE.COM/a",
        "https://8.8.8.8/a",
        "https://[2606:4700::1111]/a",
        "https://localhost.example.com/a",
        "https://1e100.net/a",
        "https://bücher.example/a",
        "https://my_bucket.example.com/a",
    ],
)
def test_public_urls_are_fine(url: str) -> None:
    assert url_fault(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/a",
        "http://LOCALHOST:9000/a",
        "http://localhost./a",
        "http://x.localhost/a",
        "http://printer.local/a",
        "http://metadata.google.internal/computeMetadata",
        "http://metadata/a",
        "http://instance-data.ec2.internal/a",
        "http://svc.cluster.internal/a",
        "http://127.0.0.1/a",
        "http://127.1/a",
        "http://0x7f000001/a",
        "http://2130706433/a",
        "http://0177.0.0.1/a",
        "http://0/a",
        "http://10.0.0.5/a",
        "http://172.16.3.4/a",
        "http://192.168.0.1/a",
        "http://100.64.0.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://0xa9fea9fe/latest",
        "http://[::1]/a",
        "http://[::ffff:127.0.0.1]/a",
        "http://[fe80::1]/a",
        "http://[fd00:ec2::254]/a",
        "http://[2002:7f00:1::]/a",
        "http://168.63.129.16/a",
        "http://192.0.0.192/opc/v2/instance",
        "http://[64:ff9b::a9fe:a9fe]/latest",
        "http://[2001:0:a9fe:a9fe::]/latest",
        "http://\uff11\uff12\uff17.0.0.1/a",
    ],
)
def test_addresses_inside_are_refused(url: str) -> None:
    assert url_fault(url) is not None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a/b",
        "example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "https://",
        "https:///a",
        "https://user@example.com/a",
        "https://user:pw@example.com/a",
        "https://exa mple.com/a",
        "https://example.com/a b",
        "https://example.com:99999/a",
        "https://[::1/a",
        "https://[not-an-address]/",
    ],
)
def test_what_is_no_fetchable_url(url: str) -> None:
    assert url_fault(url) is not None


@pytest.mark.parametrize("port", [22, 8080, 8443])
def test_ports_that_the_pods_refuse_are_refused(port: int) -> None:
    assert f"port {port}" in str(url_fault(f"https://example.com:{port}/a"))
    assert f"port {port}" in str(url_fault(f"https://8.8.8.8:{port}/a", ("10.0.0.0/8",)))
    # A name may lead into the allowed network, where every port will do: only the pod can know.
    assert url_fault(f"https://example.com:{port}/a", ("10.0.0.0/8",)) is None


@pytest.mark.parametrize(
    "image",
    [
        "169.254.169.254/a:1",
        "10.0.0.5:5000/adapters/phi:1",
        "127.0.0.1:5000/a:1",
        "[::1]:5000/a:1",
        "[64:ff9b::a9fe:a9fe]:443/a:1",
        "localhost/a:1",
        "localhost:5000/a:1",
        "0x7f.1:5000/a:1",
        "168.63.129.16/a:1",
        "metadata.google.internal/a:1",
        "registry.kube-system.svc.cluster.local:5000/a:1",
        "registry.example.com:22/a:1",
    ],
)
def test_registries_inside_are_refused(image: str) -> None:
    assert registry_fault(image) is not None


@pytest.mark.parametrize(
    "image",
    ["phi:1", "ghcr.io/me/phi", "registry.example.com:5050/a", "8.8.8.8:5000/a", "myacr.azurecr.io/a:1"],
)
def test_public_registries_are_fine(image: str) -> None:
    assert registry_fault(image) is None


def test_the_administrator_opens_registries_by_network_or_by_name() -> None:
    assert registry_fault("10.0.0.5:5000/a", "10.0.0.0/8") is None
    assert registry_fault("127.0.0.1:5000/a", insecure="127.0.0.1:5000") is None
    assert registry_fault("127.0.0.1:5001/a", insecure="127.0.0.1:5000") is not None
    assert registry_fault("registry.kube-system.svc.cluster.local:5000/a", "10.0.0.0/8") is None
    assert registry_fault("metadata.google.internal/a", "169.254.0.0/16") is not None


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.0/99' is not a network"):
        NetworkPolicy.of(["10.0.0.0/8", "10.0.0.0/99"])


def test_the_allow_list_opens_its_networks_only() -> None:
    assert url_fault("http://127.0.0.1:1/a", ("127.0.0.0/8",)) is None
    assert url_fault("http://[::1]/a", ("127.0.0.0/8", "::1/128")) is None
    assert url_fault("http://10.0.0.1/a", ("127.0.0.0/8",)) is not None
    assert url_fault("http://localhost/a", ("127.0.0.0/8",)) is not None
