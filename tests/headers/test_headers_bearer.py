"""Bearer tokens that are no session's: forwarded where the route says so.

A session's token never is, in whatever spelling: a service that has it can act as the
user at every other service.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64decode
from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import gateway
from hypothesis import given, settings
from hypothesis import strategies as st
from minting import Mint, private_key, segment

from gateway.dev.core.tokens import RefreshToken, seal
from gateway.headers import (
    ForwardedCache,
    Networks,
    policy,
    request_rules,
    reserved,
    to_upstream,
)
from gateway.http.request_head import HeadLimits, RequestReader
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.tokens import holds_token, is_session_text, parse

READER = RequestReader(
    HeadLimits(target=8192, field=65536, head=262144, fields=200),
    request_rules(reserved(), holds_token, is_session_text),
    CREDENTIAL_FIELDS,
)
WAYS = ForwardedCache(Networks())
FORWARDS = policy({}, forward_authorization=True)
HANDS_OVER = policy({}, forward_credentials=True)


def sent(*values: bytes, by: Any = FORWARDS) -> list[bytes]:
    """Return the Authorization values that the service gets of these."""
    fields = b"".join(b"Authorization: %b\r\n" % value for value in values)
    head = READER.read(b"GET / HTTP/1.1\r\nHost: gw\r\n" + fields + b"\r\n")
    way = WAYS.find(head, "192.0.2.1", "gw", secure=False)
    lines = to_upstream(head, by, way, None, b"id").split(b"\r\n")
    name = b"Authorization: "
    return [line.removeprefix(name) for line in lines if line.startswith(name)]


MINT = Mint()
ACCESS = MINT.token().encode()
HEADER, PAYLOAD, SIGNATURE = ACCESS.split(b".")
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
FRONT = b64encode(b'{"ate":1800000000000,"uid":"user-1","up":{"sub":"user-1"}}')


def spelled(payload: bytes) -> bytes:
    """Return a token with another spelling of its payload, which needn't be signed."""
    return b"%b.%b.%b" % (HEADER, payload, SIGNATURE)


def json_text(before: bytes) -> bytes:
    """Return the token's payload with *before* in front of its JSON."""
    padded = PAYLOAD + b"=" * (-len(PAYLOAD) % 4)
    return segment(before + urlsafe_b64decode(padded)).encode()


OURS = {
    "valid": ACCESS,
    "expired": Mint(now=1.0).token().encode(),
    "another key of the core": Mint(kid="d-2", key=private_key("2")).token().encode(),
    "a static key": Mint(kid="s-1").token().encode(),
    "another issuer's session": MINT.token(iss="https://other.example").encode(),
    "version 3": MINT.token({"version": "3"}, tId=..., rsub=...).encode(),
    "damaged signature": ACCESS[:-5] + b"AAAAA",
    "no signature": b"%b.%b." % (HEADER, PAYLOAD),
    "alg none": MINT.token({"alg": "none"}).encode(),
    "blank before its JSON": spelled(json_text(b" ")),
    "line break before its JSON": spelled(json_text(b"\n")),
    "junk in its payload": spelled(b"!" + PAYLOAD),
    "padded": spelled(PAYLOAD + b"="),
    "refresh": REFRESH,
    "front token": FRONT,
}
SPELLINGS = [
    b"Bearer %b",
    b"bearer %b",
    b"BEARER %b",
    b"Bearer  %b",
    b"Bearer\t%b",
    b"Bearer %b ",
    b'Bearer "%b"',
    b"Bearer '%b'",
    b"Bearer token=%b",
    b'Bearer token="%b"',
    b"Bearer sk_live_1, Bearer %b",
    b"Bearer sk_live_1,%b",
    b"Bearer %b,sk_live_1",
    b"Bearer sk_live_1;%b",
    b"Bearer sk_live_1 %b",
    b"Bearer:%b",
    b"Token %b, Bearer sk_live_1",
    b"\xffBearer %b",
    b"Basic dXNlcjpwYXNz, Bearer %b",
]
FOREIGN = [
    b"Bearer sk_live_51H",
    b"bearer sk_live_51H",
    b"Bearer",
    b"Bearer a.b.c",
    b"Bearer " + MINT.token(sessionHandle=...).encode(),
    b"Bearer " + MINT.token(stt=1).encode(),
    b"Bearer eyJ.eyJ.eyJ",
    b"Bearer ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    b"Bearer v1.V2",
    b"Bearer " + b64encode(b'{"ate":1800000000000,"uid":"user-1","scope":"all"}'),
    b'Bearer realm="x", sk_live',
    b"Bearer \xff",
]


