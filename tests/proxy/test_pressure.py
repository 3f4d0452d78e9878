"""P5: a gateway with little memory relays two hundred bodies that don't fit in it.

The gateway runs in a process of its own. `RLIMIT_DATA` limits how far its memory may
grow after its start, so that a body buffered anywhere ends in a MemoryError.
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

MAX_GROWTH = 96 * 1024**2
"""How many bytes the gateway's memory may grow after its start."""
BODY_SIZE = 1024**3
"""The Content-Length of each body."""
UPLOADS = DOWNLOADS = 100
READ_SIZE = 16 * 1024
READS_PER_SECOND = 10
MIN_SMALL_REQUESTS = 20
"""The least number of small requests that must be answered during the transfers."""

CONFIG = """
version: 1
gateway:
  listen: "127.0.0.1:0"
  drain_timeout: 2s
  limits: {max_body_size: 2GiB}
supertokens: {connection_uri: "http://127.0.0.1:9"}
defaults: {timeouts: {connect: 120s, response: 120s}}  # for a busy machine
routes:
  - {path: /, upstream: "%s", protected: false}
"""


class Streams:
    """Counts the bytes sent to the gateway in one direction, and those received."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.cut = 0
        """How many connections were closed before the end of their body."""

    async def send_body(self, writer: asyncio.StreamWriter) -> None:
        """Send a whole body as fast as the peer reads it."""
        piece = bytes(64 * 1024)
        for _ in range(BODY_SIZE // len(piece)):
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)

    async def read_slowly(self, reader: asyncio.StreamReader) -> None:
        """Read a body slowly until it ends."""
        while data := await reader.read(READ_SIZE):
            self.received += len(data)
            await asyncio.sleep(1 / READS_PER_SECOND)


def small_buffers(sock: socket.socket) -> socket.socket:
    """Make the kernel's buffers of this socket small."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_SIZE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ_SIZE)
    return sock


@asynccontextmanager
async def service(uploads: Streams, downloads: Streams) -> AsyncIterator[str]:
    """Run an upstream that reads uploads slowly and sends downloads at full speed."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"POST"):
                    await uploads.read_slowly(reader)
                    return
                small = head.startswith(b"GET /small")
                length = 2 if small else BODY_SIZE
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                if small:
                    writer.write(b"ok")
                else:
                    await downloads.send_body(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the gateway has closed
        except asyncio.CancelledError:
            pass  # the test is over; a cancelled handler would be logged
        finally:
            writer.transport.abort()
            tasks.discard(task)

    sock = small_buffers(socket.create_server(("127.0.0.1", 0), backlog=1024))
    server = await asyncio.start_server(serve, sock=sock, limit=READ_SIZE)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def client(port: int, head: bytes, streams: Streams) -> None:
    """Send a request and its body, or read the reply's, until cancelled.

    Returns early if the gateway answers 503 or closes the connection.
    """
    sock = small_buffers(socket.socket())
    # It closes with a RST, which drops the bytes that the kernel hasn't sent yet.
    linger = struct.pack("ii", 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=READ_SIZE)
    try:
        writer.write(head)
        if head.startswith(b"POST"):
            await streams.send_body(writer)
        reply = await reader.readuntil(b"\r\n\r\n")
        assert reply.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), reply
        await streams.read_slowly(reader)
    except (ConnectionError, asyncio.IncompleteReadError):
        streams.cut += 1
    finally:
        writer.transport.abort()


def data_size(pid: int) -> int:
    """Return what RLIMIT_DATA limits: the private writable memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmData in /proc")


async def test_p5_memory_pressure(tmp_path: Path) -> None:
    """P5, U11, U12: 100 slow uploads and 100 slow downloads of 1 GiB each, at once.

    The gateway holds back the senders and stays within its memory limit. Small
    requests are answered meanwhile, and no transfer is cut.
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
        limit = data_size(gateway.child.pid) + MAX_GROWTH
        resource.prlimit(gateway.child.pid, resource.RLIMIT_DATA, (limit, limit))
        post = b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % BODY_SIZE
        get = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
        async with asyncio.TaskGroup() as group:
            slow = [
                group.create_task(client(port, head, streams))
                for count, head, streams in (
                    (UPLOADS, post, uploads),
                    (DOWNLOADS, get, downloads),
                )
                for _ in range(count)
            ]

            def is_full() -> bool:
                """Return whether more was sent than fits, and 16 KiB a body read."""
                return all(
                    streams.sent > 2 * MAX_GROWTH
                    and streams.received > count * READ_SIZE
                    for count, streams in ((UPLOADS, uploads), (DOWNLOADS, downloads))
                )

            answered = 0
            while answered < MIN_SMALL_REQUESTS or not is_full():
                assert (await small()).status == 200
                answered += 1
                await asyncio.sleep(0.1)
            # The small requests were answered while all bodies were in transit.
            assert not any(one.done() for one in slow)
            for one in slow:
                one.cancel()
        assert not uploads.cut
        assert not downloads.cut
        assert (await small()).status == 200
        # An upload that waits for its service doesn't notice that its client is gone,
        # so the gateway needs `drain_timeout` to stop.
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    output = gateway.out + gateway.err
    assert b"MemoryError" not in output
    assert b"Traceback" not in output
