"""edge. Steps 6 to 9: a request that may go on is sent to its service and answered.

`Forward` says all that is to be done; `Downstream` is the side that asked, whatever it
is: the listener's client, or another server's request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import cycle
from time import perf_counter
from typing import Any, Protocol

from gateway import answers, headers, websocket
from gateway.decide import Answered, Forward, answered
from gateway.errors import BadReply, Stage, UpstreamError
from gateway.fields import Field
from gateway.headers import Reserved
from gateway.identity import SAFE_METHODS, Protection, Verifier
from gateway.observe import Record
from gateway.retry import Budget, Tries
from gateway.routes import Route
from gateway.target import Target
from gateway.upstream import Reply, UpstreamPool

# Looking a member up in its enumeration costs three times what the assignment does.
_TO_UPSTREAM, _SEND = Stage.TO_UPSTREAM, Stage.SEND
_TO_CLIENT, _COPY = Stage.TO_CLIENT, Stage.COPY


class Downstream(Protocol):
    """The side that asked: its body comes from here, and the reply goes there."""

    keep_alive: bool
    """Cleared by whatever makes its connection unfit for another request."""
    bytes_in: int
    bytes_out: int

    @property
    def has_body(self) -> bool: ...

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
        self,
        status: int,
        reason: bytes,
        fields: list[Field],
        *,
        size: int | None,
        first: bytes,
        complete: bool,
    ) -> bool:
        """Write a reply's head, and *first* of its body; return what `write` does.

        *size* is the body's length in bytes, None when it isn't known; *complete*:
        *first* is all of it.
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

    def upgrade(self, reason: bytes, fields: list[Field]) -> None:
        """Write the head of a 101."""
        ...

    @property
    def connection(self) -> Any:
        """What `websocket.Tunnel` takes as the client's end."""
        ...


