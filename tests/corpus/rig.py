"""A gateway on real sockets, before an upstream that keeps every byte it got.

No SDK and no core: who has a session is told by a field that only these tests know.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

from gateway import config, routes
from gateway.app import readers
from gateway.clients import Clients
from gateway.downstream import listener
from gateway.downstream.cors import Cors
from gateway.headers import ForwardedCache, Networks, Traces
from gateway.http.fields import first
from gateway.identity import (
    Allowed,
    Denied,
    Principal,
    Protection,
    SessionIdentity,
    SessionPolicy,
    SessionRequest,
    Verdict,
)
from gateway.observe import Record
from gateway.pace import PACE, Pace
from gateway.proxy import Dependencies, Proxy
from gateway.rate_limits import Limiter, LocalStore
from gateway.resources import Router
from gateway.supertokens.api import Auth
from gateway.upstream import ServiceTargets, Upstreams, UpstreamTarget

SESSION = b"x-corpus-session"
"""Whoever sends it has a session, as the user that it names."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-From: upstream\r\n\r\n%b"


class Verifier:
    """Believes a field; everybody else is anonymous."""

    def verify_now(self, request: SessionRequest, policy: SessionPolicy) -> None:
        """Ask: `verify` is always awaited."""

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        user = first(request.fields, SESSION)
        if policy.protection is Protection.PUBLIC:
            return Allowed(principal=None, reason="public")
        if user is not None:
            return Allowed(principal=identity(user.decode("latin-1")), reason="local")
        if policy.protection is Protection.OPTIONAL:
            return Allowed(principal=None, reason="anonymous")
        return Denied(status=401, body=b'{"message":"unauthorised"}')

    def has_ended(self, principal: Principal) -> bool:
        return False


def identity(user: str) -> SessionIdentity:
    """Return the session of *user*."""
    return SessionIdentity(
        user_id=user,
        recipe_user_id=user,
        session_handle=f"session-of-{user}",
        tenant_id="public",
        claims={"sub": user, "st-role": {"v": ["reader"]}},
        expires_at=4e9,
    )


class NoAuth:
    """In place of the SDK's API: it owns nothing."""

    def owns(self, path: str) -> bool:
        return False


# --- the upstream -----------------------------------------------------------


@dataclass
class Seen:
    """One request, as the upstream got it."""

    head: bytes
    body: bytes = b""
    raw: bytes = b""
    """Head and body, framing included."""

    @property
    def target(self) -> bytes:
        return self.head.split(b" ", 2)[1]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        lines = self.head[:-4].split(b"\r\n")[1:]
        return [cast("tuple[bytes, bytes]", tuple(x.split(b": ", 1))) for x in lines]


class _UpstreamConnection(asyncio.Protocol):
    """Reads what the gateway sends: strictly, because the gateway is strict."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._data = b""
        self._transport: asyncio.Transport
        self._tunnel = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._upstream.open.add(self)
        self._upstream.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open.discard(self)
        if self._data and not self._tunnel:
            self._upstream.cut.append(self._data)

    @property
    def pending(self) -> bytes:
        """A request whose end hasn't come."""
        return b"" if self._tunnel else self._data

    def data_received(self, data: bytes) -> None:
        self._data += data
        while not self._tunnel and (request := self._next()) is not None:
            self._upstream.requests.append(request)
            self._answer(request)

    def _next(self) -> Seen | None:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._data[: end + 4]
        request = Seen(head=head)
        fields = {name.lower(): value for name, value in request.fields}
        at = end + 4
        if b"transfer-encoding" in fields:
            while True:
                line = self._data.find(b"\r\n", at)
                if line < 0:
                    return None
                size = int(self._data[at:line], 16)
                at = line + 2 + size + 2
                if len(self._data) < at:
                    return None
                request.body += self._data[line + 2 : line + 2 + size]
                if not size:
                    break
        else:
            size = int(fields.get(b"content-length", b"0"))
            if len(self._data) < at + size:
                return None
            request.body = self._data[at : at + size]
            at += size
        request.raw, self._data = self._data[:at], self._data[at:]
        return request

    def _answer(self, request: Seen) -> None:
        upstream = self._upstream
        path = request.target.split(b"?")[0]
        if upstream.reply is None or b"canary" in path or b"/good" in path:
            body = b"" if request.head.startswith(b"HEAD") else path
            self._transport.write(OK % (len(path), body))
            return
        self._transport.write(upstream.reply)
        if upstream.reply.startswith(b"HTTP/1.1 101"):
            self._tunnel = True
        elif upstream.reply_closes:
            self._transport.close()


