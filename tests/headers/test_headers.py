"""Fields to the upstream and to the client: A1-A19, F1-F5, F9, F14, I2, I3, I6."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from minting import Mint, segment

from gateway.dev.core.tokens import RefreshToken, seal
from gateway.errors import BadReply, BadRequest
from gateway.headers import (
    IDENTITY_NAMES,
    MAX_IDENTITY_BYTES,
    ForwardedCache,
    ForwardedFields,
    HeaderPolicy,
    IdentityTooLarge,
    Networks,
    Reserved,
    fold,
    policy,
    reply_rules,
    request_id,
    request_rules,
    reserved,
    session_cookies,
    to_client,
    to_upstream,
)
from gateway.headers.names import check_settable
from gateway.http.fields import Field, Fields, block, first, has_control, values
from gateway.http.reply_head import ReplyHead, ReplyHeadReader
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.identity import SessionIdentity
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.tokens import holds_token, is_session_text

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


PLAIN = policy({})
RESERVED = reserved(["X-User-Plan"])
ALICE = SessionIdentity(
    user_id="alice",
    recipe_user_id="alice",
    session_handle="handle",
    tenant_id="public",
    claims={"st-role": {"v": ["admin"]}},
    expires_at=0.0,
)
ALICES = [
    (b"X-Auth-Status", b"authenticated"),
    (b"X-User-Id", b"alice"),
    (b"X-Session-Handle", b"handle"),
    (b"X-Tenant-Id", b"public"),
    (b"X-User-Roles", b"admin"),
]
NOBODYS = [(b"X-Auth-Status", b"anonymous")]
HOST: Field = (b"Host", b"gw:8000")
DIRECT, BY_PROXY = "192.0.2.1", "10.0.0.1"
"""Peers: an untrusted one, and a trusted proxy."""
WAYS = ForwardedCache(Networks(["10.0.0.0/8"]))
MADE = [
    (b"X-Forwarded-For", b"192.0.2.1"),
    (b"Via", b"1.1 gateway"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"gw:8000"),
    (b"X-Request-Id", b"id-1"),
]


def reader(reserved: Reserved) -> RequestReader:
    """Return a reader configured like the gateway's."""
    bounds = HeadLimits(target=8192, field=16384, head=65536, fields=200)
    return RequestReader(
        bounds, request_rules(reserved, holds_token, is_session_text), CREDENTIAL_FIELDS
    )


READER = reader(RESERVED)
"""The reader of most tests.

Its caches must not carry one request's data into another.
"""


def read(
    *fields: Field, reader: RequestReader = READER, http10: bool = False
) -> RequestHead:
    """Return the head of a request with *fields*.

    A Host field is added if none is given.
    """
    if first(fields, b"host") is None:
        fields = (HOST, *fields)
    start = b"GET / HTTP/1.%d\r\n" % (not http10)
    return reader.read(start + block(fields) + b"\r\n")


def forwarded(head: RequestHead, peer: str = DIRECT) -> ForwardedFields:
    return WAYS.find(head, peer, "gw:8000", secure=False)


def pairs(text: bytes) -> list[Field]:
    """Return the fields in *text*, which must be a well-formed block of field lines."""
    *lines, end = text.split(b"\r\n")
    assert end == b""
    assert not has_control(b"".join(lines))
    found = [(name, value) for name, _, value in (x.partition(b": ") for x in lines)]
    assert block(found) == text
    return found


def send(
    *fields: Field,
    identity: SessionIdentity | None = None,
    policy: HeaderPolicy = PLAIN,
    reader: RequestReader = READER,
    peer: str = DIRECT,
) -> list[Field]:
    """Return the fields sent to the upstream.

    A second, cached pass must give the same.
    """
    sent = []
    for _ in range(2):
        head = read(*fields, reader=reader)
        made = to_upstream(
            head,
            policy=policy,
            forwarded=forwarded(head, peer),
            principal=identity,
            request_id=b"id-1",
        )
        sent.append(made)
    assert sent[0] == sent[1]
    return pairs(sent[0])


def passed(*fields: Field, policy: HeaderPolicy = PLAIN) -> list[Field]:
    """Return those of the client's fields that reach the upstream, anonymously."""
    sent = send(*fields, policy=policy)
    assert sent[-6:] == [*MADE, *NOBODYS]
    return sent[:-6]


# --- to the upstream --------------------------------------------------------


def test_usual_request() -> None:
    """The client's fields keep their order and precede the gateway's own.

    Host is not here.
    """
    client = [
        (b"User-Agent", b"curl/8"),
        (b"Accept", b"*/*"),
        (b"X-Custom", b"1"),
        (b"x-custom", b"2"),
        (b"Content-Type", b"application/json"),
        (b"X-Note", b"adm\xffin \xc3\xa9"),
        (b"X-Empty", b""),
        (b"Via", b"1.0 cache"),
    ]
    assert send(HOST, *client, identity=ALICE) == [*client, *MADE, *ALICES]


@pytest.mark.parametrize("identity", [None, ALICE], ids=["anonymous", "alice"])
@pytest.mark.parametrize(
    "name",
    [
        *(name.encode() for name in IDENTITY_NAMES),
        b"X-User-Plan",
        b"x-user-id",
        b"X-USER-ID",
        b"X_User_Id",
        b"X-User_Id",
        b"x_user_id",
        b"X.User.Id",
        b"X~User~Id",
        b"X!User|Id",
        b"x.user_plan",
    ],
    ids=ascii,
)
def test_identity_name_is_the_gateways(
    name: bytes, identity: SessionIdentity | None
) -> None:
    """A1 to A5: no client sets an identity field, in any spelling, on any route."""
    ours = NOBODYS if identity is None else ALICES
    sent = send((name, b"evil"), (name.lower(), b"evil"), identity=identity)
    assert sent == [*MADE, *ours]


