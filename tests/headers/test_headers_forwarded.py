"""The forwarding facts of a request (client, scheme, host): rows A14 and A15."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.headers import (
    ForwardedCache,
    ForwardedFields,
    Networks,
    request_rules,
    reserved,
)
from gateway.headers.forwarded import client_address
from gateway.http.fields import Field, block
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.session.tokens import holds_token, is_session_text

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


TRUSTED = Networks(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])
PROXY, STRANGER = "10.0.0.1", "9.9.9.9"
READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    request_rules(reserved(), holds_token, is_session_text),
)
WAYS = ForwardedCache(TRUSTED)
"""The cache of most tests. One request's facts must not change another's."""


def head(*fields: Field, http10: bool = False) -> RequestHead:
    """Return the head of a request with *fields*."""
    start = b"GET / HTTP/1.%d\r\nHost: gw:8000\r\n" % (not http10)
    return READER.read(start + block(fields) + b"\r\n")


def forwarded(
    *fields: Field,
    peer: str = PROXY,
    authority: str = "gw:8000",
    secure: bool = False,
    http10: bool = False,
    ways: ForwardedCache = WAYS,
) -> ForwardedFields:
    """Return the forwarding facts; the cached result must equal the computed one."""
    found = ways.find(head(*fields, http10=http10), peer, authority, secure=secure)
    again = ways.find(head(*fields, http10=http10), peer, authority, secure=secure)
    for name in ForwardedFields.__slots__:
        assert getattr(again, name) == getattr(found, name)
    return found


def stated(name: bytes, values: list[bytes]) -> list[Field]:
    return [(name, value) for value in values]


def told(found: ForwardedFields) -> dict[bytes, bytes]:
    """Return the X-Forwarded-* and Via fields by name; each must occur once."""
    *lines, end = found.fields.split(b"\r\n")
    assert end == b""
    fields = dict(line.split(b": ", 1) for line in lines)
    assert len(fields) == len(lines)
    return fields


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
    """A15: a peer is trusted by its address alone, also for IPv4 on an IPv6 socket."""
    assert (peer in TRUSTED) is trusted
    assert (peer in TRUSTED) is trusted  # cached


def test_nobody_is_trusted_by_default() -> None:
    """A15: no peer is trusted by default."""
    for peer in ("127.0.0.1", "10.0.0.1", "::1", ""):
        assert peer not in Networks()
    assert 10 not in TRUSTED


def test_bad_network_is_an_error() -> None:
    """A network with host bits, or an invalid one, is a configuration error."""
    for cidr in ("10.0.0.1/8", "everybody"):
        with pytest.raises(ValueError, match=cidr):
            Networks([cidr])


def test_what_is_remembered_of_peers_is_bounded() -> None:
    """The cache of peers is bounded, and each peer is judged correctly."""
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
    assert client_address(chain, peer, TRUSTED) == client
    if b"\x1b" not in b"".join(chain):  # such a head is refused
        assert forwarded(*stated(b"X-Forwarded-For", chain), peer=peer).client == client


addresses = st.ip_addresses().map(str)


@many
@given(
    chain=st.lists(st.one_of(addresses, st.text(max_size=8)), max_size=5), hop=addresses
)
def test_property_clients_address_is_never_of_its_own_making(
    chain: list[str], hop: str
) -> None:
    """The client's address is what the trusted proxy saw, whatever the client wrote."""
    written = ", ".join([*chain, hop]).encode("utf-8", "surrogatepass")
    got = client_address([written], PROXY, TRUSTED)
    if hop not in TRUSTED:
        assert got == hop
    ipaddress.ip_address(got)
    assert client_address([written], STRANGER, TRUSTED) == STRANGER


@pytest.mark.parametrize(
    ("values", "scheme"),
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
        ([b""], "http"),
    ],
)
def test_client_scheme(values: list[bytes], scheme: str) -> None:
    """A14: the scheme comes from a trusted proxy, else from the socket."""
    fields = stated(b"X-Forwarded-Proto", values)
    found = forwarded(*fields)
    assert found.is_secure is (scheme == "https")
    assert told(found)[b"X-Forwarded-Proto"] == scheme.encode()
    for secure in (True, False):
        found = forwarded(*fields, peer=STRANGER, secure=secure)
        assert found.is_secure is secure
        assert told(found)[b"X-Forwarded-Proto"] == (b"https" if secure else b"http")


