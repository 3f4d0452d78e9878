"""An upstream with selectable faults that records its requests.

    async with FaultUpstream(FAULTS["bad chunk"]) as upstream:
        ...  # upstream.url, upstream.requests, upstream.connections

A behaviour is an async function that gets each connection as a `Peer`. If it leaves the
connection open, that is closed when it returns. Nothing here uses the gateway's own
parsers.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

DEADLINE_S = 10.0
"""For events that must happen: long enough on a busy machine, short enough for a hang.
"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Received:
    """One request, with its bytes unchanged."""

    head: bytes
    body: bytes = b""
    connection: int = 0
    """The number of its connection, from 1."""

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    def field(self, name: bytes) -> bytes | None:
        pattern = rb"(?im)^" + re.escape(name) + rb":[ \t]*(.*?)\r?$"
        match = re.search(pattern, self.head)
        return match[1] if match else None


class Peer:
    """One connection, from the upstream's side."""

    def __init__(
        self,
        upstream: FaultUpstream,
        number: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.upstream = upstream
        self.number = number
        self.reader = reader
        self.writer = writer

    async def head(self) -> Received:
        """Read and record a request's head; its body is left unread."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        request = Received(head=head, connection=self.number)
        self.upstream.requests.append(request)
        self.upstream.got_request.set()
        return request

    async def request(self) -> Received:
        """Read and record a whole request."""
        request = await self.head()
        length = request.field(b"content-length")
        if request.field(b"transfer-encoding") is not None:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                request.body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        elif length is not None:
            request.body = await self.reader.readexactly(int(length))
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Return when the gateway has closed; bytes that it sends are discarded."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.upstream.lost.set()

    def reset(self) -> None:
        """Close with a RST, so that bytes in flight are lost."""
        sock = self.writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Behaviour = Callable[[Peer], Awaitable[None]]


class ExpectedEvent(asyncio.Event):
    """An event whose `wait` fails after `DEADLINE_S` instead of hanging."""

    async def wait(self) -> Literal[True]:
        async with asyncio.timeout(DEADLINE_S):
            return await super().wait()


@dataclass
class FaultUpstream:
    """A server on loopback whose connections are all handled by *behaviour*."""

    behaviour: Behaviour
    tls: ssl.SSLContext | None = None
    unix_path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    """0 means a free port, whose number is set once the server runs."""
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    got_request: ExpectedEvent = field(default_factory=ExpectedEvent)
    lost: ExpectedEvent = field(default_factory=ExpectedEvent)
    """Set when a `Peer.gone` has seen the gateway close."""
    errors: list[BaseException] = field(default_factory=list)
    """Exceptions of behaviours, except lost connections."""
    url: str = ""

    async def __aenter__(self) -> Self:
        if self.unix_path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.unix_path)
            self.url = f"unix:{self.unix_path}"
        else:
            self._server = await asyncio.start_server(
                self._serve, self.host, self.port, ssl=self.tls
            )
            self.port = self._server.sockets[0].getsockname()[1]
            scheme = "https" if self.tls else "http"
            self.url = f"{scheme}://{self.host}:{self.port}"
        self._tasks: set[asyncio.Task[None]] = set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self.errors, self.errors

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self.behaviour(Peer(self, self.connections, reader, writer))
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the gateway has closed, which many tests expect
        except asyncio.CancelledError:
            pass  # the test is over; a cancelled handler would be logged
        except Exception as exc:  # noqa: BLE001 - __aexit__ asserts that there is none
            self.errors.append(exc)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


# --- behaviours that take an argument -----------------------------------------


def answer(reply: bytes = OK) -> Behaviour:
    """Answer every request with *reply*, and keep the connection."""

    async def behaviour(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(reply)

    return behaviour


def answer_and_close(reply: bytes) -> Behaviour:
    """Answer one request, then close."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)

    return behaviour


def answer_and_hang(reply: bytes) -> Behaviour:
    """Answer one request, then wait for the gateway to give up."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await peer.gone()

    return behaviour


def answer_and_reset(reply: bytes) -> Behaviour:
    """Answer one request, and reset once the gateway has read the reply."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await after_reading()  # a RST discards bytes that haven't been read
        peer.reset()

    return behaviour


async def after_reading() -> None:
    """Return when the gateway has read what was sent to it.

    A gateway in this loop reads it in the next turn. One in another process can't be
    observed, so this is a real pause for it.
    """
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)


def drip(reply: bytes, *, gap_s: float, size: int = 1) -> Behaviour:
    """Send *reply* in pieces of *size*, with a pause before each."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        for start in range(0, len(reply), size):
            await asyncio.sleep(gap_s)
            await peer.send(reply[start : start + size])
        await peer.gone()

    return behaviour


# --- behaviours without --------------------------------------------------------


async def hang_before_head(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def never_read(peer: Peer) -> None:
    """Accept the connection, and read nothing."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined] # of both directions
    await asyncio.Event().wait()