def test_route_cannot_allow_what_another_route_reserves() -> None:
    """A3: a name that may be read as a reserved one is dropped though listed."""
    allows = policy({}, allow_field_names=["X_User_Plan", "X_Trace"])
    assert passed((b"X_User_Plan", b"pro"), (b"x_trace", b"1"), policy=allows) == [
        (b"x_trace", b"1")
    ]


@pytest.mark.parametrize("name", [b"X_Custom", b"x.custom", b"X~A", b"a|b", b"!"])
def test_odd_name_needs_the_routes_leave(name: bytes) -> None:
    """A4: a name that some readers take for another is dropped unless listed."""
    assert passed((name, b"1")) == []
    assert passed(
        (name, b"1"), policy=policy({}, allow_field_names=[name.decode()])
    ) == [(name, b"1")]


SOUND = {
    b"Transfer-Encoding": b"chunked",
    b"Content-Length": b"5",
    b"Expect": b"100-continue",
}
"""Fields with values that the request reader accepts."""


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"HTTP2-Settings",
        b"Proxy-Authenticate",
        b"Proxy-Authorization",
        b"Content-Length",
        b"Expect",
        b"Proxy",
        b"Host",
        b"X-Request-Id",
    ],
)
def test_field_of_this_hop_stays_here(name: bytes) -> None:
    """A17, C25: hop-by-hop and framing fields and Proxy (httpoxy) are dropped.

    The same holds with `_` for `-` (C3).
    """
    value = SOUND.get(name, b"x")
    for spelled_name in (name, name.lower(), name.upper()):
        assert passed((b"X-A", b"1"), (spelled_name, value)) == [(b"X-A", b"1")]
    if b"-" in name:
        assert passed((name.replace(b"-", b"_"), b"x")) == []


@pytest.mark.parametrize(
    ("connection", "left"),
    [
        pytest.param(b"close", [b"X-A", b"Cookie"], id="usual"),
        pytest.param(b"Keep-Alive, Upgrade", [b"X-A", b"Cookie"], id="usual, two"),
        pytest.param(b"close, X-A", [b"Cookie"], id="names a field"),
        pytest.param(b"x-a,COOKIE", [], id="A7 any case"),
        pytest.param(b"", [b"X-A", b"Cookie"], id="A8 empty"),
        pytest.param(b",,", [b"X-A", b"Cookie"], id="A8 commas"),
        pytest.param(b'"X-A"', [b"X-A", b"Cookie"], id="A8 no token"),
        pytest.param(b"\xff, x-a", [b"Cookie"], id="A8 odd bytes"),
    ],
)
def test_connection_is_obeyed(connection: bytes, left: list[bytes]) -> None:
    """Fields that Connection lists are dropped.

    A listed item that is no name is ignored.
    """
    got = passed((b"X-A", b"1"), (b"Connection", connection), (b"Cookie", b"c=d"))
    assert [name for name, _ in got] == left


def test_connection_cannot_remove_what_the_gateway_sets() -> None:
    """A6, A7: Connection is applied before identity and X-Forwarded-* are added."""
    every = b", ".join(
        name
        for name, _ in (
            *ALICES,
            *MADE,
            HOST,
            (b"Content-Length", b""),
            (b"Transfer-Encoding", b""),
        )
    )
    sent = send((b"Connection", every), (b"X-User-Id", b"evil"), identity=ALICE)
    assert sent == [*MADE, *ALICES]


def test_connection_cannot_cut_a_trusted_chain() -> None:
    """A7: Connection cannot remove a trusted proxy's X-Forwarded-For."""
    sent = send(
        (b"X-Forwarded-For", b"1.1.1.1"),
        (b"Connection", b"X-Forwarded-For"),
        peer=BY_PROXY,
    )
    assert first(sent, b"x-forwarded-for") == b"1.1.1.1, 10.0.0.1"


CREDENTIALS = [
    (b"Cookie", b"sAccessToken=x; theme=dark"),
    (b"Authorization", b"Bearer x.y.z"),
    (b"anti-csrf", b"x"),
    (b"rid", b"session"),
    (b"fdi-version", b"3.0"),
    (b"st-auth-mode", b"header"),
    (b"St-Access-Token", b"x"),
    (b"front-token", b"x"),
    (b"id-refresh-token", b"x"),
]


def test_credentials_stay_here() -> None:
    """F1, F5: session tokens and the SDKs' fields are not forwarded by default."""
    assert passed(*CREDENTIALS) == [(b"Cookie", b"theme=dark")]
    assert passed((b"Cookie", b"sAccessToken=x")) == []
    assert passed((b"Cookie", b"a=b"), (b"Cookie", b"c=d;")) == [
        (b"Cookie", b"a=b"),
        (b"Cookie", b"c=d;"),
    ]


def test_credentials_are_forwarded_where_the_route_says_so() -> None:
    """With `forward_credentials`, the upstream gets the credentials byte for byte."""
    assert passed(*CREDENTIALS, policy=policy({}, forward_credentials=True)) == (
        CREDENTIALS
    )


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (b"Bearer x", False),
        (b"bearer x", False),
        (b"BEARER\tx", False),
        (b"Bearer", False),
        (b" Bearer x", False),
        (b"\xa0Bearer x", False),
        (b"Bearer\xff x", False),
        (b"Basic eA==, Bearer x", False),
        (b"Basic eA==", True),
        (b"BearerX y", True),
        (b"Digest realm=bearer", True),
        (b"", True),
    ],
    ids=ascii,
)
def test_every_bearer_token_is_stripped(value: bytes, passes: bool) -> None:
    """E16, F5: bearer tokens are stripped in any spelling.

    Other schemes are forwarded.
    """
    field = (b"Authorization", value)
    assert passed(field) == ([field] if passes else [])


