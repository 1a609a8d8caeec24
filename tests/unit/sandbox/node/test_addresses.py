"""Pod addresses are loopback addresses, given once."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from sandbox.node.addresses import PodAddresses


@given(start=st.integers(0, 2**32), count=st.integers(1, 600))
def test_addresses_are_usable_and_different(start, count):
    addresses = PodAddresses(start)
    given_out = [addresses.take(f"pod-{n}") for n in range(count)]
    assert len(set(given_out)) == count
    for text in given_out:
        address = ipaddress.ip_address(text)
        assert address in ipaddress.ip_network("127.64.0.0/16")
        assert address.packed[-1] not in (0, 255)


def test_a_pod_keeps_its_address_and_gives_it_back():
    addresses = PodAddresses(0)
    first = addresses.take("a")
    assert addresses.take("a") == first
    addresses.give_back("a")
    assert addresses.take("b", wanted=first) == first


def test_a_wanted_address_that_is_taken_or_foreign_is_not_given():
    addresses = PodAddresses(0)
    first = addresses.take("a")
    assert addresses.take("b", wanted=first) != first
    assert addresses.take("c", wanted="10.0.0.1").startswith("127.64.")