class Service:
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
        self,
        services: Mapping[str, Service],
        *,
        reserved: Reserved,
        verifier: Verifier,
    ) -> None:
        """*reserved* are the fields that only the gateway sets, on any route."""
        self._services = services
        self._reserved = reserved
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
    ) -> Answered | None:
        """Send the request to its service, and the reply downstream.

        Returns an answer that is to be given in the reply's place; None: the reply is
        written.

        Raises:
            GatewayError: the service or the downstream failed. Nothing was written if
                `record.stage` is before `copy`.
            ConnectionError: the downstream is gone.
        """
        route, request = forward.route, forward.request
        # 6 headers to the upstream
        record.stage = _TO_UPSTREAM
        service = self._services[route.service.name]
        record.upstream = service.name
        fields = headers.to_upstream(
            request.head.fields,
            policy=route.headers,
            reserved=self._reserved,
            identity=forward.verdict.identity,
            host=request.target.authority.encode(),
            forwarded=request.forwarded,
            request_id=request.id,
            upgrade=b"websocket" if forward.upgrade else None,
        )
        # 7 send
        record.stage = _SEND
        reply = await self._send(forward, service, fields, downstream, record)
        try:
            # 8 headers to the client
            record.stage = _TO_CLIENT
            record.replied_at = perf_counter()
            record.connect_ms = reply.connect_ms
            return await self._pass_on(forward, reply, downstream, record)
        finally:
            reply.close()

    async def _send(
        self,
        forward: Forward,
        service: Service,
        fields: list[Field],
        downstream: Downstream,
        record: Record,
    ) -> Reply:
        """Send the request to one of the service's targets; return its reply.

        `retry` says what follows a failure; `timeouts.total` bounds it all.
        """
        route, upgrade = forward.route, forward.upgrade
        method, asked = forward.request.head.method, forward.request.target
        path = route.upstream_path(asked.path).encode()
        start = b"%b %b%b HTTP/1.1" % (method.encode(), path, asked.query)
        body: bytes | AsyncIterator[bytes] | None = None
        length = forward.request.head.content_length
        if downstream.has_body:
            body = downstream.body_now(route.max_body_size)
            if body is None:
                body = downstream.body(route.max_body_size)
            if length is None:
                fields.append((b"Transfer-Encoding", b"chunked"))
        if length is not None:
            fields.append((b"Content-Length", b"%d" % length))
        retries = self.retries
        retries.earn()
        tries: Tries | None = None
        began = time.monotonic()
        timeouts = route.timeouts
        for pool in cycle(service.in_turn()):
            fields[0] = (b"Host", _host_value(route, pool, asked))
            try:
                return await pool.exchange(
                    answers.request_head(start, fields),
                    method=method,
                    timeouts=timeouts,
                    body=body,
                    content_length=length,
                    upgrade=upgrade,
                    replay=route.retry.attempts > 0,
                )
            except UpstreamError as error:
                if tries is None:
                    is_safe = method in SAFE_METHODS and body is None and not upgrade
                    tries = Tries(
                        retries,
                        targets=len(service.pools),
                        attempts=route.retry.attempts if is_safe else 0,
                    )
                if not tries.again(error):
                    raise
                record.note = error.detail
                total = route.timeouts.total
                if total is not None:
                    left = began + total - time.monotonic()
                    if left <= 0:
                        raise
                    timeouts = timeouts.model_copy(update={"total": left})
        raise AssertionError("a service has at least one target")

    async def _pass_on(
        self, forward: Forward, reply: Reply, downstream: Downstream, record: Record
    ) -> Answered | None:
        if forward.upgrade and reply.status == 101:
            await self._tunnel(forward, reply, downstream, record)
            return None
        if (
            reply.status == 401
            and forward.verdict.identity is not None
            and forward.route.upstream_401 != "pass"
        ):
            return _instead_of_401(forward, record)
        fields = self._to_client(forward, reply, record)
        record.status = reply.status
        # 9 copy
        record.stage = _COPY
        if self.draining:
            downstream.keep_alive = False
        full = not downstream.start(
            reply.status,
            reply.reason,
            fields,
            size=reply.content_length,
            first=reply.read_now(),  # no name keeps it while the rest is copied
            complete=reply.complete,
        )
        while not reply.complete or reply.size:
            if full:
                # Before the next piece is waited for: one that keeps what it is given
                # (`Downstream.write`) lets it go now.
                await downstream.drain()
            chunk = await reply.read()
            full = bool(chunk) and not downstream.write(chunk)
            del chunk  # nor this one, while the client takes its time
        downstream.finish()
        if full:
            await downstream.drain()
        return None

    def _to_client(self, forward: Forward, reply: Reply, record: Record) -> list[Field]:
        fields, dropped = headers.to_client(
            reply.fields,
            reserved=self._reserved,
            cors=forward.cors,
            new_tokens=forward.verdict.new_tokens,
            request_id=forward.request.id,
            # An anonymous answer of an optional route is not for everybody, either.
            private=forward.route.session.protection is not Protection.PUBLIC,
        )
        if dropped:
            record.note = f"the upstream tried to set {', '.join(dropped)}"
        return fields

    async def _tunnel(
        self, forward: Forward, reply: Reply, downstream: Downstream, record: Record
    ) -> None:
        """Join both sides after the upstream's 101."""
        if not websocket.accepted(reply.status, reply.fields):
            raise BadReply("101 to something other than a WebSocket")
        options, identity = forward.route.websocket, forward.verdict.identity
        fields = self._to_client(forward, reply, record)
        record.status = 101
        record.stage = _COPY
        downstream.keep_alive = False
        downstream.upgrade(reply.reason, [*fields, *websocket.UPGRADE])
        ends, session = None, None
        if identity is not None and options.close_on_session_end:
            ends = max(0.0, identity.expires_at - time.time())
            session = identity.session_handle
        tunnel = websocket.Tunnel(
            downstream.connection,
            reply.upgrade(),
            websocket.Terms(
                idle_timeout_s=options.idle_timeout,
                max_lifetime_s=options.max_lifetime,
                session_ends_in_s=ends,
            ),
        )
        self.tunnels[tunnel] = session
        try:
            if self.draining:
                tunnel.end(websocket.GOING_AWAY, "shutting down")
            # While the service was asked, nobody could be told of it.
            if session is not None and self._verifier.has_ended(session):
                tunnel.end(websocket.SESSION_ENDED, "session ended")
            record.reason = await tunnel.run()
        finally:
            del self.tunnels[tunnel]
            downstream.bytes_in += tunnel.bytes_in
            downstream.bytes_out += tunnel.bytes_out


def _instead_of_401(forward: Forward, record: Record) -> Answered:
    """Return the answer in place of an upstream's 401 to a session that is valid.

    SuperTokens' frontends take any 401 for an expired session, refresh it and ask
    again, for ever.
    """
    record.reason = "upstream_401"
    record.note = "the upstream answered 401 to a valid session"
    answer = answers.problem(
        status=int(forward.route.upstream_401),
        code="upstream_401",
        title="The service refused this user, whose session is valid",
        request_id=record.request_id,
    )
    return answered(forward, answer)


def _host_value(route: Route, pool: UpstreamPool, asked: Target) -> bytes:
    """Return the upstream's Host: its own name, the client's, or the route's."""
    match route.host_header:
        case "upstream":
            return pool.authority
        case "preserve":
            return (asked.authority or asked.host).encode() or pool.authority
        case literal:
            return literal.encode()