SPOOFED = [
    b"X-Forwarded-Proto",
    b"X-Forwarded-Host",
    b"X-Forwarded-Port",
    b"X-Forwarded-Prefix",
    b"X-Forwarded-Server",
    b"X-Forwarded-Uri",
    b"X-Forwarded-Method",
    b"X-Forwarded-User",
    b"X-Forwarded-Anything",
    b"Forwarded",
    b"X-Real-IP",
    b"True-Client-IP",
    b"X-Original-URL",
    b"X-Rewrite-URL",
    b"X-HTTP-Method-Override",
    b"X-HTTP-Method",
    b"X-Method-Override",
    b"X-Envoy-Original-Path",
    b"X_Forwarded_Proto",
]


@pytest.mark.parametrize("name", SPOOFED, ids=ascii)
def test_untrusted_peer_is_not_believed(name: bytes) -> None:
    """A14, F9: an untrusted client's forwarding and override fields are dropped."""
    assert passed((name, b"x"), (b"X-Forwarded-For", b"6.6.6.6")) == []


def test_trusted_peer_is_believed() -> None:
    """A15: the chain is extended, scheme and host are kept.

    A path or user is never accepted.
    """
    stated = [(name, b"443") for name in SPOOFED if b"Host" not in name]
    sent = send(
        *stated[1:],
        (b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9"),
        (b"X-Forwarded-For", b"10.0.0.8"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        peer=BY_PROXY,
    )
    assert sent == [
        (b"X-Forwarded-Server", b"443"),
        (b"X-Real-IP", b"443"),
        (b"True-Client-IP", b"443"),
        (b"X-Envoy-Original-Path", b"443"),
        (b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9, 10.0.0.8, 10.0.0.1"),
        (b"Via", b"1.1 gateway"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Forwarded-Prefix", b"443"),
        (b"X-Request-Id", b"id-1"),
        *NOBODYS,
    ]


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_For", b"X_Real_IP", b"X.Envoy.Path", b"Anti_Csrf", b"st_x"]
)
def test_nobody_is_believed_in_another_spelling(name: bytes) -> None:
    """A4, A14: other spellings of forwarding and credential fields are dropped."""
    route = policy({}, forward_credentials=True)
    sent = send((name, b"6.6.6.6"), policy=route, peer=BY_PROXY)
    assert all(value != b"6.6.6.6" for _, value in sent)
    assert first(sent, b"x-forwarded-for") == b"10.0.0.1"


def test_connection_can_cut_what_else_a_trusted_peer_says() -> None:
    """A7: Connection can remove a trusted peer's other fields; they are of its hop."""
    fields = [(b"Connection", b"x-real-ip"), (b"X-Real-IP", b"1"), (b"X-A", b"1")]
    assert send(*fields, peer=BY_PROXY)[0] == (b"X-A", b"1")


def test_unix_socket_has_no_address() -> None:
    """A peer without an address adds no X-Forwarded-For.

    Via names the received version.
    """
    head = read(http10=True)
    text = to_upstream(
        head,
        policy=PLAIN,
        forwarded=WAYS.find(head, "", "gw", secure=True),
        principal=None,
        request_id=b"id-1",
    )
    assert pairs(text) == [
        (b"Via", b"1.0 gateway"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"gw"),
        (b"X-Request-Id", b"id-1"),
        *NOBODYS,
    ]


def test_identity_that_is_too_large_goes_nowhere() -> None:
    """A12: an oversized identity is an error: it is neither truncated nor omitted."""
    large = replace(ALICE, claims={"c": "x" * MAX_IDENTITY_BYTES})
    with pytest.raises(IdentityTooLarge):
        send(identity=large, policy=policy({"X-C": "{claims.c}"}))


def test_upgrade_ends_here() -> None:
    """RFC 9110 §7.8: Upgrade is hop-by-hop; Sec-WebSocket-* fields are end-to-end."""
    key = (b"Sec-WebSocket-Key", b"eA==")
    upgrade = ((b"Upgrade", b"h2c, websocket"), (b"Connection", b"Upgrade"))
    assert passed(*upgrade, key) == [key]


@pytest.mark.parametrize(
    "bad", [b"a\x00b", b"a\rb", b"a\nb", b"\x01", b"\x0b", b"\x7f"]
)
@pytest.mark.parametrize(
    "name",
    [b"X-A", b"Cookie", b"Authorization", b"X-Forwarded-For", b"X-User-Id", b"Proxy"],
)
def test_control_in_a_value_is_refused(name: bytes, bad: bytes) -> None:
    """C14: a control byte in a value is refused, even where the field would be dropped.

    Some reader could take the byte for the end of the field. The readers of heads
    refuse it. A tab is allowed.
    """
    for _ in range(2):  # the refusal must not be cached as a success
        with pytest.raises(BadRequest):
            read((name, bad))
        with pytest.raises(BadReply):
            reply((name, bad))
    tab = (b"X-A", b"a\tb\xff")
    assert passed(tab) == [tab]
    assert back(tab)[0] == tab


@pytest.mark.parametrize("bad", [b"", b"X A", b"X\x00", b"X\xff", b"X[]", b"X "])
def test_name_that_is_no_token_is_refused(bad: bytes) -> None:
    """C14, C15: the client's error in a request, the upstream's in a reply."""
    for _ in range(2):  # the refusal must not be cached as a success
        with pytest.raises(BadRequest):
            read((bad, b"x"))
        with pytest.raises(BadReply):
            reply((bad, b"x"))


def test_name_ends_at_the_first_colon() -> None:
    """C15: no name contains a colon; all later colons belong to the value."""
    field = (b"X", b"A: x")
    assert passed((b"X:A", b"x")) == [field]
    assert back((b"X:A", b"x"))[0] == field
    assert passed((b"X-User-Id:A", b"x")) == []


def test_flood_of_aliases_costs_little() -> None:
    """A19: a head with 120 unknown names is cheap; the cache of names is bounded."""
    marks = b"!#$%&'*+.^_`|~"
    everyone = [
        (b"X%cUser%cId%d" % (a, b, i), b"evil")
        for i in range(8)
        for a in marks
        for b in marks
    ]
    fresh = reserved()
    reads = reader(fresh)
    for start in range(0, len(everyone), 120):
        started = time.process_time()
        sent = send(*everyone[start : start + 120], reader=reads)
        assert time.process_time() - started < 1
        assert sent == [*MADE, *NOBODYS]
    assert len(fresh.request) <= 1024
    send((b"X" * 65, b"long"), reader=reads)
    assert b"X" * 65 not in fresh.request


# --- to the client ----------------------------------------------------------

VARY = (b"Vary", b"Origin")
REQUEST_ID = (b"X-Request-Id", b"id-1")
DATE = (b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT")
"""That of the gateway."""


REPLIES = ReplyHeadReader(reply_rules(RESERVED))


def reply(*fields: Field) -> ReplyHead:
    """Return the head of a reply with *fields*."""
    data = b"HTTP/1.1 200 OK\r\n" + block(fields) + b"\r\n"
    return REPLIES.read(data, head_request=False)


# --- a session's token in other places ------------------------------------------

ACCESS = Mint().token().encode()
REFRESH = seal(
    RefreshToken(
        session_handle="h",
        user_id="u",
        tenant_id="public",
        parent_refresh_hash1=None,
        anti_csrf=None,
    ),
    key=bytes(32),
    iv=bytes(12),
    nonce="0f" * 32,
).encode()
OAUTH = Mint().token(stt=1).encode()
OTHERS = ".".join(
    (
        segment({"alg": "RS256", "typ": "JWT", "kid": "d-1", "version": "5"}),
        segment({"sub": "u", "iat": 1, "exp": 2, "iss": "https://idp.example"}),
        "c2ln",
    )
).encode()
"""A JWT of another issuer, though its header looks like the core's."""
BASIC = b"Basic " + b64encode(b"user:" + ACCESS)
CARRIERS: list[tuple[bytes, bytes, bytes | None]] = [
    (b"Authorization", b"Token %b", None),
    (b"Authorization", b"%b", None),
    (b"Authorization", b"bearer:%b", None),
    (b"Authorization", b"Basic x;Bearer %b", None),
    (b"authorization", b'Digest username="u", token="%b"', None),
    (b"Cookie", b"a=b&sAccessToken=%b", None),
    (b"Cookie", b"a=b; token=%b; c=d", b"a=b; c=d"),
    (b"Cookie", b"sAccessToken=x; a=%%20%b", None),
    (b"Sec-WebSocket-Protocol", b"%b", None),
    (b"Sec-WebSocket-Protocol", b"chat, bearer.%b", b"chat"),
    (b"sec-websocket-protocol", b"access_token, %b, v2", b"access_token, v2"),
    (b"X-Access-Token", b"%b", None),
    (b"X-Auth-Token", b"Bearer:%b", None),
    (b"X-Api-Key", b"%b", None),
    (b"Authentication", b"%b", None),
    (b"X-Amz-Security-Token", b"%b", None),
    (b"Referer", b"https://app.example.com/?token=%b&a=b", None),
    (b"User-Agent", b"curl/8 (%b)", None),
    (b"X-Anything", b"\xff%b\xff", None),
]
"""Name, value with a token for `%b`, and what is left of the value."""


@pytest.mark.parametrize("token", [ACCESS, REFRESH], ids=["access", "refresh"])
@pytest.mark.parametrize(("name", "value", "left"), CARRIERS)
def test_a_sessions_token_stays_here_wherever_it_is(
    name: bytes, value: bytes, left: bytes | None, token: bytes
) -> None:
    """A service that has it can act as the user everywhere; a route may forward it."""
    field = (name, value % token)
    assert passed(field) == ([] if left is None else [(name, left)])
    assert passed(field, policy=policy({}, forward_credentials=True)) == [field]


def test_it_stays_here_in_basic_credentials_and_odd_names() -> None:
    """Base64 hides it from a search; and an odd name needs both of its permissions."""
    assert passed((b"Authorization", BASIC)) == []
    odd = (b"X_Token", ACCESS)
    for allowed in (False, True):
        for forwards in (False, True):
            chosen = policy(
                {},
                forward_credentials=forwards,
                allow_field_names=["X_Token"] if allowed else [],
            )
            assert passed(odd, policy=chosen) == [odd] * (allowed and forwards)


@pytest.mark.parametrize("token", [OTHERS, OAUTH], ids=["other issuer", "OAuth 2.0"])
@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, v, _ in CARRIERS if not v.startswith((b"bearer", b"sAccessToken"))],
)
def test_other_tokens_pass_where_they_did(
    name: bytes, value: bytes, token: bytes
) -> None:
    """A JWT of another issuer, and one that the core made for an OAuth client."""
    field = (name, value % token)
    assert passed(field) == [field]


@pytest.mark.parametrize(
    "value",
    [
        b"Token abc",
        b"Basic dXNlcjpwYXNz",
        b"Basic ????",
        b"Basic",
        b"AWS4-HMAC-SHA256 Credential=a/b, Signature=0f0f",
        b"Token a.eyJ.b",
        b"Token a.eyJ%%%.b",
        b"Token .eyJhIjoxfQ.",
        b"Token v1.V2",
        b"Token " + b"eyJ" * 2000 + b".eyJ" * 2000 + b".V2",
    ],
)
def test_other_schemes_pass_unchanged(value: bytes) -> None:
    """What only looks a little like a token isn't one."""
    field = (b"Authorization", value)
    assert passed(field) == [field]


def test_a_removed_field_sets_no_session_cookie() -> None:
    """Only Set-Cookie does, whatever other fields that aren't passed on contain."""
    head = reply((b"Keep-Alive", b"sAccessToken=x"), (b"Set-Cookie", b"sFrontToken=y"))
    assert session_cookies(head) == ("sfronttoken",)


def back(
    *fields: Field,
    cors: Fields = (),
    new_tokens: Fields = (),
    private: bool = False,
    dropped: tuple[str, ...] = (),
) -> list[Field]:
    """Return the fields sent to the client; *dropped* session cookies must be reported.

    A second, cached pass must give the same. A Date of the gateway's own is checked,
    and not returned.
    """
    sent = []
    for _ in range(2):
        head = reply(*fields)
        text = to_client(
            head,
            cors=cors,
            new_tokens=new_tokens,
            request_id=b"id-1",
            make_date=lambda: block((DATE,)),
            private=private,
        )
        assert session_cookies(head) == dropped
        sent.append(text)
    assert sent[0] == sent[1]
    got = pairs(sent[0])
    assert sum(name.lower() == b"date" for name, _ in got) >= 1
    return [field for field in got if field != DATE]


THEIRS = (b"Date", b"Mon, 01 Jan 2024 00:00:00 GMT")


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ((), True),
        ((THEIRS,), False),
        (((b"dATE", b"not a date"),), False),
        (((b"Date", b""),), False),
        ((THEIRS, THEIRS), False),
        (((b"X-Date", THEIRS[1]),), True),
        # The service's is removed as a field of its hop.
        ((THEIRS, (b"Connection", b"Date")), True),
    ],
)
def test_a_reply_without_date_gets_one(fields: Fields, own: bool) -> None:
    """RFC 9110 §6.6.1; one with a Date keeps it, whatever it says."""
    asked = 0

    def make_date() -> bytes:
        nonlocal asked
        asked += 1
        return block((DATE,))

    got = pairs(to_client(reply(*fields), b"id-1", make_date))
    assert (asked, got.count(DATE)) == (own, own)
    dates = [field for field in got if field[0].lower() == b"date"]
    if not own:
        assert dates == [f for f in fields if f[0].lower() == b"date"]
    else:
        assert dates == [DATE]


