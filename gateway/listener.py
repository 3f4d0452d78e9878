"""edge. aiohttp's server connection, with what an edge needs added.

A deadline for the head, a limit for all of it, errors with their right status and
without an echo of what was received, and no traceback per bad request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from gateway import answers
from gateway.client import Client
from gateway.config import Limits
from gateway.errors import BadRequest, GatewayError, RequestTimeout
from gateway.framing import HeadTooLarge, TargetTooLong
from gateway.observe import Observer, Record

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LINGER_S = 2.0
"""How long the rest of a refused request's body is read and thrown away."""

_SWEEP_S = 0.5
"""How often connections with a slow head are looked for."""


class Connection(web.RequestHandler):
    """One client connection."""

    __slots__ = ("_head_bytes", "_head_since", "_listener")

    def __init__(self, listener: Listener, **kwargs: Any) -> None:
        super().__init__(listener.server, **kwargs)
        self._listener = listener
        self._head_since = 0.0
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._request_in_progress or self._upgraded:
            self._head_since = 0.0
            self._head_bytes = 0
            return
        # A head is on its way and not whole yet.
        if not self._head_since:
            self._head_since = self._loop.time()
        self._head_bytes += len(data)
        if self._head_bytes > self._listener.limits.max_head_size:
            self.refuse(HeadTooLarge())

    def slow_head(self, now: float) -> bool:
        """Return whether the head has been on its way for longer than it may."""
        return bool(
            self._head_since
            and now - self._head_since > self._listener.limits.head_timeout
        )

    def refuse(self, error: GatewayError) -> None:
        """Answer a head that never became a request, and close."""
        self._head_since = 0.0
        transport = self.transport
        if transport is None:
            return
        answer = self._listener.refused(error, self.peername)
        fields = [
            *answer.fields,
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Connection", b"close"),
        ]
        transport.write(answers.head(answer.status, None, fields) + answer.body)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that aren't a request; our own handler never raises."""
        raise Malformed(exc)

    def _make_error_handler(self, err_info: Any) -> Handler:
        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            client = Client(request)
            error = self._listener.translated(err_info.exc)
            await client.answer(self._listener.refused(error, self.peername))
            return client.sent()

        return refuse


class Malformed(Exception):
    """aiohttp's own error path was reached."""


class Listener:
    """Makes connections for a server socket and watches over their heads.

    Used as the protocol factory of `loop.create_server`.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: Limits,
        observer: Observer,
        make_id: Callable[[], str],
    ) -> None:
        self.limits = limits
        self._observer = observer
        self._make_id = make_id
        self._loop = asyncio.get_running_loop()
        self.server = web.Server(handler, handler_cancellation=True)
        self._sweep = self._loop.call_later(_SWEEP_S, self._close_slow)

    def __call__(self) -> Connection:
        limits = self.limits
        return Connection(
            self,
            loop=self._loop,
            keepalive_timeout=limits.keep_alive,
            access_log=None,
            max_line_size=limits.max_target_size,
            # Distinct, so that the parser's error tells a target from a field.
            max_field_size=limits.max_field_size
            + (limits.max_field_size == limits.max_target_size),
            max_headers=limits.max_fields,
            lingering_time=_LINGER_S,
            auto_decompress=False,
        )

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self.server.connections)

    def refused(self, error: GatewayError, peer: object) -> answers.Answer:
        """Record a request that never was one; return its answer."""
        request_id = self._make_id()
        client = str(peer[0]) if isinstance(peer, tuple) else "unix"
        self._observer.observe(
            Record(
                started=time.perf_counter(),
                client=client,
                request_id=request_id,
                status=error.status,
                side=error.side,
                reason=error.code,
                note=error.detail,
            )
        )
        return answers.failure(error, request_id)

    def translated(self, exc: BaseException | None) -> GatewayError:
        """Return our error for one of aiohttp's parser, without its text."""
        if isinstance(exc, LineTooLong):
            if exc.args[1] == self.limits.max_target_size:
                return TargetTooLong()
            return HeadTooLarge()
        if isinstance(exc, BadHttpMessage) and exc.message.startswith("Too many"):
            return HeadTooLarge("too many fields")
        return BadRequest(f"the parser refused the request: {type(exc).__name__}")

    async def close(self, timeout_s: float) -> None:
        """Let requests in flight finish within *timeout_s* seconds, then cut them.

        The sockets must not accept any more when this is called.
        """
        self._sweep.cancel()
        self.server.pre_shutdown()
        await self.server.shutdown(timeout_s)

    def _close_slow(self) -> None:
        now = self._loop.time()
        for connection in self.server.connections:
            if isinstance(connection, Connection) and connection.slow_head(now):
                connection.refuse(RequestTimeout("the head didn't arrive in time"))
        self._sweep = self._loop.call_later(_SWEEP_S, self._close_slow)
