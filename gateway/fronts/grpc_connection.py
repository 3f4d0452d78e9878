"""edge. A front's connection with gRPC: unary calls over HTTP/2, each with a task.

The h2 library has the protocol; what is here are its bytes, and the frame of a message
(gRPC over HTTP/2, "Requests" and "Responses"). grpcio can't serve: it binds addresses
itself, and can't take the sockets that the workers share and hand on.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Final, Protocol, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import ProtocolError

from gateway.headers import UNIX_PEER

MAX_MESSAGE: Final = 256 * 1024
"""The largest question in bytes. A head is bounded by `limits.max_head_size`."""
_MAX_UNSENT: Final = 1024 * 1024
"""Bytes of answers that may wait for a front's window; more end the connection."""
_CONFIG: Final = H2Configuration(client_side=False, header_encoding=None)
_CANCEL: Final = 8

# RFC 9113 §6.8: a GOAWAY with the highest number asks for no more streams, and refuses
# none that is on its way. h2's own ends the connection.
_GOING_AWAY: Final = (
    b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00"
)

# Status codes of gRPC.
_RESOURCE_EXHAUSTED: Final = 8
_UNIMPLEMENTED: Final = 12
_INTERNAL: Final = 13


class GrpcCalls(Protocol):
    """What a connection asks of its listener."""

    path: bytes
    """The one method that is served."""

    def admit(self, connection: GrpcConnection) -> bool:
        """Add a connection; return False if it must be closed."""
        ...

    def forget(self, connection: GrpcConnection) -> None:
        """Remove a connection that is lost."""
        ...

    async def answer(self, message: bytes, peer: str) -> bytes:
        """Return the answer to a message; nothing but cancellation is raised."""
        ...


