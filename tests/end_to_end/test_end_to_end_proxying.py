"""What a route forwards, byte by byte: target, fields, bodies, streams."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from faults import FaultUpstream, Peer, echo, echo_while_reading
from stack import Start, replies
from wire import connect, request

from gateway.dev.core import ThreadedCore

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0", trusted_proxies: [${TRUSTED:-}]}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /api, service: echo, protected: false, rewrite: {strip_prefix: /api}}
"""
NO_PROXY_TRUSTED = ROUTES.replace("${TRUSTED:-}", "")
LOOPBACK_TRUSTED = ROUTES.replace("${TRUSTED:-}", '"127.0.0.0/8"')


# --- the target ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        ("/public", "/public"),
        ("/public/", "/public/"),
        ("/public?", "/public?"),
        ("/public?a=1&a=2&b=%2F..%2f&%61=+", "/public?a=1&a=2&b=%2F..%2f&%61=+"),
        ("/public?a=/../x//y", "/public?a=/../x//y"),
        ("/public/a%20b;v=1,2", "/public/a%20b;v=1,2"),
        ("/public/%7Eann/%61", "/public/~ann/a"),
        ("/public/%e2%82%ac", "/public/%E2%82%AC"),
        ("http://localhost/public/x?y", "/public/x?y"),
        ("/api", "/"),
        ("/api/a%3Fb?c", "/a%3Fb?c"),
    ],
)
async def test_target_arrives_in_canonical_form(
    start: Start, upstream: FaultUpstream, sent: str, forwarded: str
) -> None:
    """The path is forwarded in the form that was matched; the query is unchanged."""
    gateway = await start(NO_PROXY_TRUSTED)
    reply = await gateway.ask("GET", sent)
    assert reply.status == 200, reply
    assert upstream.requests[0].line == f"GET {forwarded} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("/public/../private", 401),
        ("/public/%2e%2e/private", 401),
        ("/public/..%2fprivate", 400),
        ("/public/%2e%2e%2fprivate", 400),
        ("/public/..;/private", 400),
        ("/public/.%00./private", 400),
        ("/public\\..\\private", 400),
        ("/public/%5c..%5cprivate", 400),
        ("//private", 401),
        ("/./private", 401),
        ("/PRIVATE/../private", 401),
        ("/%70rivate", 401),
        ("/private%2f..%2fpublic", 400),
        ("/public/%252e%252e/private", 200),
        ("http://localhost/public/../private", 401),
        ("/private/../public/private", 200),
    ],
)
async def test_no_spelling_reaches_a_protected_path_as_another(
    start: Start, upstream: FaultUpstream, sent: str, status: int
) -> None:
    """401 for the protected path, 400 if ambiguous, 200 if public however decoded.

    Only the last is forwarded. So is the plain public path, on the same gateway.
    """
    gateway = await start(NO_PROXY_TRUSTED)
    assert (await gateway.ask("GET", sent)).status == status
    assert len(upstream.requests) == (status == 200)
    for forwarded in upstream.requests:
        path = forwarded.line.split(b" ")[1]
        assert path.startswith(b"/public/"), path
        # A service that decodes once more finds no `..` either.
        assert not re.search(rb"(?i)(^|/|%2f|\\|%5c)(\.|%2e){2}", path), path
    assert (await gateway.ask("GET", "/public/private")).status == 200
    assert upstream.requests[-1].line == b"GET /public/private HTTP/1.1"


# --- fields and bodies -----------------------------------------------------------


async def test_fields_pass_in_order_with_repeats(
    start: Start, upstream: FaultUpstream
) -> None:
    """In both directions names keep their case, values their bytes, repeats all."""
    reply_fields = (
        b"Set-Cookie: a=1; Path=/\r\nX-One: 1\r\nset-cookie: b=2\r\nX-Two: \xe9\r\n"
        b"X-one: 3\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: theirs\r\n"
    )
    upstream.behaviour = replies(
        b"HTTP/1.1 299 My Own  Words\r\nContent-Length: 2\r\n"
        + reply_fields
        + b"\r\nok"
    )
    gateway = await start(NO_PROXY_TRUSTED)
    sent = [("X-B", "1"), ("x-a", "2"), ("X-b", "3"), ("Accept", "a,  b"), ("X-C", "")]
    reply = await gateway.ask("GET", "/public", *sent)
    lines = upstream.requests[0].head.split(b"\r\n")
    theirs = [f"{name}: {value}".encode() for name, value in sent]
    assert [line for line in lines if line in theirs] == theirs
    assert (reply.status, reply.reason) == (299, b"My Own  Words")
    assert reply_fields.rstrip() in reply.head
    assert reply.one("X-Two") == "\xe9"


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND"]
)
async def test_any_method_with_a_body(
    start: Start, upstream: FaultUpstream, method: str
) -> None:
    """Every byte value passes in both directions."""
    upstream.behaviour = echo
    gateway = await start(NO_PROXY_TRUSTED)
    body = bytes(range(256)) * 300
    reply = await gateway.ask(method, "/public", body=body)
    assert reply.body == body
    (forwarded,) = upstream.requests
    assert forwarded.body == body
    assert forwarded.line.startswith(method.encode() + b" ")


async def test_bodies_stream_both_ways_at_once(
    start: Start, upstream: FaultUpstream
) -> None:
    """The echo of each piece comes back before the client sends the next."""
    upstream.behaviour = echo_while_reading
    gateway = await start(NO_PROXY_TRUSTED)
    async with connect(gateway.port) as wire:
        await wire.send(request("POST", "/public", ("Transfer-Encoding", "chunked")))
        await wire.send(b"5\r\nfirst\r\n")
        head = await wire.head()
        assert head.one("Transfer-Encoding") == "chunked"
        assert await wire.chunk() == b"first"
        for piece in (b"second", b"3" * 70_000):
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            echoed = b""
            while len(echoed) < len(piece):
                echoed += await wire.chunk()
            assert echoed == piece
        await wire.send(b"0\r\n\r\n")
        assert await wire.chunk() == b""


