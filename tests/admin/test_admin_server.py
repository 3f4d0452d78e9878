"""The HTTP of the admin listener: what it answers, and what a bad client can't do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path

import pytest
from wire import Wire, ask, connect, request

from gateway.admin import server as admin_server
from gateway.admin.bodies import LogChange, Revocation, RevokeSession, RevokeUser
from gateway.admin.guard import GETS, MAX_BODY_BYTES, POSTS
from gateway.admin.server import AdminAnswer, serve
from gateway.process.sockets import bind

TOKEN = "0123456789abcdef" * 2
BEARER = ("Authorization", f"Bearer {TOKEN}")
JSON = ("Content-Type", "application/json")


class Backend:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.port = 0

    def view(self, path: str) -> str:
        self.asked.append(path)
        return '{"ok": true}\n'

    async def reload(self) -> AdminAnswer:
        self.asked.append("reload")
        return AdminAnswer(200, {"generation": 2})

    def drain(self) -> AdminAnswer:
        self.asked.append("drain")
        return AdminAnswer(202, {"draining": True})

    async def revoke(self, what: Revocation) -> AdminAnswer:
        self.asked.append(what)
        return AdminAnswer(200, {})

    async def log_as(self, change: LogChange) -> AdminAnswer:
        self.asked.append(change)
        return AdminAnswer(200, {"level": "info"})


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[Backend]:
    """Return what is behind a listener that needs a token."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    here = Backend()
    sock = bind("127.0.0.1:0")
    here.port = sock.getsockname()[1]
    server = await serve(sock, here, host="gw.internal", token_file=str(file))
    yield here
    server.close()


async def test_every_path_answers(backend: Backend) -> None:
    """JSON that isn't stored, and one request in each connection."""
    for path in GETS:
        reply = await ask(backend.port, "GET", path, BEARER)
        assert (reply.status, reply.json()) == (200, {"ok": True})
        assert reply.one("Content-Type") == "application/json; charset=utf-8"
        assert reply.one("Cache-Control") == "no-store"
        assert reply.one("Connection") == "close"
        assert not reply.all("Access-Control-Allow-Origin")
    body = b'{"user": "u-1", "tenant": "t1"}'
    reply = await ask(backend.port, "POST", "/sessions/revoke", BEARER, JSON, body=body)
    assert reply.status == 200
    assert (await ask(backend.port, "POST", "/drain", BEARER, JSON, body=b"")).status
    body = b'{"level": "warning", "requests": "all"}'
    reply = await ask(backend.port, "POST", "/log-level", BEARER, JSON, body=body)
    assert (reply.status, reply.json()) == (200, {"level": "info"})
    assert backend.asked == [
        *(*GETS, RevokeUser("u-1", "t1"), "drain", LogChange("warning", "all")),
    ]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9901", 200),
        ("127.0.0.1:1", 200),
        ("127.8.8.8", 200),
        ("[::1]:9901", 200),
        ("gw.internal", 200),
        ("GW.internal:80", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("192.0.2.1", 421),
        ("[::ffff:192.0.2.1]", 421),
        ("0x7f000001", 421),
        ("user@localhost", 400),
        ("localhost, evil.example", 400),
        ("localhost:", 400),
        ("", 400),
    ],
)
async def test_the_host_must_be_this_listener(
    backend: Backend, host: str, status: int
) -> None:
    """A name that an attacker's DNS maps to loopback isn't one of ours."""
    reply = await ask(backend.port, "GET", "/version", BEARER, host=host)
    assert reply.status == status
    assert bool(backend.asked) == (status == 200)


