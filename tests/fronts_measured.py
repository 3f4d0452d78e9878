"""What a front does, measured: the cells of the table in docs/fronts.md.

Each function asks the front of a `Fronted` and returns the text of a cell. Whatever
would be a hole (a forged identity, a refused request that a service sees) fails at
once, for every front.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from fronts_under_test import CANT_REWRITE, ORIGIN, Fronted
from open_streams import HANDSHAKE
from wire import WireReply, connect, request

from gateway.headers import IDENTITY_NAMES

Field = tuple[str, str]

EVIL = "https://evil.test"
PREFLIGHT = ("Access-Control-Request-Method", "GET")


def bearer(tokens: dict[str, str]) -> Field:
    return ("Authorization", f"Bearer {tokens['access']}")


async def refused(
    stack: Fronted, target: str, *fields: Field, method: str = "GET"
) -> WireReply:
    """Return the reply to a request that must not reach a service."""
    reply = await stack.ask(method, target, *fields)
    assert not stack.seen(), (target, fields, reply)
    assert reply.status >= 400, (target, reply)
    return reply


async def identity(stack: Fronted) -> None:
    """Requests get to the right service, with the identity, until the sign-out."""
    user = await stack.sign_up("header")
    reply = await stack.ask("GET", "/private/x?y=1", bearer(user), ("Origin", ORIGIN))
    assert (reply.status, reply.body) == (200, b"ok")
    (private,) = stack.seen()
    assert private.line == b"GET /private/x?y=1 HTTP/1.1"
    assert private.field(b"x-user-id") == user["id"].encode()
    assert private.field(b"x-auth-status") == b"authenticated"
    assert private.field(b"x-session-handle")
    reply = await stack.ask("POST", "/public", body=b"body")
    assert reply.status == 200
    (public,) = stack.seen()
    assert public.line == b"POST /public HTTP/1.1"
    assert public.body == b"body"
    assert public.field(b"x-user-id") is None
    assert public.field(b"x-auth-status") == b"anonymous"
    assert (await stack.auth("/signout", bearer(user), body={})).status == 200
    assert (await refused(stack, "/private", bearer(user))).status == 401


async def statuses(stack: Fronted) -> str:
    """Return which statuses of refusals the client gets."""
    user = await stack.sign_up("header")
    kept = []
    for target, fields, method, status in (
        ("/public/%2Fx", (), "GET", 400),
        ("/private", (), "GET", 401),
        ("/private", (("Authorization", "Bearer broken"),), "GET", 401),
        ("/admin", (bearer(user),), "GET", 403),
        ("/Private", (), "GET", 404),
        ("/elsewhere", (bearer(user),), "GET", 404),
        ("/read", (), "POST", 405),
    ):
        reply = await refused(stack, target, *fields, method=method)
        if reply.status == status:
            kept.append(status)
    return "all" if len(kept) == 7 else ", ".join(map(str, dict.fromkeys(kept)))


async def bodies(stack: Fronted) -> str:
    """Return whether the bodies of refusals arrive."""
    user = await stack.sign_up("header")
    whole = []
    reply = await refused(stack, "/private")
    if reply.body == b'{"message":"unauthorised"}':
        whole.append("401")
    reply = await refused(stack, "/admin", bearer(user))
    if b"claimValidationErrors" in reply.body:
        whole.append("403")
    return "whole" if len(whole) == 2 else ", ".join(whole) or "lost"


async def cookies(stack: Fronted) -> str:
    """Return how new tokens in cookies arrive, beside a cookie of the service."""
    user = await stack.refreshed("cookie")
    cookie = ("Cookie", f"sAccessToken={user['access']}")
    reply = await stack.ask("GET", "/private", cookie)
    assert reply.status == 200
    (seen,) = stack.seen()
    assert seen.field(b"x-user-id") == user["id"].encode()
    names = [each.partition("=")[0] for each in reply.all("Set-Cookie")]
    assert "own" in names
    assert names.count("sAccessToken") <= 1
    if sorted(names) != ["own", "sAccessToken"]:
        return "lost" if names == ["own"] else " ".join(names)
    return "each" if reply.one("front-token") else "each, without front-token"


async def new_tokens(stack: Fronted) -> str:
    """Return whether new tokens in fields arrive."""
    user = await stack.refreshed("header")
    reply = await stack.ask("GET", "/private", bearer(user))
    assert reply.status == 200
    assert len(stack.seen()) == 1
    found = [name for name in ("st-access-token", "front-token") if reply.one(name)]
    return ", ".join(found) or "lost"


async def cors(stack: Fronted) -> str:
    """Return where CORS fields arrive: on replies, refusals and preflights."""
    found = []
    user = await stack.sign_up("header")
    reply = await stack.ask("GET", "/private", bearer(user), ("Origin", ORIGIN))
    stack.seen()
    if reply.all("Access-Control-Allow-Origin") == [ORIGIN]:
        found.append("replies")
    reply = await refused(stack, "/private", ("Origin", ORIGIN))
    if reply.all("Access-Control-Allow-Origin") == [ORIGIN]:
        found.append("refusals")
    reply = await stack.ask("OPTIONS", "/private", ("Origin", ORIGIN), PREFLIGHT)
    if reply.all("Access-Control-Allow-Origin") == [ORIGIN]:
        assert "GET" in str(reply.one("Access-Control-Allow-Methods"))
        assert 200 <= reply.status < 300
        found.append("preflights")
    for seen in stack.seen():
        assert seen.field(b"x-auth-status") == b"anonymous"
        assert seen.field(b"x-user-id") is None
    reply = await stack.ask("OPTIONS", "/private", ("Origin", EVIL), PREFLIGHT)
    stack.seen()
    assert reply.one("Access-Control-Allow-Origin") not in (EVIL, "*")
    return ", ".join(found) or "none"


async def websocket(stack: Fronted) -> str:
    """Return whether a WebSocket opens, with a session and an allowed origin only."""
    user = await stack.sign_up("header")
    *fields, origin = HANDSHAKE
    for wrong in (
        (*fields, origin),
        (*fields, bearer(user), ("Origin", EVIL)),
    ):
        await refused(stack, "/ws", *wrong)
    await refused(stack, "/private", *HANDSHAKE, bearer(user))  # not enabled there
    async with connect(stack.port) as peer:
        await peer.send(request("GET", "/ws", *HANDSHAKE, bearer(user), host="a.test"))
        reply = await peer.head()
        if reply.status != 101:
            stack.seen()
            return f"no: {reply.status}"
        assert await peer.read(4) == b"\x81\x02hi"
    (seen,) = stack.seen()
    assert seen.field(b"x-user-id") == user["id"].encode()
    return "yes"


def forged() -> list[Field]:
    """Return each identity name, as clients may write it."""
    fields: list[Field] = []
    for name in (*IDENTITY_NAMES, "X-Plan"):
        fields += [(name, "eve"), (name.lower(), "eve"), (name.upper(), "eve")]
    return fields


async def spoofing(stack: Fronted) -> str:
    """Return which spellings of a forged identity reach a service; none should."""
    user = await stack.sign_up("header")
    for session, target in (((), "/public"), ((bearer(user),), "/private")):
        reply = await stack.ask("GET", target, *session, *forged())
        assert reply.status == 200, reply
        (seen,) = stack.seen()
        assert b"eve" not in seen.head, seen.head
        for name in ("X-User-Id", "X-Auth-Status", "X-Plan", "x-user-id"):
            for connection in (name, f"close, {name}", f"keep-alive,{name}"):
                reply = await stack.ask(
                    "GET", target, *session, ("Connection", connection)
                )
                if reply.status != 200:
                    assert not stack.seen()
                    continue
                (seen,) = stack.seen()
                expected = user["id"].encode() if session else None
                assert seen.field(b"x-user-id") == expected, seen.head
                assert seen.field(b"x-auth-status"), seen.head
    await forwarded_fields(stack)
    passing = []
    for name in ("x_user_id", "X_User-Id", "X.User.Id", "X-User.Id"):
        reply = await stack.ask("GET", "/public", (name, "eve"))
        if any(b"eve" in seen.head for seen in stack.seen()):
            passing.append(name)
    return ", ".join(passing) + " pass" if passing else "none passes"


async def forwarded_fields(stack: Fronted) -> None:
    """A client's own word on the path, the method or the service counts nowhere."""
    for name, value in (
        ("X-Forwarded-Uri", "/public"),
        ("X-Forwarded-Uid", "/public"),
        ("X-Forwarded-Path", "/public"),
        ("X-Original-URL", "http://a.test/public"),
        ("X-Original-URI", "/public"),
        ("X-Rewrite-URL", "/public"),
        ("X-Envoy-Original-Path", "/public"),
        ("X-Gateway-Service", "pages"),
        ("X-Gateway-Target", "/public"),
        ("X-Original-Method", "OPTIONS"),
        ("X-Forwarded-Method", "OPTIONS"),
    ):
        await refused(stack, "/private", (name, value))
    await refused(
        stack,
        "/private",
        ("X-Forwarded-Uri", "/public"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Host", "a.test"),
        ("X-Forwarded-Proto", "http"),
    )
    await stack.ask("GET", "/public", ("X-Gateway-Service", "orders"))
    assert not stack.orders.requests
    stack.seen()


async def paths(stack: Fronted) -> None:
    """A path is refused, or the service gets what was judged."""
    for target in (
        "/public/../private",
        "/public/%2e%2e/private",
        "/public/..%2fprivate",
        "/public/%2e%2e%2fprivate",
        "/public/..;/private",
        "/public/./x",
        "/public//private",
        "/public/%2Fprivate",
        "/public\\..\\private",
        "/public/..%5cprivate",
        "/private/../../../../public",
        "/private/../../../../forward-auth",
        "/../private",
        "//private",
        "/ext-authz/../private",
        "/%2e%2e/private",
        "/PRIVATE",
        "/private%00",
    ):
        reply = await stack.ask("GET", target)
        found = stack.seen()
        if not found:
            continue
        # Some fronts and the gateway agree that it is another, public path.
        (seen,) = found
        path = seen.line.split()[1].decode()
        assert path.startswith("/public"), (target, seen.line)
        assert not re.search(r"\.\.|%2e", path, re.IGNORECASE), (target, seen.line)
    for target in ("/private/%41", "/private/a%20b", "/private/a%2fb"):
        await refused(stack, target)
    reply = await stack.ask("GET", "/public/%41/a%20b?x=%2f..")
    assert reply.status == 200, reply
    (seen,) = stack.seen()
    assert seen.line.split()[1] in (
        b"/public/%41/a%20b?x=%2f..",
        b"/public/A/a%20b?x=%2f..",
    ), seen.line


async def rewrites(stack: Fronted) -> str:
    """The service gets the rewritten path, and no variable in it has a meaning."""
    if stack.front in CANT_REWRITE:
        return "no"
    for target, path in (
        ("/old/a%20b?x=%2f", b"/a%20b?x=%2f"),
        ("/old/%c3%a4/?x", b"/%c3%a4/?x"),
        ("/old", b"/"),
        # Text that a front's own language could read as a variable.
        (
            "/old/x?{http.request.method}$uri%[src]",
            b"/x?{http.request.method}$uri%[src]",
        ),
    ):
        reply = await stack.ask("GET", target)
        assert reply.status == 200, reply
        (seen,) = stack.seen()
        # Caddy writes escapes anew, and escapes braces: the same path and query to each
        # reader (RFC 3986 §6.2.2).
        got = seen.line.split()[1].lower().replace(b"%7b", b"{").replace(b"%7d", b"}")
        assert got == path, seen.line
    return "yes"


async def canonical_paths(stack: Fronted) -> None:
    """With `path: canonical`, the service gets the path that was judged."""
    user = await stack.sign_up("header")
    for target, path in (
        ("/public/../private/x", b"/private/x"),
        ("/public/%2e%2e/private", b"/private"),
        ("/private/./a//b?c=..", b"/private/a/b?c=.."),
    ):
        await refused(stack, target)
        reply = await stack.ask("GET", target, bearer(user))
        assert reply.status == 200, (target, reply)
        (seen,) = stack.seen()
        assert seen.line.split()[1] == path, (target, seen.line)
        assert seen.field(b"x-user-id") == user["id"].encode()


CHECKS = (identity, paths)
"""What each front does: no cell of its own."""
CELLS: dict[str, Callable[[Fronted], Awaitable[str]]] = {
    "status": statuses,
    "body": bodies,
    "cookies": cookies,
    "tokens": new_tokens,
    "CORS": cors,
    "WebSocket": websocket,
    "spoofing": spoofing,
    "rewrite": rewrites,
}


async def outage(stack: Fronted) -> str:
    """Return the statuses while the gateway hangs, and once it is gone; none allows."""
    user = await stack.sign_up("header")
    found = []
    asked = (("/private", (bearer(user),)), ("/public", ()))
    async with stack.hung():
        replies = await asyncio.gather(
            *(refused(stack, target, *fields) for target, fields in asked)
        )
        found += [reply.status for reply in replies]
    await stack.kill()
    for target, fields in asked:
        reply = await refused(stack, target, *fields)
        found.append(reply.status)
    assert min(found) >= 403, found
    return ", ".join(map(str, dict.fromkeys(found)))