def test_usual_reply() -> None:
    """End-to-end fields pass unchanged: repeats, order, bytes, Server and Date."""
    upstream = [
        (b"Server", b"orders/1"),
        (b"Date", b"Mon, 01 Jan 2024 00:00:00 GMT"),
        (b"Content-Type", b"text/plain"),
        (b"Set-Cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2"),
        (b"Content-Disposition", b'attachment; filename="\xe9.pdf"'),
        (b"X_Odd.Name", b"1"),
        (b"Via", b"1.1 cache"),
        (b"Vary", b"Accept"),
    ]
    assert back(*upstream) == [*upstream, VARY, REQUEST_ID]


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Proxy-Authenticate",
        b"Proxy-Authentication-Info",
        b"Content-Length",
        b"X-Request-Id",
        b"front-token",
        b"anti-csrf",
        b"id-refresh-token",
        b"st-access-token",
        b"ST-Refresh-Token",
        b"Access-Control-Allow-Origin",
        b"access-control-expose-headers",
        b"X-User-Id",
        b"x_user_id",
        b"X-Auth-Status",
        b"X-User-Plan",
    ],
)
def test_field_that_an_upstream_may_not_send(name: bytes) -> None:
    """A18, F14: hop-by-hop, framing, session, CORS and identity fields are dropped."""
    assert back((name, SOUND.get(name, b"x"))) == [VARY, REQUEST_ID]


