"""`POST /user/access`: what a session may do, compared with what it then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from any_core import new_email
from faults import FaultUpstream
from stack import ORIGIN, Gateway, Start, User
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)
from wire import WireReply

from gateway.access import MAX_BODY
from gateway.settings import load

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0", user_access: true}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}, usermetadata: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /optional, service: echo, protected: optional}
  - {path: /checked, service: echo, session: {check_database: on_write}}
  - {path: /admin, service: echo, require: {roles: {any: [access-admin]}}}
  - {path: /elsewhere, service: echo, clients: {allow: [192.0.2.0/24]}}
  - {path: /fixed, respond: {status: 200, body: here}, protected: false}
  - match: {path: {template: "/orders/{id}/refund"}, methods: [POST]}
    service: echo
    require: {roles: {any: [access-admin]}}
  - match: {path: {exact: /reports}, query: {v: "2"}}
    service: echo
    require: {roles: {any: [access-admin]}}
  - {match: {path: {exact: /reports}}, service: echo}
  - {path: /limited, service: echo, rate_limit: once}
rate_limits:
  once: {rate: 1/d, burst: 1, key: user}
"""

REQUESTS = [
    ("GET", "/public"),
    ("GET", "/private/a?b=c"),
    ("DELETE", "/private"),
    ("GET", "/optional"),
    ("POST", "/checked"),
    ("GET", "/checked"),
    ("GET", "/admin"),
    ("PUT", "/admin/users"),
    ("GET", "/Admin"),
    ("GET", "/private/../admin"),
    ("GET", "/private/..%2fadmin"),
    ("GET", "/private/%00"),
    ("GET", "/elsewhere"),
    ("GET", "/fixed"),
    ("POST", "/orders/8/refund"),
    ("GET", "/orders/8/refund"),
    ("GET", "/reports"),
    ("GET", "/reports?v=2"),
    ("GET", "/nowhere"),
    ("GET", "/user"),
    ("PUT", "/user"),
    ("GET", "/user/access"),
]


async def ask(user: User, *requests: tuple[str, str]) -> WireReply:
    """Ask whether *user* may make *requests*."""
    items = [{"method": method, "path": path} for method, path in requests]
    return await user.post(
        "/user/access", user.bearer, body=json.dumps({"requests": items}).encode()
    )


async def results(user: User, *requests: tuple[str, str]) -> list[dict[str, Any]]:
    reply = await ask(user, *requests)
    assert reply.status == 200, reply
    assert reply.one("Cache-Control") == "no-store"
    found = reply.json()["results"]
    assert isinstance(found, list)
    assert len(found) == len(requests)
    return found


@pytest.fixture
async def users(start: Start) -> tuple[Gateway, User, User]:
    """A gateway, a user without roles, and one with the role admin."""
    gateway = await start(ROUTES)
    await create_new_role_or_add_permissions("access-admin", [])
    ann, admin = await gateway.sign_up(), User(gateway, new_email("admin"))
    await admin.enter("signup")
    await add_role_to_user("public", admin.id, "access-admin")
    await admin.enter("signin")
    return gateway, ann, admin


async def test_the_answer_is_what_the_request_itself_gets(
    users: tuple[Gateway, User, User], upstream: FaultUpstream
) -> None:
    """Status and reason are the same, and no service is asked for the answer."""
    gateway, ann, admin = users
    allowed: dict[str, list[bool]] = {}
    for name, user in (("ann", ann), ("admin", admin)):
        seen = len(upstream.requests)
        found = await results(user, *REQUESTS)
        assert len(upstream.requests) == seen
        allowed[name] = [one["allowed"] for one in found]
        for (method, path), one in zip(REQUESTS, found, strict=True):
            reply = await gateway.ask(method, path, user.bearer)
            if one["allowed"]:
                assert (one, reply.status) == ({"allowed": True}, 200), path
                continue
            assert one["status"] == reply.status, path
            record = await gateway.record(reply)
            # A 404 and a 405 have no reason in the log.
            assert one["reason"] == record.reason or not record.reason, path
    only_admins = {
        REQUESTS[index]
        for index, (here, there) in enumerate(
            zip(allowed["ann"], allowed["admin"], strict=True)
        )
        if here != there
    }
    assert only_admins == {
        ("GET", "/admin"),
        ("PUT", "/admin/users"),
        ("GET", "/private/../admin"),
        ("POST", "/orders/8/refund"),
        ("GET", "/reports?v=2"),
    }


async def test_only_a_session_may_ask(
    users: tuple[Gateway, User, User], upstream: FaultUpstream
) -> None:
    """401 tells the frontend to refresh, instead of hiding all that it could show."""
    gateway, ann, _ = users
    nobody = User(gateway, "")
    reply = await nobody.post("/user/access", body=b'{"requests": []}')
    assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
    ann.access = "broken"
    assert (await ask(ann, ("GET", "/public"))).status == 401
    assert not upstream.requests


async def test_asking_draws_on_no_rate_limit(
    users: tuple[Gateway, User, User], upstream: FaultUpstream
) -> None:
    """A user interface that asks often must not use up what its user needs."""
    gateway, ann, _ = users
    for _ in range(3):
        assert await results(ann, ("GET", "/limited")) == [{"allowed": True}]
    assert (await gateway.ask("GET", "/limited", ann.bearer)).status == 200
    assert (await gateway.ask("GET", "/limited", ann.bearer)).status == 429


async def test_a_bad_question_is_refused(users: tuple[Gateway, User, User]) -> None:
    """400 says why, 413 comes before the body is read, and the session stays."""
    _, ann, _ = users
    reply = await ann.post("/user/access", ann.bearer, body=b"{}")
    assert reply.status == 400
    assert reply.json()["code"] == "bad_body"
    assert reply.json()["title"].startswith("Expected {")
    long = b" " * (MAX_BODY + 1)
    assert (await ann.post("/user/access", ann.bearer, body=long)).status == 413
    assert await results(ann, ("GET", "/private")) == [{"allowed": True}]


async def test_a_page_of_another_origin_may_ask(
    users: tuple[Gateway, User, User],
) -> None:
    """As with `/user`: the preflight allows POST, and the page may read the reply."""
    gateway, ann, _ = users
    asks = ("Access-Control-Request-Method", "POST")
    preflight = await gateway.ask("OPTIONS", "/user/access", ("Origin", ORIGIN), asks)
    assert preflight.status == 204
    assert "POST" in (preflight.one("Access-Control-Allow-Methods") or "")
    reply = await ann.post(
        "/user/access",
        ann.bearer,
        ("Origin", ORIGIN),
        body=b'{"requests": [{"method": "GET", "path": "/private"}]}',
    )
    assert reply.one("Access-Control-Allow-Origin") == ORIGIN


async def test_without_the_option_the_path_is_a_services(
    start: Start, upstream: FaultUpstream
) -> None:
    """Nothing at all is answered there by the gateway."""
    routes = ROUTES.replace("user_access: true", "user_access: false")
    gateway = await start(routes.replace("path: /public", "path: /user/access"))
    ann = await gateway.sign_up()
    assert (await ask(ann, ("GET", "/"))).body == b"ok"
    assert len(upstream.requests) == 1


def test_a_route_that_is_hidden_is_found(tmp_path: Path) -> None:
    """`check` warns of a prefix route, and refuses an exact one, as for `user_path`."""
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES.replace("path: /private", "path: /user"))
    environ = {"CORE": "http://core", "UPSTREAM": "http://up"}
    found = [str(one) for one in load(file, environ).warnings]
    assert any("/user/access: the gateway answers it" in one for one in found), found
