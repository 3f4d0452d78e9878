"""Signed identity with the real SDK, and a rotation of keys with real reloads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jwt
import pytest
from faults import FaultUpstream, Received, until
from processes import command, serving, workers
from stack import Start, form
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)
from wire import WireReply, ask

from gateway.assertions import generate
from gateway.dev.core import ThreadedCore

PATH = "/.well-known/gateway-jwks.json"
ISSUER = "https://api.example.com"
ROUTES = """
version: 1
gateway:
  listen: "127.0.0.1:0"
  assertion: {keys: ["${KEY}"], issuer: "https://api.example.com"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}, usermetadata: {}}
services:
  orders: {targets: ["${UPSTREAM}"]}
  billing: {targets: ["${UPSTREAM}"], assertion: {audience: "urn:billing"}}
routes:
  - {path: /orders, service: orders}
  - {path: /billing, service: billing}
  - {path: /public, service: orders, protected: false}
"""


def assertion_of(request: Received) -> str:
    """Return the assertion that a service got."""
    value = request.field(b"x-identity-assertion")
    assert value is not None
    return value.decode()


def verified(token: str, reply: WireReply, audience: str) -> dict[str, Any]:
    """Return what an assertion says, checked as a service does it, with PyJWT.

    *reply* has the published keys.
    """
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(reply.json())[kid].key
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        issuer=ISSUER,
        audience=audience,
        leeway=5,
        options={"require": ["iss", "aud", "sub", "iat", "exp"]},
    )
    return claims


async def test_a_service_can_check_who_asks(
    start: Start, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """The claims are those of the session; each service has an assertion of its own."""
    key = tmp_path / "key.pem"
    generate(key)
    gateway = await start(ROUTES, guard=False, KEY=str(key))
    user = await gateway.sign_up()
    await create_new_role_or_add_permissions("assertion-admin", ["write:all"])
    await add_role_to_user("public", user.id, "assertion-admin")
    await user.enter()  # roles are those at the sign-in

    for path in ("/orders", "/billing", "/orders/again"):
        assert (await user.get(path)).status == 200
    keys = await gateway.ask("GET", PATH)
    first, second, again = map(assertion_of, upstream.requests)
    claims = verified(first, keys, "orders")
    assert verified(second, keys, "urn:billing")["sub"] == user.id
    assert again == first
    with pytest.raises(jwt.InvalidAudienceError):
        verified(first, keys, "urn:billing")

    payload = jwt.decode(user.access, options={"verify_signature": False})
    assert claims["sub"] == user.id
    assert claims["sid"] == payload["sessionHandle"]
    assert claims["tid"] == "public"
    assert (claims["roles"], claims["permissions"]) == (
        ["assertion-admin"],
        ["write:all"],
    )
    assert claims["exp"] - claims["iat"] == 60
    assert claims["exp"] <= payload["exp"]

    # The core's keys stay what they are: no service takes one kind for the other.
    core_keys = (await gateway.ask("GET", "/auth/jwt/jwks.json")).json()["keys"]
    assert not {one["kid"] for one in core_keys} & {
        one["kid"] for one in keys.json()["keys"]
    }

    reply = await gateway.ask("GET", "/public", user.bearer)
    assert reply.status == 200
    assert upstream.requests[-1].field(b"x-identity-assertion") is None


async def test_an_assertion_goes_with_its_access_token(
    start: Start, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """Another token, another assertion; after a sign-out, the service gets nothing."""
    key = tmp_path / "key.pem"
    generate(key)
    gateway = await start(ROUTES, guard=False, KEY=str(key))
    user = await gateway.sign_up()
    await user.get("/orders")
    await user.refresh()
    for _ in range(2):  # the first use of a refreshed token makes another one
        user.take(await user.get("/orders"))
    assertions = [assertion_of(one) for one in upstream.requests]
    assert len(set(assertions)) == 3
    keys = await gateway.ask("GET", PATH)
    assert len({verified(one, keys, "orders")["sid"] for one in assertions}) == 1
    assert (await user.sign_out()).status == 200
    assert (await user.get("/orders")).status == 401
    assert len(upstream.requests) == 3


# --- rotation ---

SERVED = ROUTES.replace('["${KEY}"]', "KEYS").replace(
    "userroles: {}, usermetadata: {}", ""
)


async def signed_up(port: int) -> str:
    """Return the access token of a new user."""
    reply = await ask(
        port,
        "POST",
        "/auth/signup",
        ("Content-Type", "application/json"),
        ("st-auth-mode", "header"),
        body=json.dumps(form("ann@example.com")).encode(),
    )
    token = reply.one("st-access-token")
    assert token is not None, reply
    return token


async def test_keys_rotate_with_reloads(
    st_core: ThreadedCore, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """Add the new key, make it the first, drop the old one.

    At each step what was signed before is verified with the keys that are published.
    A key that can't be used leaves the old ones in use.
    """
    old, new, file = (tmp_path / name for name in ("old.pem", "new.pem", "routes.yaml"))
    kids = {name: generate(tmp_path / f"{name}.pem").kid for name in ("old", "new")}

    def write(*keys: Path) -> None:
        file.write_text(SERVED.replace("KEYS", json.dumps([*map(str, keys)])))

    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    write(old)
    async with command("serve", "-c", file, cwd=tmp_path, environ=environ) as process:
        port = await serving(process)
        token = await signed_up(port)

        async def asserted() -> tuple[str, WireReply]:
            """Return a new request's assertion, and the published keys."""
            bearer = ("Authorization", f"Bearer {token}")
            reply = await ask(port, "GET", "/orders", bearer)
            assert reply.status == 200, reply
            return assertion_of(upstream.requests[-1]), await ask(port, "GET", PATH)

        def signer(assertion: str) -> str:
            kid: str = jwt.get_unverified_header(assertion)["kid"]
            return kid

        async def reload(said: bytes) -> None:
            process.err = process.out = b""
            process.signal(signal.SIGHUP)
            await process.until_said(said)

        async def reloaded() -> None:
            """Reload, and wait until the workers of before have ended."""
            before = workers(process.child.pid)
            await reload(rb"reloaded .*: ")
            await until(lambda: not before & workers(process.child.pid))

        first, keys = await asserted()
        assert signer(first) == kids["old"]
        assert [one["kid"] for one in keys.json()["keys"]] == [kids["old"]]

        write(old, new)
        await reloaded()
        second, keys = await asserted()
        assert signer(second) == kids["old"]
        verified(first, keys, "orders")

        write(new, old)
        await reloaded()
        third, keys = await asserted()
        assert signer(third) == kids["new"]
        for assertion in (first, second, third):
            verified(assertion, keys, "orders")

        new.unlink()
        await reload(rb"gateway\.assertion\.keys\[0\].*can't be read")
        # A worker that replaces another one has the keys that were loaded, too.
        (worker,) = workers(process.child.pid)
        os.kill(worker, signal.SIGKILL)
        await until(lambda: workers(process.child.pid) - {worker})
        fourth, keys = await asserted()
        assert signer(fourth) == kids["new"]
        verified(fourth, keys, "orders")

        new.write_bytes(old.read_bytes())
        new.chmod(0o600)
        write(new)
        await reloaded()
        fifth, keys = await asserted()
        assert signer(fifth) == kids["old"]
        with pytest.raises(KeyError):
            verified(third, keys, "orders")
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
