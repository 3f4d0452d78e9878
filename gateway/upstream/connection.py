"""edge. One client connection: a request goes out as given, a reply comes in judged.

An asyncio protocol without a task of its own. Only a streamed request body makes
one, so that a reply that comes early is seen while the upload waits.

What resumes a coroutine (`Wait.end`, `Reply.wake` and its kin) runs it at once. So it
comes last: by then all of the connection's state is right.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import AsyncIterable
from enum import StrEnum
from typing import Protocol, cast

from gateway.config import TimeoutsConfig
from gateway.errors import (
    BadReply,
    BadRequest,
    ClientGone,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.http.reply_head import ReplyHead, ReplyHeadReader
from gateway.running import Wait
from gateway.upstream.deadline import Deadline
from gateway.upstream.reader import ReplyReader
from gateway.upstream.reply import Reply
from gateway.upstream.tunnel import HIGH_WATER_BYTES, UpstreamTunnel


class State(StrEnum):
    """What a connection is doing. It goes down this list, and from REPLYING back up."""

    IDLE = "idle"
    """No exchange: whatever arrives closes it."""
    WAITING = "waiting"
    """For a reply's head; the request may still be on its way."""
    REPLYING = "replying"
    """The body arrives, and the exchange ends with it."""
    TUNNEL = "tunnel"
    """After a 101: no HTTP any more."""
    CLOSED = "closed"


# Looking a member up in its enumeration costs three times what the assignment does.
_IDLE, _WAITING, _REPLYING = State.IDLE, State.WAITING, State.REPLYING
_TUNNEL, _CLOSED = State.TUNNEL, State.CLOSED