class Upstream:
    """The service behind the gateway."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.cut: list[bytes] = []
        """Requests that had begun when their connection was lost."""
        self.open: set[_UpstreamConnection] = set()
        self.connections = 0
        self.reply: bytes | None = None
        """None: 200, and the path for a body."""
        self.reply_closes = False

    def forget(self) -> None:
        self.requests.clear()
        self.cut.clear()
        self.reply = None
        self.reply_closes = False

    @property
    def begun(self) -> list[bytes]:
        """What came of requests whose end never did."""
        return [*self.cut, *(one.pending for one in self.open if one.pending)]


# --- the gateway ------------------------------------------------------------


class Watched(listener.ClientConnection):
    """A client connection that says how much it was given to read."""

    __slots__ = ("_news", "gone", "taken")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.taken = 0
        self.gone = False
        self._news = asyncio.Event()
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        cast("Any", self._listener).watched[peer[1]] = self

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.taken += len(data)
        self._news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        self._news.set()

    async def until(self, taken: int) -> None:
        """Return when *taken* bytes were read, or nothing more will be."""
        while self.taken < taken and not self.gone:
            self._news.clear()
            await self._news.wait()

    async def until_gone(self) -> None:
        while not self.gone:
            self._news.clear()
            await self._news.wait()


class WatchedListener(listener.Listener):
    """A listener whose connections are `Watched`, by their client's port."""

    connection_class = Watched

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watched: dict[int, Watched] = {}


class Records(list[Record]):
    """The access log, kept."""

    def observe(self, record: Record) -> None:
        self.append(record)


