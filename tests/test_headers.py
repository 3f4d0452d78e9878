"""Fields to the upstream and back: rows A1 to A19, F1 to F5, F9, F14, I2, I3, I6."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import BadReply, BadRequest
from gateway.fields import Field, Fields, first, values
from gateway.headers import (
    IDENTITY_NAMES,
    Forwarded,
    HeaderPolicy,
    Reserved,
    fold,
    policy,
    request_id,
    reserved,
    to_client,
    to_upstream,
)
from gateway.identity import Identity

many = settings(max_examples=300, deadline=None)  # a busy machine is no failure


PLAIN = policy({})
RESERVED = reserved(["X-User-Plan"])
ALICE = Identity(
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
DIRECT = Forwarded(peer="192.0.2.1", trusted=False, scheme="http", host="gw:8000")
BY_PROXY = Forwarded(peer="10.0.0.1", trusted=True, scheme="http", host="gw:8000")
MADE = [
    (b"X-Forwarded-For", b"192.0.2.1"),
    (b"Via", b"1.1 gateway"),
    (b"X-Forwarded-Proto", b"http"),
    (b"X-Forwarded-Host", b"gw:8000"),
    (b"X-Request-Id", b"id-1"),
]


def send(
    *fields: Field,
    identity: Identity | None = None,
    policy: HeaderPolicy = PLAIN,
    reserved: Reserved = RESERVED,
    forwarded: Forwarded = DIRECT,
    upgrade: bytes | None = None,
) -> list[Field]:
    return to_upstream(
        fields,
        policy=policy,
        reserved=reserved,
        identity=identity,
        host=b"orders:8080",
        forwarded=forwarded,
        request_id=b"id-1",
        upgrade=upgrade,
    )


def passed(*fields: Field, **more: object) -> list[Field]:
    """Return what of the client's fields reaches the upstream of an anonymous call."""
    sent = send(*fields, **more)  # type: ignore[arg-type]
    assert sent[0] == (b"Host", b"orders:8080")
    assert sent[-5:] == [*MADE[1:], *NOBODYS]
    return sent[1:-6]


# --- to the upstream --------------------------------------------------------


def test_usual_request() -> None:
    """Host first, the client's fields in order, then what the gateway states."""
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
    assert send((b"Host", b"gw:8000"), *client, identity=ALICE) == [
        (b"Host", b"orders:8080"),
        *client,
        *MADE,
        *ALICES,
    ]


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
def test_identity_name_is_the_gateways(name: bytes, identity: Identity | None) -> None:
    """A1 to A5: in every spelling, on every route, whatever the session holds."""
    ours = NOBODYS if identity is None else ALICES
    sent = send((name, b"evil"), (name.lower(), b"evil"), identity=identity)
    assert sent == [(b"Host", b"orders:8080"), *MADE, *ours]


def test_route_cannot_allow_what_another_route_reserves() -> None:
    """A3: an allow-listed name is still judged by what it may be read as."""
    allows = policy({}, allow_field_names=["X_User_Plan", "X_Trace"])
    assert passed((b"X_User_Plan", b"pro"), (b"x_trace", b"1"), policy=allows) == [
        (b"x_trace", b"1")
    ]


@pytest.mark.parametrize("name", [b"X_Custom", b"x.custom", b"X~A", b"a|b", b"!"])
def test_odd_name_needs_the_routes_leave(name: bytes) -> None:
    """A4: dropped by default, as some reader takes it for another name."""
    assert passed((name, b"1")) == []
    assert passed(
        (name, b"1"), policy=policy({}, allow_field_names=[name.decode()])
    ) == [(name, b"1")]


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
    """A17, C25: hop-by-hop fields, framing, httpoxy; also with `_` for `-` (C3)."""
    assert passed((name, b"x"), (name.lower(), b"x")) == []
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
    """What it lists is dropped; what is no name in it is no reason to fail."""
    got = passed((b"X-A", b"1"), (b"Connection", connection), (b"Cookie", b"c=d"))
    assert [name for name, _ in got] == left