class Owner(Protocol):
    """The pool, as far as a connection needs it."""

    keepalive_s: float

    def release(self, connection: UpstreamConnection) -> None: ...
    def on_closed(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """A connection to one target, idle or in one exchange, never in two."""

    __slots__ = (
        "_deadline",
        "_idle_s",
        "_is_reading",
        "_is_sent",
        "_loop",
        "_name",
        "_owner",
        "_poll",
        "_reader",
        "_reply",
        "_response_s",
        "_room",
        "_transport",
        "_tunnel",
        "_unwritten",
        "_wait",
        "address",
        "served",
        "state",
        "upload",
    )

    def __init__(
        self,
        owner: Owner,
        name: str,
        heads: ReplyHeadReader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.state: State = _IDLE
        self.address = ""
        """The upstream's IP address; empty for a Unix socket."""
        self.served = 0
        """Exchanges that were begun here."""
        self._owner = owner
        self._name = name
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._deadline = Deadline(loop, self._on_late)
        self._response_s = math.inf
        self._idle_s = math.inf

        # The request.
        self._is_sent = True
        """All of it was given to the transport."""
        self.upload: asyncio.Task[None] | None = None
        """What sends a body that comes in pieces, until that is done."""
        self._room: asyncio.Future[None] | None = None
        """While the transport wants no more: resolved when it does again."""
        self._unwritten = 0

        # The reply.
        self._reader = ReplyReader(heads)
        self._wait: Wait[Reply] | None = None
        """While WAITING: ended with the reply."""
        self._reply: Reply | None = None
        """While REPLYING."""
        self._is_reading = True
        self._tunnel: UpstreamTunnel | None = None

    def __repr__(self) -> str:
        parts = [self._name, self.state, f"exchanges={self.served}"]
        if not self._is_sent:
            parts.append("sending")
        if self._room is not None:
            parts.append("held back by the upstream")
        if not self._is_reading:
            parts.append("held back by the reader")
        if self._deadline.left_s < math.inf:
            parts.append(f"deadline in {self._deadline.left_s:.1f} s")
        return f"<{' '.join(parts)}>"

    @property
    def closed(self) -> bool:
        """No request can be sent here any more."""
        return self.state in (_TUNNEL, _CLOSED)

    @property
    def begun(self) -> bool:
        """A byte of the reply to the current request has arrived."""
        return self._reader.begun

    # --- the exchange ---------------------------------------------------------

    def send(
        self,
        message: bytes,
        head_request: bool,
        body: AsyncIterable[bytes] | None,
        content_length: int | None,
        timeouts: TimeoutsConfig,
        total_at: float,
        upgrade: bool,
    ) -> Wait[Reply]:
        """Send a request; return what ends with its reply, once the head is here.

        *message* is all that can be sent at once. Whoever stops waiting calls
        `give_up`. After an error the connection is closed.
        """
        transport = self._transport
        assert transport is not None
        assert self.state is _IDLE
        self.state = _WAITING
        self.served += 1
        self._reader.begin(head_request, upgrade)
        self._response_s = timeouts.response
        self._idle_s = timeouts.idle
        self._unwritten = 0
        self._deadline.total_at = total_at
        wait: Wait[Reply] = Wait()
        self._wait = wait
        transport.write(message)
        if body is None and self._room is None:
            self._is_sent = True
            self._deadline.within(self._response_s)
            return wait
        self._is_sent = body is None
        if body is not None:
            self.upload = self._loop.create_task(self._send(body, content_length))
        self._set_deadline()
        return wait

    def give_up(self, wait: Wait[Reply]) -> None:
        """Close, because nobody waits any more.

        If *wait* has just ended, the connection may be someone else's by now: then it
        is the reply that has to be given up.
        """
        if wait is self._wait:
            self._wait = None
            self.abort()
        elif (reply := wait.value) is not None:
            reply.close()

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
                self._is_sent = left == 0
            self._set_deadline()
            if self._room is not None:
                await self._room
        if left:
            raise BadRequest("the body is shorter than its Content-Length")
        if left is None:
            self._transport.write(b"0\r\n\r\n")
        self._is_sent = True
        self._set_deadline()

    # --- what arrives ---------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is not _WAITING and state is not _REPLYING:
            self.abort()  # nobody asked: no later request may take it
            return
        reader = self._reader
        try:
            reader.feed(data)
        except BadReply as exc:
            detail = f"{self._name}: {exc.detail}"
            self._fail(BadReply(detail, reused=self.served > 1))
            return
        if state is _WAITING:
            if reader.head is not None:
                self._on_head(reader.head)
            return
        reply = self._reply
        assert reply is not None
        if reader.pieces:
            reply.add(reader.pieces)
            reader.pieces = []
        if reader.ended:
            self._on_whole(reply)
            return
        # A reader that waits takes all of it in a moment.
        if reply.size > HIGH_WATER_BYTES and not reply.is_awaited:
            self._pause_reading()
        self._set_deadline()
        reply.wake()

    def _on_head(self, head: ReplyHead) -> None:
        """Hand the reply over, with what there is of its body."""
        reader = self._reader
        wait, self._wait = self._wait, None
        assert wait is not None
        pieces, reader.pieces = reader.pieces, []
        if head.status == 101:
            tunnel = self._become_tunnel(b"".join(pieces))
            wait.end(Reply(head, [], None, tunnel))
            return
        if not self._is_sent and head.status >= 300:
            # Refused before it has all been sent: the rest is of no use to anyone.
            # A 2xx goes on, because some services answer while they read.
            self._stop_upload()
        try:
            if reader.ended and self.upload is None:
                reply = Reply(head, pieces, None)
                self._on_end(head)
            else:
                reply = Reply(head, pieces, self)
                if reader.ended:
                    self._on_end(head)
                    self._finish(reply)
                else:
                    self.state = _REPLYING
                    self._reply = reply
                    if reply.size > HIGH_WATER_BYTES:
                        self._pause_reading()
                    self._set_deadline()
        except Exception as exc:  # a fault of ours
            wait.fail(exc)
            raise
        wait.end(reply)

    def _become_tunnel(self, first: bytes) -> UpstreamTunnel:
        """Hand the transport over; it keeps its place in the pool till its end."""
        assert self._transport is not None
        self.state = _TUNNEL
        self._deadline.end()
        self._stop_upload()
        self._tunnel = UpstreamTunnel(
            self._transport, first, on_lost=self._on_tunnel_lost
        )
        self._transport.set_protocol(self._tunnel)
        return self._tunnel

    def _on_tunnel_lost(self) -> None:
        self._tunnel = None
        self._owner.on_closed(self)

    def _on_whole(self, reply: Reply) -> None:
        try:
            self._on_end(self._reader.head)
        except Exception as exc:  # a fault of ours
            reply.fail(exc)
            raise
        self._finish(reply)

    def _on_end(self, head: ReplyHead | None) -> None:
        """The reply is whole: give the connection back, or close it."""
        assert head is not None
        reader, owner = self._reader, self._owner
        self._reply = None
        self.state = _IDLE
        keepalive_s = owner.keepalive_s
        if head.keep_alive_s is not None and head.keep_alive_s < keepalive_s:
            keepalive_s = head.keep_alive_s
        if (
            reader.surplus
            or not head.keep_alive
            or not self._is_sent
            or not keepalive_s
        ):
            self._cut("closed by the gateway", keep_upload=True)
            return
        self._deadline.total_at = math.inf
        self._deadline.within(keepalive_s)
        if not self._is_reading:
            self._resume_reading()
        owner.release(self)

    def _finish(self, reply: Reply) -> None:
        """Tell the reply's reader that it is whole."""
        upload = self.upload
        reply.detach()
        if upload is None:
            reply.finish()
        else:
            # The client's stream is the caller's again only when nobody reads it.
            self._stop_upload()
            upload.add_done_callback(lambda _: reply.finish())
            reply.wake()

    # --- back-pressure and time -----------------------------------------------

    def resume(self) -> None:
        """The reader has taken what was there."""
        if not self._is_reading:
            self._resume_reading()
            self._set_deadline()

    def _pause_reading(self) -> None:
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        if self.state is _WAITING or self.state is _REPLYING:
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Find out whose turn it is, and how long the upstream may take for its own."""
        if not self._is_reading:
            seconds = math.inf  # the reader's
        elif self._room is not None:
            seconds = self._idle_s  # to take some of the request
        elif not self._is_sent and self.upload is not None:
            seconds = math.inf  # the client's, to go on with its body
        elif self.state is _WAITING:
            seconds = self._response_s
        else:
            seconds = self._idle_s
        self._deadline.within(seconds)

    def _on_late(self) -> None:
        if self.state is not _WAITING and self.state is not _REPLYING:
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
        elif self.state is _WAITING:
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
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = peer[0]

    def eof_received(self) -> None:
        reply = self._reply
        if reply is not None and self._reader.eof():
            self._on_whole(reply)
        else:
            self._cut("closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._cut(f"reset the connection ({type(exc).__name__})" if exc else "is gone")
        self._transport = None
        self._deadline.end()
        self._owner.on_closed(self)

    def abort(self) -> None:
        """Close at once; whoever waits for a reply is told. Idempotent."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._cut("closed by the gateway")

    def is_reusable(self) -> bool:
        """True unless a FIN, a RST or surplus bytes have arrived, even if unread yet.

        One system call. What came before a request was sent is no reply to it, and the
        event loop may be about to hand it over.
        """
        return not self._poll.poll(0)

    def _cut(self, what: str, *, keep_upload: bool = False) -> None:
        if not self.closed:
            self._fail(
                UpstreamClosed(f"{self._name}: {what}", reused=self.served > 1),
                keep_upload=keep_upload,
            )

    def _stop_upload(self) -> None:
        upload, self.upload = self.upload, None
        if upload is not None:
            upload.cancel()

    def _fail(self, error: Exception, *, keep_upload: bool = False) -> None:
        """Close, and tell whoever waits why."""
        if self.closed:
            return
        self.state = _CLOSED
        self._deadline.cancel()
        if not keep_upload:
            self._stop_upload()
        wait, self._wait = self._wait, None
        reply, self._reply = self._reply, None
        if self._transport is not None:
            self._transport.abort()
        try:
            if wait is not None:
                wait.fail(error)
            if reply is not None:
                reply.fail(error)
        finally:
            del error  # see `Wait.fail`
