"""The SDK's dashboard behind the gateway: sign-in, list, search, sign-out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from any_core import new_email
from faults import FaultUpstream
from stack import Gateway, Start

pytestmark = pytest.mark.any_core

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes:
    emailpassword: {}
    usermetadata: {}
    dashboard: {admins: ["${ADMIN}"]}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /, service: echo}
"""

PASSWORD = "correct-horse-1"
API = "/auth/dashboard/api"


@pytest.fixture
async def core() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        yield client


class Person:
    """Somebody with an account for the dashboard, and a client of its API."""

    def __init__(self, gateway: Gateway, core: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.core = core
        self.email = ""
        self.session = "none"

    async def join(self, email: str) -> None:
        """Create the account as docs/operations.md says, with a call of the core."""
        self.email = email
        reply = await self.core.post(
            f"{self.gateway.any_core.url}/recipe/dashboard/user",
            json={"email": email, "password": PASSWORD},
        )
        assert reply.json()["status"] == "OK", reply.text

    async def leave(self) -> None:
        await self.core.delete(
            f"{self.gateway.any_core.url}/recipe/dashboard/user",
            params={"email": self.email},
        )

    async def sign_in(self, password: str = PASSWORD) -> dict[str, Any]:
        body = {"email": self.email, "password": password}
        reply = await self.gateway.ask(
            "POST",
            f"{API}/signin",
            ("Content-Type", "application/json"),
            body=json.dumps(body).encode(),
        )
        assert reply.status == 200, reply
        self.session = reply.json().get("sessionId", "none")
        answer: dict[str, Any] = reply.json()
        return answer

    async def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        reply = await self.gateway.ask(
            method, API + path, ("Authorization", f"Bearer {self.session}"), body=b""
        )
        return reply.status, reply.json()

    async def found(self, query: str) -> list[str]:
        status, answer = await self.ask("GET", f"/users?limit=10&{query}")
        assert status == 200, answer
        return [user["emails"][0] for user in answer["users"]]


async def test_the_dashboard(
    start: Start, upstream: FaultUpstream, core: httpx.AsyncClient
) -> None:
    """One signs in, lists, searches and deletes users, and signs out."""
    email = new_email("admin")
    gateway = await start(ROUTES, ADMIN=email)
    admin = Person(gateway, core)
    await admin.join(email)
    try:
        page = await gateway.ask("GET", "/auth/dashboard")
        assert page.status == 200
        assert b'window.authMode = "email-password"' in page.body
        assert (await admin.sign_in("wrong-horse-1"))[
            "status"
        ] == "INVALID_CREDENTIALS_ERROR"
        assert (await admin.ask("GET", "/users?limit=10"))[0] == 401
        assert (await admin.sign_in())["status"] == "OK"

        ann = await gateway.sign_up("findme")
        bob = await gateway.sign_up("another")
        listed = await admin.found("timeJoinedOrder=DESC")
        assert {ann.email, bob.email} <= set(listed)
        assert await admin.found(f"email={ann.email}") == [ann.email]
        assert await admin.found(f"email={ann.email}&provider=google") == []
        _, tags = await admin.ask("GET", "/search/tags")
        assert {"email", "phone", "provider"} <= set(tags["tags"])
        status, tenants = await admin.ask("GET", "/tenants")
        assert (status, tenants["status"]) == (200, "OK")
        status, tenant = await admin.ask("GET", "/tenant")
        assert (status, tenant["tenant"]["tenantId"]) == (200, "public")
        status, user = await admin.ask(
            "GET", f"/user?userId={ann.id}&recipeId=emailpassword"
        )
        assert (status, user["user"]["emails"]) == (200, [ann.email])

        deleted = await admin.ask(
            "DELETE", f"/user?userId={ann.id}&removeAllLinkedAccounts=true"
        )
        assert deleted == (200, {"status": "OK"})
        assert await admin.found(f"email={ann.email}") == []
        assert await admin.ask("POST", "/signout") == (200, {"status": "OK"})
        assert (await admin.ask("GET", "/users?limit=10"))[0] == 401
    finally:
        await admin.leave()
    assert not upstream.requests


async def test_only_admins_change_users(start: Start, core: httpx.AsyncClient) -> None:
    """Somebody who isn't one of the `admins` reads, but changes nothing."""
    gateway = await start(ROUTES, ADMIN=new_email("admin"))
    reader = Person(gateway, core)
    await reader.join(new_email("reader"))
    try:
        await reader.sign_in()
        ann = await gateway.sign_up("kept")
        status, _ = await reader.ask(
            "DELETE", f"/user?userId={ann.id}&removeAllLinkedAccounts=true"
        )
        assert status == 403
        assert await reader.found(f"email={ann.email}") == [ann.email]
    finally:
        await reader.leave()
