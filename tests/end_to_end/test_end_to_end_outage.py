"""While the core is down, requests that don't need it are served.

The others get 503; no valid session gets 401.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from faults import FaultUpstream
from stack import Gateway, Start, User
from wire import WireReply

from gateway.dev.core import Fault, ThreadedCore, serve_in_thread

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}}
  core: {timeout: "${TIMEOUT:-5}", auth_timeout: "${TIMEOUT:-5}"}
  keys: {cooldown: 0.05}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /optional, service: echo, protected: optional}
  - {path: /checked, service: echo, session: {check_database: always}}
  - {path: /writes, service: echo, session: {check_database: on_write}}
"""


def assert_unavailable(reply: WireReply) -> None:
    """Assert a 503 with Retry-After, and nothing that clears a frontend's session."""
    assert reply.status == 503, reply.body
    assert int(reply.one("Retry-After") or "0") >= 1
    assert reply.one("Content-Type") == "application/problem+json"
    assert reply.json()["code"] == "session_check_unavailable"
    assert not reply.all("Set-Cookie")
    assert not reply.all("front-token")


async def test_core_stops(start: Start, upstream: FaultUpstream) -> None:
    """Public routes and sessions checked by token go on.

    Sign-in, refresh, sign-out and database checks get 503, and a request without a
    session gets 401.
    """
    with contextlib.ExitStack() as core:
        running = core.enter_context(serve_in_thread())
        gateway = await start(ROUTES, CORE=running.url)
        user = await gateway.sign_up()
        assert (await user.get("/checked")).status == 200
        await asyncio.to_thread(core.close)

        assert (await gateway.ask("GET", "/public")).status == 200
        for path in ("/private", "/optional", "/writes", "/user"):
            assert (await user.get(path)).status == 200, path
        served = len(upstream.requests)
        assert_unavailable(await user.get("/checked"))
        assert_unavailable(await user.post("/writes", user.bearer))
        assert_unavailable(await sign_in(user))
        assert_unavailable(await user.refresh())
        assert_unavailable(await user.sign_out())
        # Without a session the core isn't needed to refuse.
        assert (await gateway.ask("GET", "/checked")).status == 401
        assert len(upstream.requests) == served


@pytest.mark.parametrize(
    "fault",
    [
        Fault(disconnect=True),
        Fault(status=500, body=b"Internal Error\n"),
        Fault(status=503, body=b"no\n"),
        Fault(body=b'{"status": "OK", "trunc'),
        Fault(body=b""),
        Fault(hang=True),
    ],
    ids=["disconnect", "500", "503", "garbage", "empty", "hang"],
)
async def test_core_misbehaves(
    start: Start, upstream: FaultUpstream, st_core: ThreadedCore, fault: Fault
) -> None:
    """Requests that need the core get 503, and are served again when it recovers."""
    gateway = await start(ROUTES, TIMEOUT="1.5" if fault.hang else "5")
    user = await gateway.sign_up()
    st_core.core.faults.set("/recipe/*", fault)
    assert (await user.get("/private")).status == 200
    assert_unavailable(await user.get("/checked"))
    assert_unavailable(await sign_in(user))
    assert len(upstream.requests) == 1
    st_core.core.faults.clear()
    assert (await user.get("/checked")).status == 200
    await user.enter("signin")


async def test_core_hangs_and_others_go_on(
    start: Start, upstream: FaultUpstream, st_core: ThreadedCore
) -> None:
    """A request that waits for the core doesn't delay others."""
    gateway = await start(ROUTES, TIMEOUT="1.5")
    user = await gateway.sign_up()
    st_core.core.faults.forget_calls()
    st_core.core.faults.hang("/recipe/session/verify")
    waiting = asyncio.create_task(user.get("/checked"))
    await st_core.core.faults.until_called("*/recipe/session/verify")
    assert (await user.get("/private")).status == 200
    assert (await gateway.ask("GET", "/public")).status == 200
    assert not waiting.done()
    assert_unavailable(await waiting)


async def test_keys_were_never_fetched(
    start: Start, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Without keys a request with a session gets 503; one without is served or 401."""
    st_core.core.faults.disconnect("/.well-known/jwks.json")
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    for path in ("/private", "/optional", "/checked", "/user"):
        assert_unavailable(await user.get(path))
    assert not upstream.requests
    assert (await gateway.ask("GET", "/public")).status == 200
    assert (await gateway.ask("GET", "/optional")).status == 200
    assert (await gateway.ask("GET", "/private")).status == 401
    st_core.core.faults.clear()
    await until_served(gateway, user)


async def test_no_core_at_all(start: Start, closed_port: int) -> None:
    """The gateway starts without a core; requests that need it get 503."""
    gateway = await start(ROUTES, CORE=f"http://127.0.0.1:{closed_port}")
    assert (await gateway.ask("GET", "/public")).status == 200
    assert (await gateway.ask("GET", "/private")).status == 401
    assert_unavailable(await sign_in(User(gateway, "nobody@example.com")))


async def sign_in(user: User) -> WireReply:
    return await user.post(
        "/auth/signin",
        body=b'{"formFields": [{"id": "email", "value": "%b"},'
        b' {"id": "password", "value": "correct-horse-1"}]}' % user.email.encode(),
    )


async def until_served(gateway: Gateway, user: User) -> None:
    """Refresh the keys until the user's requests are served."""
    async with asyncio.timeout(5):
        while (await user.get("/private")).status != 200:
            await gateway.app.keys.refresh()