@pytest.mark.parametrize(
    "cache_rule", [b"Cache-Control", b"CDN-Cache-Control", b"surrogate-control"]
)
def test_connection_of_the_reply_is_obeyed(cache_rule: bytes) -> None:
    """A field that Connection lists is dropped before any other rule sees it."""
    got = back(
        (b"Connection", b"close, X-A, Vary, " + cache_rule),
        (b"X-A", b"1"),
        (b"Vary", b"Origin"),
        (cache_rule, b"public"),
        private=True,
    )
    assert got == [(b"Cache-Control", b"private, no-cache"), VARY, REQUEST_ID]


def test_upstream_cannot_set_the_session() -> None:
    """F3: the upstream's SuperTokens cookies are dropped and reported; others pass."""
    got = back(
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"sAccessToken=evil; Domain=.example.com"),
        (b"SET-COOKIE", b"__Host-sRefreshToken=evil"),
        (b"Set-Cookie", b"b=2"),
        dropped=("saccesstoken", "srefreshtoken"),
    )
    assert list(values(got, b"set-cookie")) == [b"a=1", b"b=2"]


@pytest.mark.parametrize(
    ("vary", "added"),
    [
        ([], True),
        ([b"Accept"], True),
        ([b"Accept, Origin"], False),
        ([b"origin"], False),
        ([b"Accept", b" ORIGIN "], False),
        ([b"*"], False),
        ([b"X-Origin"], True),
        ([b"Origin-Agent"], True),
    ],
)
def test_every_answer_varies_by_origin(vary: list[bytes], added: bool) -> None:
    """F10: every answer has `Vary: Origin` once, so that caches keep origins apart."""
    got = list(values(back(*((b"Vary", v) for v in vary)), b"vary"))
    assert got == [*(v.strip() for v in vary), *([b"Origin"] if added else [])]


def test_gateways_cors_replaces_the_upstreams() -> None:
    """F14: the gateway's CORS fields replace the upstream's and are never doubled."""
    ours = ((b"Access-Control-Allow-Origin", b"https://app.example"),)
    got = back((b"Access-Control-Allow-Origin", b"*"), cors=ours)
    assert got == [*ours, VARY, REQUEST_ID]


def test_private_answer_is_not_shared() -> None:
    """I6: a session's answer gets a private Cache-Control if the upstream sent none."""
    assert back(private=True) == [
        (b"Cache-Control", b"private, no-cache"),
        VARY,
        REQUEST_ID,
    ]
    own = (b"cache-control", b"public, max-age=60")
    assert back(own, private=True) == [own, VARY, REQUEST_ID]
    assert back() == [VARY, REQUEST_ID]