@pytest.mark.parametrize(
    ("values", "is_secure"),
    [([], True), ([b"http"], False), ([b"ws"], False), ([b"gopher"], True)],
)
def test_scheme_of_a_proxy_that_comes_by_tls(
    values: list[bytes], *, is_secure: bool
) -> None:
    """A14: a proxy's stated scheme counts, else that of its own connection."""
    found = forwarded(*stated(b"x-forwarded-proto", values), secure=True)
    assert found.is_secure is is_secure


@pytest.mark.parametrize(
    ("values", "host"),
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
def test_client_host(values: list[bytes], host: str) -> None:
    """A14: a valid host of a trusted proxy counts, else the request's own."""
    fields = stated(b"X-Forwarded-Host", values)
    assert told(forwarded(*fields))[b"X-Forwarded-Host"] == host.encode()
    assert told(forwarded(*fields, peer=STRANGER))[b"X-Forwarded-Host"] == b"gw:8000"


# --- the fields that are forwarded ----------------------------------------------------


STATED: list[Field] = [
    (b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9"),
    (b"x-forwarded-for", b"10.0.0.8"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"shop.example"),
]


@pytest.mark.parametrize(
    ("given_way", "client", "is_trusted", "fields"),
    [
        pytest.param(
            {"peer": STRANGER},
            STRANGER,
            False,
            b"X-Forwarded-For: 9.9.9.9\r\nVia: 1.1 gateway\r\n"
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: gw:8000\r\n",
            id="A14 untrusted",
        ),
        pytest.param(
            {"peer": PROXY},
            "1.1.1.1",
            True,
            b"X-Forwarded-For: 1.1.1.1, 10.0.0.9, 10.0.0.8, 10.0.0.1\r\n"
            b"Via: 1.1 gateway\r\n"
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n",
            id="A15 trusted",
        ),
        pytest.param(
            {"peer": "2001:db8::1", "secure": True, "http10": True, "authority": ""},
            "2001:db8::1",
            False,
            b"X-Forwarded-For: 2001:db8::1\r\nVia: 1.0 gateway\r\n"
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: \r\n",
            id="HTTP/1.0 without Host, by TLS",
        ),
        pytest.param(
            {"peer": ""},
            "",
            False,
            b"Via: 1.1 gateway\r\n"
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: gw:8000\r\n",
            id="Unix socket",
        ),
    ],
)
def test_the_way_is_told_on(
    given_way: dict[str, Any], client: str, is_trusted: bool, fields: bytes
) -> None:
    """A peer without an address adds no X-Forwarded-For.

    Via names the received version.
    """
    found = forwarded(*STATED, **given_way)
    assert (found.client, found.is_trusted) == (client, is_trusted)
    assert found.fields == fields


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            [(b"Connection", b"X-Forwarded-For, x-forwarded-proto, X-Forwarded-Host")],
            id="A7 Connection lists them",
        ),
        pytest.param(
            [
                (b"X_Forwarded_For", b"6.6.6.6"),
                (b"X.Forwarded-Proto", b"http"),
                (b"X-Forwarded_Host", b"evil"),
            ],
            id="A4 other spellings",
        ),
    ],
)
def test_a_trusted_proxy_is_believed_whatever_else_comes(fields: list[Field]) -> None:
    """Neither other spellings nor Connection change what a trusted proxy states."""
    plain = forwarded(*STATED)
    for found in (forwarded(*fields, *STATED), forwarded(*STATED, *fields)):
        assert found.fields == plain.fields
        assert (found.client, found.is_secure) == ("1.1.1.1", True)