def test_connection_cannot_remove_what_the_gateway_sets() -> None:
    """A6, A7: identity, Host and X-Forwarded-* come after Connection was obeyed."""
    every = b", ".join(
        name
        for name, _ in (
            *ALICES,
            *MADE,
            (b"Host", b""),
            (b"Content-Length", b""),
            (b"Transfer-Encoding", b""),
        )
    )
    sent = send((b"Connection", every), (b"X-User-Id", b"evil"), identity=ALICE)
    assert sent == [(b"Host", b"orders:8080"), *MADE, *ALICES]


def test_connection_cannot_cut_a_trusted_chain() -> None:
    """A7: the trusted proxy's X-Forwarded-For counts, whatever Connection lists."""
    sent = send(
        (b"X-Forwarded-For", b"1.1.1.1"),
        (b"Connection", b"X-Forwarded-For"),
        forwarded=BY_PROXY,
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
    """F1, F5: the session's tokens and the SDKs' fields end at the gateway."""
    assert passed(*CREDENTIALS) == [(b"Cookie", b"theme=dark")]
    assert passed((b"Cookie", b"sAccessToken=x")) == []
    assert passed((b"Cookie", b"a=b"), (b"Cookie", b"c=d;")) == [
        (b"Cookie", b"a=b"),
        (b"Cookie", b"c=d;"),
    ]


def test_credentials_are_forwarded_where_the_route_says_so() -> None:
    """An upstream with an SDK of its own gets everything, byte for byte."""
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
    """E16, F5: however it is written; other schemes are between client and upstream."""
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
    """A14, F9: nothing that a client says of its origin or its request gets through."""
    assert passed((name, b"x"), (b"X-Forwarded-For", b"6.6.6.6")) == []


def test_trusted_peer_is_believed() -> None:
    """A15: the chain is appended to, scheme and host stay; never a path or a user."""
    stated = [(name, b"443") for name in SPOOFED if b"Host" not in name]
    sent = send(
        *stated[1:],
        (b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9"),
        (b"X-Forwarded-For", b"10.0.0.8"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        forwarded=BY_PROXY,
    )
    assert sent == [
        (b"Host", b"orders:8080"),
        (b"X-Forwarded-Port", b"443"),
        (b"X-Forwarded-Prefix", b"443"),
        (b"X-Forwarded-Server", b"443"),
        (b"X-Real-IP", b"443"),
        (b"True-Client-IP", b"443"),
        (b"X-Envoy-Original-Path", b"443"),
        (b"X-Forwarded-For", b"1.1.1.1, 10.0.0.9, 10.0.0.8, 10.0.0.1"),
        (b"Via", b"1.1 gateway"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"shop.example"),
        (b"X-Request-Id", b"id-1"),
        *NOBODYS,
    ]


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_For", b"X_Real_IP", b"X.Envoy.Path", b"Anti_Csrf", b"st_x"]
)
def test_nobody_is_believed_in_another_spelling(name: bytes) -> None:
    """A4, A14: a trusted peer's fields, and credentials, have one spelling only."""
    route = policy({}, forward_credentials=True)
    sent = send((name, b"6.6.6.6"), policy=route, forwarded=BY_PROXY)
    assert all(value != b"6.6.6.6" for _, value in sent)
    assert first(sent, b"x-forwarded-for") == b"10.0.0.1"


def test_unix_socket_has_no_address() -> None:
    """A peer without an address adds none; Via names the version that came in."""
    sent = send(forwarded=Forwarded("", False, "https", "gw", "1.0"))
    assert sent[1:4] == [
        (b"Via", b"1.0 gateway"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"gw"),
    ]


def test_upgrade_is_asked_for_by_the_gateway() -> None:
    """RFC 9110 §7.8: the hop's own Upgrade; Sec-WebSocket-* go end to end."""
    key = (b"Sec-WebSocket-Key", b"eA==")
    sent = send((b"Upgrade", b"h2c, websocket"), key, upgrade=b"websocket")
    assert key in sent
    assert sent[-2:] == [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert list(values(sent, b"upgrade")) == [b"websocket"]


@pytest.mark.parametrize(
    "bad", [b"a\x00b", b"a\rb", b"a\nb", b"\x01", b"\x0b", b"\x7f"]
)
def test_control_in_a_clients_value_is_refused(bad: bytes) -> None:
    """C14: it could end the field for some reader. A tab is no control here."""
    for name in (b"X-A", b"Cookie", b"Authorization"):
        with pytest.raises(BadRequest):
            send((name, bad))
    with pytest.raises(BadRequest):
        send((b"X-Forwarded-For", bad), forwarded=BY_PROXY)
    assert passed((b"X-A", b"a\tb\xff")) == [(b"X-A", b"a\tb\xff")]


@pytest.mark.parametrize("bad", [b"", b"X A", b"X:A", b"X\x00", b"X\xff", b"X[]"])
def test_name_that_is_no_token_is_refused(bad: bytes) -> None:
    """C14, C15: in a request the client's fault, in a reply the upstream's."""
    for _ in range(2):  # not remembered as good
        with pytest.raises(BadRequest):
            send((bad, b"x"))
        with pytest.raises(BadReply):
            back((bad, b"x"))


def test_flood_of_aliases_costs_little() -> None:
    """A19: 120 names that nobody has seen are dropped; the memory is bounded."""
    marks = b"!#$%&'*+.^_`|~"
    everyone = [
        (b"X%cUser%cId%d" % (a, b, i), b"evil")
        for i in range(8)
        for a in marks
        for b in marks
    ]
    fresh = reserved()
    for start in range(0, len(everyone), 120):
        started = time.process_time()
        sent = send(*everyone[start : start + 120], reserved=fresh)
        assert time.process_time() - started < 0.1
        assert sent[1:] == [*MADE, *NOBODYS]
    assert len(fresh.request) <= 1024
    send((b"X" * 65, b"long"), reserved=fresh)
    assert b"X" * 65 not in fresh.request


# --- to the client ----------------------------------------------------------

VARY = (b"Vary", b"Origin")
REQUEST_ID = (b"X-Request-Id", b"id-1")


def back(
    *fields: Field,
    cors: Fields = (),
    new_tokens: Fields = (),
    private: bool = False,
) -> list[Field]:
    got, dropped = to_client(
        fields,
        reserved=RESERVED,
        cors=cors,
        new_tokens=new_tokens,
        request_id=b"id-1",
        private=private,
    )
    assert not dropped
    return got


def test_usual_reply() -> None:
    """Everything end-to-end stays as it is: repeats, order, bytes, Server and Date."""
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
    """A18, F14: hop-by-hop and framing, the session, CORS, identity."""
    assert back((name, b"x")) == [VARY, REQUEST_ID]


@pytest.mark.parametrize(
    "cache_rule", [b"Cache-Control", b"CDN-Cache-Control", b"surrogate-control"]
)
def test_connection_of_the_reply_is_obeyed(cache_rule: bytes) -> None:
    """What it lists is dropped, and then isn't there for any other rule either."""
    got = back(
        (b"Connection", b"close, X-A, Vary, " + cache_rule),
        (b"X-A", b"1"),
        (b"Vary", b"Origin"),
        (cache_rule, b"public"),
        private=True,
    )
    assert got == [(b"Cache-Control", b"private, no-cache"), VARY, REQUEST_ID]


def test_upstream_cannot_set_the_session() -> None:
    """F3: its Set-Cookie of SuperTokens' names is dropped and reported, no other."""
    got, dropped = to_client(
        (
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"sAccessToken=evil; Domain=.example.com"),
            (b"SET-COOKIE", b"__Host-sRefreshToken=evil"),
            (b"Set-Cookie", b"b=2"),
        ),
        reserved=RESERVED,
        request_id=b"id-1",
    )
    assert list(values(got, b"set-cookie")) == [b"a=1", b"b=2"]
    assert dropped == ("saccesstoken", "srefreshtoken")


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
    """F10: or a cache gives one origin's answer to another; named once is enough."""
    got = list(values(back(*((b"Vary", v) for v in vary)), b"vary"))
    assert got == [*vary, *([b"Origin"] if added else [])]


def test_gateways_cors_replaces_the_upstreams() -> None:
    """F14: never doubled, never the upstream's."""
    ours = ((b"Access-Control-Allow-Origin", b"https://app.example"),)
    got = back((b"Access-Control-Allow-Origin", b"*"), cors=ours)
    assert got == [*ours, VARY, REQUEST_ID]


def test_private_answer_is_not_shared() -> None:
    """I6: an answer that depends on a session says so, if its upstream said nothing."""
    assert back(private=True) == [
        (b"Cache-Control", b"private, no-cache"),
        VARY,
        REQUEST_ID,
    ]
    own = (b"cache-control", b"public, max-age=60")
    assert back(own, private=True) == [own, VARY, REQUEST_ID]
    assert back() == [VARY, REQUEST_ID]


def test_answer_with_new_tokens_is_never_stored() -> None:
    """E19, I6: they are added once, and no cache keeps them for the next user."""
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
def test_request_id_is_taken_or_made(given_ids: list[bytes], expected: bytes) -> None:
    """A client's id is kept if it is harmless in a log, and the only one."""
    fields = [(b"X-REQUEST-ID", value) for value in given_ids]
    got = request_id([(b"Content-Type", b"x"), *fields], lambda: "made")
    assert got == expected


# --- properties -------------------------------------------------------------


def spelled(name: str, marks: str, case: Callable[[str], str]) -> bytes:
    """Return *name* with *marks* in turn for its dashes, and in another case."""
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
client_fields = st.lists(
    st.tuples(st.one_of(spellings, tokens, known), texts), max_size=8
).map(tuple)


@many
@given(
    fields=client_fields,
    identity=st.sampled_from([None, ALICE]),
    forwarded=st.sampled_from([DIRECT, BY_PROXY]),
    allowed=st.lists(st.one_of(spellings, tokens), max_size=3),
)
@example(
    fields=((b"Connection", b"X-User-Id, x-auth-status"), (b"X_User.Id", b"evil")),
    identity=ALICE,
    forwarded=DIRECT,
    allowed=[],
)
def test_property_no_client_byte_touches_an_identity_field(
    fields: Fields,
    identity: Identity | None,
    forwarded: Forwarded,
    allowed: list[bytes],
) -> None:
    """P-c: created, altered or removed, under any name that a reader may fold."""
    names = RESERVED.names
    route = policy(
        {"X-User-Plan": "free"},
        allow_field_names=[
            n.decode() for n in allowed if RESERVED.request[n].name == "ODD"
        ],
    )
    sent = send(*fields, identity=identity, policy=route, forwarded=forwarded)
    ours = NOBODYS if identity is None else [*ALICES, (b"X-User-Plan", b"free")]
    assert [field for field in sent if fold(field[0]) in names] == ours
    assert [name.lower() for name, _ in sent].count(b"host") == 1
    assert list(values(sent, b"x-request-id")) == [b"id-1"]
    if not forwarded.trusted:
        made = [field for field in sent if field[0].lower().startswith(b"x-forwarded")]
        assert made == [field for field in MADE if b"Forwarded" in field[0]]


ordinary = st.lists(
    st.tuples(st.sampled_from([b"X-A", b"x-a", b"Accept", b"ETag", b"X-B"]), texts),
    max_size=8,
).map(tuple)


@many
@given(fields=ordinary)
def test_property_what_no_rule_names_passes_byte_for_byte(fields: Fields) -> None:
    """Both directions: the same fields, in the same order, as the same bytes."""
    assert passed(*fields) == list(fields)
    assert back(*fields) == [*fields, VARY, REQUEST_ID]


@many
@given(fields=client_fields)
def test_property_what_passed_once_passes_again(fields: Fields) -> None:
    """Two gateways in a row: the second finds nothing left to take out."""
    once = send(*fields)
    assert once[0] == (b"Host", b"orders:8080")
    kept = once[1 : -len(MADE) - 1]
    again = send(*once)
    assert again[1 : 1 + len(kept)] == kept
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
    got, dropped = to_client(
        fields, reserved=RESERVED, request_id=b"id-1", private=private
    )
    for name, value in got:
        assert fold(name) not in RESERVED.names
        assert not name.lower().startswith((b"st-", b"access-control-"))
        assert not (name.lower() == b"set-cookie" and b"saccesstoken" in value.lower())
    assert all(name == "saccesstoken" for name in dropped)
    assert any(b"rigin" in v or b"*" in v for v in values(got, b"vary"))
    assert got[-1] == REQUEST_ID