class Complaints(logging.Handler):
    """Everything that is logged as an error or a warning while the rig runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


ROUTES: dict[str, Any] = {
    "public": {"path": "/public", "protected": False},
    "admin": {"path": "/admin", "protected": True},
    "optional": {"path": "/optional", "protected": "optional"},
    "private": {"match": {"path": {"exact": "/private"}}, "protected": True},
    "stripped": {
        "path": "/api",
        "protected": False,
        "rewrite": {"strip_prefix": "/api"},
    },
    "templated": {
        "match": {"path": {"template": "/users/{id}"}},
        "protected": False,
    },
    "pattern": {
        "match": {"path": {"regex": "/pattern/.*/status"}},
        "protected": False,
    },
    "within": {"path": "/public/admin", "protected": True},
    "limited": {
        "match": {"path": {"prefix": "/limited"}, "methods": ["GET"]},
        "protected": False,
    },
    "small": {
        "path": "/small",
        "protected": False,
        "request": {"max_body_size": 16},
    },
    "listed": {
        "path": "/listed",
        "protected": False,
        "request": {"allow_field_names": ["X_Trace.Id"]},
    },
    "preserved": {"path": "/preserved", "protected": False, "host_header": "preserve"},
    "claims": {
        "path": "/claims",
        "protected": True,
        "identity": {"headers": {"X-Plan": "{claims.plan}"}},
    },
    "credentials": {
        "path": "/credentials",
        "protected": False,
        "forward_credentials": True,
    },
    "kept": {
        "path": "/kept",
        "protected": False,
        "request": {"encoded_slash": "keep", "merge_slashes": False},
    },
    "kept-within": {"path": "/kept/admin", "protected": True},
    "socket": {
        "path": "/socket",
        "protected": False,
        "websocket": {"allowed_origins": ["https://app.example.com"]},
    },
    "no-socket": {
        "path": "/still",
        "protected": False,
        "websocket": {"enabled": False},
    },
    "hosted": {
        "match": {"path": {"prefix": "/hosted"}, "hosts": ["api.example.com"]},
        "protected": False,
    },
    "passed-401": {"path": "/own401", "protected": True, "upstream_401": "pass"},
}
"""Name → route; all of them lead to the one upstream."""


def _broad(protected: bool | str | None) -> dict[str, Any]:
    return {} if protected is None else {"broad": {"path": "/", "protected": protected}}


async def until(condition: Callable[[], object]) -> None:
    """Return when *condition* holds; it is looked at in every turn of the loop.

    For what no event tells: that another task has come so far. Bounded by the caller.
    """
    while not condition():  # noqa: ASYNC110 - see above
        await asyncio.sleep(0)


@dataclass
class Rig:
    """All of it, running."""

    port: int
    port_of_both: int
    """Where an IPv6 socket takes IPv4, too: as `listen: "[::]:8000"` does on Linux."""
    upstream: Upstream
    listener: Any
    """`WatchedListener`, or what `running` was told to serve with."""
    proxy: Proxy
    records: Records
    complaints: Complaints
    versions: tuple[bytes, ...] = (b"HTTP/1.1 ",)
    """With which of them replies may begin."""
    serial: count[int] = field(default_factory=count)


@asynccontextmanager
async def running(
    *,
    limits: Mapping[str, Any] | None = None,
    trusted: tuple[str, ...] = (),
    upstream_port: int | None = None,
    broad: bool | str | None = None,
    serve: Callable[[Proxy, config.Config], Awaitable[Any]] | None = None,
    pace: Pace = PACE,
) -> AsyncIterator[Rig]:
    """Serve while the block runs, on a free port of the loopback interface.

    *broad*: how a route that takes everything else is protected; None: there is none.
    *serve* makes what serves in the listener's place: a factory of connections, with
    `watched` and `close` as the listener has them.
    """
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as opened:
        complaints = Complaints()
        for name in ("gateway", "aiohttp", "asyncio"):
            logger = logging.getLogger(name)
            logger.addHandler(complaints)
            opened.callback(logger.removeHandler, complaints)
        upstream = Upstream()
        if upstream_port is None:
            server = await loop.create_server(
                lambda: _UpstreamConnection(upstream), "127.0.0.1", 0
            )
            opened.callback(server.close)
            upstream_port = server.sockets[0].getsockname()[1]
        settings = config.parse(
            {
                "version": 1,
                "gateway": {
                    "trusted_proxies": list(trusted),
                    "limits": dict(limits or {}),
                },
                "cors": {"allow_origins": ["https://app.example.com"]},
                "services": {
                    "only": {"targets": [f"http://127.0.0.1:{upstream_port}"]}
                },
                "routes": [
                    {"name": name, "service": "only", **route}
                    for name, route in (ROUTES | _broad(broad)).items()
                ],
            }
        )
        table = routes.compile(settings)
        reader, replies = readers(table, settings.gateway)
        upstreams = Upstreams(replies)
        opened.push_async_callback(upstreams.close)
        resources = Router(
            table=table,
            auth=cast("Auth", NoAuth()),
            user_path="/user",
        )
        records = Records()
        serial = count()

        def make_id() -> str:
            return f"{next(serial):024x}"

        proxy = Proxy(
            Dependencies(
                limiter=Limiter(LocalStore(time.monotonic_ns)),
                reader=reader,
                resources=resources,
                services={
                    service.name: ServiceTargets(
                        service.name,
                        [
                            upstreams.pool(
                                UpstreamTarget.parse(str(target), service.tls),
                                max_connections=service.max_connections,
                                max_waiting=service.max_waiting,
                            )
                            for target in service.targets
                        ],
                    )
                    for service in table.services()
                },
                verifier=Verifier(),
                cors=Cors(
                    settings.cors,
                    website_domain="https://app.example.com",
                    sdk_headers=("rid",),
                    method_allowed=resources.method_allowed,
                ),
                observer=records,
                limits=settings.gateway.limits,
                forwarded=ForwardedCache(Networks(trusted)),
                make_id=make_id,
                traces=Traces(random.Random(1).randbytes, Networks(trusted)),
                pace=pace,
            )
        )
        watching: Any
        if serve is not None:
            watching = await serve(proxy, settings)
        else:
            watching = WatchedListener(
                proxy.handle,
                reader=reader,
                limits=settings.gateway.limits,
                observer=records,
                make_id=make_id,
                pace=pace,
                clients=Clients(trusted, settings.gateway.limits.per_client.exempt),
            )
        accepting = await loop.create_server(watching, "127.0.0.1", 0)
        of_both = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
        accepting_both = await loop.create_server(watching, sock=of_both)
        try:
            yield Rig(
                port=accepting.sockets[0].getsockname()[1],
                port_of_both=of_both.getsockname()[1],
                upstream=upstream,
                listener=watching,
                proxy=proxy,
                records=records,
                complaints=complaints,
            )
        finally:
            accepting.close()
            accepting_both.close()
            proxy.drain()
            await watching.close(0.5)