REFUSED: dict[str, tuple[bytes, int]] = {
    "no token": (request("GET", "/config"), 401),
    "an empty token": (request("GET", "/config", ("Authorization", "Bearer ")), 401),
    "another token": (
        request("GET", "/config", ("Authorization", "Bearer " + "x" * 32)),
        401,
    ),
    "a longer token": (
        request("GET", "/config", ("Authorization", f"Bearer {TOKEN}x")),
        401,
    ),
    "basic": (request("GET", "/config", ("Authorization", f"Basic {TOKEN}")), 401),
    "two tokens": (request("GET", "/config", BEARER, BEARER), 401),
    "no token, no path": (request("GET", "/nothing"), 401),
    "a page": (request("GET", "/config", BEARER, ("Origin", "http://localhost")), 403),
    "an opaque page": (request("GET", "/config", BEARER, ("Origin", "null")), 403),
    "cross-site": (
        request("GET", "/config", BEARER, ("Sec-Fetch-Site", "cross-site")),
        403,
    ),
    "same-site": (
        request("GET", "/config", BEARER, ("Sec-Fetch-Site", "same-site")),
        403,
    ),
    "a preflight": (
        request("OPTIONS", "/reload", BEARER, ("Origin", "http://localhost")),
        403,
    ),
    "no host": (request("GET", "/config", BEARER, host=None), 400),
    "two hosts": (request("GET", "/config", BEARER, ("Host", "localhost")), 400),
    "no path": (request("GET", "/", BEARER), 404),
    "another case": (request("GET", "/Config", BEARER), 404),
    "an escaped path": (request("GET", "/confi%67", BEARER), 404),
    "a path around": (request("GET", "/x/../config", BEARER), 404),
    "an absolute target": (request("GET", "http://localhost/config", BEARER), 404),
    "a query": (request("GET", "/config?verbose", BEARER), 400),
    "HEAD": (request("HEAD", "/config", BEARER), 405),
    "GET of an action": (request("GET", "/reload", BEARER), 405),
    "POST of a view": (request("POST", "/config", BEARER, JSON, body=b"{}"), 405),
    "PUT": (request("PUT", "/reload", BEARER, JSON, body=b"{}"), 405),
    "TRACE": (request("TRACE", "/config", BEARER), 405),
    "an unknown method": (request("EVIL", "/config", BEARER), 400),
    "GET with a body": (request("GET", "/config", BEARER, body=b"x"), 400),
    "a form": (
        request(
            *("POST", "/reload", BEARER),
            ("Content-Type", "application/x-www-form-urlencoded"),
            body=b"a=b",
        ),
        415,
    ),
    "text": (
        request("POST", "/reload", BEARER, ("Content-Type", "text/plain"), body=b"{}"),
        415,
    ),
    "no type": (request("POST", "/reload", BEARER, body=b"{}"), 415),
    "two types": (request("POST", "/reload", BEARER, JSON, JSON, body=b"{}"), 400),
    "too large": (
        request("POST", "/reload", BEARER, JSON, body=b" " * (MAX_BODY_BYTES + 1)),
        413,
    ),
    "chunked": (
        request("POST", "/reload", BEARER, JSON, ("Transfer-Encoding", "chunked"))
        + b"2\r\n{}\r\n0\r\n\r\n",
        411,
    ),
    "not JSON": (request("POST", "/reload", BEARER, JSON, body=b"{"), 400),
    "deep JSON": (request("POST", "/reload", BEARER, JSON, body=b"[" * 9000), 400),
    "a list": (request("POST", "/reload", BEARER, JSON, body=b"[]"), 400),
    "not UTF-8": (request("POST", "/reload", BEARER, JSON, body=b'{"\xff": 1}'), 400),
    "an unknown member": (
        request("POST", "/reload", BEARER, JSON, body=b'{"a": "b"}'),
        400,
    ),
    "twice": (
        request(
            *("POST", "/sessions/revoke", BEARER, JSON),
            body=b'{"session": "a", "session": "b"}',
        ),
        400,
    ),
    "both": (
        request(
            *("POST", "/sessions/revoke", BEARER, JSON),
            body=b'{"session": "a", "user": "b"}',
        ),
        400,
    ),
    "neither": (
        request("POST", "/sessions/revoke", BEARER, JSON, body=b'{"tenant": "a"}'),
        400,
    ),
    "not a text": (
        request("POST", "/sessions/revoke", BEARER, JSON, body=b'{"user": 1}'),
        400,
    ),
    "no level": (request("POST", "/log-level", BEARER, JSON, body=b"{}"), 400),
    "an unknown level": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"level": "evil"}'),
        400,
    ),
    "a level in capitals": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"level": "INFO"}'),
        400,
    ),
    "a number as level": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"level": 1}'),
        400,
    ),
    "null as level": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"level": null}'),
        400,
    ),
    "unknown requests": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"requests": "none"}'),
        400,
    ),
    "true as requests": (
        request("POST", "/log-level", BEARER, JSON, body=b'{"requests": true}'),
        400,
    ),
    "one level too many": (
        request(
            *("POST", "/log-level", BEARER, JSON),
            body=b'{"level": "info", "levels": "info"}',
        ),
        400,
    ),
    "PUT of a level": (
        request("PUT", "/log-level", BEARER, JSON, body=b'{"level": "info"}'),
        405,
    ),
    "a line break": (
        request("POST", "/sessions/revoke", BEARER, JSON, body=b'{"user": "a\\nb"}'),
        400,
    ),
    "a tenant that is a path": (
        request(
            *("POST", "/sessions/revoke", BEARER, JSON),
            body=b'{"user": "a", "tenant": "../x"}',
        ),
        400,
    ),
    "a long head": (request("GET", "/config", BEARER, ("X", "y" * 20_000)), 400),
    "many fields": (
        request("GET", "/config", BEARER, *((f"X{n}", "y") for n in range(99))),
        400,
    ),
    "no HTTP": (b"evil\r\n\r\n", 400),
    "a bad field": (b"GET /config HTTP/1.1\r\nEvil : evil\r\n\r\n", 400),
    "both lengths": (
        request(
            *("POST", "/reload", BEARER, JSON),
            ("Transfer-Encoding", "chunked"),
            body=b"0\r\n\r\n",
        ),
        400,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_request_is_refused(backend: Backend, name: str) -> None:
    """It has no effect, the answer says why, and nothing after it is read."""
    sent, status = REFUSED[name]
    async with connect(backend.port) as wire:
        await wire.send(sent + request("GET", "/version", BEARER))
        answer = await wire.rest()
    # In the version of the request, if it is known.
    assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status))
    assert answer.count(b"HTTP/1.") == 1
    assert b"Cache-Control: no-store\r\n" in answer
    assert b"evil" not in answer
    assert TOKEN.encode() not in answer
    assert backend.asked == []


