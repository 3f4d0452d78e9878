"""One client connection: a request goes out as given, a reply comes in judged.

An asyncio protocol without a task of its own. Only a streamed request body makes
one, so that a reply that comes early is seen while the upload waits.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import AsyncIterable
from typing import Protocol, cast

from gateway.config import Timeouts
from gateway.errors import (
    BadReply,
    BadRequest,
    ClientGone,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.upstream.deadline import Deadline
from gateway.upstream.reader import ReplyReader
from gateway.upstream.reply import Reply
from gateway.upstream.tunnel import HIGH_WATER_BYTES, Tunnel


class Owner(Protocol):
    """The pool, as far as a connection needs it."""

    keepalive_s: float

    def put(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A connection to one target, idle or in one exchange, never in two."""

    __slots__ = (
        "_deadline",
        "_fd",
        "_idle_s",
        "_loop",
        "_name",
        "_owner",
        "_reader",
        "_reading",
        "_reply",
        "_response_s",
        "_room",
        "_sent",
        "_transport",
        "_tunnel",
        "_unwritten",
        "_waiter",
        "address",
        "closed",
        "served",
        "upload",
    )

    def __init__(
        self, owner: Owner, name: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.address = ""
        """The upstream's IP address; empty for a Unix socket."""
        self.closed = False
        """True when no request can be sent here any more."""
        self.served = 0
        """Exchanges that were begun here."""
        self._owner = owner
        self._name = name
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._deadline = Deadline(loop, self._on_late)
        self._response_s = math.inf
        self._idle_s = math.inf

        # The request.
        self._sent = True
        """True when the request has been given to the transport to its end."""
        self.upload: asyncio.Task[None] | None = None
        """What sends a body that comes in pieces, until that is done."""
        self._room: asyncio.Future[None] | None = None
        """While the transport wants no more: resolved when it does again."""
        self._unwritten = 0

        # The reply: a waiter until its head is here, then a Reply until its end.
        self._reader = ReplyReader()
        self._waiter: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._reading = True
        self._tunnel: Tunnel | None = None

    @property
    def begun(self) -> bool:
        """True when a byte of the reply to the current request has arrived."""
        return self._reader.begun

    # --- the exchange ---------------------------------------------------------

    def send(
        self,
        head: bytes,
        *,
        head_request: bool,
        body: AsyncIterable[bytes] | None,
        content_length: int | None,
        timeouts: Timeouts,
        total_at: float,
        upgrade: bool,
    ) -> asyncio.Future[Reply]:
        """Send a request; return what will be its reply, once the reply's head is here.

        Whoever stops waiting for it calls `give_up`. After an error the connection is
        closed.
        """
        assert self._transport is not None
        assert not self.closed
        self.served += 1
        self._reader.begin(head_request=head_request, upgrade=upgrade)
        self._response_s = timeouts.response
        self._idle_s = timeouts.idle
        self._unwritten = 0
        self._deadline.total_at = total_at
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        self._transport.write(head)
        self._sent = body is None
        if body is not None:
            self.upload = self._loop.create_task(self._send(body, content_length))
        self._set_deadline()
        return waiter

    def give_up(self, waiter: asyncio.Future[Reply]) -> None:
        """Close, because nobody waits for *waiter* any more.

        If it has just been resolved, the connection may be someone else's by now: then
        it is the reply that has to be given up.
        """
        if waiter.cancelled() or waiter.exception() is not None:
            self.abort()
        else:
            waiter.result().close()

    async def _send(
        self, body: AsyncIterable[bytes], content_length: int | None
    ) -> None:
        """Send *body*, framed; what it raises is raised to whoever waits for us."""
        try:
            await self._send_pieces(body, content_length)
            self.upload = None
        except asyncio.CancelledError:
            # Ours is forgotten first, and the next exchange may have one by now.
            if self.upload is asyncio.current_task():  # cancelled by somebody else
                self.upload = None
                self._fail(ClientGone("reading the request's body was cancelled"))
            raise
        except Exception as exc:  # noqa: BLE001 - the boundary; it is raised again
            self.upload = None
            self._fail(exc)

    async def _send_pieces(
        self, body: AsyncIterable[bytes], content_length: int | None
    ) -> None:
        assert self._transport is not None
        left = content_length
        async for piece in body:
            if not piece:
                continue
            if left is None:
                # Not `writelines`: on asyncio's own loop some 3.12 and 3.13 never pause
                # whoever uses it, and keep whatever the upstream doesn't take.
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                left -= len(piece)
                if left < 0:
                    raise BadRequest("the body is longer than its Content-Length")
                self._transport.write(piece)
                self._sent = left == 0
            self._set_deadline()
            if self._room is not None:
                await self._room
        if left:
            raise BadRequest("the body is shorter than its Content-Length")
        if left is None:
            self._transport.write(b"0\r\n\r\n")
        self._sent = True
        self._set_deadline()

    # --- what arrives ---------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader, reply = self._reader, self._reply
        if reply is None:
            waiter = self._waiter
            if waiter is None or waiter.done():
                self.abort()  # nobody asked: no later request may take it
                return
        try:
            reader.feed(data)
        except BadReply as exc:
            detail = f"{self._name}: {exc.detail}"
            self._fail(BadReply(detail, reused=self.served > 1))
            return
        if reply is None:
            if not reader.has_head:
                return
            reply = self._on_head()
            if reply is None:
                return
        elif reader.pieces:
            reply.feed(reader.pieces)
            reader.pieces = []
        if reader.ended:
            self._on_end(reply)
            return
        if reply.size > HIGH_WATER_BYTES and self._reading:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()
        self._set_deadline()

    def _on_head(self) -> Reply | None:
        """Hand the reply over, with what there is of its body; None for a tunnel."""
        reader = self._reader
        status = reader.line.status
        tunnel = None
        if status == 101:
            tunnel = self._become_tunnel(b"".join(reader.pieces))
            reader.pieces.clear()
        elif not self._sent and status >= 300:
            # Refused before it has all been sent: the rest is of no use to anyone.
            # A 2xx goes on, because some services answer while they read.
            self._stop_upload()
        reply = Reply(
            reader.line,
            reader.fields,
            reader.framing.content_length,
            source=None if tunnel else self,
            tunnel=tunnel,
        )
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        waiter.set_result(reply)
        if tunnel is not None:
            return None
        self._reply = reply
        if reader.pieces:
            reply.feed(reader.pieces)
            reader.pieces = []
        return reply

    def _become_tunnel(self, first: bytes) -> Tunnel:
        """Hand the transport over; it keeps its place in the pool till its end."""
        assert self._transport is not None
        self.closed = True  # for HTTP
        self._deadline.end()
        self._stop_upload()
        self._tunnel = Tunnel(self._transport, first, on_lost=self._on_tunnel_lost)
        self._transport.set_protocol(self._tunnel)
        return self._tunnel

    def _on_tunnel_lost(self) -> None:
        self._tunnel = None
        self._owner.lost(self)

    def _on_end(self, reply: Reply) -> None:
        """The reply is whole: hand the connection back, or close it."""
        reader, upload = self._reader, self.upload
        self._reply = None
        if upload is None:
            reply.finish()
        else:
            reply.detach()
            # The client's stream is the caller's again only when nobody reads it.
            self._stop_upload()
            upload.add_done_callback(lambda _: reply.finish())
        keepalive_s = self._owner.keepalive_s
        hint_s = reader.framing.keep_alive_s
        if hint_s is not None and hint_s < keepalive_s:
            keepalive_s = hint_s
        if reader.surplus or not (
            reader.framing.keep_alive and self._sent and keepalive_s
        ):
            self.abort()
            return
        self._deadline.total_at = math.inf
        self._deadline.within(keepalive_s)
        if not self._reading:
            self._resume_reading()
        self._owner.put(self)

    # --- back-pressure and time -----------------------------------------------

    def resume(self) -> None:
        """The reader has taken what was there."""
        if not self._reading:
            self._resume_reading()
            self._set_deadline()

    def _resume_reading(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        if self._waiter is not None or self._reply is not None:
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Find out whose turn it is, and how long the upstream may take for its own."""
        if not self._reading:
            self._deadline.within(math.inf)  # the reader's
        elif self._room is not None:
            self._deadline.within(self._idle_s)  # to take some of the request
        elif self.upload is not None and not self._sent:
            self._deadline.within(math.inf)  # the client's, to go on with its body
        elif self._waiter is not None:
            self._deadline.within(self._response_s)
        else:
            self._deadline.within(self._idle_s)

    def _on_late(self) -> None:
        if self._waiter is None and self._reply is None:
            self.abort()  # idle long enough
            return
        window_s = self._deadline.window_s
        if self._deadline.is_total_over:
            what = "the exchange took longer than its total time"
        elif self._takes_the_request():
            self._deadline.within(window_s)
            return
        elif self._room is not None:
            what = f"took no byte of the request for {window_s:g} s"
        elif self._waiter is not None:
            what = f"no reply within {window_s:g} s"
        else:
            what = f"no byte of the reply's body for {window_s:g} s"
        self._fail(UpstreamTimeout(f"{self._name}: {what}", reused=self.served > 1))

    def _takes_the_request(self) -> bool:
        """True when some of the request has left since this was asked last."""
        assert self._transport is not None
        before = self._unwritten
        self._unwritten = self._transport.get_write_buffer_size()
        return 0 < self._unwritten != before

    # --- the end --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        self._transport = cast("asyncio.Transport", transport)
        self._fd = transport.get_extra_info("socket").fileno()
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = peer[0]

    def eof_received(self) -> None:
        if self._reply is not None and self._reader.eof():
            self._on_end(self._reply)
        else:
            self._cut("closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut(f"reset the connection ({type(exc).__name__})" if exc else "is gone")
        self._transport = None
        self._deadline.end()
        self._owner.lost(self)

    def abort(self) -> None:
        """Close at once; whoever waits for a reply is told. Idempotent."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._cut("closed by the gateway")

    def looks_quiet(self) -> bool:
        """True unless a FIN, a RST or surplus bytes have arrived, even if unread yet.

        One system call; for the requests that can't be sent a second time.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

    def _cut(self, what: str) -> None:
        if not self.closed:
            detail = f"{self._name}: {what}"
            self._fail(UpstreamClosed(detail, reused=self.served > 1))

    def _stop_upload(self) -> None:
        upload, self.upload = self.upload, None
        if upload is not None:
            upload.cancel()

    def _fail(self, error: Exception) -> None:
        """Close, and tell whoever waits why."""
        if self.closed:
            return
        self.closed = True
        self._deadline.cancel()
        self._stop_upload()
        waiter, self._waiter = self._waiter, None
        reply, self._reply = self._reply, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        if reply is not None:
            reply.fail(error)
        if self._transport is not None:
            self._transport.abort()
