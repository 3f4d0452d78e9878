"""Sessions of a tenant that was removed end like sessions that were revoked.

The core refuses every call about such a session with 400, and calls below the tenant,
too. Neither is an outage, and neither is a fault of the client's request.
"""

from __future__ import annotations

import json

import aiohttp
import pytest
from any_core import new_email
from faults import FaultUpstream
from stack import Gateway, Start, User, form
from supertokens_python.recipe.session import asyncio as sessions
from wire import WireReply

from gateway.dev.core import Fault
from gateway.supertokens.core_answers import missing_tenant

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}}
defaults: {session: {check_database: always}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /checked, service: echo}
  - {path: /optional, service: echo, protected: optional}
  - {path: /unchecked, service: echo, session: {check_database: never}}
  - path: /role
    service: echo
    session: {check_database: never}
    require: {roles: {any: [admin]}, max_age: 1ms}
"""

TENANT = "acme"


async def on_core(gateway: Gateway, method: str, path: str, body: object) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, gateway.core.url + path, json=body) as reply,
    ):
        assert reply.status == 200, await reply.text()


async def remove_tenant(gateway: Gateway) -> None:
    path = "/recipe/multitenancy/tenant/remove"
    await on_core(gateway, "POST", path, {"tenantId": TENANT})


async def member(gateway: Gateway, mode: str = "header") -> User:
    """Return a user of the tenant, who is made; tokens are kept whatever the *mode*."""
    path = "/recipe/multitenancy/tenant/v2"
    factors = {"tenantId": TENANT, "firstFactors": ["emailpassword"]}
    await on_core(gateway, "PUT", path, factors)
    user = User(gateway, new_email("ann"))
    reply = await user.post(
        f"/auth/{TENANT}/signup",
        ("st-auth-mode", mode),
        body=json.dumps(form(user.email)).encode(),
    )
    assert reply.json()["status"] == "OK", reply.body
    user.id = reply.json()["user"]["id"]
    if mode == "header":
        user.take(reply)
    else:
        pairs = [value.partition(";")[0] for value in reply.all("Set-Cookie")]
        cookies = dict(pair.split("=", 1) for pair in pairs)
        user.access = cookies["sAccessToken"]
        user.refresh_token = cookies["sRefreshToken"]
    return user


CALLS = {
    "checked": ("GET", "/checked"),
    "optional": ("GET", "/optional"),
    "refresh": ("POST", "/auth/session/refresh"),
    "sign-out": ("POST", "/auth/signout"),
}


async def call(user: User, name: str, mode: str) -> WireReply:
    """Send one of `CALLS` with the tokens of *user*."""
    method, path = CALLS[name]
    token = user.refresh_token if name == "refresh" else user.access
    field = ("Authorization", f"Bearer {token}")
    if mode == "cookie":
        cookie = "sRefreshToken" if name == "refresh" else "sAccessToken"
        field = ("Cookie", f"{cookie}={token}")
    return await user.gateway.ask(method, path, field, body=b"")


def assert_ended(reply: WireReply, mode: str) -> None:
    """Assert the 401 of a session that is no more, which clears the tokens."""
    assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
    assert reply.one("front-token") == "remove"
    if mode == "header":
        assert reply.one("st-access-token") == reply.one("st-refresh-token") == ""
    else:
        cleared = reply.all("Set-Cookie")
        assert len(cleared) == 2
        assert all('=""; expires=Thu, 01 Jan 1970' in one for one in cleared), cleared


@pytest.mark.parametrize("mode", ["header", "cookie"])
@pytest.mark.parametrize("name", CALLS)
async def test_it_is_401_and_the_tokens_are_cleared(
    start: Start, upstream: FaultUpstream, name: str, mode: str
) -> None:
    """Routes with a check, refresh and sign-out answer as for a revoked session."""
    gateway = await start(ROUTES)
    user = await member(gateway, mode)
    await remove_tenant(gateway)
    assert_ended(await call(user, name, mode), mode)
    assert upstream.requests == []


@pytest.mark.parametrize("name", ["checked", "sign-out"])
async def test_it_is_refused_everywhere_afterwards(
    start: Start, upstream: FaultUpstream, name: str
) -> None:
    """What the core has said once holds on routes where it isn't asked."""
    gateway = await start(ROUTES)
    user = await member(gateway)
    assert (await user.get("/unchecked")).status == 200
    await remove_tenant(gateway)
    assert (await user.get("/unchecked")).status == 200
    assert_ended(await call(user, name, "header"), "header")
    assert (await user.get("/unchecked")).status == 401
    assert len(upstream.requests) == 2


