"""CORS: allowed pages can read every reply; other pages can read none."""

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
    """Return the Access-Control-* fields; assert that each occurs once."""
    fields = [
        (name.lower(), value)
        for name, value in reply.fields
        if name.lower().startswith("access-control-")
    ]
    assert len(dict(fields)) == len(fields)
    return dict(fields)


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
    """The gateway answers 204 and allows the headers of SuperTokens' frontends.

    The upstream gets nothing.
    """
    gateway = await start(ROUTES)
    method = "GET" if path == "/user" else "POST"
    headers = ("content-type", "x-own", *SDK_HEADERS)
    reply = await preflight(gateway, path, method, *headers)
    assert (reply.status, reply.one("Content-Length")) == (204, None)
    fields = cors_fields(reply)
    assert fields["access-control-allow-origin"] == PAGE
    assert fields["access-control-allow-credentials"] == "true"
    assert fields["access-control-allow-methods"] == method
    assert set(headers) <= names(fields["access-control-allow-headers"])
    assert fields["access-control-max-age"] == "77"
    assert "origin" in names(reply.one("Vary") or "")
    assert reply.one("X-Request-Id")
    assert not upstream.requests


async def test_preflight_allows_all_headers_of_the_sdk(start: Start) -> None:
    """It allows every header in the list of the installed SDK version."""
    from supertokens_python import get_all_cors_headers

    gateway = await start(ROUTES)
    reply = await preflight(gateway, "/private", "DELETE", *get_all_cors_headers())
    assert reply.status == 204


async def test_preflight_allows_tracing(start: Start) -> None:
    """Monitoring in browsers adds these fields to every call; they give no rights."""
    gateway = await start(ROUTES)
    tracing = ("traceparent", "tracestate", "baggage", "sentry-trace")
    reply = await preflight(gateway, "/private", "GET", *tracing)
    fields = cors_fields(reply)
    assert set(tracing) <= names(fields["access-control-allow-headers"])
    assert fields["access-control-max-age"] == "77"


async def test_preflight_of_another_origin_is_refused(
    start: Start, upstream: FaultUpstream
) -> None:
    """The gateway answers 403 without CORS fields; the upstream gets nothing."""
    gateway = await start(ROUTES)
    for origin in ("https://evil.example", "null", "https://\xe9.com"):
        reply = await preflight(gateway, "/private", "GET", origin=origin)
        assert reply.status == 403
        assert not cors_fields(reply)
        assert reply.one("Vary") == "Origin"
        assert origin not in reply.body.decode()
        record = await gateway.record(reply)
        assert record.reason == "cors_refused"
        assert record.note.startswith("origin ")
        assert record.note.isascii()
    assert not upstream.requests


NAMED = [
    # path, method, fields, an allowed method, the log's note
    ("/private", "GET", ("rid", "X-Unknown", "x-own"), "GET", "field X-Unknown isn't"),
    ("/private", "PURGE", ("x-unknown",), "PURGE", "field x-unknown isn't"),
    ("/private", "POST", ("x-csrf-token",), "POST", "field x-csrf-token isn't"),
    ("/get", "DELETE", (), "GET", "method DELETE isn't"),
    ("/get", "DELETE", ("x-unknown",), "GET", "method DELETE isn't"),
    ("/user", "DELETE", (), "GET", "method DELETE isn't"),
    ("/private", "GET", ("x-" + "a" * 200,), "GET", "aaa… isn't in allow_headers"),
]


async def test_what_is_refused_of_a_preflight_is_named(
    start: Start, upstream: FaultUpstream
) -> None:
    """An allowed origin gets 204 with the lists, and the log names what isn't in them.

    A browser then names the method or field instead of the origin, and sends nothing.
    No list has what is refused, and the upstream gets nothing.
    """
    gateway = await start(ROUTES)
    for path, method, headers, allowed, note in NAMED:
        reply = await preflight(gateway, path, method, *headers)
        assert reply.status == 204
        fields = cors_fields(reply)
        assert fields["access-control-allow-origin"] == PAGE
        methods = fields["access-control-allow-methods"].split(", ")
        listed = names(fields["access-control-allow-headers"])
        assert allowed in methods
        assert method not in methods or not {name.lower() for name in headers} <= listed
        assert {"x-own", "rid"} <= listed
        assert fields["access-control-max-age"] == "0"
        assert "origin" in names(reply.one("Vary") or "")
        record = await gateway.record(reply)
        assert (record.decision, record.reason) == ("denied", "cors_refused")
        assert note in record.note
    assert not upstream.requests


async def test_a_refused_method_that_needs_no_preflight_is_still_405(
    start: Start, upstream: FaultUpstream
) -> None:
    """Browsers let POST pass whatever the list says; the request itself is refused."""
    gateway = await start(ROUTES)
    assert (await preflight(gateway, "/get", "POST")).status == 204
    assert (await gateway.ask("POST", "/get", ("Origin", PAGE))).status == 405
    assert not upstream.requests