def test_answer_with_new_tokens_is_never_stored() -> None:
    """E19, I6: new tokens are added once, and the answer is `no-store`."""
    tokens = (
        (b"Set-Cookie", b"sAccessToken=new; Path=/"),
        (b"front-token", b"new"),
        (b"Access-Control-Expose-Headers", b"front-token"),
    )
    got = back(
        (b"Cache-Control", b"public, max-age=3600"),
        (b"CDN-Cache-Control", b"max-age=3600"),
        (b"Surrogate-Control", b"max-age=3600"),
        (b"front-token", b"upstream's"),
        new_tokens=tokens,
        private=True,
    )
    assert got == [*tokens[:2], (b"Cache-Control", b"no-store"), VARY, REQUEST_ID]


# --- the request id ---------------------------------------------------------


@pytest.mark.parametrize(
    ("given_ids", "expected"),
    [
        ([], b"made"),
        ([b"a1-B_2.c"], b"a1-B_2.c"),
        ([b"x" * 128], b"x" * 128),
        ([b"x" * 129], b"made"),
        ([b""], b"made"),
        ([b"a b"], b"made"),
        ([b"a\n"], b"made"),
        ([b"\xc3\xa9"], b"made"),
        ([b"{}"], b"made"),
        ([b"a", b"a"], b"made"),
    ],
    ids=ascii,
)
def test_request_id_is_the_client_s_or_a_new_one(
    given_ids: list[bytes], expected: bytes
) -> None:
    """A single client id that is safe to log is kept; any other is replaced."""
    assert request_id(given_ids, lambda: "made") == expected
    if not has_control(b"".join(given_ids)):  # such a head is refused
        head = read(*((b"X-REQUEST-ID", value) for value in given_ids), (b"A", b"x"))
        assert request_id(head.request_ids, lambda: "made") == expected


# --- properties -------------------------------------------------------------


def spelled(name: str, marks: str, case: Callable[[str], str]) -> bytes:
    """Return *name* with its dashes replaced by *marks* in turn, in another case."""
    head, *rest = case(name).split("-")
    return (
        head + "".join(map("".join, zip(cycle(marks), rest, strict=False)))
    ).encode()


spellings = st.builds(
    spelled,
    st.sampled_from([*IDENTITY_NAMES, "X-User-Plan"]),
    st.text(alphabet="-_.~!#$%&'*+^`|", min_size=1, max_size=3),
    st.sampled_from([str, str.lower, str.upper, str.swapcase]),
)
tokens = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
known = st.sampled_from(
    [
        b"Connection",
        b"Cookie",
        b"Authorization",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"Via",
        b"Host",
        b"Accept",
        b"st-access-token",
        b"X-Request-Id",
    ]
)
texts = st.one_of(
    st.text(
        alphabet=st.characters(
            min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"
        ),
        max_size=12,
    ).map(lambda text: text.encode("latin-1")),
    spellings,
    st.lists(spellings, max_size=3).map(b", ".join),
)
client_fields = (
    st.lists(st.tuples(st.one_of(spellings, tokens, known), texts), max_size=8)
    .map(tuple)
    .filter(lambda fields: len([*values(fields, b"host")]) < 2)
)


@many
@given(
    fields=client_fields,
    identity=st.sampled_from([None, ALICE]),
    peer=st.sampled_from([DIRECT, BY_PROXY]),
    allowed=st.lists(st.one_of(spellings, tokens), max_size=3),
)
@example(
    fields=((b"Connection", b"X-User-Id, x-auth-status"), (b"X_User.Id", b"evil")),
    identity=ALICE,
    peer=DIRECT,
    allowed=[],
)
def test_property_no_client_byte_touches_an_identity_field(
    fields: Fields,
    identity: SessionIdentity | None,
    peer: str,
    allowed: list[bytes],
) -> None:
    """P-c: no client field creates, alters or removes an identity field in any case."""
    names = RESERVED.names
    route = policy(
        {"X-User-Plan": "free"},
        allow_field_names=[
            n.decode() for n in allowed if RESERVED.request[n].name == "ODD"
        ],
    )
    sent = send(*fields, identity=identity, policy=route, peer=peer)
    ours = NOBODYS if identity is None else [*ALICES, (b"X-User-Plan", b"free")]
    assert [field for field in sent if fold(field[0]) in names] == ours
    assert first(sent, b"host") is None
    assert list(values(sent, b"x-request-id")) == [b"id-1"]
    if peer == DIRECT:
        made = [field for field in sent if field[0].lower().startswith(b"x-forwarded")]
        assert made == [field for field in MADE if b"Forwarded" in field[0]]


@many
@given(
    name=st.one_of(
        st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True),
        st.sampled_from(
            [
                *IDENTITY_NAMES,
                *("X-Forwarded-User", "X-Forwarded-Email", "X-Plan", "Remote-User"),
                *("X-Forwarded-For", "X-Real-Ip", "X-Original-Url", "Date", "Cookie"),
            ]
        ),
    ),
    marks=st.text(alphabet="-_.~!#$%&'*+^`|", min_size=1, max_size=3),
    case=st.sampled_from([str, str.lower, str.upper, str.swapcase]),
)
def test_property_what_a_route_may_set_no_client_and_no_upstream_can(
    name: str, marks: str, case: Callable[[str], str]
) -> None:
    """A1 to A5: a policy may set a name if and only if clients and upstreams can't.

    This holds in every spelling and for every peer.
    """
    try:
        check_settable(name)
    except ValueError as refused:
        with pytest.raises(ValueError, match=re.escape(str(refused))):
            policy({name: "{user_id}"})
        return
    names = reserved([name])
    assert policy({name: "{user_id}"})
    for spelling in (name.encode(), spelled(name, marks, case)):
        assert names.request[spelling].name == "DROP"
        assert names.reply[spelling].name == "DROP"


ordinary = st.lists(
    st.tuples(st.sampled_from([b"X-A", b"x-a", b"Accept", b"ETag", b"X-B"]), texts),
    max_size=8,
).map(tuple)


