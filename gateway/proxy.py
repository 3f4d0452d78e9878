"""edge. The pipeline: what happens to one request, in ten numbered steps.

1 accept · 2 target · 3 match · 4 preflight · 5 verify · 6 headers to the upstream ·
7 send · 8 headers to the client · 9 copy · 10 record. A refusal in 2 to 5 goes
straight to 10. A failure after 8 aborts the connection: it is never finished politely.
The same numbers stand in docs/architecture.md, and their names in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from itertools import cycle
from typing import Any, assert_never

from gateway import answers, cors, framing, headers, target, websocket
from gateway.answers import Answer
from gateway.auth import Auth, user
from gateway.client import Client
from gateway.config import Limits
from gateway.cors import Cors, is_preflight
from gateway.errors import (
    BadReply,
    ClientGone,
    ContentTooLarge,
    GatewayError,
    ShuttingDown,
    Stage,
    UpstreamError,
)
from gateway.fields import Field, Fields
from gateway.framing import Sound
from gateway.headers import Forwarded, Networks
from gateway.identity import (
    SAFE_METHODS,
    Allowed,
    Denied,
    Protection,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
    Verifier,
    credentials,
)
from gateway.observe import Observer, Record
from gateway.retry import Budget, Tries
from gateway.routes import (
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Route,
    RouteTable,
)
from gateway.target import Form, Target
from gateway.upstream import Reply, UpstreamPool

_log = logging.getLogger("gateway")

_USER_METHODS = ("GET",)
_MAX_AUTH_BODY = 1024 * 1024
"""Bytes that a request to the SDK's own API may have; its forms are small."""

_EXPOSE = b"access-control-expose-headers"
"""The SDK's own; `cors` exposes the same names on every answer."""

_ANY_SESSION = SessionPolicy(protection=Protection.REQUIRED)


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


class Resources:
    """What there is to be asked for: `/user`, the SDK's API, and the route table."""

    def __init__(
        self, *, table: RouteTable, auth: Auth, user_path: str, limits: Limits
    ) -> None:
        self.table = table
        self.auth = auth
        self.user_path = user_path
        self._limits = limits

    def target(self, client: Client) -> tuple[Sound, Target]:
        """Return what the request says, once it is sure to mean one thing only.

        Raises:
            GatewayError: two readers could take it for different requests.
        """
        sound = framing.check(
            client.method,
            client.version,
            client.fields,
            max_head_size=self._limits.max_head_size,
        )
        return sound, target.parse(
            client.target, method=client.method, authority=sound.host
        )

    def method_allowed(self, client: Client, method: str) -> bool:
        """Return whether the resource that the request names answers to *method*."""
        _, asked = self.target(client)
        if asked.path == self.user_path:
            return method in _USER_METHODS
        if self.auth.owns(asked.path):
            return True
        found = self.table.match(method, asked.host, asked.path)
        return not isinstance(found, MethodNotAllowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pipeline is made of; joined by `app`."""

    resources: Resources
    services: Mapping[str, Service]
    verifier: Verifier
    cors: Cors
    observer: Observer
    limits: Limits
    trusted: Networks
    """The peers whose X-Forwarded-* fields count."""
    make_id: Callable[[], str]


class Proxy:
    """Takes requests from the listener, one call each."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.reserved = headers.reserved(
            name.decode()
            for route in parts.resources.table.routes
            for name, _ in route.headers.writers
        )
        self.retries = Budget()
        self.tunnels: dict[websocket.Tunnel, str | None] = {}
        """Open sockets, and the handle of the session that each belongs to."""
        self.draining = False

    def handle(self, client: Client) -> Coroutine[Any, Any, None]:
        """Serve one request; the answer is on the wire when this is done."""
        return _Exchange(self, client).run()

    def drain(self) -> None:
        """From now on, end every connection after its answer, and every socket."""
        self.draining = True
        for tunnel in self.tunnels:
            tunnel.end(websocket.GOING_AWAY, "shutting down")

    def session_ended(self, handle: str) -> None:
        """Close the sockets of a session that was signed out or revoked."""
        for tunnel, session in self.tunnels.items():
            if session == handle:
                tunnel.end(websocket.SESSION_ENDED, "session ended")


