"""The hub's HTTP server: what it answers, and what a bad client can't do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from health_facts import EPOCH, FACTS, with_status
from wire import ask, connect, request

from gateway import __version__
from gateway.process import probes
from gateway.process.health import PROBES, Board, Facts, Health
from gateway.process.sockets import bind


class Listening:
    """A server of probes, and what it answers from."""

    def __init__(self) -> None:
        self.facts: Facts = FACTS
        self.board = Board()
        self.port = 0

    def health(self, path: str, exclude: frozenset[str]) -> Health:
        self.board.update(self.facts, EPOCH)
        return self.board.health(path, 3, exclude=exclude)


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    here = Listening()
    sock = bind("127.0.0.1:0")
    here.port = sock.getsockname()[1]
    server = await probes.serve(sock, here.health, lambda accept: (b"", accept))
    yield here
    server.close()


async def test_a_probe_is_answered_with_json(listening: Listening) -> None:
    """Only the checks that aren't OK are listed, or all with `?verbose`."""
    reply = await ask(listening.port, "GET", "/readyz")
    assert reply.status == 200
    assert reply.one("content-type") == "application/json; charset=utf-8"
    assert reply.one("cache-control") == "no-store"
    assert reply.one("connection") == "close"
    well = {"status": "ok", "version": __version__, "generation": 3, "checks": {}}
    assert reply.json() == well
    verbose = await ask(listening.port, "GET", "/readyz?verbose")
    assert list(verbose.json()["checks"]) == list(PROBES["/readyz"])
    listening.facts = with_status(keys_until=None)
    degraded = await ask(listening.port, "GET", "/readyz")
    assert degraded.status == 200
    assert degraded.json() == well | {
        "status": "degraded",
        "checks": {
            "keys": {
                "status": "degraded",
                "since": "2023-11-14T22:13:20.000+00:00",
                "reason": "a worker has no signing keys: its protected routes answer"
                " 503",
                "last_ok": "2023-11-14T22:13:20.000+00:00",
            }
        },
    }


async def test_a_failing_check_is_503_unless_it_is_excluded(
    listening: Listening,
) -> None:
    """`?exclude=` may occur several times; a check that isn't there is a mistake."""
    listening.facts = with_status(slots=("lost",), is_draining=True)
    assert (await ask(listening.port, "GET", "/livez")).status == 200
    for query, status in (
        ("", 503),
        ("?exclude=draining", 503),
        ("?exclude=draining&exclude=accepting", 200),
    ):
        reply = await ask(listening.port, "GET", f"/readyz{query}")
        assert reply.status == status, query
    reply = await ask(listening.port, "GET", "/readyz?exclude=drainng")
    assert reply.status == 400
    assert "there are accepting, draining, keys, core" in reply.body.decode()


@pytest.mark.parametrize("path", PROBES)
async def test_head_is_answered_without_a_body(listening: Listening, path: str) -> None:
    """With the status and the length of the answer to GET."""
    listening.facts = with_status(
        slots=("hanging",), is_draining=True, is_started=False
    )
    got = await ask(listening.port, "GET", path)
    async with connect(listening.port) as wire:
        await wire.send(request("HEAD", path))
        head = await wire.rest()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(got.body) in head


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/readyz/", 404),
        ("GET", "/READYZ", 404),
        ("GET", "/auth/signin", 404),
        ("POST", "/readyz", 405),
        ("DELETE", "/livez", 405),
    ],
)
async def test_there_is_nothing_else(
    listening: Listening, method: str, target: str, status: int
) -> None:
    """Only the probes are there, for GET and HEAD, in small requests."""
    assert (await ask(listening.port, method, target)).status == status


async def test_a_client_that_sends_nothing_is_cut(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection ends after a time, whatever its client does."""
    monkeypatch.setattr(probes, "_LIFETIME_S", 0.05)
    for begun in (b"", b"GET /livez HTTP/1.1\r\n"):
        async with connect(listening.port) as wire:
            await wire.send(begun)
            assert await wire.rest() == b""


async def test_there_are_few_connections(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones are closed at once, and the others are served."""
    monkeypatch.setattr(probes, "_MAX_CONNECTIONS", 1)
    async with connect(listening.port) as first:
        await first.send(b"GET /livez HTTP/1.1\r\n")
        async with asyncio.timeout(10), connect(listening.port) as second:
            assert await second.rest() == b""
        await first.send(b"Host: a\r\n\r\n")
        answer = await first.rest()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "ok"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /readyz?" + b"a" * 4096 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 4096 + b"\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100 + b"\r\n",
        b"no request\r\n\r\n",
    ],
    ids=["target", "field", "fields", "form"],
)
async def test_a_request_must_be_small(
    listening: Listening, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are refused, and no client can flood the log with them."""
    async with connect(listening.port) as wire:
        await wire.send(data)
        assert (await wire.rest()).startswith(b"HTTP/1.0 400 ")
    assert not caplog.records
