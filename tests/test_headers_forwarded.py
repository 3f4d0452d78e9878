"""Where a request came from: rows A14 and A15."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.headers import (
    Forwarded,
    Networks,
    client_address,
    client_host,
    client_scheme,
)

many = settings(max_examples=300, deadline=None)  # a busy machine is no failure


TRUSTED = Networks(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("2001:db8::1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_peer_is_trusted_by_network(peer: str, trusted: bool) -> None:
    """A15: by address alone, also when IPv4 arrives on an IPv6 socket."""
    assert (peer in TRUSTED) is trusted
    assert (peer in TRUSTED) is trusted  # remembered


def test_nobody_is_trusted_by_default() -> None:
    """A15: the default list is empty."""
    for peer in ("127.0.0.1", "10.0.0.1", "::1", ""):
        assert peer not in Networks()
    assert 10 not in TRUSTED


def test_bad_network_is_an_error() -> None:
    """A network with host bits, or no network at all, is a mistake in the file."""
    for cidr in ("10.0.0.1/8", "everybody"):
        with pytest.raises(ValueError, match=cidr):
            Networks([cidr])


def test_what_is_remembered_of_peers_is_bounded() -> None:
    """Many peers don't fill the memory, and each is judged rightly."""
    networks = Networks(["10.0.0.0/8"])
    for i in range(3000):
        assert (f"11.0.{i >> 8}.{i & 255}" in networks) is False
        assert (f"10.0.{i >> 8}.{i & 255}" in networks) is True
    assert len(networks._known) <= 1024


@pytest.mark.parametrize(
    ("chain", "peer", "client"),
    [
        pytest.param([b"1.1.1.1"], "9.9.9.9", "9.9.9.9", id="A14 untrusted peer"),
        pytest.param([], "10.0.0.1", "10.0.0.1", id="nothing said"),
        pytest.param([b"1.1.1.1"], "10.0.0.1", "1.1.1.1", id="A15 one proxy"),
        pytest.param([b"6.6.6.6, 1.1.1.1"], "10.0.0.1", "1.1.1.1", id="A15 forged"),
        pytest.param([b"1.1.1.1, 10.0.0.2"], "10.0.0.1", "1.1.1.1", id="two proxies"),
        pytest.param([b"1.1.1.1", b"10.0.0.2"], "10.0.0.1", "1.1.1.1", id="two fields"),
        pytest.param([b"10.0.0.3,10.0.0.2"], "10.0.0.1", "10.0.0.3", id="all trusted"),
        pytest.param([b"1.1.1.1:1234"], "10.0.0.1", "1.1.1.1", id="with a port"),
        pytest.param([b"[2001:db8::1]:80"], "10.0.0.1", "2001:db8::1", id="IPv6, port"),
        pytest.param([b"2001:db8::1"], "10.0.0.1", "2001:db8::1", id="IPv6"),
        pytest.param([b"1.1.1.1, unknown"], "10.0.0.1", "10.0.0.1", id="no address"),
        pytest.param([b"1.1.1.1,,10.0.0.2"], "10.0.0.1", "10.0.0.2", id="a gap"),
        pytest.param([b"[]"], "10.0.0.1", "10.0.0.1", id="empty brackets"),
        pytest.param([b"\xff1.2.3.4"], "10.0.0.1", "10.0.0.1", id="A10 lossy byte"),
        pytest.param([b"fe80::1%\x1b[31m"], "10.0.0.1", "10.0.0.1", id="G12 in a zone"),
        pytest.param([b"fd00::2%x"], "10.0.0.1", "10.0.0.1", id="a zone"),
    ],
)
def test_client_address(chain: list[bytes], peer: str, client: str) -> None:
    """X-Forwarded-For is read from the right, as far as trusted proxies wrote it."""
    fields = [(b"X-Forwarded-For", value) for value in chain]
    assert client_address(fields, peer, TRUSTED) == client


addresses = st.ip_addresses().map(str)


@many
@given(
    chain=st.lists(st.one_of(addresses, st.text(max_size=8)), max_size=5), hop=addresses
)
def test_property_clients_address_is_never_of_its_own_making(
    chain: list[str], hop: str
) -> None:
    """Whatever a client wrote, the address is what the trusted proxy saw of it."""
    written = ", ".join([*chain, hop]).encode("utf-8", "surrogatepass")
    got = client_address([(b"x-forwarded-for", written)], "10.0.0.1", TRUSTED)
    if hop not in TRUSTED:
        assert got == hop
    ipaddress.ip_address(got)


def arrived(*, trusted: bool) -> Forwarded:
    return Forwarded(peer="10.0.0.1", trusted=trusted, scheme="http", host="gw:8000")


@pytest.mark.parametrize(
    ("stated", "scheme"),
    [
        ([], "http"),
        ([b"https"], "https"),
        ([b"HTTPS"], "https"),
        ([b"wss"], "https"),
        ([b"ws"], "http"),
        ([b"http"], "http"),
        ([b"https", b"http"], "http"),
        ([b"https, http"], "http"),
        ([b"gopher"], "http"),
        ([b"https\xff"], "http"),
    ],
)
def test_client_scheme(stated: list[bytes], scheme: str) -> None:
    """A14: cookies are `secure` because a trusted proxy said so, or the socket."""
    fields = [(b"X-Forwarded-Proto", value) for value in stated]
    assert client_scheme(fields, arrived(trusted=True)) == scheme
    assert client_scheme(fields, arrived(trusted=False)) == "http"


@pytest.mark.parametrize(
    ("stated", "host"),
    [
        ([], "gw:8000"),
        ([b"shop.example"], "shop.example"),
        ([b"Shop.example:8443"], "Shop.example:8443"),
        ([b"a", b"b"], "gw:8000"),
        ([b"a, b"], "gw:8000"),
        ([b"evil/@x"], "gw:8000"),
        ([b""], "gw:8000"),
    ],
)
def test_client_host(stated: list[bytes], host: str) -> None:
    """A14: the same for the name that the client asked for; it must be a valid one."""
    fields = [(b"X-Forwarded-Host", value) for value in stated]
    assert client_host(fields, arrived(trusted=True)) == host
    assert client_host(fields, arrived(trusted=False)) == "gw:8000"
