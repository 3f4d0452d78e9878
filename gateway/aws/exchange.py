"""edge. The client of one request that came in an event: its reply is collected."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from gateway import responses
from gateway.aws.answers import EventReply, ReplyTooLarge, check_streaming, size_limit
from gateway.aws.events import EventKind, LambdaRequest
from gateway.errors import ClientGone, ContentTooLarge, GatewayError
from gateway.http.fields import Fields, field_of
from gateway.http.framing import BODILESS
from gateway.http.request_head import RequestHead
from gateway.responses import Response


class FunctionTimeout(GatewayError):
    """The time of the invocation is over (the function's setting Timeout)."""

    status = 504
    code = "function_timeout"
    title = "The request took too long"
    may_repeat = False


class LambdaConnection:
    """What there is of a connection: the address at its other end."""

    def __init__(self, request: LambdaRequest) -> None:
        self.address = request.peer
        """The IP address that was connected to AWS; empty: not known."""
        self.secure = request.is_secure
        """Whether that connection was TLS."""
        self.subject = b""
        """The subject of the client's certificate: AWS passes none on."""
        self.verified = False
        """The request has a verified session."""

    def collected(self, size: int) -> None:
        """Do nothing: the body is in memory, as AWS has put it there."""


class LambdaExchange:
    """One request of an event, as a client of the proxy.

    Nothing is sent before the reply is whole, so a failure always replaces it.
    """

    def __init__(
        self, kind: EventKind, request: LambdaRequest, head: RequestHead
    ) -> None:
        self._kind = kind
        self._body = request.body
        self.head = head
        self.connection = LambdaConnection(request)
        self.client_address = request.peer
        self.keep_alive = True
        self.bytes_in = 0
        self.bytes_out = 0
        self._status = 0
        self._fields: Fields = ()
        self._pieces: list[bytes] = []
        self._room = 0
        self._failure: GatewayError | None = None
        self._is_finished = False

    # --- from the client ---------------------------------------------------

    @property
    def started(self) -> bool:
        """False: the reply that was collected so far can be replaced."""
        return False

    @property
    def gone(self) -> bool:
        """Whether the reply was cut."""
        return self._failure is not None

    @property
    def gone_because(self) -> GatewayError:
        """What the reply was cut for."""
        return self._failure or ClientGone()

    @property
    def ended_because(self) -> GatewayError:
        """What a request is answered with when the time is over."""
        return FunctionTimeout()

    @property
    def has_rest(self) -> bool:
        """False: the whole body is in the event."""
        return False

    def body_now(self, max_size: int) -> bytes:
        """Return the whole body.

        Raises:
            ContentTooLarge: it has more than *max_size* bytes.
        """
        if len(self._body) > max_size:
            raise ContentTooLarge
        self.bytes_in = len(self._body)
        return self._body

    async def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the whole body.

        Raises:
            ContentTooLarge: as `body_now`.
        """
        if body := self.body_now(max_size):
            yield body

    async def take_rest(self) -> None:
        """Do nothing: nothing is left."""

    # --- to the client -----------------------------------------------------

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Take a complete response of the gateway, with the fields *extra*."""
        date = responses.date(int(time.time()))
        self._status, self._fields = answer.status, (*answer.fields, *extra, date)
        has_body = self.head.method != "HEAD" and answer.status not in BODILESS
        self._pieces = [answer.body] if has_body else []
        self.bytes_out = len(answer.body)
        self.finish()

    def start(
        self, head: bytes, status: int, size: int | None, first: bytes, complete: bool
    ) -> bool:
        """Take a reply's head, and *first*, the available part of its body.

        Raises:
            ReplyNotStreamed: the reply is a stream of events.
            ReplyTooLarge: it is known to be too large for AWS.
        """
        lines = head.split(b"\r\n")[1:]
        self._status = status
        self._fields = tuple(field for line in lines if (field := field_of(line)))
        check_streaming(self._fields)
        self._room = size_limit(self._kind, self._fields)
        has_body = self.head.method != "HEAD" and status not in BODILESS
        if has_body and size is not None and size > self._room:
            raise ReplyTooLarge(f"{size} bytes")
        self._pieces = []
        return self.write(first)

    def write(self, chunk: bytes) -> bool:
        """Take a piece of the body.

        Raises:
            ReplyTooLarge: the pieces are too large for AWS together.
        """
        self._room -= len(chunk)
        if self._room < 0:
            raise ReplyTooLarge
        self.bytes_out += len(chunk)
        self._pieces.append(chunk)
        return True

    async def drain(self) -> None:
        """Return at once.

        Raises:
            ConnectionError: the reply was cut.
        """
        if self._failure is not None:
            raise ConnectionResetError

    def finish(self) -> None:
        """Note that the reply is whole."""
        self._is_finished = True

    def upgrade(self, head: bytes) -> None:
        """Raise: the request was refused before.

        Raises:
            GatewayError: always.
        """
        raise GatewayError("an upgrade of an event's request")

    def cut(self, error: GatewayError) -> None:
        """Drop the reply; *error* is the reason in the access log."""
        self._failure = error
        self.abort()

    def abort(self) -> None:
        """Drop what was collected."""
        self._is_finished = False
        self._pieces.clear()

    def reply(self) -> EventReply | None:
        """Return the reply, None if it isn't whole."""
        if not self._is_finished:
            return None
        return EventReply(self._status, self._fields, b"".join(self._pieces))