async def test_each_event_of_a_stream_is_forwarded_at_once(
    start: Start, upstream: FaultUpstream
) -> None:
    """The client gets the first event before the upstream sends the second."""
    first_received = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await first_received.wait()
        await peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await peer.gone()

    upstream.behaviour = events
    gateway = await start(NO_PROXY_TRUSTED)
    user = await gateway.sign_up()
    async with connect(gateway.port) as wire:
        await wire.send(request("GET", "/private", user.bearer))
        await wire.head()
        assert await wire.chunk() == b"data: 1\n\n"
        first_received.set()
        assert await wire.chunk() == b"data: 2\n\n"
        assert await wire.chunk() == b""


# --- forwarded fields -----------------------------------------------------------

CLAIMED = [
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "shop.example"),
    ("Forwarded", "for=203.0.113.7"),
    ("X-Real-IP", "203.0.113.7"),
]


async def test_forwarded_fields_of_an_untrusted_client_are_replaced(
    start: Start, upstream: FaultUpstream
) -> None:
    """The service and the log get the address, scheme and Host the gateway saw."""
    gateway = await start(NO_PROXY_TRUSTED)
    reply = await gateway.ask("GET", "/public", *CLAIMED)
    (forwarded,) = upstream.requests
    assert forwarded.field(b"x-forwarded-for") == b"127.0.0.1"
    assert forwarded.field(b"x-forwarded-proto") == b"http"
    assert forwarded.field(b"x-forwarded-host") == b"localhost"
    assert b"203.0.113.7" not in forwarded.head
    assert (await gateway.record(reply)).client == "127.0.0.1"


async def test_forwarded_fields_of_a_trusted_proxy_are_kept(
    start: Start, upstream: FaultUpstream
) -> None:
    """The gateway appends to X-Forwarded-For, and logs the client that it names."""
    gateway = await start(LOOPBACK_TRUSTED)
    reply = await gateway.ask("GET", "/public", *CLAIMED)
    (forwarded,) = upstream.requests
    assert forwarded.field(b"x-forwarded-for") == b"203.0.113.7, 127.0.0.1"
    assert forwarded.field(b"x-forwarded-proto") == b"https"
    assert forwarded.field(b"x-forwarded-host") == b"shop.example"
    assert (await gateway.record(reply)).client == "203.0.113.7"


URL_AS_ERROR = """
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.exceptions import BadInputError
from supertokens_python.recipe import emailpassword, session


def functions(original):
    async def get_session(*_, user_context, **__):
        raise BadInputError(user_context["_default"]["request"].get_original_url())

    original.get_session = get_session
    return original


app_info = InputAppInfo(
    app_name="theirs",
    api_domain="http://localhost:8000",
    website_domain="http://localhost:3000",
)
supertokens_config = SupertokensConfig(connection_uri="{core}")
recipe_list = [
    session.init(override=session.SessionOverrideConfig(functions=functions)),
    emailpassword.init(),
]
"""


@pytest.mark.parametrize(
    ("routes", "stated", "scheme"),
    [
        (LOOPBACK_TRUSTED, "https", "https"),
        (LOOPBACK_TRUSTED, "http", "http"),
        (NO_PROXY_TRUSTED, "https", "http"),
    ],
    ids=["https", "http", "of a peer that isn't trusted"],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/private"), ("POST", "/auth/signout")],
    ids=["a route", "the SDK's API"],
)
async def test_the_sdk_sees_the_scheme_that_a_trusted_proxy_states(
    start: Start,
    upstream: FaultUpstream,
    st_core: ThreadedCore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    routes: str,
    stated: str,
    scheme: str,
) -> None:
    """It sees it when it checks a session, and in its own API.

    The configuration's SDK override reports the request's URL as an error.
    """
    name = f"url_as_error_{tmp_path.name.replace('-', '_')}"
    text = URL_AS_ERROR.replace("{core}", st_core.url)
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    gateway = await start(
        routes.replace("recipes: {emailpassword: {}}", f"config_module: {name}")
    )
    reply = await gateway.ask(method, path, ("X-Forwarded-Proto", stated))
    assert (reply.status, reply.json()["message"]) == (
        400,
        f"{scheme}://localhost{path}",
    )
    assert not upstream.requests


@pytest.mark.parametrize(
    ("sent", "is_used"),
    [
        (["abc-123_X.9"], True),
        (["a" * 128], True),
        ([], False),
        (["a" * 129], False),
        (["a b"], False),
        (["a", "b"], False),
        (["<script>"], False),
        ([""], False),
    ],
    ids=["valid", "longest", "none", "too long", "space", "two", "markup", "empty"],
)
async def test_request_id_is_the_client_s_or_a_new_one(
    start: Start, upstream: FaultUpstream, sent: list[str], is_used: bool
) -> None:
    """Upstream, client and log get the same id: the client's if valid, else a new one.

    The upstream's own X-Request-Id is dropped.
    """
    upstream.behaviour = replies(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: theirs\r\n\r\n"
    )
    gateway = await start(NO_PROXY_TRUSTED)
    reply = await gateway.ask("GET", "/public", *(("X-Request-Id", s) for s in sent))
    used = reply.one("X-Request-Id")
    assert used is not None
    assert used == sent[0] if is_used else re.fullmatch("[0-9a-f]{24}", used)
    assert upstream.requests[0].field(b"x-request-id") == used.encode()
    assert (await gateway.record(reply)).status == 200
