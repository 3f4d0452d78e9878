"""What passes through a route, byte for byte: target, fields, bodies, streams."""

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
NOBODY = ROUTES.replace("${TRUSTED:-}", "")
LOOPBACK = ROUTES.replace("${TRUSTED:-}", '"127.0.0.0/8"')


# --- the target ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "arrives"),
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
    start: Start, upstream: FaultUpstream, sent: str, arrives: str
) -> None:
    """One form of the path is matched and sent; the query is never touched."""
    gateway = await start(NOBODY)
    reply = await gateway.ask("GET", sent)
    assert reply.status == 200, reply
    assert upstream.requests[0].line == f"GET {arrives} HTTP/1.1".encode()


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
    """401: it is the protected path. 400: nobody can tell. 200: public to any reader.

    Only the last arrives; the plain public path does, on the same gateway.
    """
    gateway = await start(NOBODY)
    assert (await gateway.ask("GET", sent)).status == status
    assert len(upstream.requests) == (status == 200)
    for seen in upstream.requests:
        path = seen.line.split(b" ")[1]
        assert path.startswith(b"/public/"), path
        # Whoever decodes once more sees no way up either.
        assert not re.search(rb"(?i)(^|/|%2f|\\|%5c)(\.|%2e){2}", path), path
    assert (await gateway.ask("GET", "/public/private")).status == 200
    assert upstream.requests[-1].line == b"GET /public/private HTTP/1.1"


# --- fields and bodies -----------------------------------------------------------


async def test_fields_pass_in_order_with_repeats(
    start: Start, upstream: FaultUpstream
) -> None:
    """Both ways: names keep their case, values their bytes, repeats their places."""
    reply_fields = (
        b"Set-Cookie: a=1; Path=/\r\nX-One: 1\r\nset-cookie: b=2\r\nX-Two: \xe9\r\n"
        b"X-one: 3\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: theirs\r\n"
    )
    upstream.behaviour = replies(
        b"HTTP/1.1 299 My Own  Words\r\nContent-Length: 2\r\n"
        + reply_fields
        + b"\r\nok"
    )
    gateway = await start(NOBODY)
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
    """Whatever llhttp knows; every byte value passes in both directions."""
    upstream.behaviour = echo
    gateway = await start(NOBODY)
    body = bytes(range(256)) * 300
    reply = await gateway.ask(method, "/public", body=body)
    assert reply.body == body
    (seen,) = upstream.requests
    assert seen.body == body
    assert seen.line.startswith(method.encode() + b" ")


async def test_bodies_stream_both_ways_at_once(
    start: Start, upstream: FaultUpstream
) -> None:
    """Each piece arrives, and its echo comes back, before the next is sent."""
    upstream.behaviour = echo_while_reading
    gateway = await start(NOBODY)
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


async def test_first_event_comes_before_the_last_is_made(
    start: Start, upstream: FaultUpstream
) -> None:
    """A stream of events isn't held back; its end is what the upstream's is."""
    go_on = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
        )
        await go_on.wait()
        await peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        await peer.gone()

    upstream.behaviour = events
    gateway = await start(NOBODY)
    user = await gateway.sign_up()
    async with connect(gateway.port) as wire:
        await wire.send(request("GET", "/private", user.bearer))
        await wire.head()
        assert await wire.chunk() == b"data: 1\n\n"
        go_on.set()
        assert await wire.chunk() == b"data: 2\n\n"
        assert await wire.chunk() == b""


# --- where it came from ---------------------------------------------------------

CLAIMED = [
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "shop.example"),
    ("Forwarded", "for=203.0.113.7"),
    ("X-Real-IP", "203.0.113.7"),
]


async def test_forwarded_fields_of_anybody_dont_count(
    start: Start, upstream: FaultUpstream
) -> None:
    """They are removed, and replaced by what the gateway sees itself."""
    gateway = await start(NOBODY)
    reply = await gateway.ask("GET", "/public", *CLAIMED)
    (seen,) = upstream.requests
    assert seen.field(b"x-forwarded-for") == b"127.0.0.1"
    assert seen.field(b"x-forwarded-proto") == b"http"
    assert seen.field(b"x-forwarded-host") == b"localhost"
    assert b"203.0.113.7" not in seen.head
    assert (await gateway.record(reply)).client == "127.0.0.1"


async def test_forwarded_fields_of_a_trusted_proxy_count(
    start: Start, upstream: FaultUpstream
) -> None:
    """The chain is continued, and the log has the client it names."""
    gateway = await start(LOOPBACK)
    reply = await gateway.ask("GET", "/public", *CLAIMED)
    (seen,) = upstream.requests
    assert seen.field(b"x-forwarded-for") == b"203.0.113.7, 127.0.0.1"
    assert seen.field(b"x-forwarded-proto") == b"https"
    assert seen.field(b"x-forwarded-host") == b"shop.example"
    assert (await gateway.record(reply)).client == "203.0.113.7"


SAYS_THE_URL = """
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
        (LOOPBACK, "https", "https"),
        (LOOPBACK, "http", "http"),
        (NOBODY, "https", "http"),
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
    """X-Forwarded-Proto counts where a session is judged, and in the SDK's own API."""
    name = f"says_the_url_{tmp_path.name.replace('-', '_')}"
    text = SAYS_THE_URL.replace("{core}", st_core.url)
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
    ("sent", "taken"),
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
    ids=["sound", "longest", "none", "too long", "space", "two", "markup", "empty"],
)
async def test_request_id_is_taken_or_made(
    start: Start, upstream: FaultUpstream, sent: list[str], taken: bool
) -> None:
    """One id reaches the upstream, the client and the log; the upstream's own goes."""
    upstream.behaviour = replies(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: theirs\r\n\r\n"
    )
    gateway = await start(NOBODY)
    reply = await gateway.ask("GET", "/public", *(("X-Request-Id", s) for s in sent))
    used = reply.one("X-Request-Id")
    assert used is not None
    assert used == sent[0] if taken else re.fullmatch("[0-9a-f]{24}", used)
    assert upstream.requests[0].field(b"x-request-id") == used.encode()
    assert (await gateway.record(reply)).status == 200
