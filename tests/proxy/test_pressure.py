"""P5: a gateway that has little memory, and two hundred bodies that don't fit in it.

The gateway is a process of its own. What it may add to the memory that it has after
its start is limited by the system (`RLIMIT_DATA`), so that a body that piles up
anywhere in it ends in a MemoryError.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from processes import command, serving
from wire import WireReply, ask

MORE = 96 * 1024**2
"""What the gateway may have beyond its size after its start."""
BODY = 1024**3
"""What each body says that it has."""
EACH = 100
SIP = 16 * 1024
SIPS_A_SECOND = 10
SMALL = 20
"""Requests that are answered at least while the bodies wait."""

CONFIG = """
version: 1
gateway:
  listen: "127.0.0.1:0"
  drain_timeout: 2s
  limits: {max_body_size: 2GiB}
supertokens: {connection_uri: "http://127.0.0.1:9"}
routes:
  - {path: /, upstream: "%s", protected: false}
"""


class Streams:
    """Counts what one end gives to the gateway, and what the other one takes."""

    def __init__(self) -> None:
        self.given = 0
        self.taken = 0
        self.cut = 0
        """How many ended before their end."""

    async def pour(self, writer: asyncio.StreamWriter) -> None:
        """Give all of a body, as fast as it is taken."""
        piece = bytes(64 * 1024)
        for _ in range(BODY // len(piece)):
            writer.write(piece)
            await writer.drain()
            self.given += len(piece)

    async def sip(self, reader: asyncio.StreamReader) -> None:
        """Take of a body, slowly, until it ends."""
        while data := await reader.read(SIP):
            self.taken += len(data)
            await asyncio.sleep(1 / SIPS_A_SECOND)


def small_buffers(sock: socket.socket) -> socket.socket:
    """Let the system hold little of what this end has yet to send or read."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SIP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SIP)
    return sock


@asynccontextmanager
async def service(uploads: Streams, downloads: Streams) -> AsyncIterator[str]:
    """Run the upstream: takes uploads slowly, gives downloads at once."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"POST"):
                    await uploads.sip(reader)
                    return
                small = head.startswith(b"GET /small")
                length = 2 if small else BODY
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                if small:
                    writer.write(b"ok")
                else:
                    await downloads.pour(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway has closed
        except asyncio.CancelledError:
            pass  # the test is over; a cancelled handler would be logged
        finally:
            writer.transport.abort()
            tasks.discard(task)

    sock = small_buffers(socket.create_server(("127.0.0.1", 0), backlog=1024))
    server = await asyncio.start_server(serve, sock=sock, limit=SIP)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def client(port: int, head: bytes, streams: Streams) -> None:
    """Send a request, and its body or take the reply's, until told to stop.

    Returns when the gateway sheds it: with a 503, or by a cut.
    """
    sock = small_buffers(socket.socket())
    # It ends by a RST, without what the system still has to send.
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=SIP)
    try:
        writer.write(head)
        if head.startswith(b"POST"):
            await streams.pour(writer)
        reply = await reader.readuntil(b"\r\n\r\n")
        assert reply.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), reply
        await streams.sip(reader)
    except (ConnectionError, asyncio.IncompleteReadError):
        streams.cut += 1
    finally:
        writer.transport.abort()


def size_of(pid: int) -> int:
    """Return what RLIMIT_DATA counts: all memory that only this process writes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system doesn't tell")


async def test_p5_memory_pressure(tmp_path: Path) -> None:
    """P5, U11, U12: 100 slow uploads and 100 slow downloads of 1 GiB each, at once.

    The bodies wait at their senders. Nothing runs out of memory, and whoever comes in
    between is answered.
    """
    uploads, downloads = Streams(), Streams()
    routes = tmp_path / "routes.yaml"
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(service(uploads, downloads))
        routes.write_text(CONFIG % url)
        gateway = await stack.enter_async_context(
            command("serve", "-c", routes, cwd=tmp_path)
        )
        port = await serving(gateway)

        async def small() -> WireReply:
            return await ask(port, "GET", "/small")

        for _ in range(20):
            assert (await small()).status == 200
        limit = size_of(gateway.child.pid) + MORE
        resource.prlimit(gateway.child.pid, resource.RLIMIT_DATA, (limit, limit))
        post = b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % BODY
        get = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
        async with asyncio.TaskGroup() as group:
            slow = [
                group.create_task(client(port, head, streams))
                for _ in range(EACH)
                for head, streams in ((post, uploads), (get, downloads))
            ]

            def is_full() -> bool:
                """More is on its way than fits, and every stream has moved."""
                return all(
                    streams.given > 2 * MORE and streams.taken > EACH * SIP
                    for streams in (uploads, downloads)
                )

            answered = 0
            while answered < SMALL or not is_full():
                assert (await small()).status == 200
                answered += 1
                await asyncio.sleep(0.1)
            # They were answered before any of the bodies came to its end.
            assert not any(one.done() for one in slow)
            for one in slow:
                one.cancel()
        assert not uploads.cut
        assert not downloads.cut
        assert (await small()).status == 200
        # An upload that waits for its service isn't told that its client is gone.
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    said = gateway.out + gateway.err
    assert b"MemoryError" not in said
    assert b"Traceback" not in said