async def test_plain_options_is_a_request_like_any_other(
    start: Start, upstream: FaultUpstream
) -> None:
    """OPTIONS without Access-Control-Request-Method isn't a preflight."""
    gateway = await start(ROUTES)
    assert (await gateway.ask("OPTIONS", "/private")).status == 401
    assert (await gateway.ask("OPTIONS", "/private", ("Origin", PAGE))).status == 401
    assert not upstream.requests
    assert (await gateway.ask("OPTIONS", "/public")).status == 200
    assert upstream.requests[0].line.startswith(b"OPTIONS /public ")


# --- replies --------------------------------------------------------------------

REPLIES = {
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


@pytest.mark.parametrize(("method", "path", "status"), REPLIES.values(), ids=REPLIES)
async def test_an_allowed_page_can_read_every_reply(
    start: Start, closed_port: int, method: str, path: str, status: int
) -> None:
    """CORS fields name its exact origin, and expose tokens and the request id."""
    gateway = await start(ROUTES, CLOSED=str(closed_port))
    for origin in (PAGE, "http://localhost:3000"):
        reply = await gateway.ask(method, path, ("Origin", origin))
        assert reply.status == status
        fields = cors_fields(reply)
        assert fields["access-control-allow-origin"] == origin
        assert fields["access-control-allow-credentials"] == "true"
        exposed = names(fields["access-control-expose-headers"])
        assert {*TOKEN_FIELDS, "x-request-id", "x-answer"} <= exposed
        assert reply.all("Vary") == ["Origin"]


@pytest.mark.parametrize(("method", "path", "status"), REPLIES.values(), ids=REPLIES)
async def test_without_origin_there_are_no_cors_fields(
    start: Start, closed_port: int, method: str, path: str, status: int
) -> None:
    """`Vary: Origin` keeps a cache from using the reply for a page's request."""
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
async def test_no_other_page_can_read_a_reply(
    start: Start, upstream: FaultUpstream, origins: list[str]
) -> None:
    """The whole origin must match. The request is handled as usual in any case."""
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
    """The decision for one origin isn't used for the next."""
    gateway = await start(ROUTES)
    origins = [PAGE, "https://evil.example", "http://localhost:3000", "null", PAGE]
    results = await asyncio.gather(
        *(gateway.ask("GET", "/public", ("Origin", origin)) for origin in origins)
    )
    assert {reply.status for reply in results} == {200}
    assert len(upstream.requests) == len(origins)
    assert [cors_fields(r).get("access-control-allow-origin") for r in results] == [
        PAGE,
        None,
        "http://localhost:3000",
        None,
        PAGE,
    ]


async def test_cors_fields_of_the_upstream_are_replaced(
    start: Start, upstream: FaultUpstream
) -> None:
    """A service can't allow more origins than the gateway does; its Vary is kept.

    What it exposes is added to what the gateway exposes, but for `*`.
    """
    upstream.behaviour = replies(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVary: Accept-Encoding\r\n"
        b"Access-Control-Allow-Origin: *\r\naccess-control-expose-headers: X-All, *\r\n"
        b"Access-Control-Allow-Credentials: true\r\n"
        b"Access-Control-Expose-Headers: x-all,Front-Token, X-B,, a b\r\n\r\n"
    )
    gateway = await start(ROUTES)
    stranger = await gateway.ask("GET", "/public", ("Origin", "https://evil.example"))
    assert not cors_fields(stranger)
    page = await gateway.ask("GET", "/public", ("Origin", PAGE))
    fields = cors_fields(page)
    assert fields["access-control-allow-origin"] == PAGE
    exposed = [*map(str.strip, fields["access-control-expose-headers"].split(","))]
    assert exposed[-2:] == ["X-All", "X-B"]
    assert len({name.lower() for name in exposed}) == len(exposed)
    assert "*" not in exposed
    assert page.all("Vary") == ["Accept-Encoding", "Origin"]


async def test_every_page_can_read_the_public_keys(start: Start) -> None:
    """The SDK's JWKS has `Access-Control-Allow-Origin: *` and no other CORS field."""
    gateway = await start(ROUTES)
    for origin in (PAGE, "https://evil.example"):
        reply = await gateway.ask("GET", "/auth/jwt/jwks.json", ("Origin", origin))
        assert reply.status == 200
        assert cors_fields(reply) == {"access-control-allow-origin": "*"}


async def test_the_default_origin_is_the_website(
    start: Start, upstream: FaultUpstream
) -> None:
    """Without `cors` only the origin of `website_domain` is allowed."""
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
    """A preflight is OPTIONS with both fields."""
    lines = tuple((name.encode(), b"x") for name in fields)
    assert cors.is_preflight(method, lines) is expected