def test_ways_are_kept_apart() -> None:
    """Requests that differ in any one input get different facts, cached or not."""
    ways = ForwardedCache(TRUSTED)
    basis: dict[str, Any] = {
        "peer": PROXY,
        "authority": "gw",
        "secure": False,
        "http10": False,
    }
    others: list[dict[str, Any]] = [
        {"peer": peer} | other
        for peer in (PROXY, STRANGER, "", "10.0.0.2")
        for other in ({}, {"authority": "GW"}, {"secure": True}, {"http10": True})
    ]
    said: list[list[Field]] = [
        [],
        STATED[:1],
        STATED[1:2],
        STATED[:2],
        [*reversed(STATED[:2])],
        [(b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9,10.0.0.8")],
        STATED[2:3],
        STATED[3:],
        [(b"X-Forwarded-Host", b"1.1.1.1")],
        [(b"X-Forwarded-For", b"")],
        [(b"X-Forwarded-For", b"https")],
    ]
    for _ in range(2):
        for other in others:
            for fields in said:
                asked = basis | other
                found = forwarded(*fields, **asked, ways=ways)
                fresh = forwarded(*fields, **asked, ways=ForwardedCache(TRUSTED))
                for name in ForwardedFields.__slots__:
                    assert getattr(found, name) == getattr(fresh, name)


def test_a_way_is_worked_out_once() -> None:
    """Facts are computed once for an untrusted peer, and for a proxy's statements."""
    ways = ForwardedCache(TRUSTED)
    one = forwarded(peer=STRANGER, ways=ways)
    assert forwarded(*STATED, peer=STRANGER, ways=ways) is one
    assert forwarded(*STATED, ways=ways) is forwarded(*STATED, (b"A", b"b"), ways=ways)


def test_what_is_remembered_of_ways_is_bounded() -> None:
    """G14: the cache is bounded for any peers, names and chains.

    Long ones aren't kept.
    """
    ways = ForwardedCache(TRUSTED)
    for i in range(1100):
        number = f"{i >> 8}.{i & 255}"
        by_proxy = forwarded((b"X-Forwarded-For", f"1.1.{number}".encode()), ways=ways)
        assert by_proxy.client == f"1.1.{number}"
        assert forwarded(peer=f"11.0.{number}", ways=ways).client == f"11.0.{number}"
        assert told(forwarded(authority=f"a{i}", ways=ways))[b"X-Forwarded-Host"] == (
            b"a%d" % i
        )
        assert len(ways._known) <= 1024
    known = [*ways._known]
    for name in (b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host"):
        long = forwarded((name, b"1.1.1.1," * 65), ways=ways)
        assert long.is_trusted
        assert long.client == PROXY
    assert [*ways._known] == known


# --- prefix and port, X-Real-IP and Forwarded ---------------------------------


@pytest.mark.parametrize(
    ("values", "prefix"),
    [
        ([], b""),
        ([b"/outer"], b"/outer"),
        ([b"/outer/"], b"/outer"),
        ([b"/a/b"], b"/a/b"),
        ([b"/first, /second"], b"/first/second"),
        ([b"/first", b"/second/"], b"/first/second"),
        ([b"/"], b""),
        ([b""], b""),
        ([b"outer"], b""),
        ([b"//evil.com"], b""),
        ([b"/a//b"], b""),
        ([b"/a b"], b""),
        ([b"/a?b"], b""),
        ([b"/\\evil.com"], b""),
        ([b"/a", b"https://evil.com"], b""),
    ],
)
def test_prefixes_of_trusted_proxies_are_joined(
    values: list[bytes], prefix: bytes
) -> None:
    """The outermost comes first. What isn't a path has no say in redirects."""
    found = forwarded(*stated(b"X-Forwarded-Prefix", values))
    assert found.prefix == prefix
    name = b"X-Forwarded-Prefix"
    rest = found.rewritten(b"/app").partition(name + b": ")[2]
    assert rest == prefix + b"/app\r\n"
    assert (name in found.rewritten(b"")) is bool(prefix)
    # Without a rewrite, they are forwarded unchanged.
    assert found.fields.count(name) == len(values)


@pytest.mark.parametrize(
    ("values", "way", "port"),
    [
        ([], {"authority": "gw"}, b"80"),
        ([], {"authority": "gw", "secure": True}, b"443"),
        ([], {"authority": "gw:8443", "secure": True}, b"8443"),
        ([], {"authority": "[::1]:81"}, b"81"),
        ([b"9443"], {"authority": "gw:80"}, b"9443"),
        ([b"0"], {"authority": "gw"}, b"80"),
        ([b"65536"], {"authority": "gw"}, b"80"),
        ([b"44\xb2"], {"authority": "gw"}, b"80"),
        ([b"1", b"2"], {"authority": "gw"}, b"80"),
        ([b"1, 2"], {"authority": "gw"}, b"80"),
    ],
)
def test_port_with_a_rewrite(
    values: list[bytes], way: dict[str, Any], port: bytes
) -> None:
    """It is the one valid port of a trusted proxy, else the public origin's."""
    found = forwarded(*stated(b"X-Forwarded-Port", values), **way)
    made = [
        line.partition(b": ")[2]
        for line in found.rewritten(b"/app").split(b"\r\n")
        if line.startswith(b"X-Forwarded-Port")
    ]
    assert made == [port]


def test_no_port_without_a_host() -> None:
    """HTTP/1.0 without Host doesn't say which port the client used."""
    found = forwarded(authority="", http10=True, peer=STRANGER)
    assert b"Port" not in found.rewritten(b"/app")


def test_a_stranger_has_no_prefix_and_no_port() -> None:
    """A14: neither reaches the service, and neither counts in redirects."""
    spoofed = [(b"X-Forwarded-Prefix", b"/evil"), (b"X-Forwarded-Port", b"666")]
    found = forwarded(*spoofed, peer=STRANGER)
    assert found.prefix == b""
    for sent in (found.fields, found.rewritten(b"/app")):
        assert b"evil" not in sent
        assert b"666" not in sent


@pytest.mark.parametrize(
    ("way", "real_ip", "element"),
    [
        (
            {"peer": STRANGER},
            b"9.9.9.9",
            b'for=9.9.9.9;host="gw:8000";proto=http',
        ),
        (
            {"peer": PROXY},
            b"1.1.1.1",
            b"for=1.1.1.1;host=shop.example;proto=https",
        ),
        (
            {"peer": "2001:db8::1", "authority": "gw"},
            b"2001:db8::1",
            b'for="[2001:db8::1]";host=gw;proto=http',
        ),
        ({"peer": "", "authority": ""}, None, b"for=unknown;proto=http"),
    ],
)
def test_real_ip_and_forwarded(
    way: dict[str, Any], real_ip: bytes | None, element: bytes
) -> None:
    """Both name the client that the log names; neither is there by default."""
    ways = ForwardedCache(TRUSTED, real_ip=True, rfc7239=True)
    fields = told(forwarded(*STATED, **way, ways=ways))
    assert fields.get(b"X-Real-IP") == real_ip
    assert fields[b"Forwarded"] == element
    assert {b"X-Real-IP", b"Forwarded"}.isdisjoint(told(forwarded(*STATED, **way)))


# --- a terminator that is not trusted -----------------------------------------


HTTPS = (b"X-Forwarded-Proto", b"https")

IGNORED = [
    # the peer, its fields, whether the connection is TLS, the peers that are reported
    (STRANGER, (HTTPS,), False, [STRANGER]),
    (STRANGER, ((b"x-forwarded-proto", b"WSS"),), False, [STRANGER]),
    ("", (HTTPS,), False, [""]),
    (STRANGER, ((b"X-Forwarded-Proto", b"http"),), False, []),
    (STRANGER, (HTTPS, HTTPS), False, []),
    (STRANGER, ((b"X-Forwarded-For", b"1.2.3.4"),), False, []),
    (STRANGER, (), False, []),
    (STRANGER, (HTTPS,), True, []),
    (PROXY, (HTTPS,), False, []),
]


@pytest.mark.parametrize("trusted", [TRUSTED, Networks()])
@pytest.mark.parametrize(("peer", "fields", "secure", "reported"), IGNORED)
def test_a_terminator_that_is_not_trusted_is_reported(
    peer: str,
    fields: tuple[Field, ...],
    secure: bool,
    reported: list[str],
    trusted: Networks,
) -> None:
    """A peer whose https is ignored is reported, also if its requests are known."""
    if peer == PROXY and not trusted:
        reported = [PROXY]
    said: list[str] = []
    ways = ForwardedCache(trusted, said.append)
    forwarded(peer=peer, secure=secure, ways=ways)
    found = forwarded(*fields, peer=peer, secure=secure, ways=ways)
    assert said == reported
    assert found.is_secure is (
        secure or (peer == PROXY and fields == (HTTPS,) and bool(trusted))
    )


def test_only_the_first_is_reported() -> None:
    """Clients can send the field, too, so there is one report, whoever they are."""
    said: list[str] = []
    ways = ForwardedCache(TRUSTED, said.append)
    for number in range(1, 100):
        forwarded(HTTPS, peer=f"9.9.9.{number}", ways=ways)
    assert said == ["9.9.9.1"]
