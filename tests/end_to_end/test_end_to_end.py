"""A user's sessions end to end: sign-up, access, refusal, new tokens, sign-out."""

from __future__ import annotations

import httpx
import pytest
from any_core import new_email
from faults import CHUNKED_HEAD, FaultUpstream, Peer
from gateway_under_test import until_cut
from stack import ORIGIN, Gateway, Start, User, form, replies
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)
from wire import WireReply, connect, request

pytestmark = pytest.mark.any_core

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}, usermetadata: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /optional, service: echo, protected: optional}
  - {path: /checked, service: echo, session: {check_database: always}}
  - {path: /admin, service: echo, require: {roles: {any: [admin]}}}
"""

UNAUTHORISED = {"message": "unauthorised"}
TRY_REFRESH = {"message": "try refresh token"}


# --- access with a session ----------------------------------------------------


async def test_a_session_in_cookies(start: Start, upstream: FaultUpstream) -> None:
    """A browser gets 401, signs up, is served, signs out, and gets 401 again.

    The service gets the user's identity and the browser's other cookies, but no token.
    """
    gateway = await start(ROUTES)
    async with httpx.AsyncClient(
        base_url=gateway.url, verify=False, trust_env=False
    ) as browser:
        refused = await browser.get("/private")
        assert (refused.status_code, refused.json()) == (401, UNAUTHORISED)
        assert not upstream.requests

        signed_up = await browser.post(
            "/auth/signup",
            json=form(new_email("cookie")),
            headers={"st-auth-mode": "cookie"},
        )
        user_id = signed_up.json()["user"]["id"]
        assert {"sAccessToken", "sRefreshToken"} <= set(browser.cookies)

        user = await browser.get("/user")
        assert user.status_code == 200
        assert user.json()["userId"] == user_id
        assert user.json()["accessTokenPayload"]["sub"] == user_id
        assert set(user.json()) == {"sessionHandle", "userId", "accessTokenPayload"}
        assert user.headers["cache-control"] == "no-store"

        browser.cookies.set("theme", "dark")
        reply = await browser.get("/private/a?b=c", headers={"rid": "anti-csrf"})
        assert (reply.status_code, reply.text) == (200, "ok")
        (forwarded,) = upstream.requests
        assert forwarded.line == b"GET /private/a?b=c HTTP/1.1"
        assert forwarded.field(b"x-user-id") == user_id.encode()
        assert forwarded.field(b"x-session-handle") == (
            user.json()["sessionHandle"].encode()
        )
        assert forwarded.field(b"x-tenant-id") == b"public"
        assert forwarded.field(b"x-auth-status") == b"authenticated"
        assert forwarded.field(b"cookie") == b"theme=dark"
        assert forwarded.field(b"rid") is None

        signed_out = await browser.post("/auth/signout")
        assert signed_out.json() == {"status": "OK"}
        assert set(browser.cookies) == {"theme"}
        assert (await browser.get("/private")).status_code == 401
        assert (await browser.get("/user")).status_code == 401


async def test_bearer_token_is_accepted_and_not_forwarded(
    start: Start, upstream: FaultUpstream
) -> None:
    """The upstream gets the user's id, but neither the token nor the SDK's fields."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    reply = await user.get("/user")
    assert reply.json()["userId"] == user.id
    extra = [
        (name, "x") for name in ("anti-csrf", "rid", "fdi-version", "st-auth-mode")
    ]
    reply = await user.get("/private", *extra)
    assert (reply.status, reply.body) == (200, b"ok")
    (forwarded,) = upstream.requests
    assert forwarded.field(b"x-user-id") == user.id.encode()
    for name in (b"authorization", *(name.encode() for name, _ in extra)):
        assert forwarded.field(name) is None, name
    assert user.access.encode() not in forwarded.head


async def test_user_answers_head_like_get(start: Start) -> None:
    """HEAD has the status and the fields of GET, and no body."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    for fields, status in (([user.bearer], 200), ([], 401)):
        get = await gateway.ask("GET", "/user", *fields)
        reply = await gateway.ask("HEAD", "/user", *fields)
        assert (get.status, reply.status) == (status, status)
        assert reply.one("Content-Length") == get.one("Content-Length")
        assert reply.body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PURGE"])
async def test_user_answers_get_and_head_only(start: Start, method: str) -> None:
    """Any other method is 405 with Allow and `no-store`, even with a session."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    reply = await gateway.ask(method, "/user", user.bearer)
    assert reply.status == 405
    assert reply.one("Allow") == "GET, HEAD"
    assert reply.one("Cache-Control") == "no-store"


