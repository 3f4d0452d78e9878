"""The gateway's own errors: problem documents with a code and a request id."""

from __future__ import annotations

import asyncio

import pytest
from faults import FAULTS, FaultUpstream, black_hole
from stack import ORIGIN, Start, replies
from wire import Wire, WireReply, connect, request

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}}
defaults:
  protected: false
  timeouts: {connect: 0.3, response: 0.3, idle: 0.3}
services:
  echo: {targets: ["${UPSTREAM}"]}
  refused: {targets: ["http://127.0.0.1:${CLOSED:-1}"]}
  hole: {targets: ["http://127.0.0.1:${HOLE:-1}"]}
  narrow:
    targets: ["http://localhost:${PORT:-1}"]
    max_connections: 1
    timeouts: {connect: 0.5, response: 3}
  some: {targets: ["http://127.0.0.1:${CLOSED:-1}", "${UPSTREAM}"]}
routes:
  - {path: /public, service: echo}
  - {path: /refused, service: refused}
  - {path: /hole, service: hole}
  - {path: /narrow, service: narrow}
  - {path: /some, service: some}
  - {match: {path: {exact: /get}, methods: [GET, PUT]}, service: echo}
  - {path: /guard, service: echo, protected: true}
  - {path: /guard/pass, service: echo, protected: true, upstream_401: pass}
  - {path: /guard/502, service: echo, protected: true, upstream_401: "502"}
"""


def assert_problem(reply: WireReply, status: int, code: str) -> None:
    """Assert a problem document (RFC 9457) without data of request or upstream."""
    assert reply.status == status, reply
    assert reply.one("Content-Type") == "application/problem+json"
    assert reply.one("Cache-Control") == "no-store"
    assert reply.one("X-Content-Type-Options") == "nosniff"
    assert reply.one("Server") is None
    body = reply.json()
    assert set(body) == {"type", "title", "status", "code", "request_id"}
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == reply.one("X-Request-Id")
    assert b"127.0.0.1" not in reply.head + reply.body
    assert b"Traceback" not in reply.body
    assert b"s3cret" not in reply.head + reply.body


SECRET = ("X-Note", "s3cret")
"""Sent in the path, the query and a field; no error may repeat it."""


async def test_no_route_is_404(start: Start, upstream: FaultUpstream) -> None:
    """With any method; the same request to a path with a route is forwarded."""
    gateway = await start(ROUTES)
    methods = ("GET", "POST", "OPTIONS", "PURGE")
    for method in methods:
        reply = await gateway.ask(method, "/s3cret?s3cret", SECRET)
        assert_problem(reply, 404, "no_route")
        reply = await gateway.ask(method, "/public/s3cret?s3cret", SECRET)
        assert reply.status == 200
    assert [each.line for each in upstream.requests] == [
        f"{method} /public/s3cret?s3cret HTTP/1.1".encode() for method in methods
    ]


async def test_wrong_method_is_405_with_allow(
    start: Start, upstream: FaultUpstream
) -> None:
    """Allow lists the methods of the routes; a route for GET takes HEAD too."""
    gateway = await start(ROUTES)
    for method in ("POST", "DELETE", "OPTIONS"):
        reply = await gateway.ask(method, "/get?s3cret", SECRET)
        assert_problem(reply, 405, "method_not_allowed")
        assert reply.one("Allow") == "GET, HEAD, PUT"
    assert (await gateway.ask("HEAD", "/get")).status == 200
    assert len(upstream.requests) == 1


async def test_refused_connection_is_502(start: Start, closed_port: int) -> None:
    """The service's port is closed: the record blames the upstream."""
    gateway = await start(ROUTES, CLOSED=str(closed_port))
    reply = await gateway.ask("GET", "/refused/s3cret?s3cret", SECRET)
    assert_problem(reply, 502, "upstream_unreachable")
    record = await gateway.record(reply)
    assert (record.side, record.stage) == ("upstream", "send")


