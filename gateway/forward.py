"""edge. Steps 6 to 9: a request that may go on is sent to its service and answered.

`Forward` says all that is to be done; `Downstream` is the side that asked, whatever it
is: the listener's client, or another server's request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from itertools import cycle
from time import perf_counter
from typing import Any, Protocol, assert_never

from gateway import headers, responses, websocket
from gateway.config import TimeoutsConfig
from gateway.decide import Forward, Request, Respond, answered
from gateway.errors import BadReply, Stage, UpstreamError
from gateway.http.reply_head import ReplyHead
from gateway.identity import (
    SAFE_METHODS,
    Principal,
    Protection,
    SessionIdentity,
    Verifier,
)
from gateway.observe import Record
from gateway.pace import Pace
from gateway.routes import Route
from gateway.running import in_task
from gateway.upstream import Reply, UpstreamPool
from gateway.upstream.retry import Attempts, Budget

# Looking a member up in its enumeration costs three times what the assignment does.
_TO_UPSTREAM, _SEND = Stage.TO_UPSTREAM, Stage.SEND
_TO_CLIENT, _COPY = Stage.TO_CLIENT, Stage.COPY
_PUBLIC = Protection.PUBLIC


class Downstream(Protocol):
    """The side that asked: its body comes from here, and the reply goes there."""

    keep_alive: bool
    """Cleared by whatever makes its connection unfit for another request."""
    bytes_in: int
    bytes_out: int

    def body_now(self, max_size: int) -> bytes | None:
        """Return the whole body if it is there already, else None.

        Raises:
            ContentTooLarge: it has more than *max_size* bytes.
            BadRequest: its framing is broken.
        """
        ...

    def body(self, max_size: int) -> AsyncIterator[bytes]:
        """Yield the body's pieces as they arrive.

        Raises:
            ContentTooLarge, RequestTimeout, BadRequest: as the piece is asked for.
        """
        ...

    def start(
        self, head: bytes, status: int, size: int | None, first: bytes, complete: bool
    ) -> bool:
        """Write a reply's head, and *first* of its body; return what `write` does.

        *head* is the status line and the fields, each with CRLF; framing fields and the
        head's end aren't in it. *size* is the body's length in bytes, None when it
        isn't known; *complete*: *first* is all of it.
        """
        ...

    def write(self, chunk: bytes) -> bool:
        """Write a piece of the body; False asks the caller to `drain` next.

        Nothing else is awaited before that, so that what can't write at once may keep
        the piece until then.
        """
        ...

    async def drain(self) -> None:
        """Return when more may be written.

        Raises:
            ConnectionError: nobody is there any more.
        """
        ...

    def finish(self) -> None:
        """End a body that is whole. Drained after it if the last piece asked for it."""
        ...

    def upgrade(self, head: bytes) -> None:
        """Write the head of a 101: status line and fields, each with CRLF."""
        ...

    @property
    def connection(self) -> Any:
        """What `websocket.Tunnel` takes as the client's end."""
        ...


class ServiceTargets:
    """A service's targets, taken in turn."""

    def __init__(self, name: str, pools: Sequence[UpstreamPool]) -> None:
        self.name = name
        self.pools = tuple(pools)
        self._turn = cycle(range(len(self.pools)))

    def in_turn(self) -> Sequence[UpstreamPool]:
        """Return all pools, beginning with the one whose turn it is."""
        if len(self.pools) == 1:
            return self.pools
        first = next(self._turn)
        return self.pools[first:] + self.pools[:first]