async def test_other_paths_below_user_are_routes(
    start: Start, upstream: FaultUpstream
) -> None:
    """The gateway answers `/user` only; `/user/x` and `/users` need a route."""
    paths = ("/user/x", "/users", "/authorize")
    routed = [f"  - {{path: {path}, service: echo}}\n" for path in paths]
    gateway = await start(ROUTES + "".join(routed))
    user = await gateway.sign_up()
    for path in paths:
        assert (await user.get(path)).status == 200
    assert [each.line for each in upstream.requests] == [
        f"GET {path} HTTP/1.1".encode() for path in paths
    ]
    for path in ("/user/y", "/userx", "/authorizer"):
        reply = await user.get(path)
        assert (reply.status, reply.json()["code"]) == (404, "no_route")
    assert len(upstream.requests) == len(paths)


# --- forgery -----------------------------------------------------------------

FORGERIES = {
    "plain": [("X-User-Id", "forged")],
    "lower case": [("x-user-id", "forged")],
    "underscores": [("X_User_Id", "forged")],
    "dots": [("x.user.id", "forged")],
    "mixed": [("X_User.Id", "forged")],
    "twice": [("X-User-Id", "forged"), ("X-User-Id", "forged")],
    "others": [
        ("X-User-Roles", "forged"),
        ("X-Tenant-Id", "forged"),
        ("X-Session-Handle", "forged"),
        ("X-User-Permissions", "forged"),
        ("X-Auth-Status", "forged"),
    ],
    "listed in Connection": [("Connection", "X-User-Id, X-Auth-Status")],
    "listed and sent": [("Connection", "close, x-user-id"), ("X-User-Id", "forged")],
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
@pytest.mark.parametrize("path", ["/private", "/optional", "/public"])
async def test_forged_identity_changes_nothing(
    start: Start, upstream: FaultUpstream, path: str, forged: list[tuple[str, str]]
) -> None:
    """Identity fields of a client are dropped; it can't remove the gateway's either."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    plain = await user.get(path)
    reply = await user.get(path, *forged)
    assert plain.status == reply.status == 200
    honest, forwarded = upstream.requests
    for name in (b"x-user-id", b"x-auth-status", b"x-tenant-id", b"x-session-handle"):
        assert forwarded.field(name) == honest.field(name)
    assert honest.field(b"x-user-id") == (
        None if path == "/public" else user.id.encode()
    )
    assert b"forged" not in forwarded.head


@pytest.mark.parametrize("path", ["/optional", "/public"])
async def test_forged_identity_without_a_session(
    start: Start, upstream: FaultUpstream, path: str
) -> None:
    """With forged identity fields, a request without a session stays anonymous."""
    gateway = await start(ROUTES)
    for forged in FORGERIES.values():
        assert (await gateway.ask("GET", path, *forged)).status == 200
    assert len(upstream.requests) == len(FORGERIES)
    for forwarded in upstream.requests:
        assert forwarded.field(b"x-auth-status") == b"anonymous"
        assert forwarded.field(b"x-user-id") is None
        assert b"forged" not in forwarded.head


async def test_optional_route_takes_a_session_and_refuses_an_invalid_token(
    start: Start, upstream: FaultUpstream
) -> None:
    """Without a token the request is anonymous; a token with a bad signature is 401."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    assert (await gateway.ask("GET", "/optional")).status == 200
    assert (await user.get("/optional")).status == 200
    anonymous, known = upstream.requests
    assert anonymous.field(b"x-auth-status") == b"anonymous"
    assert known.field(b"x-user-id") == user.id.encode()
    head, payload, signature = user.access.split(".")
    user.access = ".".join((head, payload, signature[::-1]))
    broken = await user.get("/optional")
    assert (broken.status, broken.json()) == (401, TRY_REFRESH)
    assert len(upstream.requests) == 2


# --- roles -------------------------------------------------------------------


async def test_a_required_role(start: Start, upstream: FaultUpstream) -> None:
    """Without the role the reply is SuperTokens' 403.

    Once the user has the role and has signed in again, the request is forwarded.
    """
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    refused = await user.get("/admin")
    assert refused.status == 403
    assert refused.json() == {
        "message": "invalid claim",
        "claimValidationErrors": [
            {
                "id": "st-role",
                "reason": {
                    "message": "wrong value",
                    "expectedToIncludeAtLeastOneOf": ["admin"],
                    "actualValue": [],
                },
            }
        ],
    }
    assert not upstream.requests
    await create_new_role_or_add_permissions("admin", ["everything"])
    await add_role_to_user("public", user.id, "admin")
    await user.enter("signin")
    reply = await user.get("/admin")
    assert reply.status == 200
    (forwarded,) = upstream.requests
    assert forwarded.field(b"x-user-roles") == b"admin"
    assert forwarded.field(b"x-user-permissions") == b"everything"


# --- new tokens ----------------------------------------------------------------

SHAPES = {
    "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "streamed": CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n",
    "304": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n',
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "5xx": b"HTTP/1.1 503 Down\r\nContent-Length: 4\r\n\r\ndown",
    "upstream 401": b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno",
    "own tokens": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nst-access-token: forged\r\n"
        b"front-token: forged\r\nSet-Cookie: sAccessToken=forged\r\n"
        b"Cache-Control: public, max-age=600\r\n\r\nok"
    ),
}


