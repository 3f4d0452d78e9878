"""edge. Steps 6 to 9: sends a request to its service, and the reply to the client.

`Forward` has everything that is known about the request. `Downstream` is the client's
side: a client of the listener, or a request of another server.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from time import perf_counter
from typing import Any, assert_never

from gateway import headers, responses, websocket
from gateway.assertions import Assertions
from gateway.decide import answered
from gateway.decisions import Forward, Respond
from gateway.downstream.client_side import Downstream
from gateway.downstream.whole_body import whole_body
from gateway.errors import (
    BadReply,
    SessionEnded,
    Stage,
    UpstreamError,
)
from gateway.http.reply_head import ReplyHead
from gateway.identity import (
    SAFE_METHODS,
    Principal,
    Protection,
    SessionIdentity,
    Verifier,
)
from gateway.mirroring import Exchange, Mirroring
from gateway.observe import Record, Try, recorded
from gateway.pace import Pace
from gateway.running import ensure_task
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, ServiceTargets, UpstreamPool
from gateway.upstream.in_flight import InFlight, InFlightPlace
from gateway.upstream.retry import Attempts
from gateway.upstream.stream import Stream
from gateway.upstream.tries import Tries

# Looking up an enumeration's member takes three times as long as assigning it.
_TO_UPSTREAM, _SEND = Stage.TO_UPSTREAM, Stage.SEND
_TO_CLIENT, _COPY = Stage.TO_CLIENT, Stage.COPY
_PUBLIC = Protection.PUBLIC
_SIGNED_OUT = "the session was signed out or revoked"


class Forwarder:
    """Forwards requests to the services of one configuration."""

    def __init__(
        self,
        services: Mapping[str, ServiceTargets],
        *,
        verifier: Verifier,
        pace: Pace,
        traces: headers.Traces,
        mirroring: Mirroring | None = None,
        assertions: Assertions | None = None,
    ) -> None:
        self._services = services
        self._pace = pace
        self._verifier = verifier
        self._traces = traces
        exchange: Exchange = self._recorded_exchange if traces.records else _exchange
        copied: Exchange = _exchange
        if assertions is not None:
            exchange = assertions.around(exchange)
            copied = assertions.around_copies(copied)
        if mirroring is not None:
            exchange = mirroring.around(exchange, copied)
        self._exchange = exchange
        self.tunnels = websocket.OpenTunnels[Principal]()
        self.streams: dict[Stream, Principal] = {}
        """Replies in progress that end with their session, each with whose it is."""
        self.draining = False

    def drain(self, *, keeps_websockets: bool = False) -> None:
        """Close every connection after its reply, and all WebSockets now or later."""
        self.draining = True
        if not keeps_websockets:
            self.tunnels.close()

    def session_ended(self, handle: str) -> None:
        """Close the WebSockets and streams of a session: signed out, or revoked."""
        self._end(lambda principal: _session_handle(principal) == handle)

    def sessions_ended(self) -> None:
        """Close the WebSockets and streams of all sessions that are over by now."""
        self._end(self._verifier.has_ended)

    def _end(self, is_over: Callable[[Principal], bool]) -> None:
        self.tunnels.end_sessions(is_over)
        for stream, principal in tuple(self.streams.items()):
            if is_over(principal):
                stream.end(_SIGNED_OUT)

    async def forward(
        self, forward: Forward, downstream: Downstream, record: Record
    ) -> Respond | None:
        """Send the request to its service, and the reply downstream.

        Returns None if the reply was written, else the response to write in its place.

        Raises:
            GatewayError: the service or the client failed. Nothing was written if
                `record.stage` is before `copy`.
            ConnectionError: the client is gone.
        """
        request, route, verdict, _, upgrade = forward
        # 6 headers to the upstream
        record.stage = _TO_UPSTREAM
        service = self._services[route.service.name]
        record.upstream = service.name
        head = request.head
        fields = headers.to_upstream(
            head,
            route.headers,
            request.forwarded,
            verdict.principal,
            request.id,
            None
            if route.rewrite is None
            else route.rewrite.public_prefix(request.target.path),
        )
        if upgrade:
            fields += websocket.UPGRADE
        # 7 send
        record.stage = _SEND
        sent_at = record.verified_at
        body: bytes | AsyncIterator[bytes] | None = None
        if head.has_body:
            body = downstream.body_now(route.max_body_size)
            if body is None:
                body, sent_at = await self._late_body(forward, downstream, sent_at)
        if head.content_length is not None:
            fields += b"Content-Length: %d\r\n" % head.content_length
        elif head.has_body:
            fields += b"Transfer-Encoding: chunked\r\n"
        downstream.client_address = request.forwarded.client
        retry, timeouts = route.retry, route.timeouts
        place: InFlightPlace | None = None
        if service.in_flight is not None:
            place = await self._place(forward, service.in_flight, record)
            body, timeouts = place.while_sent(body), timeouts.after(place.waited_s)
        reply: Reply | None = None
        try:
            pools: Sequence[UpstreamPool] = service.pools
            if len(pools) > 1:
                by = route.service.hash_by
                key = None if by is None else _hash_key(by, forward)
                pools = service.in_turn(key, request.method)
            record.target = pools[0].name
            service.retries.earn(retry.budget)
            if retry.per_try is not None and retry.attempts and _is_safe(forward, body):
                timeouts = timeouts.of_a_try(retry.per_try)
            try:
                reply = await self._exchange(
                    forward, fields, body, pools[0], timeouts, downstream, record
                )
            except UpstreamError as error:
                service.failed(pools[0], error)
                reply = await self._send_again(
                    error, forward, fields, body, pools, downstream, record, sent_at
                )
            else:
                if service.is_watched:
                    service.answered(pools[0])
                if retry.statuses and reply.head.status in retry.statuses:
                    reply = await self._send_again(
                        reply, forward, fields, body, pools, downstream, record, sent_at
                    )
            # 8 headers to the client
            record.stage = _TO_CLIENT
            record.replied_at = perf_counter()
            if reply.connect_ms is not None:
                record.connect_ms = reply.connect_ms + (record.connect_ms or 0.0)
            record.status = record.upstream_status = status = reply.head.status
            if upgrade and status == 101:
                await self._tunnel(forward, reply, downstream, record, place)
                return None
            if status == 401 and _replaces_401(forward):
                return _instead_of_401(forward, record)
            # 9 copy
            full = self._start(forward, reply, downstream, record)
            if full or reply.size or not reply.complete:
                await self._copy_rest(forward, reply, downstream, full, place)
            else:
                downstream.finish()
            return None
        finally:
            if reply is not None and not reply.complete:
                reply.close()
            if place is not None:
                place.leave()

    async def _place(
        self, forward: Forward, queue: InFlight, record: Record
    ) -> InFlightPlace:
        """Return a place of the service, at once or when it is the request's turn.

        Raises:
            ServiceOverloaded: too many others wait, or no place is free in time.
            SessionEnded: the session has ended meanwhile.
        """
        if (place := queue.take()) is not None:
            return place
        route, client = forward.route, forward.request.forwarded.client
        place = await queue.wait(client, route.timeouts, is_critical=route.critical)
        record.connect_ms = place.waited_s * 1000
        try:
            self._check_session(forward)
        except SessionEnded:
            place.leave()
            raise
        return place

    def _recorded_exchange(
        self,
        forward: Forward,
        fields: bytes,
        body: bytes | AsyncIterator[bytes] | None,
        pool: UpstreamPool,
        timeouts: Timeouts,
        client: Downstream | None,
        record: Record,
    ) -> Coroutine[Any, Any, Reply]:
        """Return the same as `_exchange`, noted if the request is recorded."""
        recording = record.recording
        if recording is None:
            return _exchange(forward, fields, body, pool, timeouts, client, record)
        if not recording.tries:  # the fields still have the id of the gateway's span
            record.trace = self._traces.again(record.trace)
        path = forward.route.upstream_path(forward.request.target.path)
        span_id = headers.span_id(record.trace)
        a_try = Try(span_id, pool.name, path, perf_counter())
        exchange = _exchange(forward, fields, body, pool, timeouts, client, record)
        return recorded(exchange, recording, a_try, perf_counter)

    async def _late_body(
        self, forward: Forward, downstream: Downstream, sent_at: float
    ) -> tuple[bytes | AsyncIterator[bytes], float]:
        """Return a body that hasn't arrived yet, and when the request is sent.

        The body is whole if the route buffers it, else its pieces as they arrive.

        Raises:
            GatewayError: as `whole_body`; or the session has ended meanwhile.
        """
        route = forward.route
        length = forward.request.head.content_length
        if length is None or length > route.buffer:
            return downstream.body(route.max_body_size), sent_at
        body = await whole_body(downstream, route.max_body_size)
        self._check_session(forward)  # it may have ended before the body arrived
        return body, perf_counter()

    def _check_session(self, forward: Forward) -> None:
        """Raise `SessionEnded` if the session was signed out or revoked meanwhile."""
        principal = forward.verdict.principal
        if principal is not None and self._verifier.has_ended(principal):
            raise SessionEnded(_SIGNED_OUT)

    def _start(
        self, forward: Forward, reply: Reply, downstream: Downstream, record: Record
    ) -> bool:
        """Write the reply's head, and the available part of its body.

        Returns whether `drain` must be awaited next.
        """
        route, reply_head = forward.route, reply.head
        fields = headers.to_client(
            reply_head,
            forward.request.id,
            _date_line,
            forward.cors,
            forward.verdict.new_tokens,
            # An optional route's reply to an anonymous client isn't public, either.
            route.session.protection is not _PUBLIC,
            route.mapping,
            _public(forward) if reply_head.marks & route.mapping.marks else None,
            route.reply_edits,
        )
        if reply_head.marks & headers.SETS_SESSION:
            _note_cookies(reply_head, record)
        record.stage = _COPY
        if self.draining:
            downstream.keep_alive = False
        return not downstream.start(
            reply_head.start + fields,
            reply_head.status,
            reply_head.content_length,
            reply.read_now(),  # not bound to a local, which would pin it
            reply.complete,
        )

    async def _copy_rest(
        self,
        forward: Forward,
        reply: Reply,
        downstream: Downstream,
        full: bool,
        place: InFlightPlace | None,
    ) -> None:
        """Copy the part of a reply's body that wasn't there with its head.

        *full* means that `drain` must be awaited first. The request gives *place* up
        for that time.

        Raises:
            GatewayError: the service failed, or the session has ended.
            ConnectionError: the client is gone.
        """
        stream: Stream | None = None
        principal = forward.verdict.principal
        if not reply.complete and forward.route.close_streams and principal is not None:
            stream = self._open_stream(principal, reply, downstream)
        try:
            while not reply.complete or reply.size:
                if full:
                    # Before waiting for the next piece: a downstream that keeps its
                    # pieces (`Downstream.write`) drops them now.
                    reply.begin_wait()
                    if place is not None:
                        place.begin_wait()
                    await downstream.drain()
                    reply.end_wait()
                    if place is not None:
                        place.end_wait()
                chunk = await reply.read()
                full = bool(chunk) and not downstream.write(chunk)
                del chunk  # or it would be pinned while the client is slow
            downstream.finish()
            if place is not None:
                place.leave()
            if full:
                await downstream.drain()
        finally:
            if stream is not None:
                del self.streams[stream]
                stream.close()

    def _open_stream(
        self, principal: Principal, reply: Reply, downstream: Downstream
    ) -> Stream:
        """Return *reply* as one that ends with the session of *principal*.

        The expiry of the access token ends it only if its length isn't known: a
        download that was begun in time ends by itself.
        """
        ends_in_s = None
        if reply.head.content_length is None:
            ends_in_s = max(0.0, principal.expires_at - time.time())
        stream = Stream(reply, downstream, ends_in_s)
        self.streams[stream] = principal
        # The session may have ended before the service replied.
        if self._verifier.has_ended(principal):
            stream.end(_SIGNED_OUT)
        return stream

    async def _send_again(
        self,
        failure: UpstreamError | Reply,
        forward: Forward,
        fields: bytes,
        body: bytes | AsyncIterator[bytes] | None,
        pools: Sequence[UpstreamPool],
        downstream: Downstream,
        record: Record,
        sent_at: float,
    ) -> Reply:
        """Return the reply of another target, or of the same one, after a failure.

        It is *failure*, if that is a reply and mustn't be retried.

        Raises:
            GatewayError: the last failure.
        """
        route = forward.route
        service = self._services[route.service.name]
        attempts = Attempts(
            service.retries,
            route.retry,
            targets=len(pools),
            is_safe=_is_safe(forward, body),
        )
        key = _hash_key(route.service.hash_by, forward)
        tries = Tries(
            service, pools, key, attempts, route.retry, route.timeouts, sent_at
        )
        try:
            while True:
                if not isinstance(failure, Reply):
                    note = failure.detail
                elif tries.replaces(failure):
                    note = f"a {failure.head.status} was retried"
                else:
                    return failure
                pool = await tries.next(failure)
                self._check_session(forward)  # it may have waited for long (`hold`)
                record.note, record.target = note, pool.name
                record.retries += 1
                record.trace = self._traces.again(record.trace)
                try:
                    failure = await self._exchange(
                        forward,
                        fields,
                        body,
                        pool,
                        tries.timeouts(),
                        downstream,
                        record,
                    )
                except UpstreamError as error:
                    failure = error
                    service.failed(pool, error)
                else:
                    service.answered(pool, in_need=True)
        finally:
            tries.close()
            del failure  # an error references this frame: avoid a cycle

    async def _tunnel(
        self,
        forward: Forward,
        reply: Reply,
        downstream: Downstream,
        record: Record,
        place: InFlightPlace | None,
    ) -> None:
        """Relay a WebSocket after the upstream's 101, until it ends.

        It leaves *place*: an open WebSocket isn't a request in progress.

        Raises:
            BadReply: the 101 doesn't open the WebSocket that the client asked for.
            ConnectionError: the client is gone.
        """
        flaw = websocket.flaw_of_switch(forward.request.head.fields, reply.head.fields)
        if flaw is not None:
            raise BadReply(f"the 101 is not valid: {flaw}")
        if place is not None:
            place.leave()
        await ensure_task()  # a tunnel makes tasks
        options = forward.route.websocket
        principal = forward.verdict.principal if options.close_on_session_end else None
        head = reply.head
        fields = headers.to_client(
            head,
            forward.request.id,
            _date_line,
            forward.cors,
            forward.verdict.new_tokens,
            forward.route.session.protection is not _PUBLIC,
            edits=forward.route.reply_edits,
        )
        if head.marks & headers.SETS_SESSION:
            _note_cookies(head, record)
        record.status = 101
        record.stage = _COPY
        downstream.keep_alive = False
        downstream.upgrade(head.start + fields + websocket.UPGRADE)
        session_ends_in_s = None
        if principal is not None:
            session_ends_in_s = max(0.0, principal.expires_at - time.time())
        tunnel = websocket.Tunnel(
            downstream.connection,
            reply.upgrade(),
            websocket.TunnelLimits(
                idle_timeout_s=options.idle_timeout,
                max_lifetime_s=options.max_lifetime,
                session_ends_in_s=session_ends_in_s,
                close_s=self._pace.websocket_close_s,
                linger_s=self._pace.websocket_linger_s,
            ),
        )
        try:
            record.reason = await self.tunnels.run(
                tunnel, principal, self._verifier.has_ended
            )
        finally:
            downstream.bytes_in += tunnel.bytes_in
            downstream.bytes_out += tunnel.bytes_out


def _is_safe(forward: Forward, body: bytes | AsyncIterator[bytes] | None) -> bool:
    """Return whether sending the request twice is harmless."""
    return (
        forward.request.method in SAFE_METHODS and body is None and not forward.upgrade
    )


def _hash_key(by: headers.HashBy | None, forward: Forward) -> bytes | None:
    if by is None:
        return None
    request = forward.request
    principal = forward.verdict.principal
    return by.key(request.head.fields, principal, request.forwarded.client)


def _date_line() -> bytes:
    return responses.date_line(int(time.time()))


def _public(forward: Forward) -> headers.Public:
    """Return where the client sees the service, for redirects in its reply."""
    request, rewrite = forward.request, forward.route.rewrite
    removed = "" if rewrite is None else rewrite.removed(request.target.path)
    return headers.Public(
        scheme="https" if request.is_secure else "http",
        authority=request.forwarded.authority,
        host=request.target.authority,
        prefix=request.forwarded.prefix + removed.encode(),
    )


def _session_handle(principal: Principal) -> str:
    match principal:
        case SessionIdentity():
            return principal.session_handle
        case never:
            assert_never(never)


def _exchange(
    forward: Forward,
    fields: bytes,
    body: bytes | AsyncIterator[bytes] | None,
    pool: UpstreamPool,
    timeouts: Timeouts,
    client: Downstream | None,
    record: Record,
) -> Coroutine[Any, Any, Reply]:
    """Return a coroutine that sends the request to a target and returns its reply.

    Raises, when it is awaited:
        GatewayError: as `UpstreamPool.exchange`.
    """
    request, route = forward.request, forward.route
    return pool.exchange(
        route.upstream_head(
            request.method, request.target, pool.authority, record.trace + fields
        ),
        request.method,
        timeouts,
        body,
        request.head.content_length,
        forward.upgrade,
        route.retry.attempts > 0,
        client,
    )


def _note_cookies(reply: ReplyHead, record: Record) -> None:
    names = headers.session_cookies(reply)
    record.note = f"the upstream tried to set {', '.join(names)}"


def _replaces_401(forward: Forward) -> bool:
    """Return whether the client gets another status than a service's 401."""
    principal = forward.verdict.principal
    return principal is not None and forward.route.upstream_401 != "pass"


def _instead_of_401(forward: Forward, record: Record) -> Respond:
    """Return the response in place of an upstream's 401 to a valid session.

    SuperTokens' frontends treat any 401 as an expired session: they would refresh the
    session and repeat the request, endlessly.
    """
    record.reason = "upstream_401"
    record.note = "the upstream answered 401 to a valid session"
    answer = responses.upstream_401(int(forward.route.upstream_401), record.request_id)
    return answered(forward, answer)