@many
@given(fields=ordinary)
def test_property_what_no_rule_names_passes_byte_for_byte(fields: Fields) -> None:
    """In both directions, fields that no rule names pass in order and byte for byte."""
    stripped = [(name, value.strip(b" \t")) for name, value in fields]
    assert passed(*fields) == stripped
    assert back(*fields) == [*stripped, VARY, REQUEST_ID]


@many
@given(fields=client_fields)
def test_property_what_passed_once_passes_again(fields: Fields) -> None:
    """Of two gateways in a row, the second drops nothing that the first passed."""
    once = send(*fields)
    kept = once[: -len(MADE) - 1]
    again = send(*once)
    assert again[: len(kept)] == kept
    assert [f for f in again if f[0] != b"Via"] == [f for f in once if f[0] != b"Via"]


reply_fields = st.lists(
    st.tuples(
        st.one_of(
            spellings,
            tokens,
            st.sampled_from(
                [b"Set-Cookie", b"Vary", b"Cache-Control", b"st-x", b"Connection"]
            ),
        ),
        st.one_of(texts, st.sampled_from([b"sAccessToken=x", b"a=1", b"Origin"])),
    ),
    max_size=8,
).map(tuple)


@many
@given(fields=reply_fields, private=st.booleans())
def test_property_no_upstream_speaks_for_the_gateway(
    fields: Fields, private: bool
) -> None:
    """A18, F3: no identity, session or CORS field of a reply reaches the client."""
    head = reply(*fields)
    got = pairs(
        to_client(
            head, request_id=b"id-1", make_date=lambda: block((DATE,)), private=private
        )
    )
    dropped = session_cookies(head)
    for name, value in got:
        assert fold(name) not in RESERVED.names
        assert not name.lower().startswith((b"st-", b"access-control-"))
        assert not (name.lower() == b"set-cookie" and b"saccesstoken" in value.lower())
    assert all(name == "saccesstoken" for name in dropped)
    assert any(b"rigin" in v or b"*" in v for v in values(got, b"vary"))
    assert got[-1] == REQUEST_ID


# --- each line alone ------------------------------------------------------------------

KEEP, DROP, LISTED, TRUSTED, SECRET = "keep", "drop", "listed", "trusted", "secret"
Sent = tuple[str, bytes, bytes, bytes | None]
"""A field of the client: its rule, its name, its value, and the value that is forwarded
under SECRET where credentials are stripped."""


def fate(rule: str, names: list[bytes], values: list[bytes]) -> list[Sent]:
    return [(rule, name, value, None) for name in names for value in values]


NEVER = [
    *(b"TE", b"Keep-Alive", b"Trailer", b"Upgrade", b"Proxy-Authorization", b"Proxy"),
    *(b"X-Request-Id", b"Forwarded", b"X-Forwarded-User", b"X-Original-URL"),
    *(b"X-HTTP-Method-Override", b"Content_Length", b"X_Real_IP", b"st_x", b"X.Scheme"),
]
SENT_TABLE: list[Sent] = [
    *fate(KEEP, [b"X-A", b"x-a", b"Accept", b"ETag"], [b"", b"1", b"a: \xff\tb"]),
    *fate(KEEP, [b"Authorization"], [b"Basic eA==", b"BearerX y", b""]),
    *fate(KEEP, [b"Cookie", b"cookie"], [b"a=b", b"xsAccessToken=1;", b""]),
    *fate(DROP, NEVER, [b"evil"]),
    *fate(LISTED, [b"X_A", b"x_a", b"X.B", b"a|b"], [b"1", b"2"]),
    *fate(TRUSTED, [b"X-Real-IP", b"x-envoy-a", b"Client-Ip"], [b"1", b""]),
    *fate(SECRET, [b"st-x", b"RID", b"Anti-Csrf", b"Front-Token"], [b"s3cret"]),
    *fate(SECRET, [b"authorization"], [b"Bearer s3cret", b"x, bearer s3cret"]),
    *fate(SECRET, [b"COOKIE"], [b"sAccessToken=s3cret", b"; sfronttoken=s3cret"]),
    (SECRET, b"Cookie", b"a=b; sAccessToken=s3cret", b"a=b"),
    (SECRET, b"Cookie", b"a=b;sRefreshToken=s3cret;c=d;", b"a=b;c=d;"),
    (SECRET, b"cookie", b"st-access-token=s3cret; c=d", b"c=d"),
]
SENT = st.one_of(
    st.sampled_from(SENT_TABLE),
    st.builds(lambda name, value: (DROP, name, value, None), spellings, texts),
)
BLANKS = st.sampled_from([b" ", b" ", b"", b"\t", b" \t "])
LISTINGS = st.lists(
    st.sampled_from(
        [
            *(b"x-a", b"X-A", b"cookie", b"Accept", b"x_a", b"X-Real-IP", b"rid"),
            *(
                b"X-User-Id",
                b"via",
                b"x-request-id",
                b"X-Forwarded-For",
                b"close",
                b"?",
            ),
        ]
    ),
    max_size=3,
)
ROUTES = [
    PLAIN,
    policy({}, forward_credentials=True),
    policy({"X-User-Plan": "free"}, allow_field_names=["x_a", "X.B"]),
    policy({}, forward_credentials=True, allow_field_names=["A|b"]),
]


def goes_on(sent: Sent, route: HeaderPolicy, *, by_proxy: bool) -> bytes | None:
    """Return the value that is forwarded, None if the field is dropped."""
    rule, name, value, rest = sent
    passes = {
        KEEP: True,
        DROP: False,
        LISTED: name.lower() in route.allowed,
        TRUSTED: by_proxy,
        SECRET: route.forward_credentials,
    }[rule]
    return value if passes else rest