async def test_unanswered_connection_is_504(start: Start) -> None:
    """A SYN stays unanswered for longer than `timeouts.connect`."""
    async with black_hole() as port:
        gateway = await start(ROUTES, HOLE=str(port))
        reply = await gateway.ask("GET", "/hole/s3cret", SECRET)
        assert_problem(reply, 504, "upstream_connect_timeout")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("hang before head", 504, "upstream_timeout"),
        ("hang in head", 504, "upstream_timeout"),
        ("close before reply", 502, "upstream_closed"),
        ("reset before reply", 502, "upstream_closed"),
        ("partial head", 502, "upstream_closed"),
        ("garbage", 502, "upstream_bad_reply"),
        ("control byte in value", 502, "upstream_bad_reply"),
        ("bare 101", 502, "upstream_bad_reply"),
    ],
)
async def test_broken_upstream(
    start: Start, upstream: FaultUpstream, fault: str, status: int, code: str
) -> None:
    """502 for a broken reply, 504 for a slow one; the next request is served."""
    upstream.behaviour = FAULTS[fault]
    gateway = await start(ROUTES)
    reply = await gateway.ask("POST", "/public/s3cret?s3cret", SECRET, body=b"s3cret")
    assert_problem(reply, status, code)
    upstream.behaviour = replies(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert (await gateway.ask("GET", "/public")).status == 200


@pytest.mark.parametrize("fault", ["short body", "truncated chunk", "hang in body"])
async def test_an_incomplete_reply_is_cut(
    start: Start, upstream: FaultUpstream, fault: str
) -> None:
    """An incomplete body never looks complete: the connection ends in the middle."""
    upstream.behaviour = FAULTS[fault]
    gateway = await start(ROUTES)
    async with connect(gateway.port) as wire:
        await wire.send(request("GET", "/public"))
        head = await wire.head()
        assert head.status == 200
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await (wire.read(20) if head.one("Content-Length") else read_all(wire))


async def read_all(wire: Wire) -> None:
    while await wire.chunk():
        pass


async def test_service_at_its_limit_is_503(
    start: Start, upstream: FaultUpstream
) -> None:
    """503 with Retry-After if no connection is free within `timeouts.connect`.

    Once one is free, the next request is served.
    """
    upstream.behaviour = FAULTS["hang before head"]
    gateway = await start(ROUTES, PORT=str(upstream.port))
    async with connect(gateway.port) as first:
        await first.send(request("GET", "/narrow"))
        await upstream.got_request.wait()
        second = await gateway.ask("GET", "/narrow")
        assert_problem(second, 503, "upstream_busy")
        assert second.one("Retry-After") == "1"
        assert (await first.reply()).status == 504
    upstream.behaviour = replies(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (await gateway.ask("GET", "/narrow")).status == 204


async def test_an_unreachable_target_is_skipped(
    start: Start, upstream: FaultUpstream, closed_port: int
) -> None:
    """Nothing was sent to it, so even a POST goes to the next target."""
    gateway = await start(ROUTES, CLOSED=str(closed_port))
    for _ in range(4):
        reply = await gateway.ask("POST", "/some", body=b"once")
        assert (reply.status, reply.body) == (200, b"ok")
    assert [each.body for each in upstream.requests] == [b"once"] * 4


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/guard", 403, "upstream_401"),
        ("/guard/pass", 401, None),
        ("/guard/502", 502, "upstream_401"),
    ],
    ids=["default", "pass", "502"],
)
async def test_upstream_401_for_a_valid_session(
    start: Start, upstream: FaultUpstream, path: str, status: int, code: str | None
) -> None:
    """By default it becomes a 403: a 401 starts SuperTokens' frontends refreshing.

    A route's `upstream_401` may make it a 502, or pass it on. A public route passes it
    on.
    """
    upstream.behaviour = replies(
        b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nWWW-Authenticate: Basic\r\n\r\nno"
    )
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    reply = await user.get(path)
    if code is None:
        assert (reply.status, reply.body) == (status, b"no")
        assert reply.one("WWW-Authenticate") == "Basic"
    else:
        assert_problem(reply, status, code)
        assert reply.one("WWW-Authenticate") is None
    anonymous = await gateway.ask("GET", "/public")
    assert (anonymous.status, anonymous.body) == (401, b"no")


async def test_errors_have_cors_fields(start: Start, upstream: FaultUpstream) -> None:
    """Without them a browser's SDK can't read a 401, and doesn't refresh."""
    upstream.behaviour = FAULTS["close before reply"]
    gateway = await start(ROUTES)
    for path, status in (
        ("/none", 404),
        ("/guard", 401),
        ("/public", 502),
        ("/public/%2e%2e%2f", 400),
    ):
        reply = await gateway.ask("GET", path, ("Origin", ORIGIN))
        assert (path, reply.status) == (path, status)
        assert reply.all("Access-Control-Allow-Origin") == [ORIGIN]
        assert reply.all("Access-Control-Allow-Credentials") == ["true"]
        assert reply.all("Vary") == ["Origin"]
    # Only the request that ended in 502 was forwarded.
    assert {each.line for each in upstream.requests} == {b"GET /public HTTP/1.1"}
