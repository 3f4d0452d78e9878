"""CORS: which pages may read the answers, and that they can read all of them."""

from __future__ import annotations

import asyncio

import pytest
from faults import FaultUpstream
from stack import Gateway, Start, replies
from wire import WireReply

from gateway.downstream import cors

PAGE = "https://app.example.com"

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  api_domain: https://api.example.com
  website_domain: https://app.example.com
  recipes: {emailpassword: {}}
cors:
  allow_origins: [https://app.example.com, "http://localhost:3000"]
  allow_headers: [x-own]
  expose_headers: [x-answer]
  max_age: 77
services:
  echo: {targets: ["${UPSTREAM}"]}
  closed: {targets: ["http://127.0.0.1:${CLOSED:-1}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /closed, service: closed, protected: false}
  - {match: {path: {exact: /get}, methods: [GET]}, service: echo, protected: false}
"""

SDK_HEADERS = ("anti-csrf", "authorization", "fdi-version", "rid", "st-auth-mode")
TOKEN_FIELDS = ("front-token", "st-access-token", "st-refresh-token", "anti-csrf")


def cors_fields(reply: WireReply) -> dict[str, str]:
    """Return the Access-Control-* fields; none comes twice."""
    found = [
        (name.lower(), value)
        for name, value in reply.fields
        if name.lower().startswith("access-control-")
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


async def preflight(
    gateway: Gateway, path: str, method: str, *headers: str, origin: str = PAGE
) -> WireReply:
    fields = [("Origin", origin), ("Access-Control-Request-Method", method)]
    if headers:
        fields.append(("Access-Control-Request-Headers", ",".join(headers)))
    return await gateway.ask("OPTIONS", path, *fields)


# --- preflight -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/private", "/public", "/user", "/auth/signin"])
async def test_preflight_needs_no_session(
    start: Start, upstream: FaultUpstream, path: str
) -> None:
    """204 from the gateway, with the headers that SuperTokens' frontends send."""
    gateway = await start(ROUTES)
    method = "GET" if path == "/user" else "POST"
    wanted = ("content-type", "x-own", *SDK_HEADERS)
    reply = await preflight(gateway, path, method, *wanted)
    assert (reply.status, reply.one("Content-Length")) == (204, None)
    granted = cors_fields(reply)
    assert granted["access-control-allow-origin"] == PAGE
    assert granted["access-control-allow-credentials"] == "true"
    assert granted["access-control-allow-methods"] == method
    assert set(wanted) <= names(granted["access-control-allow-headers"])
    assert granted["access-control-max-age"] == "77"
    assert "origin" in names(reply.one("Vary") or "")
    assert reply.one("X-Request-Id")
    assert not upstream.requests


async def test_preflight_grants_all_that_the_sdk_names(start: Start) -> None:
    """The SDK's own list is the measure, whatever its version adds to it."""
    from supertokens_python import get_all_cors_headers

    gateway = await start(ROUTES)
    reply = await preflight(gateway, "/private", "DELETE", *get_all_cors_headers())
    assert reply.status == 204


@pytest.mark.parametrize(
    ("path", "method", "headers", "origin"),
    [
        ("/private", "GET", (), "https://evil.example"),
        ("/private", "GET", ("x-unknown",), PAGE),
        ("/get", "POST", (), PAGE),
        ("/user", "DELETE", (), PAGE),
    ],
    ids=["origin", "header", "method", "user"],
)
async def test_preflight_is_refused(
    start: Start,
    upstream: FaultUpstream,
    path: str,
    method: str,
    headers: tuple[str, ...],
    origin: str,
) -> None:
    """403 without any grant, and the upstream isn't asked."""
    gateway = await start(ROUTES)
    reply = await preflight(gateway, path, method, *headers, origin=origin)
    assert reply.status == 403
    assert not cors_fields(reply)
    assert reply.one("Vary") == "Origin"
    assert origin not in reply.body.decode()
    assert not upstream.requests


async def test_plain_options_goes_the_way_of_every_method(
    start: Start, upstream: FaultUpstream
) -> None:
    """Without Access-Control-Request-Method nobody asks for permission."""
    gateway = await start(ROUTES)
    assert (await gateway.ask("OPTIONS", "/private")).status == 401
    assert (await gateway.ask("OPTIONS", "/private", ("Origin", PAGE))).status == 401
    assert not upstream.requests
    assert (await gateway.ask("OPTIONS", "/public")).status == 200
    assert upstream.requests[0].line.startswith(b"OPTIONS /public ")


# --- answers --------------------------------------------------------------------

ANSWERS = {
    "200": ("GET", "/public", 200),
    "401": ("GET", "/private", 401),
    "user 401": ("GET", "/user", 401),
    "404": ("GET", "/none", 404),
    "405": ("POST", "/get", 405),
    "400": ("GET", "/public/%00", 400),
    "502": ("GET", "/closed", 502),
    "auth": ("GET", "/auth/emailpassword/email/exists?email=a%40b.co", 200),
    "auth 404": ("GET", "/auth/nothing", 404),
}


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_an_allowed_page_can_read_every_answer(
    start: Start, closed_port: int, method: str, path: str, status: int
) -> None:
    """Its exact origin, with credentials; tokens and the request id are exposed."""
    gateway = await start(ROUTES, CLOSED=str(closed_port))
    for origin in (PAGE, "http://localhost:3000"):
        reply = await gateway.ask(method, path, ("Origin", origin))
        assert reply.status == status
        granted = cors_fields(reply)
        assert granted["access-control-allow-origin"] == origin
        assert granted["access-control-allow-credentials"] == "true"
        exposed = names(granted["access-control-expose-headers"])
        assert {*TOKEN_FIELDS, "x-request-id", "x-answer"} <= exposed
        assert reply.all("Vary") == ["Origin"]


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_without_origin_nothing_is_granted(
    start: Start, closed_port: int, method: str, path: str, status: int
) -> None:
    """But the answer varies: a cache mustn't give it to a page that would need more."""
    gateway = await start(ROUTES, CLOSED=str(closed_port))
    reply = await gateway.ask(method, path)
    assert reply.status == status
    assert not cors_fields(reply)
    assert reply.all("Vary") == ["Origin"]


ORIGINS = {
    "other": ["https://evil.example"],
    "suffix": ["https://app.example.com.evil"],
    "no dot": ["https://evilapp.example.com"],
    "subdomain": ["https://x.app.example.com"],
    "scheme": ["http://app.example.com"],
    "port": ["https://app.example.com:444"],
    "default port": ["https://app.example.com:443"],
    "null": ["null"],
    "case": ["HTTPS://APP.EXAMPLE.COM"],
    "slash": ["https://app.example.com/"],
    "two fields": [PAGE, PAGE],
    "two in one": [f"{PAGE} {PAGE}"],
    "list": [f"{PAGE}, https://evil.example"],
    "long": ["https://" + "a" * 10_000],
    "not ASCII": ["https://app.ex\xe4mple.com"],
    "empty": [""],
}


@pytest.mark.parametrize("origins", ORIGINS.values(), ids=ORIGINS)
async def test_no_other_page_can_read_an_answer(
    start: Start, upstream: FaultUpstream, origins: list[str]
) -> None:
    """Origins are compared whole; the request itself goes its way all the same."""
    gateway = await start(ROUTES)
    sent = [("Origin", origin) for origin in origins]
    for path, status in (("/public", 200), ("/private", 401), ("/none", 404)):
        reply = await gateway.ask("GET", path, *sent)
        assert (path, reply.status) == (path, status)
        assert not cors_fields(reply)
        assert reply.all("Vary") == ["Origin"]
    assert len(upstream.requests) == 1


async def test_origins_in_turn_on_one_gateway(
    start: Start, upstream: FaultUpstream
) -> None:
    """What was decided for one origin is never given to the next."""
    gateway = await start(ROUTES)
    turn = [PAGE, "https://evil.example", "http://localhost:3000", "null", PAGE]
    found = await asyncio.gather(
        *(gateway.ask("GET", "/public", ("Origin", origin)) for origin in turn)
    )
    assert {reply.status for reply in found} == {200}
    assert len(upstream.requests) == len(turn)
    assert [cors_fields(r).get("access-control-allow-origin") for r in found] == [
        PAGE,
        None,
        "http://localhost:3000",
        None,
        PAGE,
    ]


async def test_upstreams_own_grant_is_replaced(
    start: Start, upstream: FaultUpstream
) -> None:
    """A service that opens itself to everybody opens nothing here; its Vary stays."""
    upstream.behaviour = replies(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVary: Accept-Encoding\r\n"
        b"Access-Control-Allow-Origin: *\r\naccess-control-expose-headers: x-all\r\n"
        b"Access-Control-Allow-Credentials: true\r\n\r\n"
    )
    gateway = await start(ROUTES)
    stranger = await gateway.ask("GET", "/public", ("Origin", "https://evil.example"))
    assert not cors_fields(stranger)
    page = await gateway.ask("GET", "/public", ("Origin", PAGE))
    granted = cors_fields(page)
    assert granted["access-control-allow-origin"] == PAGE
    assert "x-all" not in names(granted["access-control-expose-headers"])
    assert page.all("Vary") == ["Accept-Encoding", "Origin"]


async def test_public_keys_are_open_to_every_page(start: Start) -> None:
    """The SDK's JWKS says `*` itself: once, and without credentials beside it."""
    gateway = await start(ROUTES)
    for origin in (PAGE, "https://evil.example"):
        reply = await gateway.ask("GET", "/auth/jwt/jwks.json", ("Origin", origin))
        assert reply.status == 200
        assert cors_fields(reply) == {"access-control-allow-origin": "*"}


async def test_origins_are_the_website_unless_said(
    start: Start, upstream: FaultUpstream
) -> None:
    """`cors` may be left out: the page of `website_domain` is who calls."""
    begin, end = ROUTES.index("cors:"), ROUTES.index("services:")
    gateway = await start(ROUTES[:begin] + ROUTES[end:])
    for path, status in (("/private", 401), ("/public", 200)):
        reply = await gateway.ask("GET", path, ("Origin", PAGE))
        assert (path, reply.status) == (path, status)
        assert cors_fields(reply)["access-control-allow-origin"] == PAGE
        reply = await gateway.ask("GET", path, ("Origin", "http://localhost:3000"))
        assert (path, reply.status) == (path, status)
        assert not cors_fields(reply)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("OPTIONS", ("Origin", "Access-Control-Request-Method"), True),
        ("OPTIONS", ("Origin",), False),
        ("OPTIONS", ("Access-Control-Request-Method",), False),
        ("GET", ("Origin", "Access-Control-Request-Method"), False),
        ("OPTIONS", (), False),
    ],
)
def test_is_preflight(method: str, fields: tuple[str, ...], expected: bool) -> None:
    """OPTIONS with both fields, and nothing else."""
    given = tuple((name.encode(), b"x") for name in fields)
    assert cors.is_preflight(method, given) is expected
