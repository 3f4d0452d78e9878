"""edge. One connection to an upstream: sends requests unchanged, and checks replies.

It is an asyncio protocol without a task. Only a streamed request body has a task, so
that an early reply is read while the upload waits.

Calls that resume a coroutine (`Wait.end`, `Wait.fail`, `Reply.wake`, `Reply.finish`,
`Reply.fail`) run it before they return. So they come last, when the connection's state
is consistent.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import AsyncIterable
from enum import StrEnum
from typing import Protocol, cast

from gateway.errors import (
    BadReply,
    BadRequest,
    ClientGone,
    ClientSlow,
    GatewayError,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.http.reply_head import ReplyHead, ReplyHeadReader
from gateway.running import Wait, turns_of
from gateway.timeouts import Timeouts
from gateway.upstream.deadline import Deadline
from gateway.upstream.places import WaitsFor
from gateway.upstream.reader import ReplyReader
from gateway.upstream.reply import Reply
from gateway.upstream.tunnel import HIGH_WATER_BYTES, UpstreamTunnel


class State(StrEnum):
    """The state of a connection, in order; after REPLYING it may be IDLE again."""

    IDLE = "idle"
    """No exchange: any byte that arrives closes the connection."""
    WAITING = "waiting"
    """For a reply's head; the request may not be fully sent."""
    REPLYING = "replying"
    """The reply's body is arriving; the exchange ends with it."""
    TUNNEL = "tunnel"
    """After a 101: an `UpstreamTunnel` has the transport."""
    CLOSED = "closed"


_COPIED_BYTES = 16 * 1024
"""Chunks below this are copied to be sent in one write."""

# Access to a member of an enumeration costs three times as much as the assignment.
_IDLE, _WAITING, _REPLYING = State.IDLE, State.WAITING, State.REPLYING
_TUNNEL, _CLOSED = State.TUNNEL, State.CLOSED
_NOTHING, _SEND = WaitsFor.NOTHING, WaitsFor.SEND


class Client(Protocol):
    """The client of an exchange, as far as its upstream connection is concerned."""

    client_address: str
    """The address that the access log shows."""
    bytes_in: int
    bytes_out: int

    def cut(self, error: GatewayError) -> None:
        """Abort the client's connection; *error* is the reason in the access log."""
        ...