def check_request(
    lines: list[tuple[Sent, bytes, bytes]],
    listings: list[tuple[int, list[bytes]]],
    identity: SessionIdentity | None,
) -> None:
    """Check that each line is forwarded unchanged or dropped, on every route."""
    texts = [b"%b:%b%b%b" % (s[1], a, s[2], b) for s, a, b in lines]
    for place, names in listings:
        texts.insert(place, b"Connection: " + b" , ".join(names))
    texts.insert(len(texts) // 2, b"Host: gw")
    head = READER.read(b"\r\n".join([b"GET / HTTP/1.1", *texts, b"", b""]))
    listed = {name.lower() for _, names in listings for name in names}

    def made(of: RequestHead, route: HeaderPolicy, peer: str) -> bytes:
        return to_upstream(
            of,
            policy=route,
            forwarded=forwarded(of, peer),
            principal=identity,
            request_id=b"id-1",
        )

    for route in (*ROUTES, *ROUTES):
        for peer in (DIRECT, BY_PROXY):
            expected = [
                (sent[1], value)
                for sent, _, _ in lines
                if (value := goes_on(sent, route, by_proxy=peer == BY_PROXY))
                is not None
                and sent[1].lower() not in listed
            ]
            ours = made(read(), route, peer)
            text = made(head, route, peer)
            assert text == block(expected) + ours
            assert route.forward_credentials or b"s3cret" not in text


@many
@given(
    lines=st.lists(st.tuples(SENT, BLANKS, BLANKS), max_size=8),
    listings=st.lists(st.tuples(st.integers(0, 8), LISTINGS), max_size=2),
    identity=st.sampled_from([None, ALICE]),
)
def test_property_each_line_goes_on_as_it_is_or_not_at_all(
    lines: list[tuple[Sent, bytes, bytes]],
    listings: list[tuple[int, list[bytes]]],
    identity: SessionIdentity | None,
) -> None:
    """P-c, F1: each line is forwarded in order and trimmed, or dropped, on every route.

    Lines that Connection lists are dropped. The gateway's own fields follow, and don't
    depend on the client's.
    """
    check_request(lines, listings, identity)


@pytest.mark.parametrize("sent", SENT_TABLE, ids=ascii)
def test_each_line_alone_goes_on_as_it_is_or_not_at_all(sent: Sent) -> None:
    """The same rule holds for a line that is alone in its head."""
    check_request([(sent, b" ", b"")], [], None)


SERVED_TABLE: list[Sent] = [
    *fate(KEEP, [b"Server", b"X-A", b"x_a", b"Via"], [b"", b"a: \xff"]),
    *fate(KEEP, [b"Vary"], [b"Accept", b"X-Origin"]),
    *fate(KEEP, [b"Set-Cookie", b"set-cookie"], [b"a=1", b"b=sAccessToken"]),
    *fate("varies", [b"Vary", b"vary"], [b"Origin", b"a, origin", b"*"]),
    *fate("cache", [b"Cache-Control", b"cdn-cache-control"], [b"public"]),
    *fate(DROP, [b"TE", b"X-Request-Id", b"St-X", b"anti-csrf"], [b"s3cret"]),
    *fate(DROP, [b"Access-Control-Max-Age", b"front-token"], [b"s3cret"]),
    *fate(
        "session",
        [b"Set-Cookie", b"SET-COOKIE"],
        [b"sAccessToken=s3cret; Path=/", b"__Host-sRefreshToken=s3cret"],
    ),
]
SERVED = st.one_of(
    st.sampled_from(SERVED_TABLE),
    st.builds(lambda name, value: (DROP, name, value, None), spellings, texts),
)
TOKENS: Fields = ((b"Set-Cookie", b"sAccessToken=new"), (b"st-x", b"new"))
CORS: Fields = ((b"Access-Control-Allow-Origin", b"https://app.example"),)


def check_reply(lines: list[tuple[Sent, bytes, bytes]], listed: list[bytes]) -> None:
    """Check that each line is returned unchanged or dropped, with any additions."""
    texts = [b"%b:%b%b%b" % (s[1], a, s[2], b) for s, a, b in lines]
    if listed:
        texts.insert(len(texts) // 2, b"Connection: " + b",".join(listed))
    head = REPLIES.read(
        b"\r\n".join([b"HTTP/1.1 200 OK", *texts, b"", b""]), head_request=False
    )
    gone = {name.lower() for name in listed}
    there = [sent for sent, _, _ in lines if sent[1].lower() not in gone]
    for new_tokens in ((), TOKENS):
        kept = {KEEP, "varies", *(() if new_tokens else ("cache",))}
        expected = [(s[1], s[2]) for s in there if s[0] in kept]
        for private in (False, True):
            ours = [*new_tokens]
            if new_tokens:
                ours.append((b"Cache-Control", b"no-store"))
            elif private and all(s[0] != "cache" for s in there):
                ours.append((b"Cache-Control", b"private, no-cache"))
            ours += (*CORS, DATE)
            if all(s[0] != "varies" for s in there):
                ours.append(VARY)
            text = to_client(
                head,
                cors=CORS,
                new_tokens=new_tokens,
                request_id=b"id-1",
                make_date=lambda: block((DATE,)),
                private=private,
            )
            assert text == block([*expected, *ours, REQUEST_ID])
            dropped = sum(s[0] == "session" for s, _, _ in lines)
            assert len(session_cookies(head)) == dropped


@many
@given(
    lines=st.lists(st.tuples(SERVED, BLANKS, BLANKS), max_size=8),
    listed=st.lists(
        st.sampled_from([b"x-a", b"Vary", b"cache-control", b"Set-Cookie", b"close"]),
        max_size=2,
    ),
)
def test_property_each_line_of_a_reply_comes_back_as_it_is_or_not_at_all(
    lines: list[tuple[Sent, bytes, bytes]], listed: list[bytes]
) -> None:
    """A18, F3, I6: each line is returned in order or dropped.

    One head serves all answers.
    """
    check_reply(lines, listed)


@pytest.mark.parametrize("sent", SERVED_TABLE, ids=ascii)
def test_each_line_of_a_reply_alone_comes_back_or_not(sent: Sent) -> None:
    """The same rule holds for a line that is alone in its head."""
    check_reply([(sent, b" ", b"")], [])
