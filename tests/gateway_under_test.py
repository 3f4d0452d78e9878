"""A whole gateway on a real socket, with a fake verifier instead of SuperTokens.

    async with gateway(upstream.url, route={"timeouts": {"response": 0.1}}) as gw:
        reply = await gw.ask("GET", "/a")
        record = await gw.record()

When the block ends, the gateway must leave nothing behind: no task, no upstream
connection, and no warning in the log unless the test expects one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults import until
from wire import DEADLINE_S, Wire, WireReply, ask, connect

from gateway import assertions, config, routes
from gateway.app import (
    App,
    forwarded_cache,
    readers,
    service_targets,
    signing,
    traces,
)
from gateway.downstream.cors import Cors
from gateway.downstream.listener import Listener
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
from gateway.mirroring import Mirroring
from gateway.observe import Record
from gateway.pace import PACE, Pace
from gateway.process import listening, serve
from gateway.proxy import Dependencies, Proxy
from gateway.rate_limits import Limiter, LocalStore
from gateway.resources import Router
from gateway.supertokens.api import Auth
from gateway.upstream import UpstreamPool, Upstreams, UpstreamTarget

ORIGIN = "https://app.example.com"
"""The one origin that the gateway under test allows."""


class FakeVerifier:
    """`Bearer ann` is the session of the user `ann`; nothing else is checked."""

    def __init__(self) -> None:
        self.new_tokens: tuple[tuple[bytes, bytes], ...] = ()
        self.expires_in_s = 3600.0
        self.error: Exception | None = None
        self.at_once = False
        """Whether verdicts are given at once, without an await."""
        self.ended: set[str] = set()
        """The handles of sessions that have ended."""
        self.lacking: set[str] = set()
        """Users who lack the claims that routes require."""

    def has_ended(self, principal: Principal) -> bool:
        return principal.session_handle in self.ended

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        """Return the verdict if it is known `at_once`; else `verify` is awaited."""
        return self._verdict(request, policy) if self.at_once else None

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        return self._verdict(request, policy)

    def _verdict(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        if self.error is not None:
            raise self.error
        credential = first(request.fields, b"authorization")
        if policy.protection is Protection.PUBLIC or credential is None:
            if policy.protection is Protection.REQUIRED:
                return Denied(status=401, body=b'{"message":"unauthorised"}')
            return Allowed(principal=None, reason="public")
        user = credential.removeprefix(b"Bearer ").decode()
        if user in self.lacking:
            return Denied(status=403, body=b'{"message":"invalid claim"}')
        return Allowed(
            principal=SessionIdentity(
                user_id=user,
                recipe_user_id="r",
                session_handle=f"session-{user}",
                tenant_id="public",
                claims={},
                expires_at=time.time() + self.expires_in_s,
            ),
            reason="local",
            new_tokens=self.new_tokens,
        )


class NoAuth(Auth):
    """Replaces the SDK's API; it owns no path."""

    def __init__(self) -> None:
        """Don't start the SDK."""

    def owns(self, path: str) -> bool:
        return False


class Log(logging.Handler):
    """Records log messages of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class UnderTest:
    """A gateway that listens on loopback."""

    app: App
    port: int
    ports: Sequence[int]
    """Those of all items of `gateway.listen` with a port, then `gateway.decision`."""
    verifier: FakeVerifier
    listener: Listener
    pools: Sequence[UpstreamPool]
    records: asyncio.Queue[Record]
    log: Log
    stop: Callable[[], Coroutine[Any, Any, None]]
    """Stop accepting and drain, as the end of the block does."""

    @property
    def proxy(self) -> Proxy:
        return self.app.proxy

    async def ask(self, method: str, target: str, *fields: Any, **kw: Any) -> WireReply:
        """Send one request on a connection of its own; return the reply."""
        return await ask(self.port, method, target, *fields, **kw)

    async def record(self) -> Record:
        """Return the record of the next request that ends."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.records.get()

    def connect(self) -> Any:
        return connect(self.port)


@dataclass
class _Observer:
    records: asyncio.Queue[Record] = field(default_factory=asyncio.Queue)

    def observe(self, record: Record) -> None:
        self.records.put_nowait(record)


@dataclass
class GatewayParts:
    """A gateway that isn't served yet, and its fakes."""

    app: App
    verifier: FakeVerifier
    records: asyncio.Queue[Record]
    upstreams: Upstreams
    pools: Sequence[UpstreamPool]