class Owner(Protocol):
    """The part of the pool that a connection uses."""

    keepalive_s: float

    def release(self, connection: UpstreamConnection) -> None: ...
    def on_wait(self, connection: UpstreamConnection) -> None: ...
    def on_wait_end(self, connection: UpstreamConnection) -> None: ...
    def on_idle_end(self, idle_s: float) -> None: ...
    def on_closed(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """A connection to one target, idle or in one exchange, never in two."""

    __slots__ = (
        "_buffered_bytes",
        "_deadline",
        "_drained",
        "_idle_s",
        "_is_put_off",
        "_is_reading",
        "_is_sent",
        "_loop",
        "_name",
        "_owner",
        "_poll",
        "_reader",
        "_reply",
        "_response_s",
        "_transport",
        "_tunnel",
        "_wait",
        "_waited_s",
        "_waits_since",
        "address",
        "client",
        "served",
        "state",
        "upload",
        "waits_for",
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
        """The number of exchanges begun on this connection."""
        self._owner = owner
        self._name = name
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._deadline = Deadline(loop, self._on_timeout)
        self._response_s = math.inf
        self._idle_s = math.inf

        # The client.
        self.client: Client | None = None
        """The client of the exchange in progress."""
        self.waits_for: WaitsFor = _NOTHING
        """What the exchange waits for its client to do."""
        self._waits_since = 0.0
        self._waited_s = 0.0

        # The request.
        self._is_sent = True
        """The whole request was written to the transport."""
        self.upload: asyncio.Task[None] | None = None
        """The task that sends a streamed body, until it is done."""
        self._drained: asyncio.Future[None] | None = None
        """Pending while the transport's write buffer is full; None otherwise."""
        self._buffered_bytes = 0
        """Size of the write buffer when a timeout was last checked."""

        # The reply.
        self._reader = ReplyReader(heads)
        self._wait: Wait[Reply] | None = None
        """Set while WAITING; it ends with the reply."""
        self._reply: Reply | None = None
        """Set while REPLYING."""
        self._is_reading = True
        self._is_put_off = False
        """`_feed_more` will be called in a later turn of the event loop."""
        self._tunnel: UpstreamTunnel | None = None

    def __repr__(self) -> str:
        parts = [self._name, self.state, f"exchanges={self.served}"]
        if not self._is_sent:
            parts.append("sending")
        if self._drained is not None:
            parts.append("writing paused")
        if not self._is_reading:
            parts.append("reading paused")
        if self._deadline.left_s < math.inf:
            parts.append(f"deadline in {self._deadline.left_s:.1f} s")
        return f"<{' '.join(parts)}>"

    @property
    def closed(self) -> bool:
        """True when no further request can be sent."""
        return self.state in (_TUNNEL, _CLOSED)

    @property
    def begun(self) -> bool:
        """True when a byte of the reply to the current request has arrived."""
        return self._reader.begun

    # --- the exchange ---------------------------------------------------------

    def send(
        self,
        message: bytes,
        head_request: bool,
        body: AsyncIterable[bytes] | None,
        content_length: int | None,
        timeouts: Timeouts,
        total_at: float,
        upgrade: bool,
        client: Client | None = None,
    ) -> Wait[Reply]:
        """Send a request; return a `Wait` that ends when the reply's head has arrived.

        *message* is the head, and the body if that has arrived already. A streamed
        *body* is sent by a task. *total_at* is in loop time. A caller that is cancelled
        while it waits calls `give_up`. After an error the connection is closed.
        """
        transport = self._transport
        assert transport is not None
        assert self.state is _IDLE
        self.state = _WAITING
        self.served += 1
        self.client = client
        self._waited_s = 0.0
        self._reader.begin(head_request, upgrade)
        self._response_s = timeouts.response
        self._idle_s = timeouts.idle
        self._buffered_bytes = 0
        self._deadline.total_at = total_at
        wait: Wait[Reply] = Wait()
        self._wait = wait
        transport.write(message)
        if body is None and self._drained is None:
            self._is_sent = True
            self._deadline.within(self._response_s)
            return wait
        self._is_sent = body is None
        if body is not None:
            self.upload = self._loop.create_task(self._send(body, content_length))
        self._set_deadline()
        return wait

    def give_up(self, wait: Wait[Reply]) -> None:
        """Close the connection, because the caller stopped waiting for *wait*.

        If *wait* has just ended, the connection may already serve another request. Then
        the reply is closed instead.
        """
        if wait is self._wait:
            self._wait = None
            self.abort()
        elif (reply := wait.value) is not None:
            reply.close()

    async def _send(
        self, body: AsyncIterable[bytes], content_length: int | None
    ) -> None:
        """Send *body*, framed; an exception that it raises fails the exchange."""
        try:
            await self._send_pieces(body, content_length)
            self.upload = None
        except asyncio.CancelledError:
            # `_stop_upload` removes the task before it cancels it, and the next
            # exchange may have an upload by now. If the task is still here, another
            # part of the program has cancelled it.
            if self.upload is asyncio.current_task():
                self.upload = None
                self._fail(ClientGone("reading the request's body was cancelled"))
            raise
        except Exception as exc:  # noqa: BLE001 - raised where the reply is awaited
            self.upload = None
            self._fail(exc)

    async def _send_pieces(
        self, body: AsyncIterable[bytes], content_length: int | None
    ) -> None:
        assert self._transport is not None
        left = content_length
        self.begin_wait(_SEND)
        async for piece in body:
            if not piece:
                continue
            self.end_wait(_SEND)
            if left is None:
                # Not `writelines`: asyncio's loop in some releases of 3.12 and 3.13
                # never calls `pause_writing` after it, so the buffer grows unbounded.
                if len(piece) < _COPIED_BYTES:
                    self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                else:  # not a second copy of what the transport may hold for long
                    self._transport.write(b"%x\r\n" % len(piece))
                    self._transport.write(piece)
                    self._transport.write(b"\r\n")
            else:
                left -= len(piece)
                if left < 0:
                    raise BadRequest("the body is longer than its Content-Length")
                self._transport.write(piece)
                self._is_sent = left == 0
            self._set_deadline()
            if self._drained is not None:
                await self._drained
            if not self._is_sent:
                self.begin_wait(_SEND)
        if not self._is_sent:
            self.end_wait(_SEND)
        if left:
            raise BadRequest("the body is shorter than its Content-Length")
        if left is None:
            self._transport.write(b"0\r\n\r\n")
        self._is_sent = True
        self._set_deadline()

    # --- waiting for the client -----------------------------------------------

    def begin_wait(self, what: WaitsFor) -> None:
        """Give the exchange's place back until `end_wait`: it waits for its client.

        An exchange that has ended has no place: the wait before may have cut it.
        """
        if self.state is _CLOSED:
            return
        waits_for = self.waits_for
        self.waits_for = waits_for | what
        if not waits_for:
            self._waits_since = self._loop.time()
            self._owner.on_wait(self)

    def end_wait(self, what: WaitsFor) -> None:
        """Take a place again: the client has done *what*. Idempotent."""
        if self.waits_for:
            self._set_waits_for(self.waits_for & ~what)

    def _set_waits_for(self, waits_for: WaitsFor) -> None:
        self.waits_for = waits_for
        if not waits_for:
            self._waited_s += self._loop.time() - self._waits_since
            self._owner.on_wait_end(self)

    def waited_s(self, now: float) -> float:
        """Return for how many seconds the exchange has waited for its client.

        *now* is in loop time.
        """
        return self._waited_s + (now - self._waits_since if self.waits_for else 0.0)

    def cut(self) -> None:
        """End the exchange because its client is slow: others need what it holds."""
        error = ClientSlow(f"{self._name}: others need what this slow client holds")
        client, is_reply = self.client, bool(self.waits_for & WaitsFor.TAKE)
        if is_reply and client is not None:
            client.cut(error)
        self._fail(error)

    # --- what arrives ---------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is not _WAITING and state is not _REPLYING:
            self.abort()  # unrequested: must not become the reply to a later request
            return
        reader = self._reader
        try:
            reader.feed(data)
        except BadReply as exc:
            detail = f"{self._name}: {exc.detail}"
            self._fail(BadReply(detail, reused=self.served > 1))
            return
        if reader.is_behind:
            self._pause_reading()
            if not self._is_put_off:
                self._is_put_off = True
                turns_of(self._loop).put_off(self._feed_more)
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
            self._on_complete(reply)
            return
        # A waiting reader empties the reply in `wake`, below.
        if reply.size > HIGH_WATER_BYTES and not reply.is_awaited:
            self._pause_reading()
        elif not (self._is_reading or reader.is_behind):
            self._resume_reading()
        self._set_deadline()
        reply.wake()

    def _feed_more(self) -> None:
        """Go on with a reply that is behind."""
        self._is_put_off = False
        if self._reader.is_behind and not self.closed:
            self.data_received(b"")

    def _feed_rest(self) -> None:
        """Parse all that has arrived: no more will."""
        while self._reader.is_behind and not self.closed:
            self.data_received(b"")

    def _on_head(self, head: ReplyHead) -> None:
        """Return the reply to the waiting caller, with the body bytes parsed so far."""
        reader = self._reader
        wait, self._wait = self._wait, None
        assert wait is not None
        pieces, reader.pieces = reader.pieces, []
        if head.status == 101:
            tunnel = self._become_tunnel(b"".join(pieces))
            wait.end(Reply(head, [], None, tunnel))
            return
        if not self._is_sent and head.status >= 300:
            # The upstream has refused the request: the rest of it isn't needed. After
            # a 2xx the upload continues, as some services reply while they read.
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
        except Exception as exc:  # a bug in the gateway
            wait.fail(exc)
            raise
        wait.end(reply)

    def _become_tunnel(self, first: bytes) -> UpstreamTunnel:
        """Return a tunnel over the transport; it occupies its place until it ends."""
        assert self._transport is not None
        self.state = _TUNNEL
        self._deadline.end()
        self._stop_upload()
        if self.waits_for:
            self._set_waits_for(_NOTHING)
        self._tunnel = UpstreamTunnel(
            self._transport, first, on_lost=self._on_tunnel_lost
        )
        self._transport.set_protocol(self._tunnel)
        return self._tunnel

    def _on_tunnel_lost(self) -> None:
        self._tunnel = self.client = None
        self._owner.on_closed(self)

    def _on_complete(self, reply: Reply) -> None:
        try:
            self._on_end(self._reader.head)
        except Exception as exc:  # a bug in the gateway
            reply.fail(exc)
            raise
        self._finish(reply)

    def _on_end(self, head: ReplyHead | None) -> None:
        """Release the connection to the pool, or close it: the reply is complete."""
        assert head is not None
        reader, owner = self._reader, self._owner
        self._reply = self.client = None
        self.state = _IDLE
        if self.waits_for:
            self._set_waits_for(_NOTHING)
        keepalive_s = owner.keepalive_s
        if head.keep_alive_s is not None and head.keep_alive_s < keepalive_s:
            keepalive_s = head.keep_alive_s
        if (
            reader.surplus
            or not head.keep_alive
            or not self._is_sent
            or self._drained is not None  # written, but the service may not read it
            or not keepalive_s
        ):
            self._close("closed by the gateway", keep_upload=True)
            return
        self._deadline.total_at = math.inf
        self._deadline.within(keepalive_s)
        if not self._is_reading:
            self._resume_reading()
        owner.release(self)

    def _finish(self, reply: Reply) -> None:
        """Mark *reply* as complete, after the upload has stopped reading the client."""
        upload = self.upload
        reply.detach()
        if upload is None:
            reply.finish()
        else:
            # The caller may read the client's stream after this reply is complete. So
            # wait until the upload no longer reads it.
            self._stop_upload()
            upload.add_done_callback(lambda _: reply.finish())
            reply.wake()

    # --- back-pressure and time -----------------------------------------------

    def resume(self) -> None:
        """Resume reading, if it is paused: the reader has taken all bytes.

        A reply that is behind resumes it later (`data_received`).
        """
        if not (self._is_reading or self._reader.is_behind):
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
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self.state is _WAITING or self.state is _REPLYING:
            self._set_deadline()

    def _set_deadline(self) -> None:
        """Set the deadline of the current wait; none if the upstream isn't awaited."""
        if not self._is_reading:
            seconds = math.inf  # waiting for the reader
        elif self._drained is not None:
            seconds = self._idle_s  # for the upstream to accept some of the request
        elif not self._is_sent and self.upload is not None:
            seconds = math.inf  # waiting for the client's body
        elif self.state is _WAITING:
            seconds = self._response_s
        else:
            seconds = self._idle_s
        self._deadline.within(seconds)

    def _on_timeout(self) -> None:
        if self.state is not _WAITING and self.state is not _REPLYING:
            self.abort()  # the keep-alive time of an idle connection
            return
        window_s = self._deadline.window_s
        if self._deadline.is_total_over:
            what = "the exchange took longer than its total time"
        elif self._has_sent_more():
            self._deadline.within(window_s)
            return
        elif self._drained is not None:
            what = f"took no byte of the request for {window_s:g} s"
        elif self.state is _WAITING:
            what = f"no reply within {window_s:g} s"
        else:
            what = f"no byte of the reply's body for {window_s:g} s"
        self._fail(UpstreamTimeout(f"{self._name}: {what}", reused=self.served > 1))

    def _has_sent_more(self) -> bool:
        """Return whether bytes of the request were sent since the last call."""
        assert self._transport is not None
        before = self._buffered_bytes
        self._buffered_bytes = self._transport.get_write_buffer_size()
        return 0 < self._buffered_bytes != before

    # --- the end --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports aren't instances of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = peer[0]

    def eof_received(self) -> None:
        self._feed_rest()
        reply = self._reply
        if reply is not None and self._reader.eof():
            self._on_complete(reply)
        else:
            self._note_idle_end()
            self._close("closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed_rest()
        self._note_idle_end()
        self._close(
            f"reset the connection ({type(exc).__name__})" if exc else "is gone"
        )
        self._transport = None
        self._deadline.end()
        self._owner.on_closed(self)

    def _note_idle_end(self) -> None:
        """Report how long the service kept this connection idle before it closed it."""
        deadline = self._deadline
        if self.state is _IDLE and self.served and not self.closed:
            self._owner.on_idle_end(deadline.window_s - deadline.left_s)

    def abort(self) -> None:
        """Close at once; a pending exchange fails with UpstreamClosed. Idempotent."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._close("closed by the gateway")

    def is_reusable(self) -> bool:
        """Return False if a FIN, a RST or surplus bytes have arrived, even if unread.

        One system call. Bytes that arrive before a request is sent are no reply to it,
        but the event loop may not have delivered them yet.
        """
        return not self._poll.poll(0)

    def _close(self, what: str, *, keep_upload: bool = False) -> None:
        if not self.closed:
            self._fail(
                UpstreamClosed(f"{self._name}: {what}", reused=self.served > 1),
                keep_upload=keep_upload,
            )

    def _stop_upload(self) -> None:
        upload, self.upload = self.upload, None
        if upload is not None:
            upload.cancel()
            self.end_wait(_SEND)

    def _fail(self, error: Exception, *, keep_upload: bool = False) -> None:
        """Close the connection; the pending exchange fails with *error*."""
        if self.closed:
            return
        self.state = _CLOSED
        self.client = None
        if self.waits_for:
            self._set_waits_for(_NOTHING)
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