@pytest.mark.parametrize("value", FOREIGN, ids=[str(n) for n in range(len(FOREIGN))])
def test_a_token_that_is_no_sessions_is_forwarded(value: bytes) -> None:
    """Partner keys, webhooks and a service's own sign-in reach it byte for byte."""
    assert sent(value) == [value]
    assert sent(value, by=HANDS_OVER) == [value]
    assert sent(value, by=policy({})) == []


@pytest.mark.parametrize("spelling", SPELLINGS, ids=ascii)
@pytest.mark.parametrize("kind", OURS)
def test_a_sessions_token_is_not(kind: str, spelling: bytes) -> None:
    """Its key, age and signature don't count: it is recognised by its content."""
    value = spelling % OURS[kind]
    assert sent(value) == []
    assert sent(value, by=HANDS_OVER) == [value.strip(b" ")]


@pytest.mark.parametrize("kind", OURS)
def test_nor_is_one_in_basic_credentials(kind: str) -> None:
    """Clients put tokens into the password, or into the name, of `Basic`."""
    for pair in (b"user:%b", b"%b:", b"%b:x", b"%b"):
        basic = b64encode(pair % OURS[kind])
        for scheme in (b"Basic ", b"basic ", b"BASIC "):
            assert sent(scheme + basic) == []


def test_several_fields_are_judged_one_by_one() -> None:
    """A session's token beside another one doesn't take it along, in any order."""
    ours, foreign = b"Bearer " + ACCESS, b"Bearer sk_live_1"
    assert sent(ours, foreign) == [foreign]
    assert sent(foreign, ours) == [foreign]
    assert sent(ours, ours) == []


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([*OURS]))
def test_what_the_gateway_reads_as_a_session_stays_here(
    before: bytes, after: bytes, kind: str
) -> None:
    """Whatever surrounds a token: if the gateway would verify it, nobody gets it."""
    value = b"Bearer " + before + OURS[kind] + after
    if any(byte < 0x20 or byte == 0x7F for byte in value):
        return  # refused with 400
    bearer = value.removeprefix(b"Bearer ").decode("latin-1").strip()
    if parse(bearer) is not None:
        assert sent(value) == []


@pytest.mark.parametrize(
    ("protected", "default", "own", "passes"),
    [
        (False, None, None, True),
        ("optional", None, None, True),
        (True, None, None, False),
        (True, True, None, True),
        (True, True, False, False),
        (True, None, True, True),
        (False, False, None, False),
        (False, None, False, False),
    ],
)
async def test_routes_that_forward_it(
    protected: object, default: bool | None, own: bool | None, passes: bool
) -> None:
    """Public and optional routes do by default, protected ones if they say so.

    `Bearer ann` is the session of the verifier in these tests, and no token.
    """
    route: dict[str, Any] = {"protected": protected}
    if own is not None:
        route["forward_authorization"] = own
    defaults = {} if default is None else {"forward_authorization": default}
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route=route, defaults=defaults) as gw,
    ):
        for value in ("Bearer ann", f"Bearer {ACCESS.decode()}"):
            assert (await gw.ask("GET", "/", ("Authorization", value))).status == 200
        got = [request.field(b"Authorization") for request in upstream.requests]
        assert got == [b"Bearer ann" if passes else None, None]
