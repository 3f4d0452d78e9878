"""One client is one IPv4 address or one IPv6 network of 64 bits; proxies are none."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clients import Clients

CLIENTS = Clients(trusted_proxies=("10.0.0.0/8", "fd00::/8"), exempt=("192.0.2.7/32",))


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, key: str) -> None:
    assert CLIENTS.key(address) == key


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "192.0.2.7", "unix", "", "x"]
)
def test_proxies_exempt_networks_and_unix_sockets_have_no_share(address: str) -> None:
    assert CLIENTS.key(address) is None


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_last_64_bits_of_an_ipv6_address_do_not_matter(
    network: int, host: int, other_host: int
) -> None:
    clients = Clients()
    address, other = (IPv6Address(network << 64 | low) for low in (host, other_host))
    assert clients.key(str(address)) == clients.key(str(other)) is not None


def test_a_remembered_address_keeps_its_key_when_many_others_come() -> None:
    clients = Clients()
    for number in range(10_000):
        clients.key(f"10.0.{number // 256}.{number % 256}")
    assert clients.key("10.0.0.1") == "10.0.0.1"
    assert len(clients._known) <= 4096