async def close_before_reply(peer: Peer) -> None:
    await peer.request()


async def reset_before_reply(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def reset_second_request(peer: Peer) -> None:
    """Answer the first request of each connection, reset at the next."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    peer.reset()


async def close_after_reply(peer: Peer) -> None:
    """Close the connection after a reply without `Connection: close`."""
    await peer.request()
    await peer.send(OK)


async def refuse_early(peer: Peer) -> None:
    """Answer 413 to the head, read nothing of the body, wait for the close."""
    await peer.head()
    await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    await peer.gone()


async def echo(peer: Peer) -> None:
    """Answer each request with its own body."""
    while True:
        request = await peer.request()
        size = len(request.body)
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        await peer.send(head + request.body)


async def echo_while_reading(peer: Peer) -> None:
    """Answer at once, and send each piece of the chunked request back as it comes."""
    await peer.head()
    await peer.send(CHUNKED_HEAD)
    while size := int(await peer.reader.readuntil(b"\r\n"), 16):
        piece = await peer.reader.readexactly(size + 2)
        await peer.send(b"%x\r\n" % size + piece)
    await peer.reader.readexactly(2)
    await peer.send(b"0\r\n\r\n")
    await peer.gone()


async def upgrade_echo(peer: Peer) -> None:
    """Switch protocols, greet in the same segment, echo until the gateway's EOF."""
    await peer.request()
    await peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: test\r\n"
        b"Connection: Upgrade\r\n\r\nhello"
    )
    while data := await peer.reader.read(65536):
        await peer.send(data)
    peer.upstream.lost.set()


async def surplus_later(peer: Peer) -> None:
    """Send an unrequested second reply, after the gateway has read the first."""
    await peer.request()
    await peer.send(OK)
    await after_reading()
    await peer.send(b"HTTP/1.1 200 EVIL\r\nContent-Length: 4\r\n\r\nevil")
    await peer.gone()


def _with(fields: bytes, *, status: bytes = b"200 OK", body: bytes = b"hi") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n\r\n" + body