def assert_carries_new_token_once(reply: WireReply) -> None:
    assert len(reply.all("st-access-token")) == 1
    assert len(reply.all("front-token")) == 1
    assert reply.all("Cache-Control") == ["no-store"]
    assert b"forged" not in reply.head


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_new_token_reaches_the_client_once(
    start: Start, upstream: FaultUpstream, shape: bytes
) -> None:
    """The first request after a refresh gets one, whatever the upstream replies."""
    upstream.behaviour = replies(shape)
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await user.refresh()
    first = await user.get("/private", ("Origin", ORIGIN))
    assert_carries_new_token_once(first)
    assert "st-access-token" in (first.one("Access-Control-Expose-Headers") or "")
    before = user.access
    user.take(first)
    assert user.access != before
    second = await user.get("/private")
    assert not second.all("st-access-token")
    assert len(upstream.requests) == 2


async def test_new_token_on_head(start: Start) -> None:
    """A reply to HEAD carries the new token too."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await user.refresh()
    reply = await gateway.ask("HEAD", "/private", user.bearer)
    assert reply.status == 200
    assert_carries_new_token_once(reply)


async def test_new_token_on_an_upgrade(start: Start, upstream: FaultUpstream) -> None:
    """A 101 carries the new token too."""
    upstream.behaviour = replies(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await user.refresh()
    reply = await user.get(
        "/private",
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    assert reply.status == 101
    assert_carries_new_token_once(reply)


async def test_new_token_on_the_gateways_own_error(
    start: Start, upstream: FaultUpstream
) -> None:
    """A 502 carries the new token: the session is renewed before the upstream fails."""
    upstream.behaviour = replies(b"garbage\r\n\r\n")
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await user.refresh()
    reply = await user.get("/private")
    assert reply.status == 502
    assert_carries_new_token_once(reply)
    assert len(upstream.requests) == 1


async def test_new_token_as_cookie(start: Start) -> None:
    """In cookie mode the new access token is the only Set-Cookie."""
    gateway = await start(ROUTES)
    user = User(gateway, new_email("cookie-refresh"))
    signed_up = await user.post(
        "/auth/signup",
        ("st-auth-mode", "cookie"),
        body=form_bytes(user.email),
    )
    refreshed = await user.post("/auth/session/refresh", ("Cookie", cookies(signed_up)))
    assert refreshed.status == 200
    reply = await gateway.ask("GET", "/private", ("Cookie", cookies(refreshed)))
    assert reply.status == 200
    (cookie,) = reply.all("Set-Cookie")
    assert cookie.startswith("sAccessToken=")
    assert len(reply.all("front-token")) == 1


async def test_new_token_for_user(start: Start) -> None:
    """The reply of `/user` carries the new token too."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await user.refresh()
    reply = await user.get("/user")
    assert reply.status == 200
    assert_carries_new_token_once(reply)


