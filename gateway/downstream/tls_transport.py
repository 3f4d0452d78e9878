"""edge. A client's TLS connection: a transport above the one of its socket.

asyncio's own TLS transports don't fit the listener's rules: they don't count the bytes
that wait in the transport below, keep a buffer of 256 KiB for each connection, and show
a connection only after its handshake. Here

- a connection counts from its first byte, and `handshake_s` limits its handshake;
- what is written is encrypted at once, so the buffer of the socket's transport is all
  that waits for the client, and its limits hold;
- while reading is paused, nothing is decrypted;
- `close` sends close_notify and `abort` doesn't, so a truncated reply is no whole one.

Source: RFC 8446 §6.1 (close_notify), RFC 5246 §7.2.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from gateway.errors import BadRequest, GatewayError
from gateway.tls import subject_of
from gateway.tls.certificates import BadCertificate

RECORD_BYTES: Final = 16 * 1024
"""The most plain bytes of one record (RFC 8446 §5.1)."""
_MAX_UNSENT_BYTES: Final = 64 * 1024
"""A handshake with a long chain of certificates has 20 KiB."""
TLS_BYTES: Final = 20 * 1024
"""What an idle TLS connection takes besides a plain one; 17 KiB were measured."""


class SecuredConnection(Protocol):
    """What is above the transport (`listener.ClientConnection`)."""

    subject: bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def reject_head(self, error: GatewayError) -> None: ...


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of a socket's transport, and the transport of a connection."""

    def __init__(
        self,
        context: ssl.SSLContext,
        connection: SecuredConnection,
        *,
        loop: asyncio.AbstractEventLoop,
        handshake_s: float,
        write_subject: Callable[[str], bytes],
        on_failure: Callable[[str], None],
    ) -> None:
        """*write_subject* returns a subject as the value of a field. *on_failure* is
        called with the reason if there is no handshake."""
        super().__init__()
        self._context = context
        self._connection = connection
        self._loop = loop
        self._handshake_s = handshake_s
        self._write_subject = write_subject
        self._on_failure = on_failure
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._wire: asyncio.Transport | None = None
        self._tls: ssl.SSLObject | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._has_begun = False
        """Bytes of a handshake have arrived."""
        self._is_open = False
        """The handshake is complete."""
        self._is_plain = False
        """The client doesn't speak TLS: bytes are written as they are."""
        self._unsent_bytes = 0
        """What OpenSSL has written of its own since the client has read everything."""
        self._is_closing = False
        self._is_paused = False
        self._has_ended = False
        """close_notify was sent."""

    # --- the socket's protocol --------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = wire = cast("asyncio.Transport", transport)
        self._connection.connection_made(self)
        if wire.is_closing():
            return  # it wasn't admitted
        self._tls = self._context.wrap_bio(
            self._incoming, self._outgoing, server_side=True
        )
        self._deadline = self._loop.call_later(self._handshake_s, self._on_deadline)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._is_closing = True
        self._end_handshake()
        self._connection.connection_lost(exc)
        self._tls = self._wire = None  # the latter references this: avoid a cycle

    def data_received(self, data: bytes) -> None:
        if self._is_closing or self._is_plain:
            return
        if self._is_open:
            self._incoming.write(data)
            self._decrypt()
            return
        # A record of the handshake begins with 0x16, and every method with a letter.
        if not self._has_begun and data[:1].isalpha():
            self._refuse_plain()
            return
        self._has_begun = True
        self._incoming.write(data)
        self._shake_hands()

    def eof_received(self) -> bool:
        """Return False to close: the client is gone, with or without close_notify."""
        return False

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    # --- handshake --------------------------------------------------------------

    def _shake_hands(self) -> None:
        tls = self._tls
        assert tls is not None
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail((error.reason or "unknown").replace("_", " ").lower())
            return
        try:
            der = tls.getpeercert(binary_form=True)
            if der is not None:
                self._connection.subject = self._write_subject(subject_of(der))
        except BadCertificate as error:
            self._fail(f"of the client's certificate: {error}")
            return
        self._is_open = True
        self._end_handshake()
        self._flush()
        if self._incoming.pending:
            self._decrypt()

    def _end_handshake(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _on_deadline(self) -> None:
        self._fail("it took longer than gateway.limits.head_timeout")

    def _fail(self, reason: str) -> None:
        """Report why there is no handshake, and close after the alert."""
        self._on_failure(reason)
        self._end_handshake()
        self._flush()
        self._is_closing = True
        if self._wire is not None:
            self._wire.close()

    def _refuse_plain(self) -> None:
        """Answer a client that speaks HTTP without TLS, and close."""
        self._end_handshake()
        self._is_plain = True
        self._connection.reject_head(BadRequest("plain HTTP where TLS is expected"))

    # --- bytes ------------------------------------------------------------------

    def _decrypt(self) -> None:
        """Pass on what has arrived, until reading is paused or the connection ends."""
        tls, incoming = self._tls, self._incoming
        assert tls is not None
        receive = self._connection.data_received
        while incoming.pending and not (self._is_paused or self._is_closing):
            try:
                data = tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError:
                # A record that isn't the client's: nothing more can be trusted.
                self._flush()
                self.abort()
                return
            if not data:
                self._on_close_notify()
                break
            receive(data)
        self._flush()

    def _on_close_notify(self) -> None:
        if not self._connection.eof_received():
            self.close()

    def _flush(self) -> None:
        """Send what OpenSSL has written of its own: handshakes, alerts, new keys.

        A client that asks for new keys again and again and reads nothing is cut: it
        would make the buffer grow.
        """
        wire = self._wire
        if wire is None or not self._outgoing.pending:
            return
        data = self._outgoing.read()
        self._unsent_bytes += len(data)
        if not wire.get_write_buffer_size():
            self._unsent_bytes = 0
        elif self._unsent_bytes > _MAX_UNSENT_BYTES:
            self.abort()
            return
        wire.write(data)

    def _send_close_notify(self) -> None:
        if self._has_ended or self._tls is None:
            return
        self._has_ended = True
        with contextlib.suppress(ssl.SSLError):  # the client's own isn't awaited
            self._tls.unwrap()
        self._flush()

    # --- the connection's transport -----------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return None if self._is_plain else self._context
        if name == "ssl_object":
            return self._tls
        return (
            default if self._wire is None else self._wire.get_extra_info(name, default)
        )

    def is_closing(self) -> bool:
        return self._is_closing or self._wire is None or self._wire.is_closing()

    def is_reading(self) -> bool:
        return not (self._is_paused or self.is_closing())

    def pause_reading(self) -> None:
        if not self._is_paused and not self.is_closing():
            self._is_paused = True
            assert self._wire is not None
            self._wire.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and not self.is_closing():
            self._is_paused = False
            assert self._wire is not None
            self._wire.resume_reading()
            if self._incoming.pending:
                # Not now: the caller may be in the middle of `data_received`.
                self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not (self._is_paused or self._is_closing) and self._is_open:
            self._decrypt()

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        if self._wire is not None:
            self._wire.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_closing or self._has_ended or self._wire is None:
            return
        if self._is_plain:
            self._wire.write(data)
            return
        if not self._is_open or not data:
            return
        assert self._tls is not None
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
            return
        self._wire.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        # While records wait to be decrypted, OpenSSL would take them for an error.
        return self._is_open and not self._is_closing and not self._incoming.pending

    def write_eof(self) -> None:
        """Send close_notify and a FIN, and go on reading."""
        if self.can_write_eof() and self._wire is not None:
            self._send_close_notify()
            self._wire.write_eof()

    def close(self) -> None:
        if self._is_closing:
            return
        self._end_handshake()
        if self._is_open:
            self._send_close_notify()
        self._is_closing = True
        if self._wire is not None:
            self._wire.close()

    def abort(self) -> None:
        self._end_handshake()
        self._is_closing = True
        if self._wire is not None:
            self._wire.abort()