class Forwarder:
    """Sends requests on to the services of one configuration."""

    def __init__(
        self, services: Mapping[str, ServiceTargets], *, verifier: Verifier, pace: Pace
    ) -> None:
        self._services = services
        self._pace = pace
        self._verifier = verifier
        self.retries = Budget()
        self.tunnels: dict[websocket.Tunnel, str | None] = {}
        """Open sockets, and the handle of the session that each belongs to."""
        self.draining = False

    def drain(self) -> None:
        """From now on, end every connection after its reply, and every socket."""
        self.draining = True
        for tunnel in self.tunnels:
            tunnel.end(websocket.GOING_AWAY, "shutting down")

    def session_ended(self, handle: str) -> None:
        """Close the sockets of a session that was signed out or revoked."""
        for tunnel, session in self.tunnels.items():
            if session == handle:
                tunnel.end(websocket.SESSION_ENDED, "session ended")

    async def forward(
        self, forward: Forward, downstream: Downstream, record: Record
    ) -> Respond | None:
        """Send the request to its service, and the reply downstream.

        Returns an answer that is to be given in the reply's place; None: the reply is
        written.

        Raises:
            GatewayError: the service or the downstream failed. Nothing was written if
                `record.stage` is before `copy`.
            ConnectionError: the downstream is gone.
        """
        request, route, verdict, granted, upgrade = forward
        # 6 headers to the upstream
        record.stage = _TO_UPSTREAM
        service = self._services[route.service.name]
        record.upstream = service.name
        head = request.head
        fields = headers.to_upstream(
            head, route.headers, request.forwarded, verdict.principal, request.id
        )
        if upgrade:
            fields += websocket.UPGRADE
        # 7 send
        record.stage = _SEND
        body: bytes | AsyncIterator[bytes] | None = None
        length = head.content_length
        if head.has_body:
            body = downstream.body_now(route.max_body_size)
            if body is None:
                body = downstream.body(route.max_body_size)
            if length is None:
                fields += b"Transfer-Encoding: chunked\r\n"
        if length is not None:
            fields += b"Content-Length: %d\r\n" % length
        self.retries.earn()
        pools = service.in_turn()
        try:
            reply = await _exchange(forward, fields, body, pools[0], route.timeouts)
        except UpstreamError as error:
            reply = await self._send_again(error, forward, fields, body, pools, record)
        try:
            # 8 headers to the client
            record.stage = _TO_CLIENT
            record.replied_at = perf_counter()
            record.connect_ms = reply.connect_ms
            answer = reply.head
            record.status = status = answer.status
            if upgrade and status == 101:
                await self._tunnel(forward, reply, downstream, record)
                return None
            if (
                status == 401
                and verdict.principal is not None
                and route.upstream_401 != "pass"
            ):
                return _instead_of_401(forward, record)
            fields = headers.to_client(
                answer,
                request.id,
                granted,
                verdict.new_tokens,
                # An anonymous answer of an optional route is not for everybody, either.
                route.session.protection is not _PUBLIC,
            )
            if answer.marks & headers.SETS_SESSION:
                _note_cookies(answer, record)
            # 9 copy
            record.stage = _COPY
            if self.draining:
                downstream.keep_alive = False
            full = not downstream.start(
                answer.start + fields,
                status,
                answer.content_length,
                reply.read_now(),  # not bound to a name, which would pin it
                reply.complete,
            )
            while not reply.complete or reply.size:
                if full:
                    # Before the next piece is waited for: one that keeps what it is
                    # given (`Downstream.write`) lets it go now.
                    await downstream.drain()
                chunk = await reply.read()
                full = bool(chunk) and not downstream.write(chunk)
                del chunk  # nor this one, while the client takes its time
            downstream.finish()
            if full:
                await downstream.drain()
            return None
        finally:
            if not reply.complete:
                reply.close()

    async def _send_again(
        self,
        error: UpstreamError,
        forward: Forward,
        fields: bytes,
        body: bytes | AsyncIterator[bytes] | None,
        pools: Sequence[UpstreamPool],
        record: Record,
    ) -> Reply:
        """Return the reply of another target, or of the same one, after a failure.

        `retry` says what may be sent again; `timeouts.total` bounds it all.

        Raises:
            GatewayError: the last failure.
        """
        route = forward.route
        total, timeouts = route.timeouts.total, route.timeouts
        is_safe = (
            forward.request.method in SAFE_METHODS
            and body is None
            and not forward.upgrade
        )
        tries = Attempts(
            self.retries,
            targets=len(pools),
            attempts=route.retry.attempts if is_safe else 0,
        )
        try:
            for pool in cycle((*pools[1:], pools[0])):
                if not tries.again(error):
                    break
                record.note = error.detail
                if total is not None:
                    left = record.verified_at + total - perf_counter()
                    if left <= 0:
                        break
                    timeouts = timeouts.model_copy(update={"total": left})
                try:
                    return await _exchange(forward, fields, body, pool, timeouts)
                except UpstreamError as another:
                    error = another
            raise error
        finally:
            del error  # it holds this frame: no ring is left

    async def _tunnel(
        self, forward: Forward, reply: Reply, downstream: Downstream, record: Record
    ) -> None:
        """Join both sides after the upstream's 101."""
        if not websocket.accepted(reply.head.status, reply.head.fields):
            raise BadReply("101 to something other than a WebSocket")
        await in_task()  # a tunnel makes tasks of its own
        options = forward.route.websocket
        principal = forward.verdict.principal if options.close_on_session_end else None
        head = reply.head
        fields = headers.to_client(
            head,
            forward.request.id,
            forward.cors,
            forward.verdict.new_tokens,
            forward.route.session.protection is not _PUBLIC,
        )
        if head.marks & headers.SETS_SESSION:
            _note_cookies(head, record)
        record.status = 101
        record.stage = _COPY
        downstream.keep_alive = False
        downstream.upgrade(head.start + fields + websocket.UPGRADE)
        ends, session = None, None
        if principal is not None:
            ends = max(0.0, principal.expires_at - time.time())
            session = _session_handle(principal)
        tunnel = websocket.Tunnel(
            downstream.connection,
            reply.upgrade(),
            websocket.TunnelLimits(
                idle_timeout_s=options.idle_timeout,
                max_lifetime_s=options.max_lifetime,
                session_ends_in_s=ends,
                close_s=self._pace.websocket_close_s,
                linger_s=self._pace.websocket_linger_s,
            ),
        )
        self.tunnels[tunnel] = session
        try:
            if self.draining:
                tunnel.end(websocket.GOING_AWAY, "shutting down")
            # The session may have ended while the service was asked.
            if principal is not None and self._verifier.has_ended(principal):
                tunnel.end(websocket.SESSION_ENDED, "session ended")
            record.reason = await tunnel.run()
        finally:
            del self.tunnels[tunnel]
            downstream.bytes_in += tunnel.bytes_in
            downstream.bytes_out += tunnel.bytes_out