class _Exchange:
    """One request, from its head to its record."""

    __slots__ = (
        "asked",
        "client",
        "forwarded",
        "new_tokens",
        "parts",
        "proxy",
        "record",
        "request_id",
        "sound",
    )

    def __init__(self, proxy: Proxy, client: Client) -> None:
        # 1 accept
        self.proxy = proxy
        self.parts = proxy.parts
        self.client = client
        self.request_id = b""
        self.record = Record.begin(
            time.perf_counter(), client.connection.address, client.method
        )
        self.sound: Sound
        self.asked: Target
        self.forwarded: Forwarded
        self.new_tokens: Fields = ()
        """What verification issued: whatever the answer will be, it carries them."""

    async def run(self) -> None:
        client, record = self.client, self.record
        try:
            await self._next()
        except GatewayError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            # The listener does so when the client is gone, and when the time to drain
            # is over.
            if client.gone:
                self._note_failure(ClientGone())
            else:
                await self._fail(ShuttingDown())
            raise
        except ConnectionError:
            # Seen in writing. Raised further, the loop would log it with a traceback.
            self._note_failure(ClientGone())
            client.abort()
        except Exception:  # noqa: BLE001 - the boundary: nothing is forwarded after it
            _log.exception("request %s failed", record.request_id)
            await self._fail(GatewayError())
        finally:
            # 10 record
            record.bytes_in = client.bytes_in
            record.bytes_out = client.bytes_out
            record.duration_ms = (time.perf_counter() - record.started) * 1000
            self.parts.observer.observe(record)
        if client.has_body and client.has_rest:
            await client.take_rest()
        if self.proxy.draining:
            client.keep_alive = False

    def _next(self) -> Awaitable[None]:
        """Return what is to be done for this request: one of the methods below."""
        parts, client, record = self.parts, self.client, self.record
        # 2 target
        record.stage = Stage.TARGET
        resources = parts.resources
        self.sound, self.asked = sound, asked = resources.target(client)
        self._identify(given=sound.has_request_id)
        record.path = asked.path
        peer = client.connection.address
        self.forwarded = Forwarded(
            peer,
            peer in parts.trusted,
            "https" if client.connection.secure else "http",
            asked.authority,
            "1.0" if client.http10 else "1.1",
        )
        if self.forwarded.trusted:
            record.client = headers.client_address(client.fields, peer, parts.trusted)
        # 3 match
        record.stage = Stage.MATCH
        if sound.has_origin and is_preflight(client.method, client.fields):
            return self._preflight()
        if asked.path == resources.user_path:
            return self._user()
        if resources.auth.owns(asked.path):
            return self._auth()
        if asked.form is Form.ASTERISK:
            return self._answer(Answer(status=204))
        found = resources.table.match(client.method, asked.host, asked.path)
        match found:
            case Matched(route=route):
                record.route = route.name
                return self._forward(route)
            case MethodNotAllowed(allow=allow):
                return self._answer(
                    answers.method_not_allowed(allow, record.request_id)
                )
            case NearMiss(route=route, guard=guard):
                record.route = route.name
                record.decision = "denied"
                record.reason = "near_miss"
                record.note = f"the path may be read as one of {guard.name}"
                return self._answer(answers.near_miss(record.request_id))
            case NoRoute():
                return self._answer(answers.no_route(record.request_id))
            case _:
                assert_never(found)

    def _identify(self, *, given: bool) -> None:
        """Give the request its id: its own, if it has one that is fit, or a new one."""
        make_id = self.parts.make_id
        if given:
            self.request_id = headers.request_id(self.client.fields, make_id)
            self.record.request_id = self.request_id.decode()
        else:
            self.record.request_id = made = make_id()
            self.request_id = made.encode()

    def _is_secure(self) -> bool:
        return headers.client_scheme(self.client.fields, self.forwarded) == "https"

    # --- answers of the gateway's own -----------------------------------------

    async def _preflight(self) -> None:
        # 4 preflight
        self.record.stage = Stage.PREFLIGHT
        granted = await self.parts.cors.preflight(self.client)
        if granted is None:
            self.record.decision = "denied"
            answer = answers.problem(
                status=403,
                code="cors_refused",
                title="This origin, method or header isn't allowed",
                request_id=self.record.request_id,
                fields=(cors.VARY,),
            )
            await self._write(answer, self._own_fields())
            return
        self.record.decision = "preflight"
        await self._write(Answer(status=204, fields=granted), self._own_fields())

    async def _user(self) -> None:
        """Answer with the session's own information, whatever the request says."""
        self.record.route = "/user"
        if self.client.method not in _USER_METHODS:
            await self._answer(
                answers.method_not_allowed(_USER_METHODS, self.record.request_id)
            )
            return
        verdict = await self._verdict(_ANY_SESSION)
        if not isinstance(verdict, Allowed):
            await self._refuse(verdict)
            return
        self._note_allowed(verdict)
        assert verdict.identity is not None, "a required session has an identity"
        await self._answer(answers.user(user(verdict.identity)))

    async def _auth(self) -> None:
        """Let the SuperTokens SDK answer with its own API."""
        parts, client, asked = self.parts, self.client, self.asked
        self.record.route = "/auth"
        if client.has_body:
            body = b"".join([piece async for piece in client.body(_MAX_AUTH_BODY)])
        else:
            body = b""
        reply = await parts.resources.auth.handle(
            method=client.method,
            path=asked.path,
            query=asked.query[1:],
            fields=client.fields,
            body=body,
            secure=self._is_secure(),
            authority=asked.authority,
        )
        if reply is None:
            await self._answer(answers.no_route(self.record.request_id))
            return
        self.record.decision = "auth"
        await self._answer(
            Answer(status=reply.status, body=reply.body),
            tuple(f for f in reply.fields if f[0].lower() != _EXPOSE),
        )

    async def _answer(self, answer: Answer, extra: Fields = ()) -> None:
        """Write *answer* with what every answer carries, CORS among it."""
        granted = await self.parts.cors.fields(self.client)
        await self._write(
            answer,
            (
                *extra,
                *self.new_tokens,
                *cors.merged(granted, extra),
                *self._own_fields(),
            ),
        )

    async def _write(self, answer: Answer, fields: Fields) -> None:
        if self.proxy.draining:
            self.client.keep_alive = False
        self.record.status = answer.status
        await self.client.answer(answer, fields)

    def _own_fields(self) -> Fields:
        return ((b"X-Request-Id", self.request_id),)

    async def _fail(self, error: GatewayError) -> None:
        """Answer a failure, or cut the answer that had begun."""
        if not self.request_id:  # what failed is the reading of the request
            self._identify(given=True)
        self._note_failure(error)
        if self.client.started:
            self.client.abort()
            return
        try:
            await self._answer(answers.failure(error, self.record.request_id))
        except ConnectionError:
            self.client.abort()

    def _note_failure(self, error: GatewayError) -> None:
        record = self.record
        record.side = error.side
        record.status = error.status
        record.reason = error.code
        record.note = error.detail

    # --- the way to the upstream ----------------------------------------------

    def _verdict(self, policy: SessionPolicy) -> Awaitable[Verdict]:
        """Ask for the verdict on the request's session."""
        # 5 verify
        client, asked = self.client, self.asked
        self.record.stage = Stage.VERIFY
        return self.parts.verifier.verify(
            SessionRequest(
                client.method,
                asked.path,
                client.fields,
                self._is_secure(),
                asked.authority,
            ),
            policy,
        )

    def _note_allowed(self, verdict: Allowed) -> None:
        record, identity = self.record, verdict.identity
        record.reason = verdict.reason
        self.new_tokens = verdict.new_tokens
        if identity is None:
            record.decision = "anonymous"
        else:
            record.decision = "allowed"
            record.user_id = identity.user_id

    async def _refuse(self, verdict: Denied | Undecided) -> None:
        record = self.record
        record.reason = verdict.reason
        match verdict:
            case Denied():
                record.decision = "denied"
                answer = answers.denied(verdict)
            case Undecided():
                record.decision = "undecided"
                answer = answers.undecided(verdict, record.request_id)
            case _:
                assert_never(verdict)
        await self._answer(answer)

    async def _forward(self, route: Route) -> None:
        client, record, asked, sound = self.client, self.record, self.asked, self.sound
        length = sound.content_length
        if length is not None and length > route.max_body_size:
            raise ContentTooLarge
        upgrade = sound.has_upgrade and websocket.wants_upgrade(client.fields)
        if upgrade and (refused := self._refused_upgrade(route)) is not None:
            await self._answer(refused)
            return
        verdict = await self._verdict(route.session)
        if not isinstance(verdict, Allowed):
            await self._refuse(verdict)
            return
        self._note_allowed(verdict)
        # 6 headers to the upstream
        record.stage = Stage.TO_UPSTREAM
        service = self.parts.services[route.service.name]
        record.upstream = service.name
        fields = headers.to_upstream(
            client.fields,
            policy=route.headers,
            reserved=self.proxy.reserved,
            identity=verdict.identity,
            host=asked.authority.encode(),
            forwarded=self.forwarded,
            request_id=self.request_id,
            upgrade=b"websocket" if upgrade else None,
        )
        # 7 send
        record.stage = Stage.SEND
        reply = await self._send(route, service, fields, upgrade=upgrade)
        try:
            # 8 headers to the client
            record.stage = Stage.TO_CLIENT
            await self._pass_on(route, reply, verdict, upgrade=upgrade)
        finally:
            reply.close()

    def _refused_upgrade(self, route: Route) -> Answer | None:
        """Return the refusal of a WebSocket handshake, None to go on with it."""
        client, request_id = self.client, self.record.request_id
        if not route.websocket.enabled:
            return answers.problem(
                status=403,
                code="websocket_disabled",
                title="This route takes no WebSockets",
                request_id=request_id,
                close=True,
            )
        refused = websocket.refuse_handshake(
            client.method, client.version, client.fields, request_id
        )
        if refused is not None:
            return refused
        allowed = route.websocket.allowed_origins
        if not websocket.origin_allowed(
            client.fields,
            self.parts.cors.origins if allowed is None else frozenset(allowed),
            by_cookie=bool(credentials(client.fields).access_cookies),
        ):
            return answers.problem(
                status=403,
                code="websocket_origin",
                title="This origin may not open a WebSocket here",
                request_id=request_id,
                close=True,
            )
        return None

    async def _send(
        self, route: Route, service: Service, fields: list[Field], *, upgrade: bool
    ) -> Reply:
        """Send the request to one of the service's targets; return its reply.

        `retry` says what follows a failure; `timeouts.total` bounds it all.
        """
        client, asked = self.client, self.asked
        path = route.upstream_path(asked.path).encode()
        start = b"%b %b%b HTTP/1.1" % (client.method.encode(), path, asked.query)
        body: bytes | AsyncIterator[bytes] | None = None
        length = self.sound.content_length
        if client.has_body:
            body = client.body_now(route.max_body_size)
            if body is None:
                body = client.body(route.max_body_size)
            if length is None:
                fields.append((b"Transfer-Encoding", b"chunked"))
        if length is not None:
            fields.append((b"Content-Length", b"%d" % length))
        retries = self.proxy.retries
        retries.earn()
        tries: Tries | None = None
        began = time.monotonic()
        timeouts = route.timeouts
        for pool in cycle(service.in_turn()):
            fields[0] = (b"Host", _host_value(route, pool, asked))
            try:
                return await pool.exchange(
                    answers.request_head(start, fields),
                    method=client.method,
                    timeouts=timeouts,
                    body=body,
                    content_length=length,
                    upgrade=upgrade,
                    replay=route.retry.attempts > 0,
                )
            except UpstreamError as error:
                if tries is None:
                    is_safe = (
                        client.method in SAFE_METHODS and body is None and not upgrade
                    )
                    tries = Tries(
                        retries,
                        targets=len(service.pools),
                        attempts=route.retry.attempts if is_safe else 0,
                    )
                if not tries.again(error):
                    raise
                self.record.note = error.detail
                total = route.timeouts.total
                if total is not None:
                    left = began + total - time.monotonic()
                    if left <= 0:
                        raise
                    timeouts = timeouts.model_copy(update={"total": left})
        raise AssertionError("a service has at least one target")

    async def _pass_on(
        self, route: Route, reply: Reply, verdict: Allowed, *, upgrade: bool
    ) -> None:
        client, record = self.client, self.record
        if upgrade and reply.status == 101:
            await self._tunnel(route, reply, verdict)
            return
        if (
            reply.status == 401
            and verdict.identity is not None
            and route.upstream_401 != "pass"
        ):
            await self._refused_upstream(route)
            return
        fields = self._to_client(route, reply, await self._granted())
        record.status = reply.status
        # 9 copy
        record.stage = Stage.COPY
        if self.proxy.draining:
            client.keep_alive = False
        full = not client.start(
            reply.status,
            reply.reason,
            fields,
            size=reply.content_length,
            first=reply.read_now(),  # no name keeps it while the rest is copied
            complete=reply.complete,
        )
        while not reply.complete or reply.size:
            chunk = await reply.read()
            full = bool(chunk) and not client.write(chunk)
            del chunk  # nor this one, while the client takes its time
            if full:
                await client.drain()
        client.finish()
        if full:
            await client.drain()

    async def _granted(self) -> Fields:
        """Return the CORS fields of the answer."""
        if not self.sound.has_origin:
            return ()
        return await self.parts.cors.fields(self.client)

    def _to_client(self, route: Route, reply: Reply, granted: Fields) -> list[Field]:
        fields, dropped = headers.to_client(
            reply.fields,
            reserved=self.proxy.reserved,
            cors=granted,
            new_tokens=self.new_tokens,
            request_id=self.request_id,
            # An anonymous answer of an optional route is not for everybody, either.
            private=route.session.protection is not Protection.PUBLIC,
        )
        if dropped:
            self.record.note = f"the upstream tried to set {', '.join(dropped)}"
        return fields

    async def _refused_upstream(self, route: Route) -> None:
        """Answer in place of an upstream's 401 to a session that is valid.

        SuperTokens' frontends take any 401 for an expired session, refresh it and
        ask again, for ever.
        """
        status = int(route.upstream_401)
        self.record.reason = "upstream_401"
        self.record.note = "the upstream answered 401 to a valid session"
        await self._answer(
            answers.problem(
                status=status,
                code="upstream_401",
                title="The service refused this user, whose session is valid",
                request_id=self.record.request_id,
            )
        )

    async def _tunnel(self, route: Route, reply: Reply, verdict: Allowed) -> None:
        """Join both sides after the upstream's 101."""
        if not websocket.accepted(reply.status, reply.fields):
            raise BadReply("101 to something other than a WebSocket")
        client, record = self.client, self.record
        fields = self._to_client(route, reply, await self._granted())
        record.status = 101
        record.stage = Stage.COPY
        client.keep_alive = False
        client.upgrade(reply.reason, [*fields, *websocket.UPGRADE])
        ends, session = None, None
        if verdict.identity is not None and route.websocket.close_on_session_end:
            ends = max(0.0, verdict.identity.expires_at - time.time())
            session = verdict.identity.session_handle
        tunnel = websocket.Tunnel(
            client.connection,
            reply.upgrade(),
            websocket.Terms(
                idle_timeout_s=route.websocket.idle_timeout,
                max_lifetime_s=route.websocket.max_lifetime,
                session_ends_in_s=ends,
            ),
        )
        tunnels = self.proxy.tunnels
        tunnels[tunnel] = session
        try:
            if self.proxy.draining:
                tunnel.end(websocket.GOING_AWAY, "shutting down")
            # While the service was asked, nobody could be told of it.
            if session is not None and self.parts.verifier.has_ended(session):
                tunnel.end(websocket.SESSION_ENDED, "session ended")
            record.reason = await tunnel.run()
        finally:
            del tunnels[tunnel]
            client.bytes_in += tunnel.bytes_in
            client.bytes_out += tunnel.bytes_out


def _host_value(route: Route, pool: UpstreamPool, asked: Target) -> bytes:
    """Return the upstream's Host: its own name, the client's, or the route's."""
    match route.host_header:
        case "upstream":
            return pool.authority
        case "preserve":
            return (asked.authority or asked.host).encode() or pool.authority
        case literal:
            return literal.encode()
