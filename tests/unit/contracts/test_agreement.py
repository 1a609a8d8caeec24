"""Check and pod agree on any text: what the one lets through the other does not refuse, and the other way round."""

from __future__ import annotations

import ipaddress
import json
import socket
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from include.contracts.addresses import is_public, literal
from include.contracts.network_policy import NetworkPolicy, Refused
from include.workloads.contract import UserConfigError
from include.workloads.dataset.connection import parse
from include.workloads.dataset.request import from_environment
from include.workloads.network import AddressPolicy
from include.workloads.oci.session import connect, read_reference
from include.workspace.validation.rules.context import Context, Policy
from include.workspace.validation.rules.sources import image_faults, url_faults

NETWORKS = ((), ("10.0.0.0/8",), ("127.0.0.0/8", "::1/128"))

addresses = st.one_of(
    st.ip_addresses().map(str),
    st.sampled_from(["10.0.0.1", "127.0.0.1", "169.254.169.254", "168.63.129.16", "192.0.0.192", "8.8.8.8", "::1"]),
    st.ip_addresses(v=4).map(lambda a: f"::ffff:{a}"),
    st.ip_addresses(v=4).map(lambda a: str(ipaddress.IPv6Address((0x64FF9B << 96) | int(a)))),
    st.ip_addresses(v=4).map(lambda a: str(ipaddress.IPv6Address((0x2002 << 112) | (int(a) << 80)))),
)  # fmt: skip
words = st.text(string.ascii_letters + string.digits + "-._:@/%?#[]\\ é\uff11", max_size=12)
hosts = st.one_of(
    addresses.map(lambda a: f"[{a}]" if ":" in a else a),
    st.ip_addresses(v=4).map(lambda a: str(int(a))),
    st.ip_addresses(v=4).map(lambda a: hex(int(a))),
    st.sampled_from(["example.com", "EXAMPLE.com.", "localhost", "a.localhost", "x.internal", "metadata", "bücher.de"]),
    words,
)  # fmt: skip
ports = st.sampled_from(["", ":80", ":443", ":8443", ":22", ":0", ":99999", ":"])
urls = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(["https://", "http://", "HTTPS://", "ftp://", "https:/", "//", ""]),
    st.sampled_from(["", "", "", "u@", "u:p@"]),
    hosts,
    ports,
    st.one_of(st.just("/a.jsonl"), words),
)


def resolver(host: str, port: int) -> list[str]:
    """What the system makes of a literal; names lead to a public address."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return ["8.8.8.8"]
    return [str(entry[4][0]) for entry in found]


def check_takes(url: str, networks: tuple[str, ...]) -> bool:
    return not list(url_faults("urls[0]", url, NetworkPolicy.of(networks)))


def pod_takes(url: str, networks: tuple[str, ...]) -> bool:
    """Whether a dataset pod with this URL would get as far as to connect."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATASET_URLS", json.dumps([url]))
        environment.setenv("ALLOWED_NETWORKS", ",".join(networks))
        try:
            request = from_environment()
            found = parse(request.urls[0])
            policy = AddressPolicy(request.network, resolver)
            policy.addresses((found.host or "").strip("[]"), found.port or 0)
        except UserConfigError:
            return False
    return True


@given(urls, st.sampled_from(NETWORKS))
@settings(max_examples=600, deadline=None)
@example("https://example.com:8443/a", ())
@example("http://168.63.129.16/a", ())
@example("http://[64:ff9b::a9fe:a9fe]/a", ())
@example("http://192.0.0.192/a", ())
@example("https://u:p@example.com/a", ())
@example("http://127.1/a", ())
@example("http://\uff11\uff12\uff17.0.0.1/a", ())
@example("http://127.0.0.1./a", ())
@example("https://[2001:1::1]0", ())
@example("http://evil.com\\@127.0.0.1/a", ())
@example("http://x.internal/a", ("10.0.0.0/8",))
def test_dataset_urls(url: str, networks: tuple[str, ...]) -> None:
    taken = check_takes(url, networks)
    if taken and literal(_host(url)) is None and networks:
        return  # where a name leads only the pod can know, and a port may be refused there
    assert taken == pod_takes(url, networks), url


def _host(url: str) -> str:
    return NetworkPolicy.of(["0.0.0.0/0", "::/0"]).check_dataset(url).host


images = st.builds(
    lambda *parts: "".join(parts),
    st.one_of(
        hosts, st.sampled_from(["Registry", "h.io", "MyACR.azurecr.io", "docker.io", "index.docker.io", ""])
    ),
    ports,
    st.sampled_from(["/", "/", "", "//"]),
    st.one_of(st.sampled_from(["adapters/phi", "phi", "A/b"]), words),
    st.sampled_from(["", ":1", ":", ":ta g", ":latest"]),
    st.sampled_from(["", "", "@sha256:" + "a" * 64, "@sha512:" + "a" * 128, "@sha256:a"]),
)


@given(images, st.sampled_from(NETWORKS))
@settings(max_examples=600, deadline=None)
@example("Registry/adapters/phi:1", ())
@example("h.io/a@sha512:" + "a" * 128, ())
@example("10.0.0.5:5000/a:1", ())
@example("10.0.0.5:5000/a:1", ("10.0.0.0/8",))
def test_images(image: str, networks: tuple[str, ...]) -> None:
    context = Context(None, None, Policy(allowed_networks=networks))  # type: ignore[arg-type]
    taken = not list(image_faults(context, "image", image, "U6"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ALLOWED_NETWORKS", ",".join(networks))
        try:
            client = connect(read_reference(image))
        except UserConfigError:
            client = None
    assert taken == (client is not None), image
    if client is not None:  # the client asks the registry that was meant
        assert client.base == f"https://{client.reference.api_host}/v2/{client.reference.repository}"


@given(st.ip_addresses())
@settings(max_examples=500)
def test_our_table_opens_nothing_that_python_closes(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Whatever this Python's own table holds; ours may be stricter, and knows some public ranges by name."""
    if is_public(address) and "ffff" not in str(address.exploded):
        assert address.is_global or str(address).startswith(("192.0.0.", "2001:", "64:ff9b:"))


@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_as_what_it_wraps(address: ipaddress.IPv4Address) -> None:
    wrapped = [
        ipaddress.IPv6Address((0xFFFF << 32) | int(address)),
        ipaddress.IPv6Address((0x0064FF9B << 96) | int(address)),
        ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80)),
        ipaddress.IPv6Address((0x20010000 << 96) | (int(address) << 64) | (~0x08080808 & 0xFFFFFFFF)),
        ipaddress.IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | (~int(address) & 0xFFFFFFFF)),
    ]
    assert [is_public(one) for one in wrapped] == [is_public(address)] * len(wrapped)


def test_refused_is_a_sentence_with_a_way_out() -> None:
    with pytest.raises(Refused) as error:
        NetworkPolicy().check_dataset("http://10.0.0.1/a")
    assert "allowed_networks" in error.value.hint