def _session_handle(principal: Principal) -> str:
    match principal:
        case SessionIdentity():
            return principal.session_handle
        case never:
            assert_never(never)


def _message(
    request: Request, route: Route, pool: UpstreamPool, fields: bytes
) -> bytes:
    """Return the head of a request as it is sent to one of the service's targets.

    *fields* are all but Host, each with CRLF.
    """
    target = request.target
    path = route.upstream_path(target.path)
    host = route.host_header
    if host == "upstream":
        authority = pool.authority
    elif host == "preserve":
        authority = (target.authority or target.host).encode() or pool.authority
    else:
        authority = host.encode()
    return b"".join(
        (
            request.method.encode(),
            b" ",
            path.encode(),
            target.query,
            b" HTTP/1.1\r\nHost: ",
            authority,
            b"\r\n",
            fields,
            b"\r\n",
        )
    )


def _exchange(
    forward: Forward,
    fields: bytes,
    body: bytes | AsyncIterator[bytes] | None,
    pool: UpstreamPool,
    timeouts: TimeoutsConfig,
) -> Coroutine[Any, Any, Reply]:
    """Return what sends the request to a target, and returns its reply.

    Raises, when it is awaited:
        GatewayError: as `UpstreamPool.exchange`.
    """
    request, route = forward.request, forward.route
    return pool.exchange(
        _message(request, route, pool, fields),
        request.method,
        timeouts,
        body,
        request.head.content_length,
        forward.upgrade,
        route.retry.attempts > 0,
    )


def _note_cookies(reply: ReplyHead, record: Record) -> None:
    names = headers.session_cookies(reply)
    record.note = f"the upstream tried to set {', '.join(names)}"


def _instead_of_401(forward: Forward, record: Record) -> Respond:
    """Return the answer in place of an upstream's 401 to a session that is valid.

    SuperTokens' frontends take any 401 for an expired session, refresh it and ask
    again, for ever.
    """
    record.reason = "upstream_401"
    record.note = "the upstream answered 401 to a valid session"
    answer = responses.problem(
        status=int(forward.route.upstream_401),
        code="upstream_401",
        title="The service refused this user, whose session is valid",
        request_id=record.request_id,
    )
    return answered(forward, answer)
