"""Rate limits with a real gateway, SDK and core: who is refused, and who isn't."""

from __future__ import annotations

import json

import pytest
from faults import FaultUpstream
from stack import ORIGIN, Gateway, Start, User, form
from wire import WireReply

ROUTES = """\
version: 1
gateway: {listen: 127.0.0.1:0, trusted_proxies: [127.0.0.1]}
supertokens:
  connection_uri: ${CORE}
  recipes: {emailpassword: {}}
  rate_limits:
    sign_in: [attempts, account]
    refresh: renewals
rate_limits:
  attempts: {rate: 1/h, burst: 3}
  account: {rate: 1/h, burst: 2, key: email}
  renewals: {rate: 1/h, burst: 1}
  clients: {rate: 1/h, burst: 2, fields: true}
  users: {rate: 1/h, burst: 2, key: user}
services:
  app: {targets: ["${UPSTREAM}"], rate_limit: clients}
groups:
  - path: /users
    service: app
    rate_limit: users
    routes:
      - {path: /mine}
      - {path: /free, rate_limit: []}
      - {path: /dear, rate_limit: [{policy: users, cost: 2}]}
      - {path: /maybe, protected: optional}
routes:
  - {path: /open, service: app, protected: false}
  - {path: /secret, service: app}
  - {path: /fixed, respond: {status: 204}, protected: false, rate_limit: [clients]}
"""


def by(client: str) -> tuple[str, str]:
    return "X-Forwarded-For", client


def is_limited(reply: WireReply) -> bool:
    return reply.status == 429


async def test_a_client_is_refused_beyond_its_limit(
    start: Start, upstream: FaultUpstream
) -> None:
    """429 with Retry-After and the error body; other clients aren't affected."""
    gateway = await start(ROUTES)
    for _ in range(2):
        assert (await gateway.ask("GET", "/open", by("192.0.2.1"))).status == 200
    reply = await gateway.ask("GET", "/open", by("192.0.2.1"), ("Origin", ORIGIN))
    assert reply.status == 429
    assert reply.json()["code"] == "rate_limited"
    assert 3590 < int(reply.one("Retry-After") or 0) <= 3600
    assert reply.one("RateLimit-Policy") == '"clients";q=2;w=7200'
    assert reply.one("Access-Control-Allow-Origin") == ORIGIN
    assert reply.one("Cache-Control") == "no-store"
    assert len(upstream.requests) == 2
    record = await gateway.record(reply)
    assert (record.decision, record.reason) == ("denied", "rate_limited")
    assert record.note == "rate limit clients"
    assert record.route == "0:/open"
    assert (await gateway.ask("GET", "/open", by("192.0.2.2"))).status == 200
    assert (await gateway.ask("GET", "/fixed", by("192.0.2.3"))).status == 204
    assert gateway.app.proxy.dependencies.limiter.refused == {"clients": 1}


async def test_limits_by_client_are_judged_before_the_session(
    start: Start, upstream: FaultUpstream
) -> None:
    """A flood without a session is refused without its tokens being read."""
    gateway = await start(ROUTES)
    replies = [await gateway.ask("GET", "/secret", by("192.0.2.1")) for _ in range(4)]
    assert [reply.status for reply in replies] == [401, 401, 429, 429]
    record = await gateway.record(replies[-1])
    assert record.verify_at == 0
    assert upstream.requests == []


async def test_a_user_is_refused_from_wherever_it_asks(
    start: Start, upstream: FaultUpstream
) -> None:
    """The user's limit holds for all addresses, and for no other user."""
    gateway = await start(ROUTES)
    ann, bob = await gateway.sign_up("ann"), await gateway.sign_up("bob")
    for number in range(2):
        assert (await ann.get("/users/mine", by(f"192.0.2.{number}"))).status == 200
    assert is_limited(await ann.get("/users/mine", by("192.0.2.9")))
    assert is_limited(await ann.get("/users/maybe", by("192.0.2.9")))
    assert len(upstream.requests) == 2
    assert (await bob.get("/users/mine", by("192.0.2.9"))).status == 200
    assert (await ann.get("/users/free")).status == 200
    # A request that is refused anyway doesn't count.
    assert (await gateway.ask("GET", "/users/mine")).status == 401
    assert gateway.app.proxy.dependencies.limiter.refused == {"users": 2}


async def test_a_request_may_cost_more(start: Start) -> None:
    """A cost of two takes the whole burst."""
    gateway = await start(ROUTES)
    ann = await gateway.sign_up("ann")
    assert (await ann.get("/users/dear")).status == 200
    assert is_limited(await ann.get("/users/mine"))


async def test_anonymous_requests_count_by_their_client(start: Start) -> None:
    """Where a session is optional, each address has the limit to itself."""
    gateway = await start(ROUTES)
    replies = [
        await gateway.ask("GET", "/users/maybe", by("192.0.2.1")) for _ in range(3)
    ]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert (await gateway.ask("GET", "/users/maybe", by("192.0.2.2"))).status == 200


async def sign_in(user: User, client: str, path: str = "signin") -> WireReply:
    return await user.post(
        f"/auth/{path}", by(client), body=json.dumps(form(user.email)).encode()
    )


def sign_ins(gateway: Gateway) -> list[str]:
    """Return the paths of the sign-ins that the core has seen."""
    calls = gateway.core.core.faults.calls
    return [path for _, path in calls if path.endswith("/signin")]


@pytest.mark.parametrize("path", ["signin", "public/signin", "signin;x", "signin/"])
async def test_one_address_against_many_accounts(start: Start, path: str) -> None:
    """The address is refused, in any spelling; others sign in."""
    gateway = await start(ROUTES)
    users = [await gateway.sign_up(f"user{number}") for number in range(5)]
    gateway.core.core.faults.forget_calls()
    replies = [await sign_in(user, "192.0.2.1", path) for user in users]
    assert [reply.status == 429 for reply in replies] == [*[False] * 3, True, True]
    assert len(sign_ins(gateway)) <= 3, "the core saw nothing of the others"
    assert (await sign_in(users[4], "192.0.2.2")).json()["status"] == "OK"


async def test_many_addresses_against_one_account(start: Start) -> None:
    """The account is refused for a while, whoever asks; other accounts sign in."""
    gateway = await start(ROUTES)
    ann, bob = await gateway.sign_up("ann"), await gateway.sign_up("bob")
    gateway.core.core.faults.forget_calls()
    replies = [await sign_in(ann, f"192.0.2.{number}") for number in range(4)]
    assert len(sign_ins(gateway)) == 2
    assert [reply.status for reply in replies] == [200, 200, 429, 429]
    assert replies[3].json()["code"] == "rate_limited"
    assert (await sign_in(bob, "192.0.2.1")).status == 200


async def test_a_limited_refresh_keeps_the_session(start: Start) -> None:
    """The answer is 429 without a cookie or token to remove; later it works.

    supertokens-website ends the session for a 401 only.
    """
    gateway = await start(ROUTES)
    ann = await gateway.sign_up("ann")
    assert (await ann.refresh()).status == 200
    reply = await ann.refresh()
    assert reply.status == 429
    assert reply.one("front-token") is None
    assert reply.one("Set-Cookie") is None
    assert (await ann.get("/users/free")).status == 200
    for _ in range(5):
        assert (await gateway.ask("POST", "/auth/signout")).status == 401
    assert (await ann.sign_out()).status == 200