# --- the end of a session -------------------------------------------------------


async def test_sign_out_ends_the_session_everywhere_at_once(
    start: Start, upstream: FaultUpstream
) -> None:
    """Routes that don't check the database refuse it too, before the token expires."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    for path in ("/private", "/checked", "/optional"):
        assert (await user.get(path)).status == 200
    assert (await user.sign_out()).json() == {"status": "OK"}
    for path in ("/private", "/checked", "/optional", "/user"):
        reply = await user.get(path)
        assert (path, reply.status, reply.json()) == (path, 401, UNAUTHORISED)
    assert len(upstream.requests) == 3
    assert (await user.get("/public")).status == 200


async def test_sign_out_cuts_the_streams_of_the_session(
    start: Start, upstream: FaultUpstream
) -> None:
    """Server-sent events of the session that was signed out, and of no other."""
    upstream.behaviour = one_event
    gateway = await start(ROUTES)
    user, other = await gateway.sign_up(), await gateway.sign_up()
    async with connect(gateway.port) as theirs, connect(gateway.port) as stays:
        for wire, of in ((theirs, user), (stays, other)):
            await wire.send(request("GET", "/private", of.bearer))
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"data: 1\n\n"
        assert (await user.sign_out()).json() == {"status": "OK"}
        assert await until_cut(theirs) == b""
        assert not stays.reader.at_eof()


async def one_event(peer: Peer) -> None:
    """Send one event, and go on for as long as the gateway does."""
    await peer.request()
    await peer.send(CHUNKED_HEAD + b"9\r\ndata: 1\n\n\r\n")
    await peer.gone()


async def test_stolen_refresh_token_ends_the_session(
    start: Start, upstream: FaultUpstream
) -> None:
    """A second use of a refresh token ends the session for everyone who holds it."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    stolen = user.refresh_token
    await user.refresh()
    assert (await user.get("/private")).status == 200
    theft = await user.refresh(stolen)
    assert (theft.status, theft.json()) == (401, {"message": "token theft detected"})
    assert theft.one("front-token") == "remove"
    reply = await user.get("/private")
    assert (reply.status, reply.json()) == (401, UNAUTHORISED)
    assert (await user.refresh()).status == 401
    assert len(upstream.requests) == 1


async def test_session_that_was_removed_from_the_core(
    start: Start, upstream: FaultUpstream
) -> None:
    """A route that checks the database finds out; from then on every route refuses."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    assert (await user.get("/private")).status == 200
    await revoke_in_core(gateway, user)
    assert (await user.get("/private")).status == 200
    assert (await user.get("/checked")).json() == UNAUTHORISED
    assert (await user.get("/private")).json() == UNAUTHORISED
    assert len(upstream.requests) == 2


async def test_one_connection_serves_users_in_turn(
    start: Start, upstream: FaultUpstream
) -> None:
    """A request doesn't inherit the identity of the previous one on its connection."""
    gateway = await start(ROUTES)
    users = [await gateway.sign_up(name) for name in ("ann", "bob")]
    async with connect(gateway.port) as wire:
        for user in users:
            await wire.send(request("GET", "/private", user.bearer))
            assert (await wire.reply()).status == 200
        await wire.send(request("GET", "/private"))
        assert (await wire.reply()).status == 401
        await wire.send(request("GET", "/public"))
        assert (await wire.reply()).status == 200
    assert [each.field(b"x-user-id") for each in upstream.requests] == [
        *(user.id.encode() for user in users),
        None,
    ]


def form_bytes(email: str) -> bytes:
    return httpx.Request("POST", "http://x", json=form(email)).read()


def cookies(reply: WireReply) -> str:
    """Return the Cookie field that a browser sends after *reply*."""
    return "; ".join(value.partition(";")[0] for value in reply.all("Set-Cookie"))


async def revoke_in_core(gateway: Gateway, user: User) -> None:
    """Remove the user's sessions in the core, without the gateway."""
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        reply = await client.post(
            f"{gateway.any_core.url}/recipe/session/remove",
            json={"userId": user.id, "revokeAcrossAllTenants": True},
            headers={"rid": "session", "cdi-version": "5.4"},
        )
    assert len(reply.json()["sessionHandlesRevoked"]) == 1
