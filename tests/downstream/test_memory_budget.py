"""`gateway.limits.memory` on real connections: who is cut, and who is served."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from contextlib import AsyncExitStack

import pytest
from corpus import rig as corpus_rig
from corpus.rig import Rig, until
from wire import connect

from gateway.downstream.memory import CONNECTION_BYTES, FULL
from gateway.pace import Pace

BUDGET = 3 * 1024**2
PATIENCE_S = 60.0
HEAD = (b"GET /public/a HTTP/1.1\r\nHost: gw\r\n" + b"X-A: %b\r\n" % (b"a" * 8000) * 8)[
    : 62 * 1024
]
ASK = b"GET /admin/a HTTP/1.1\r\nHost: gw\r\nX-Corpus-Session: user-1\r\n\r\n"
QUICK = Pace(sweep_s=0.02, rejections_s=0.0)

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(rig: Rig, opened: AsyncExitStack) -> Ends:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    opened.callback(writer.close)
    return reader, writer


def pour(rig: Rig, opened: AsyncExitStack, data: bytes) -> socket.socket:
    """Send as much of *data* as is taken at once, on a connection of its own."""
    sock = socket.create_connection(("127.0.0.1", rig.port))
    opened.callback(sock.close)
    sock.setblocking(False)
    with contextlib.suppress(ConnectionError):
        sock.send(data)
    return sock


async def answered(ends: Ends) -> bytes:
    """Ask as a user with a session, on an open connection; return the status line."""
    reader, writer = ends
    writer.write(ASK)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head.partition(b"\r\n")[0]


def used(rig: Rig) -> int:
    ledger = rig.listener.ledger
    assert ledger is not None
    return int(ledger.used)


async def test_unfinished_heads_dont_crowd_out_a_user(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The newest of them are cut, with a reason; the user's requests are served, on an
    old connection and on new ones, and the upstream sees nothing else."""
    async with (
        asyncio.timeout(PATIENCE_S),
        corpus_rig.running(pace=QUICK, limits={"memory": BUDGET}) as rig,
        AsyncExitStack() as opened,
    ):
        user = await dial(rig, opened)
        assert await answered(user) == b"HTTP/1.1 200 OK"
        first = await dial(rig, opened)
        first[1].write(HEAD)
        await until(lambda: used(rig) > len(HEAD))
        heads = 150
        for number in range(heads):
            pour(rig, opened, HEAD)
            await asyncio.sleep(0)
            if number % 25 == 0:
                assert await answered(user) == b"HTTP/1.1 200 OK"
        await until(lambda: rig.listener.connections < 2 + heads)
        await until(lambda: 0 < used(rig) <= BUDGET * FULL)
        assert await answered(user) == b"HTTP/1.1 200 OK"
        assert await answered(await dial(rig, opened)) == b"HTTP/1.1 200 OK"
        first[1].write(b"\r\n\r\n")  # the oldest head may still be completed
        assert await first[0].readline() == b"HTTP/1.1 200 OK\r\n"
        paths = {request.head.split(b" ", 2)[1] for request in rig.upstream.requests}
        assert paths == {b"/admin/a", b"/public/a"}
        assert sum(b"/public/a" in r.head for r in rig.upstream.requests) == 1
    assert any(
        text.startswith("connections cut because of gateway.limits.memory: ")
        for text in caplog.messages
    )


async def test_a_request_that_is_cut_says_so_in_the_log() -> None:
    """Uploads whose service doesn't take them are cut, those with a session are not."""
    silent = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await silent.wait()
        writer.close()

    async with (
        asyncio.timeout(PATIENCE_S),
        await asyncio.start_server(hold, "127.0.0.1", 0) as service,
        corpus_rig.running(
            pace=QUICK,
            limits={"memory": BUDGET},
            upstream_port=service.sockets[0].getsockname()[1],
        ) as rig,
        AsyncExitStack() as opened,
    ):
        known = pour(
            rig,
            opened,
            b"POST /admin/a HTTP/1.1\r\nHost: gw\r\nX-Corpus-Session: user-1\r\n"
            b"Content-Length: 90000000\r\n\r\n" + bytes(2_000_000),
        )
        while not any(record.reason == "memory_full" for record in rig.records):
            pour(
                rig,
                opened,
                b"POST /public/a HTTP/1.1\r\nHost: gw\r\n"
                b"Content-Length: 90000000\r\n\r\n" + bytes(2_000_000),
            )
            await asyncio.sleep(0.01)
        with pytest.raises(BlockingIOError):  # it is open, and nothing has come
            known.recv(1)
        assert {(r.path, r.status) for r in rig.records} == {("/public/a", 503)}
        silent.set()


async def test_no_room_for_connections(caplog: pytest.LogCaptureFixture) -> None:
    """Idle connections fill the budget: new ones are closed, none is cut."""
    async with (
        asyncio.timeout(PATIENCE_S),
        corpus_rig.running(pace=QUICK, limits={"memory": BUDGET}) as rig,
        AsyncExitStack() as opened,
    ):
        ends = await dial(rig, opened)
        assert await answered(ends) == b"HTTP/1.1 200 OK"
        ledger = rig.listener.ledger
        assert ledger is not None
        ledger.used += (room := int(BUDGET * FULL) - ledger.used)
        closed = pour(rig, opened, b"")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.get_running_loop().sock_recv(closed, 1) == b""
        assert await answered(ends) == b"HTTP/1.1 200 OK"
        ledger.used -= room
        assert await answered(await dial(rig, opened)) == b"HTTP/1.1 200 OK"
    assert any("gateway.limits.memory: 1" in text for text in caplog.messages)


async def test_the_ledger_is_even_in_the_end() -> None:
    """Whatever was held is released: heads in pieces, bodies, and the connections."""
    async with (
        asyncio.timeout(PATIENCE_S),
        corpus_rig.running(pace=QUICK, limits={"memory": BUDGET}) as rig,
        AsyncExitStack() as opened,
    ):
        reader, writer = await dial(rig, opened)
        writer.write(HEAD)
        await until(lambda: used(rig) > 60_000)
        writer.write(b"\r\n\r\n")
        await reader.readline()
        await until(lambda: used(rig) == CONNECTION_BYTES)
        async with connect(rig.port) as other:
            await other.send(ASK)
            await until(lambda: used(rig) == 2 * CONNECTION_BYTES)
        writer.close()
        await until(lambda: used(rig) == 0)
        gc.collect()