async def test_one_request_for_each_connection(backend: Backend) -> None:
    """What follows a request isn't read: it can't be smuggled past the guard."""
    async with connect(backend.port) as wire:
        good = request("POST", "/reload", BEARER, JSON, body=b"{}")
        await wire.send(good + request("POST", "/drain", BEARER, JSON, body=b"{}"))
        assert (await wire.rest()).count(b"HTTP/1.1 ") == 1
    assert backend.asked == ["reload"]


async def test_a_slow_client_is_cut(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head or a body must arrive in time; nothing is done for half a body."""
    monkeypatch.setattr(admin_server, "_REQUEST_S", 0.05)
    whole = request("POST", "/drain", BEARER, JSON, body=b"{}")
    for part in (b"", b"GET /con", whole[:-1]):
        async with connect(backend.port) as wire:
            await wire.send(part)
            assert await wire.rest() == b""
    assert backend.asked == []


async def test_connections_are_bounded(backend: Backend) -> None:
    """Those beyond the bound are closed at once, and others are answered later."""
    most = admin_server._MAX_CONNECTIONS
    async with AsyncExitStack() as opened:
        wires = [
            await opened.enter_async_context(connect(backend.port)) for _ in range(200)
        ]
        cut = [asyncio.create_task(_is_cut(wire)) for wire in wires]
        for done in islice(asyncio.as_completed(cut), 200 - most):
            assert await done
        assert sum(task.done() for task in cut) == 200 - most
        for task in cut:
            task.cancel()
    async with asyncio.timeout(10):
        while True:
            try:
                assert (await ask(backend.port, "GET", "/version", BEARER)).status
                break
            except (ConnectionError, asyncio.IncompleteReadError):
                pass


async def _is_cut(wire: Wire) -> bool:
    try:
        return await wire.reader.read() == b""
    except ConnectionError:
        return True


async def test_the_token_is_read_for_each_request(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new token counts at once. While the file is bad, nothing is answered."""
    file = tmp_path / "token"
    file.write_text("x" * 32)
    new = ("Authorization", "Bearer " + "x" * 32)
    assert (await ask(backend.port, "GET", "/version", BEARER)).status == 401
    assert (await ask(backend.port, "GET", "/version", new)).status == 200
    file.chmod(0o644)
    for _ in range(3):
        assert (await ask(backend.port, "GET", "/version", new)).status == 401
    assert len(caplog.records) == 1
    assert "chmod 600" in caplog.text


async def test_an_action_is_logged(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Who and what, in one line without a token. Views aren't logged."""
    caplog.set_level(logging.INFO)
    await ask(backend.port, "GET", "/config", BEARER)
    await ask(
        backend.port, "POST", "/sessions/revoke", BEARER, JSON, body=b'{"session":"h"}'
    )
    assert [record.getMessage() for record in caplog.records] == [
        "admin: 127.0.0.1 asks to revoke the session h"
    ]
    assert backend.asked == ["/config", RevokeSession("h")]


def test_there_is_one_list_of_paths() -> None:
    """Only what is logged is both shown and acted on."""
    assert {*GETS} & {*POSTS} == {"/log-level"}


@pytest.mark.parametrize(
    ("body", "change", "words"),
    [
        (
            b'{"level": "error"}',
            LogChange("error"),
            "write messages from error on",
        ),
        (
            b'{"level": "configured", "requests": "all"}',
            LogChange("configured", "all"),
            "write messages as log.level says and log all requests",
        ),
        (
            b'{"requests": "configured"}',
            LogChange(None, "configured"),
            "log requests as log.exclude and log.sample say",
        ),
    ],
)
async def test_a_change_of_the_log_is_logged(
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    change: LogChange,
    words: str,
) -> None:
    """Who has made it, and what it is."""
    await ask(backend.port, "POST", "/log-level", BEARER, JSON, body=body)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"admin: 127.0.0.1 asks to {words}"]
    assert backend.asked == [change]
