"""Requests to a service with `limits`: those that wait, and those that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults import OK, FaultUpstream, Peer, until
from gateway_under_test import UnderTest, gateway
from wire import WireReply, request

from gateway.upstream.in_flight import InFlight

ONE = {"limits": {"in_flight": 1, "pending": 8}, "timeouts": {"connect": "60s"}}


def of(gw: UnderTest) -> InFlight:
    """Return what is in progress of the service."""
    in_flight = gw.proxy.dependencies.services["up"].in_flight
    assert in_flight is not None
    return in_flight


@dataclass
class Busy:
    """A service that answers each request when it is told to, in any order."""

    held: list[tuple[bytes, asyncio.Event]] = field(default_factory=list)
    most: int = 0
    """The most requests that it had at a time."""

    async def serve(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            done = asyncio.Event()
            self.held.append((received.line.split()[1], done))
            self.most = max(self.most, len(self.held))
            await done.wait()
            await peer.send(OK)

    def answer(self) -> bytes:
        """Answer the request that has been here longest; return its path."""
        path, done = self.held.pop(0)
        done.set()
        return path


@asynccontextmanager
async def busy(
    service: Any = ONE, **options: Any
) -> AsyncIterator[tuple[UnderTest, Busy, FaultUpstream]]:
    """Run a gateway whose service is busy, and has one request: `/first`."""
    work = Busy()
    async with (
        FaultUpstream(work.serve) as upstream,
        gateway(upstream.url, service=service, **options) as gw,
    ):
        first = asyncio.create_task(gw.ask("GET", "/first"))
        await until(lambda: len(work.held) == 1)
        yield gw, work, upstream
        while not first.done():
            if work.held:
                work.answer()
            await asyncio.sleep(0)
        assert (await first).status == 200
        await until(lambda: of(gw).count == 0)
        assert of(gw).pending == 0


Asked = asyncio.Task[WireReply]


async def in_line(gw: UnderTest, asked: Coroutine[Any, Any, WireReply]) -> Asked:
    """Send a request; return when it waits."""
    before = of(gw).pending
    task = asyncio.create_task(asked)
    await until(lambda: of(gw).pending == before + 1)
    return task


async def test_so_many_requests_are_in_progress_and_others_wait_in_turn() -> None:
    """The service never has more than `in_flight`; each request is answered once."""
    async with busy() as (gw, work, upstream):
        tasks = [
            await in_line(gw, gw.ask("POST", f"/{n}", body=b"x" * n)) for n in range(5)
        ]
        for n in range(5):
            work.answer()
            await until(lambda: len(work.held) == 1)
            assert work.held[0][0] == b"/%d" % n
        work.answer()
        assert [reply.status for reply in await asyncio.gather(*tasks)] == [200] * 5
        assert work.most == 1
        assert len(upstream.requests) == 6
        record = [await gw.record() for _ in range(6)][-1]
        assert record.connect_ms is not None
        assert record.connect_ms > 0


async def test_more_than_pending_get_503_at_once() -> None:
    """The service sees nothing of them, and the log has the reason."""
    limits = {"in_flight": 1, "pending": 1}
    async with busy({**ONE, "limits": limits}) as (gw, work, upstream):
        waits = await in_line(gw, gw.ask("GET", "/waits"))
        reply = await gw.ask("GET", "/refused")
        assert (reply.status, reply.json()["code"]) == (503, "service_overloaded")
        assert reply.one("Retry-After") == "1"
        record = await gw.record()
        assert (record.reason, record.side) == ("service_overloaded", "upstream")
        assert record.stage == "send"
        assert record.target is None
        assert "services.up.limits" in record.note
        work.answer()
        await until(lambda: len(work.held) == 1)
        work.answer()
        assert (await waits).status == 200
        paths = [one.line.split()[1] for one in upstream.requests]
        assert paths == [b"/first", b"/waits"]


async def test_a_wait_ends_with_503() -> None:
    """After `timeouts.connect`; the service sees nothing of the request."""
    service = {**ONE, "timeouts": {"connect": "100ms"}}
    async with busy(service) as (gw, _, upstream):
        reply = await gw.ask("POST", "/late", body=b"x")
        assert (reply.status, reply.json()["code"]) == (503, "service_overloaded")
        assert len(upstream.requests) == 1


async def test_critical_requests_go_first_and_are_refused_last() -> None:
    limits = {"in_flight": 1, "pending": 2}
    critical = {"path": "/pay", "protected": False, "critical": True}
    async with busy({**ONE, "limits": limits}, more_routes=[critical]) as parts:
        gw, work, _ = parts
        one = await in_line(gw, gw.ask("GET", "/one"))
        two = await in_line(gw, gw.ask("GET", "/two"))
        pay = asyncio.create_task(gw.ask("GET", "/pay"))
        assert (await two).json()["code"] == "service_overloaded"
        work.answer()
        for path in (b"/pay", b"/one"):
            await until(lambda: len(work.held) == 1)
            assert work.answer() == path
        assert (await pay).status == (await one).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_session_that_ends_meanwhile_is_refused(method: str) -> None:
    """The service never sees the request of a user who has signed out."""
    route = {"path": "/own", "protected": True}
    async with busy(more_routes=[route]) as (gw, work, upstream):
        ann, ben = [
            await in_line(
                gw, gw.ask(method, f"/own/{u}", ("Authorization", f"Bearer {u}"))
            )
            for u in ("ann", "ben")
        ]
        gw.verifier.ended.add("session-ann")
        work.answer()
        await until(lambda: len(work.held) == 1)
        assert work.answer() == b"/own/ben"
        assert (await ben).status == 200
        refused = await ann
        assert (refused.status, refused.json()["code"]) == (401, "session_ended")
        assert len(upstream.requests) == 2


async def test_a_client_that_leaves_waits_no_longer() -> None:
    async with busy() as (gw, work, upstream):
        async with gw.connect() as wire:
            await wire.send(request("POST", "/gone"))
            await until(lambda: of(gw).pending == 1)
        await until(lambda: of(gw).pending == 0)
        record = await gw.record()
        assert record.status == 499
        work.answer()
        await until(lambda: of(gw).count == 0)
        assert len(upstream.requests) == 1


async def test_a_wait_ends_with_the_drain() -> None:
    """A request that waits when the worker drains gets its 503 at the drain's end."""
    work = Busy()
    async with (
        FaultUpstream(work.serve) as upstream,
        gateway(upstream.url, service=ONE, settings={"drain_timeout": "150ms"}) as gw,
        gw.connect() as first,
        gw.connect() as wire,
    ):
        await first.send(request("GET", "/first"))
        await until(lambda: len(work.held) == 1)
        await wire.send(request("POST", "/a"))
        await until(lambda: of(gw).pending == 1)
        await gw.stop()
        reply = await wire.reply()
        assert (reply.status, reply.json()["code"]) == (503, "shutting_down")
        assert (of(gw).count, of(gw).pending) == (0, 0)
        assert len(upstream.requests) == 1