class GrpcConnection(asyncio.Protocol):
    """One connection of a front."""

    def __init__(self, calls: GrpcCalls) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(_CONFIG)
        self._messages: dict[int, bytearray] = {}
        """What has arrived of the message of each stream that is still received."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._unsent: dict[int, bytes] = {}
        """What waits for the front's window."""
        self._is_ending = False
        self.peer = UNIX_PEER
        """The connected peer's IP address; `unix` for a Unix socket."""
        self.transport: asyncio.Transport | None = None
        """None before the connection is made and after it is lost."""

    @property
    def active(self) -> int:
        """The number of calls that aren't answered yet."""
        return len(self._messages) + len(self._tasks) + len(self._unsent)

    # --- asyncio.Protocol -----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast("asyncio.Transport", transport)
        peer = wire.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        if not self._calls.admit(self):
            wire.abort()
            return
        self.transport = wire
        sock = wire.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel what is decided: nobody waits for it."""
        self.transport = None
        self._messages.clear()
        self._unsent.clear()
        for task in self._tasks.values():
            task.cancel()
        self._calls.forget(self)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return
        try:
            for event in self._h2.receive_data(data):
                self._on_event(event)
            self._send_waiting()
        except ProtocolError:
            self._flush()
            self.end()
            return
        self._flush()
        self._end_if_idle()

    def pause_writing(self) -> None:
        """Read nothing: the front doesn't read what it has asked for."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # --- for the listener -----------------------------------------------------

    def drain(self) -> None:
        """Ask the front to send no more calls here; those that come are answered."""
        if self.transport is not None:
            self._flush()
            self.transport.write(_GOING_AWAY)

    def end_when_idle(self) -> None:
        """Close as soon as no call is in progress."""
        self._is_ending = True
        self._end_if_idle()

    def end(self) -> None:
        """Close when everything is sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close now. Calls in progress get no answer, which a front takes for a no."""
        if self.transport is not None:
            self.transport.abort()

    # --- streams --------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=int(stream), headers=headers):
                self._begin(stream, dict(headers or ()))
            case DataReceived(stream_id=int(stream), data=data):
                size = event.flow_controlled_length or 0
                self._h2.acknowledge_received_data(size, stream)
                self._receive(stream, data or b"")
            case StreamEnded(stream_id=int(stream)):
                self._ended(stream)
            case StreamReset(stream_id=int(stream)):
                self._messages.pop(stream, None)
                self._unsent.pop(stream, None)
                if (task := self._tasks.get(stream)) is not None:
                    task.cancel()
            case ConnectionTerminated():
                self._is_ending = True
            case _:
                pass

    def _begin(self, stream: int, fields: dict[bytes, bytes]) -> None:
        if fields.get(b":method") != b"POST" or not fields.get(
            b"content-type", b""
        ).startswith(b"application/grpc"):
            self._h2.send_headers(stream, [(b":status", b"415")], end_stream=True)
        elif fields.get(b":path") != self._calls.path:
            self._fail(stream, _UNIMPLEMENTED)
        else:
            self._messages[stream] = bytearray()

    def _receive(self, stream: int, data: bytes) -> None:
        message = self._messages.get(stream)
        if message is None:
            return
        message += data
        if len(message) > MAX_MESSAGE:
            del self._messages[stream]
            self._fail(stream, _RESOURCE_EXHAUSTED)

    def _ended(self, stream: int) -> None:
        """Have the message of a stream answered, if it is one."""
        message = self._messages.pop(stream, None)
        if message is None:
            return
        # A byte that says whether it is compressed, and four with its length.
        if len(message) < 5 or int.from_bytes(message[1:5], "big") != len(message) - 5:
            self._fail(stream, _INTERNAL)
        elif message[0]:
            self._fail(stream, _UNIMPLEMENTED)
        else:
            task = self._loop.create_task(
                self._answer(stream, bytes(message[5:])), name="grpc-check"
            )
            self._tasks[stream] = task
            # Not by the task itself: one that is cancelled before it begins runs no
            # line, and would be in progress for ever.
            task.add_done_callback(partial(self._on_answered, stream))

    def _on_answered(self, stream: int, _: asyncio.Task[None]) -> None:
        del self._tasks[stream]
        self._end_if_idle()

    async def _answer(self, stream: int, message: bytes) -> None:
        try:
            reply = await self._calls.answer(message, self.peer)
        except asyncio.CancelledError:
            self._reset(stream)
            raise
        if self.transport is None:
            return
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
        try:
            self._h2.send_headers(stream, fields)
            self._unsent[stream] = b"\x00%b%b" % (len(reply).to_bytes(4, "big"), reply)
            self._send_waiting()
        except ProtocolError:
            self.abort()
            return
        self._flush()
        if sum(map(len, self._unsent.values())) > _MAX_UNSENT:
            self.abort()

    def _reset(self, stream: int) -> None:
        """Tell the front that a call isn't answered, unless it has ended the call."""
        if self.transport is None:
            return
        try:
            self._h2.reset_stream(stream, _CANCEL)
        except ProtocolError:
            return
        self._flush()

    def _fail(self, stream: int, status: int) -> None:
        """Answer with a status other than OK, and no message."""
        self._h2.send_headers(
            stream,
            [
                (b":status", b"200"),
                (b"content-type", b"application/grpc"),
                (b"grpc-status", b"%d" % status),
            ],
            end_stream=True,
        )

    def _send_waiting(self) -> None:
        """Send what fits into the front's windows; then the status OK."""
        for stream, data in tuple(self._unsent.items()):
            at = 0
            while at < len(data):
                room = min(
                    self._h2.local_flow_control_window(stream),
                    self._h2.max_outbound_frame_size,
                )
                if room <= 0:
                    break
                self._h2.send_data(stream, data[at : at + room])
                at += room
            if at < len(data):
                self._unsent[stream] = data[at:]
                continue
            del self._unsent[stream]
            self._h2.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)

    def _flush(self) -> None:
        if self.transport is not None and (data := self._h2.data_to_send()):
            self.transport.write(data)

    def _end_if_idle(self) -> None:
        if self._is_ending and not self.active:
            self.end()