def make(
    *targets: str,
    route: Mapping[str, Any] | None = None,
    more_routes: Sequence[Mapping[str, Any]] = (),
    service: Mapping[str, Any] | None = None,
    more_services: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    cors: Mapping[str, Any] | None = None,
    tracing: Mapping[str, Any] | None = None,
    drain_timeout: float = 5,
    pace: Pace = PACE,
) -> GatewayParts:
    """Return the gateway that `gateway` serves. The caller must close its `upstreams`.

    Connections to the service are kept for a minute, unless *service* says otherwise,
    so that a busy machine closes none of them during a test.

    The arguments are those of `gateway`.
    """
    loaded = config.parse(
        {
            "version": 1,
            "gateway": {
                "drain_timeout": drain_timeout,
                "listen": "127.0.0.1:0",
                **(settings or {}),
            },
            "cors": {"allow_origins": [ORIGIN], **(cors or {})},
            "tracing": dict(tracing or {}),
            "defaults": dict(defaults or {}),
            "services": {
                "up": {"targets": list(targets), "keep_alive": 60, **(service or {})},
                **(more_services or {}),
            },
            "routes": [
                {"path": "/", "service": "up", "protected": False, **(route or {})},
                *({"service": "up", **each} for each in more_routes),
            ],
        }
    )
    table = routes.compile(loaded)
    limits = loaded.gateway.limits
    reader, replies = readers(table, loaded.gateway)
    upstreams = Upstreams(replies)
    observer = _Observer()
    verifier = FakeVerifier()
    asserting = loaded.gateway.assertion
    assertion_keys = assertions.load(asserting)
    resources = Router(
        table=table,
        auth=NoAuth(),
        user_path=loaded.gateway.user_path,
        jwks_path=None if asserting is None else asserting.jwks_path,
        jwks=assertions.key_set(assertion_keys),
    )
    services = {
        each.name: service_targets(
            each,
            [
                upstreams.pool(
                    UpstreamTarget.parse(str(target), each.tls),
                    max_connections=each.max_connections,
                    max_waiting=each.max_waiting,
                    keepalive_s=each.keep_alive,
                )
                for target in each.targets
            ],
        )
        for each in table.services()
    }
    mirroring = Mirroring.of(table, services)
    numbers = itertools.count(1)

    def make_id() -> str:
        return f"id-{next(numbers)}"

    proxy = Proxy(
        Dependencies(
            limiter=Limiter(LocalStore(time.monotonic_ns)),
            reader=reader,
            resources=resources,
            services=services,
            verifier=verifier,
            cors=Cors(
                loaded.cors,
                website_domain=ORIGIN,
                sdk_headers=(),
                method_allowed=resources.method_allowed,
                routes=table.routes,
            ),
            observer=observer,
            limits=limits,
            forwarded=forwarded_cache(loaded.gateway),
            make_id=make_id,
            traces=traces(loaded),
            mirroring=mirroring,
            assertions=signing(loaded, table, assertion_keys),
            pace=pace,
        )
    )
    app = App(
        config=loaded,
        proxy=proxy,
        sessions=None,  # type: ignore[arg-type] # sessions are fakes
        observer=observer,
        keys=None,  # type: ignore[arg-type] # the same
        upstreams=upstreams,
        sdk=None,  # type: ignore[arg-type] # the same
        make_id=make_id,
        engine=None,  # type: ignore[arg-type] # the same
    )
    pools = services["up"].pools
    return GatewayParts(app, verifier, observer.records, upstreams, pools)


@asynccontextmanager
async def gateway(
    *targets: str, log_expected: bool = False, **options: Any
) -> AsyncIterator[UnderTest]:
    """Run a gateway with one route, `/`, to one service with these *targets*.

    The *options* are those of `make`: *route*, *service*, *defaults*, *cors*, *tracing*
    and *settings* (`gateway:`) are keys of `routes.yaml`. *more_routes* forward to the
    same service unless they name one of *more_services*. The route is public by
    default. With *log_expected* warnings in the log don't fail the test.
    """
    parts = make(*targets, **options)
    app = parts.app
    log = Log()
    logging.getLogger().addHandler(log)
    before = asyncio.all_tasks()
    own = app.config.gateway
    listens = listening.open_listens(
        (*own.listen, *config.decision_listens(own.decision)), 1
    )
    names = [listen.sockets[0].getsockname() for listen in listens]
    ports = [name[1] for name in names if isinstance(name, tuple)]
    listeners: list[Listener] = []

    class RecordedListener(Listener):
        """Appends itself to `listeners`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            listeners.append(self)

    serving = serve.serving(app, listens)
    stopped: list[bool] = []

    async def stop() -> None:
        if not stopped:
            stopped.append(True)
            await serving.__aexit__(None, None, None)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serve, "Listener", RecordedListener)
            await serving.__aenter__()
        yield UnderTest(
            app=app,
            port=ports[0] if ports else 0,
            ports=ports,
            verifier=parts.verifier,
            listener=listeners[0],
            pools=parts.pools,
            records=parts.records,
            log=log,
            stop=stop,
        )
    finally:
        await stop()
        if (mirroring := app.proxy.dependencies.mirroring) is not None:
            await mirroring.aclose()
        await parts.upstreams.close()
        listening.close_listens(listens)
        logging.getLogger().removeHandler(log)
    # Cancelled tasks end in a later turn of the loop.
    await until(lambda: not any(pool.open for pool in parts.upstreams.pools))
    await until(lambda: not _left(before))
    assert log_expected or not log.lines, log.lines


def _left(before: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return tasks of the gateway that are new since *before* and still run."""
    return {
        task
        for task in asyncio.all_tasks() - before
        if "gateway" in repr(task.get_coro()) or "aiohttp" in repr(task.get_stack())
    }


async def until_cut(wire: Wire) -> bytes:
    """Return all bytes until the connection ends, by a FIN or a reset."""
    received = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while piece := await wire.reader.read(65536):
                received += piece
    except ConnectionResetError:
        pass
    return received