BAD_REPLIES: dict[str, bytes] = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00",
    "not http": b"220 mail.example ESMTP\r\n",
    "http 0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "http 2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "rtsp": b"RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "only empty lines": b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 099": _with(b"Content-Length: 2", status=b"099 Low"),
    "status 000": _with(b"Content-Length: 2", status=b"000 Zero"),
    "status 600": _with(b"Content-Length: 2", status=b"600 High"),
    "status 999": _with(b"Content-Length: 2", status=b"999 High"),
    "status 1000": _with(b"Content-Length: 2", status=b"1000 Long"),
    "status 20": _with(b"Content-Length: 2", status=b"20 Short"),
    "two spaces": _with(b"Content-Length: 2", status=b" 200 OK"),
    "unsolicited 101": _with(
        b"Upgrade: x\r\nConnection: Upgrade", status=b"101 Switching", body=b""
    ),
    "bare 101": _with(b"A: b", status=b"101 Switching", body=b""),
    "control byte in reason": _with(b"Content-Length: 2", status=b"200 O\x01K"),
    "nul in reason": _with(b"Content-Length: 2", status=b"200 O\0K"),
    "control byte in value": _with(b"A: b\x01\r\nContent-Length: 2"),
    "delete in value": _with(b"A: b\x7f\r\nContent-Length: 2"),
    "nul in value": _with(b"A: b\0c\r\nContent-Length: 2"),
    "control byte in name": _with(b"A\x01: b\r\nContent-Length: 2"),
    "space before colon": _with(b"A : b\r\nContent-Length: 2"),
    "no colon": _with(b"Ab\r\nContent-Length: 2"),
    "empty name": _with(b": b\r\nContent-Length: 2"),
    "folded line": _with(b"A: b\r\n c\r\nContent-Length: 2"),
    "leading space": _with(b" A: b\r\nContent-Length: 2"),
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "bare LF in fields": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\nhi",
    "bare CR in value": _with(b"A: b\rc\r\nContent-Length: 2"),
    "CL and TE": _with(b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
    "TE and CL": _with(b"Transfer-Encoding: chunked\r\nContent-Length: 2"),
    "two CL": _with(b"Content-Length: 2\r\nContent-Length: 5"),
    "two equal CL": _with(b"Content-Length: 2\r\nContent-Length: 2"),
    "CL list": _with(b"Content-Length: 2, 2"),
    "CL signed": _with(b"Content-Length: +2"),
    "CL negative": _with(b"Content-Length: -2"),
    "CL hex": _with(b"Content-Length: 0x2"),
    "CL empty": _with(b"Content-Length: "),
    "CL overflow": _with(b"Content-Length: 18446744073709551618"),
    "TE gzip": _with(b"Transfer-Encoding: gzip"),
    "TE gzip, chunked": _with(b"Transfer-Encoding: gzip, chunked"),
    "TE chunked, identity": _with(b"Transfer-Encoding: chunked, identity"),
    "TE xchunked": _with(b"Transfer-Encoding: xchunked"),
    "TE twice": _with(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "TE empty": _with(b"Transfer-Encoding: "),
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": CHUNKED_HEAD + b"zz\r\nhi\r\n0\r\n\r\n",
    "chunk size overflow": CHUNKED_HEAD + b"FFFFFFFFFFFFFFFF0\r\nhi",
    "chunk spill": CHUNKED_HEAD + b"2\r\nhixx\r\n0\r\n\r\n",
    "chunk bare LF": CHUNKED_HEAD + b"2\nhi\n0\n\n",
    "huge head": _with(b"A: " + b"b" * 70000 + b"\r\nContent-Length: 2"),
    "endless head": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000,
    "many fields": _with(b"A: b\r\n" * 300 + b"Content-Length: 2"),
    "1xx storm": b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + OK,
    "trailer flood": CHUNKED_HEAD + b"0\r\n" + b"A: b\r\n" * 20000,
}
"""Replies that can't be passed on: 502, and the connection is never used again."""

CUT_REPLIES: dict[str, bytes] = {
    "no byte": b"",
    "partial status line": b"HTTP/1.1 20",
    "partial head": b"HTTP/1.1 200 OK\r\nContent-Le",
}
"""Replies that end before their head does."""

CUT_BODIES: dict[str, bytes] = {
    "short body": _with(b"Content-Length: 20"),
    "no body": _with(b"Content-Length: 20", body=b""),
    "truncated chunk": CHUNKED_HEAD + b"10\r\nhi",
    "no last chunk": CHUNKED_HEAD + b"2\r\nhi\r\n",
    "no end after last chunk": CHUNKED_HEAD + b"2\r\nhi\r\n0\r\n",
}
"""Valid heads whose body ends too soon: the client must notice."""

FAULTS: dict[str, Behaviour] = {
    "hang before head": hang_before_head,
    "hang in head": answer_and_hang(CUT_REPLIES["partial head"]),
    "hang in body": answer_and_hang(CUT_BODIES["short body"]),
    "never read": never_read,
    "close before reply": close_before_reply,
    "reset before reply": reset_before_reply,
    "reset second request": reset_second_request,
    "close after reply": close_after_reply,
    "early 413": refuse_early,
    "reset in body": answer_and_reset(CUT_BODIES["short body"]),
    "surplus reply": answer(OK + b"HTTP/1.1 200 EVIL\r\nContent-Length: 4\r\n\r\nevil"),
    "surplus later": surplus_later,
    "echo": echo,
    "echo while reading": echo_while_reading,
    "upgrade echo": upgrade_echo,
    **{name: answer_and_close(data) for name, data in CUT_REPLIES.items()},
    **{name: answer_and_close(data) for name, data in CUT_BODIES.items()},
    **{name: answer_and_hang(data) for name, data in BAD_REPLIES.items()},
}
"""Every behaviour by name."""


async def until(condition: Callable[[], object]) -> None:
    """Return soon after *condition* has become true, if no event reports it.

    Most conditions are true after a few turns of the loop. After 20 turns they are
    checked rarely, so that waiting tests leave the CPU to others. The limit is long
    enough for a process to start or end on a busy machine.
    """
    async with asyncio.timeout(3 * DEADLINE_S):
        turns = 0
        while not condition():
            turns += 1
            await asyncio.sleep(0 if turns < 20 else 0.005)


async def until_stopped(
    transport: asyncio.Transport | None, sent: Callable[[], int]
) -> None:
    """Return when the gateway doesn't read *transport*, and its peer sends no more.

    *sent* returns how many bytes the peer has sent.
    """
    before, still = -1, 0

    def is_stopped() -> bool:
        nonlocal before, still
        assert transport is not None
        is_still = not transport.is_reading() and sent() == before
        before, still = sent(), still + 1 if is_still else 0
        return still >= 10

    await until(is_stopped)


@contextmanager
def closed_port() -> Iterator[int]:
    """Give a port of loopback that refuses connections for the whole block.

    A socket is bound to it and doesn't listen, so no other process can take the port.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def free_ports(count: int) -> tuple[int, ...]:
    """Return different ports of loopback that nothing uses at the moment.

    They are below the range from which the system takes ports by itself, so that no
    connection and no server on port 0 takes one of them. It can't promise more: so it
    is only for programs that must be told their port. Any other server listens on port
    0, and says which port it got.
    """
    lowest, highest = 10_000, 32_767
    with suppress(OSError):  # on Linux only
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
        highest = max(lowest + 1000, int(text.split()[0]) - 1)
    ports: set[int] = set()
    choose = random.SystemRandom()
    while len(ports) < count:
        port = choose.randint(lowest, highest)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return tuple(ports)


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """Yield a port of loopback whose accept queue is full: a SYN gets no answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
            yield port
        finally:
            for filler in fillers:
                filler.close()