async def test_a_claim_of_the_tenant_that_is_fetched(
    start: Start, upstream: FaultUpstream
) -> None:
    """Roles are fetched below the tenant, so that the core refuses these calls, too."""
    gateway = await start(ROUTES)
    user = await member(gateway)
    await remove_tenant(gateway)
    assert_ended(await user.get("/role"), "header")
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/unchecked", "/user"])
async def test_the_first_use_after_a_refresh(
    start: Start, upstream: FaultUpstream, path: str
) -> None:
    """The core is asked on every route then, and for `/user`."""
    gateway = await start(ROUTES)
    user = await member(gateway)
    assert (await user.refresh()).status == 200
    await remove_tenant(gateway)
    assert_ended(await user.get(path), "header")
    assert upstream.requests == []


async def test_another_session_is_not_touched(start: Start) -> None:
    """A tenant in the path that isn't there is 404; nobody's tokens are cleared."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    await member(gateway)
    await remove_tenant(gateway)
    body = json.dumps(form(user.email)).encode()
    reply = await user.post(f"/auth/{TENANT}/signin", user.bearer, body=body)
    assert (reply.status, reply.json()["code"]) == (404, "unknown_tenant")
    assert not reply.all("front-token")
    assert (await user.get("/checked")).status == 200


async def test_functions_about_sessions_find_none(start: Start) -> None:
    """The SDK's functions answer as for a session that ended.

    One session of a removed tenant doesn't keep others from being revoked.
    """
    gateway = await start(ROUTES)
    gone, other = await member(gateway), await gateway.sign_up()
    await remove_tenant(gateway)
    (handle,) = await sessions.get_all_session_handles_for_user(other.id)
    lost = f"8a4b7c6d-0000-4000-8000-000000000000_{TENANT}"
    assert await sessions.get_session_information(lost) is None
    assert not await sessions.update_session_data_in_database(lost, {})
    assert not await sessions.merge_into_access_token_payload(lost, {"a": 1})
    assert not await sessions.revoke_session(lost)
    assert await sessions.revoke_multiple_sessions([lost, handle]) == [handle]
    assert (await other.get("/checked")).status == 401
    assert_ended(await gone.get("/checked"), "header")


TUPLE = "AppId or tenantId not found => Tenant with the following combination: "


@pytest.mark.parametrize(
    "text",
    [f"{TUPLE}(, gone, public)\n", "AppId or tenantId not found => in other words\n"],
    ids=["app", "unknown"],
)
async def test_a_missing_app_ends_no_session(
    start: Start, upstream: FaultUpstream, text: str
) -> None:
    """A wrong path in `connection_uri` is the operator's fault: 503."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    fault = Fault(status=400, body=text.encode(), content_type="text/html")
    gateway.core.core.faults.set("*", fault)
    for name in CALLS:
        reply = await call(user, name, "header")
        assert (name, reply.status) == (name, 503)
        assert not reply.all("front-token")
    assert upstream.requests == []
    gateway.core.core.faults.clear()
    assert (await user.get("/checked")).status == 200


@pytest.mark.parametrize(
    ("text", "tenant"),
    [
        (f"{TUPLE}(, public, t1)\n", "t1"),
        (f"{TUPLE}(core.example.com, app-1, t-2)", "t-2"),
        (f"{TUPLE}(, a1, public)", "public"),
        ("AppId or tenantId not found => appId: public, tenantId: t1\n", "t1"),
        ("AppId or tenantId not found => appId: a1, tenantId: public", "public"),
        ("AppId or tenantId not found => App with the following: (, a1)", ""),
        ("AppId or tenantId not found", ""),
        ("Field name 'x' is invalid in JSON input", None),
        ("see: AppId or tenantId not found => appId: a, tenantId: b", None),
        ("", None),
    ],
)
def test_the_tenant_that_the_core_misses(text: str, tenant: str | None) -> None:
    """The sentences of cores 11 and of older ones; empty if they name no tenant."""
    assert missing_tenant(text) == tenant