async def test_a_wait_counts_as_part_of_total() -> None:
    """`timeouts.total` ends the wait, and a request has the rest of it afterwards."""
    service = {**ONE, "timeouts": {"connect": "60s", "total": "300ms"}}
    work = Busy()
    async with (
        FaultUpstream(work.serve) as upstream,
        gateway(upstream.url, service=service) as gw,
    ):
        replies = await asyncio.gather(*(gw.ask("GET", f"/{n}") for n in range(2)))
        codes = [reply.json()["code"] for reply in replies]
        assert "upstream_timeout" in codes
        # The other one may get its place so late that no time is left to connect.
        ends = {"service_overloaded", "upstream_connect_timeout", "upstream_timeout"}
        assert {*codes} <= ends


@pytest.mark.parametrize(
    "fault", ["closes", "bad reply", "refuses connections", "internal error"]
)
async def test_a_request_that_fails_gives_its_place_up(
    fault: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behaviour(peer: Peer) -> None:
        await peer.request()
        if fault == "bad reply":
            await peer.send(b"HTTP/1.1 abc\r\n\r\n")

    def broken(*args: object) -> None:
        raise ValueError("a bug")

    async with FaultUpstream(behaviour) as upstream:
        url = upstream.url
        if fault == "refuses connections":
            url = f"http://127.0.0.1:{closed_port}"
        async with gateway(url, service=ONE, log_expected=True) as gw:
            if fault == "internal error":
                monkeypatch.setattr("gateway.routes.Route.upstream_path", broken)
            for _ in range(3):
                assert (await gw.ask("POST", "/a")).status >= 500
            assert of(gw).count == 0


async def test_slow_clients_take_no_places() -> None:
    """One that doesn't read its reply, and one that doesn't send its body.

    Meanwhile another client's requests are served at once.
    """
    size = 8 * 1024 * 1024

    async def behaviour(peer: Peer) -> None:
        while True:
            received = await peer.request()
            if received.line.startswith(b"GET /large"):
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                await peer.send(bytes(size))
            else:
                await peer.send(OK)

    async with (
        FaultUpstream(behaviour) as upstream,
        gateway(upstream.url, service=ONE, route={"request": {"buffer": 0}}) as gw,
        gw.connect() as reader,
        gw.connect() as sender,
    ):
        await sender.send(
            b"POST /upload HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\nhalf-"
        )
        await until(lambda: gw.pools[0].on_clients == 1)
        await reader.send(request("GET", "/large"))
        await until(lambda: gw.pools[0].on_clients == 2)
        assert of(gw).count == 0
        for _ in range(3):
            assert (await gw.ask("GET", "/small")).body == b"ok"
        await sender.send(b"whole")
        assert (await sender.reply()).status == 200
        assert len((await reader.reply()).body) == size
        assert of(gw).count == 0


async def test_open_websockets_are_not_requests_in_progress() -> None:
    """The handshake has a place, and gives it up when the WebSocket is open."""

    async def behaviour(peer: Peer) -> None:
        received = await peer.request()
        if b"Upgrade: websocket" in received.head:
            await peer.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            await peer.gone()
        else:
            await peer.send(OK)

    async with (
        FaultUpstream(behaviour) as upstream,
        gateway(upstream.url, service=ONE) as gw,
        gw.connect() as wire,
    ):
        await wire.send(
            request(
                "GET",
                "/socket",
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            )
        )
        assert (await wire.head()).status == 101
        assert of(gw).count == 0
        assert (await gw.ask("GET", "/a")).status == 200


async def test_requests_on_hold_keep_their_places(closed_port: int) -> None:
    """Others wait as long as `hold` says: a service that restarts costs no errors."""
    service = {
        "hold": "60s",
        "limits": {"in_flight": 1, "pending": 1},
        "timeouts": {"connect": "50ms"},
    }
    async with gateway(f"http://127.0.0.1:{closed_port}", service=service) as gw:
        hold = gw.proxy.dependencies.services["up"].hold
        assert hold is not None
        async with gw.connect() as one, gw.connect() as other:
            await one.send(request("GET", "/one"))
            await until(lambda: len(hold) == 1)
            await other.send(request("GET", "/other"))
            await until(lambda: of(gw).pending == 1)
            await asyncio.sleep(0.1)  # longer than `connect`
            assert (len(hold), of(gw).pending) == (1, 1)
        await until(lambda: (len(hold), of(gw).count) == (0, 0))
