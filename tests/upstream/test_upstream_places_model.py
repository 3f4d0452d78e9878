"""The places of a pool add up, whatever clients, the service and the operator do.

A schedule is a list of steps, with a few turns of the event loop between some of them.
The sockets are made up: a step decides when a connection is made, what arrives on it
and when it is lost. After each step that is settled:

- the pool counts each connection once, and each exchange that waits for its client;
- no request waits for a place while one is free, nor longer than `timeouts.connect`;
- no exchange has begun above the limit: only clients that end their waits exceed it.

After the last step all clients go on, the service replies, and no place is taken.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple, cast

import pytest
from compiled import timeouts_of
from fake_time import in_fake_time

from gateway.clients import Clients
from gateway.errors import ConnectFailed, ConnectTimeout, GatewayError
from gateway.running import Runner, ensure_task
from gateway.upstream import UpstreamPool, Upstreams, UpstreamTarget
from gateway.upstream.connection import State, UpstreamConnection
from gateway.upstream.places import PlaceLimits

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TIMEOUTS = timeouts_of(connect=5, response=60, idle=60, total=600)
SIZE = 8
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
REPLIES = (
    OK + b"ok",
    OK + b"o",
    OK,
    b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nn",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    b"HTTP/1.1 101 Yes\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    OK + b"ok, and surplus",
    b"nonsense\r\n\r\n",
)
ADDRESSES = ("192.0.2.1", "192.0.2.2", "10.0.0.1")
"""The last one has no share of its own."""
SEEDS = 40
TURNS = 16
"""More than any chain of callbacks that a step causes."""


class FakeTransport(asyncio.Transport):
    """An upstream's end of a connection, moved by the steps."""

    def __init__(self, connection: UpstreamConnection) -> None:
        super().__init__()
        self.connection = connection
        self.protocol: asyncio.Protocol = connection
        self.lost = False
        self._ours, self._theirs = socket.socketpair()
        connection.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ours if name == "socket" else default

    def write(self, data: Any) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast("asyncio.Protocol", protocol)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self._on_lost)

    def _on_lost(self) -> None:
        self._ours.close()
        self._theirs.close()
        self.protocol.connection_lost(None)

    def arrives_unread(self) -> None:
        """A byte that the event loop hasn't delivered yet."""
        if not self.lost:
            self._theirs.send(b"x")


class FakeDialer:
    """Makes a connection when a step says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.pending: list[asyncio.Future[None]] = []
        self.transports: list[FakeTransport] = []

    def leads_away(self, address: str) -> bool:
        return False

    async def dial(
        self, factory: Callable[[], UpstreamConnection], deadline: float
    ) -> UpstreamConnection:
        pending: asyncio.Future[None] = self._loop.create_future()
        self.pending.append(pending)
        try:
            async with asyncio.timeout_at(deadline):
                await pending
        except TimeoutError:
            raise ConnectTimeout from None
        finally:
            self.pending.remove(pending)
        connection = factory()
        self.transports.append(FakeTransport(connection))
        return connection

    def open(self, *states: State) -> list[FakeTransport]:
        return [
            transport
            for transport in self.transports
            if not transport.lost and transport.connection.state in states
        ]


Kind = Literal["get", "post", "upload", "chunked", "upgrade"]


class FakeClient(Runner):
    """One request: sends its body, and takes its reply, when the steps say so."""

    def __init__(
        self, pool: UpstreamPool, address: str, kind: Kind, *, in_task: bool
    ) -> None:
        super().__init__(asyncio.get_running_loop())
        self.client_address = address
        self.bytes_in = 0
        self.bytes_out = 0
        self.ended = False
        self.error: BaseException | None = None
        self.is_asking = True
        self._pool = pool
        self._kind = kind
        self._in_task = in_task
        self._pieces: list[bytes] = []
        self._more = asyncio.Event()
        self._takes = asyncio.Event()
        self._takes.set()
        self.run(self._serve())

    async def _serve(self) -> None:
        if self._in_task:
            await ensure_task()
        kind = self._kind
        streamed = kind in ("upload", "chunked")
        try:
            reply = await self._pool.exchange(
                HEAD,
                "GET" if kind == "get" else "POST",
                TIMEOUTS,
                self._body() if streamed else bytes(SIZE) if kind == "post" else None,
                SIZE if kind in ("upload", "post") else None,
                kind == "upgrade",
                client=self,
            )
        finally:
            self.is_asking = False
        try:
            if reply.status == 101:
                tunnel = reply.upgrade()
                try:
                    await ensure_task()
                    while await tunnel.read():
                        pass
                finally:
                    tunnel.close()
                return
            while not reply.complete or reply.size:
                if not self._takes.is_set():
                    reply.begin_wait()
                    await self._takes.wait()
                    reply.end_wait()
                self.bytes_out += len(await reply.read())
        finally:
            reply.close()

    async def _body(self) -> AsyncIterator[bytes]:
        while self.bytes_in < SIZE:
            while not self._pieces:
                self._more.clear()
                await self._more.wait()
            piece = self._pieces.pop()
            self.bytes_in += len(piece)
            yield piece

    def on_coroutine_end(self, error: BaseException | None) -> None:
        self.ended = True
        self.error = error

    def cut(self, error: GatewayError) -> None:
        self.cancel()

    def send(self, pieces: int) -> None:
        self._pieces += [b"x"] * pieces
        self._more.set()

    def stall(self) -> None:
        self._takes.clear()

    def go_on(self) -> None:
        self._takes.set()


class Step(NamedTuple):
    name: str
    which: int
    """Chooses one of those that the step can be applied to."""
    how: int
    settle: bool
    """Let the event loop run until nothing is ready, and check the pool."""


class Model:
    def __init__(self, pool: UpstreamPool) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = pool
        self.dialer = FakeDialer(self.loop)
        pool.dialer = cast("Any", self.dialer)
        self.clients: list[FakeClient] = []
        self.flaws: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.flaws.append(context))
        self.in_use = 0
        self.on_clients = 0
        self.highest = pool.limits
        self.ended_waits = 0
        on_wait_end = pool.on_wait_end

        def count(connection: UpstreamConnection) -> None:
            self.ended_waits += 1
            on_wait_end(connection)

        pool.on_wait_end = count  # type: ignore[method-assign]
        self.waiting_since: dict[object, float] = {}
        acquire = pool._acquire

        async def timed(
            deadline: float, is_over_share: bool
        ) -> UpstreamConnection | None:
            this = object()
            self.waiting_since[this] = self.loop.time()
            try:
                return await acquire(deadline, is_over_share)
            finally:
                del self.waiting_since[this]

        pool._acquire = timed  # type: ignore[method-assign]

    # --- the steps ------------------------------------------------------------

    async def take(self, step: Step) -> None:
        cast("Any", getattr(self, f"do_{step.name}"))(step.which, step.how)
        if step.name == "wait":
            await asyncio.sleep(step.how * 0.4)
        if step.settle:
            await self.settle()

    def _begin(self, kind: Kind, which: int, how: int) -> None:
        address = ADDRESSES[which % len(ADDRESSES)]
        client = FakeClient(self.pool, address, kind, in_task=how % 2 == 0)
        self.clients.append(client)

    def do_get(self, which: int, how: int) -> None:
        self._begin("get", which, how)

    def do_post(self, which: int, how: int) -> None:
        self._begin("post", which, how)

    def do_upload(self, which: int, how: int) -> None:
        self._begin("upload", which, how)
        self.clients[-1].send(how % 4)

    def do_chunked(self, which: int, how: int) -> None:
        self._begin("chunked", which, how)

    def do_upgrade(self, which: int, how: int) -> None:
        self._begin("upgrade", which, how)

    def do_dial(self, which: int, how: int) -> None:
        if pending := self.dialer.pending:
            future = pending[which % len(pending)]
            if not future.done():
                if how == 0:
                    future.set_exception(ConnectFailed())
                else:
                    future.set_result(None)

    def do_reply(self, which: int, how: int) -> None:
        if transports := self.dialer.open(State.WAITING):
            transport = transports[which % len(transports)]
            transport.protocol.data_received(REPLIES[how % len(REPLIES)])

    def do_go_on(self, which: int, how: int) -> None:
        if transports := self.dialer.open(State.REPLYING):
            transports[which % len(transports)].protocol.data_received(b"k")

    def do_surplus(self, which: int, how: int) -> None:
        if transports := self.dialer.open(State.IDLE):
            transports[which % len(transports)].arrives_unread()

    def do_lose(self, which: int, how: int) -> None:
        if transports := self.dialer.open(*State):
            transports[which % len(transports)].abort()

    def do_fin(self, which: int, how: int) -> None:
        if transports := self.dialer.open(State.IDLE, State.WAITING, State.REPLYING):
            transports[which % len(transports)].protocol.eof_received()

    def do_full(self, which: int, how: int) -> None:
        if transports := self.dialer.open(State.WAITING, State.REPLYING):
            connection = transports[which % len(transports)].connection
            if connection._drained is None:
                connection.pause_writing()
            else:
                connection.resume_writing()

    def _client(self, which: int) -> FakeClient | None:
        clients = [client for client in self.clients if not client.ended]
        return clients[which % len(clients)] if clients else None

    def do_send(self, which: int, how: int) -> None:
        if client := self._client(which):
            client.send(how)

    def do_stall(self, which: int, how: int) -> None:
        if client := self._client(which):
            client.stall()

    def do_read(self, which: int, how: int) -> None:
        if client := self._client(which):
            client.go_on()

    def do_leave(self, which: int, how: int) -> None:
        if client := self._client(which):
            client.cancel()

    def do_wait(self, which: int, how: int) -> None: ...

    def do_limits(self, which: int, how: int) -> None:
        limits = PlaceLimits(1 + which % 10, 1 + how % 4, 0.5)
        old = self.highest
        self.highest = PlaceLimits(
            max(old.max_connections, limits.max_connections),
            max(old.max_waiting, limits.max_waiting),
        )
        self.pool.set_limits(limits)

    # --- what must hold -------------------------------------------------------

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        pool = self.pool
        limits = pool.limits
        connections = pool._connections
        assert not self.flaws, self.flaws[0]
        assert pool._places == len(connections) + len(pool._dialling)
        assert len(pool._dialling) == len(self.dialer.pending)
        waiting = {connection for connection in connections if connection.waits_for}
        assert set(pool._on_clients) == waiting
        idle = {c for c in connections if c.state is State.IDLE}
        assert set(pool._idle) == idle
        assert not any(c.state is State.CLOSED for c in connections)
        in_use = pool._places - len(idle) - len(waiting)
        begun = max(self.highest.max_connections, self.in_use) + self.ended_waits
        assert 0 <= in_use <= begun
        assert len(waiting) <= max(self.highest.max_waiting, self.on_clients)
        self.in_use, self.on_clients = in_use, len(waiting)
        self.highest, self.ended_waits = limits, 0
        if pool._waiters:
            assert in_use >= limits.max_connections
        if pool._over_share:
            assert in_use >= limits.scarce_at
        asking = sum(c.is_asking and not c.ended for c in self.clients)
        asked = sum(c.state is State.WAITING for c in connections)
        assert asking == pool.waiting + len(pool._dialling) + asked
        assert len(self.waiting_since) == pool.waiting
        now = self.loop.time()
        assert all(now <= at + TIMEOUTS.connect for at in self.waiting_since.values())
        for client in self.clients:
            if client.ended and client.error is not None:
                assert isinstance(client.error, GatewayError | asyncio.CancelledError)
        self.clients = [client for client in self.clients if not client.ended]

    async def finish(self) -> None:
        """All clients go on and the service replies: every exchange ends."""
        while self.clients:
            number = len(self.clients)
            for client in self.clients:
                client.send(SIZE)
                client.go_on()
            for pending in self.dialer.pending:
                if not pending.done():
                    pending.set_result(None)
            await self.settle()
            for transport in self.dialer.open(*State):
                if transport.connection._drained is not None:
                    transport.connection.resume_writing()
            await self.settle()
            for transport in self.dialer.open(State.TUNNEL):
                transport.abort()
            for transport in self.dialer.open(State.REPLYING):
                left = transport.connection._reader._left
                transport.protocol.data_received(b"k" * left)
            for transport in self.dialer.open(State.WAITING):
                transport.protocol.data_received(OK + b"ok")
            await self.settle()
            rest = len(self.clients) < number or self.dialer.pending
            assert rest, "nothing goes on, though nobody waits"
        pool = self.pool
        assert (pool.in_use, pool.on_clients, pool.waiting) == (0, 0, 0)


BEGINS = ("get", "post", "upload", "chunked", "upgrade")
GOES_ON = ("dial", "reply", "go_on", "send", "stall", "read")
FAILS = ("surplus", "lose", "fin", "full", "leave", "wait", "limits")


def schedule(seed: int, number: int) -> Iterator[Step]:
    """Yield steps; each seed has its own mix, as some faults hide others."""
    rng = random.Random(seed)
    names: list[str] = []
    for name in BEGINS:
        names += [name] * rng.choice((0, 1, 2))
    for name in GOES_ON:
        names += [name] * rng.choice((1, 2, 4))
    for name in FAILS:
        names += [name] * rng.choice((0, 0, 1))
    names.append("get")
    settled = rng.choice((0.3, 0.7, 1.0))
    for _ in range(number):
        yield Step(
            rng.choice(names),
            rng.randrange(60),
            rng.randrange(10),
            rng.random() < settled,
        )


def step(name: str, how: int = 0, which: int = 0, *, settle: bool = True) -> Step:
    return Step(name, which, how, settle)


MAKE_ONE = [step("get", 1), step("dial", 1)]
"""A request on a new connection, without a task of its own."""

CASES = {
    "a reply ends while a request turns into a task": [
        *MAKE_ONE,
        step("get", 1, settle=False),
        step("reply"),
        step("reply"),
    ],
    "a connection ends when it was given to a request": [
        *MAKE_ONE,
        step("get", 1),
        step("reply", settle=False),
        step("lose"),
    ],
    "a request ends when it was given a connection": [
        *MAKE_ONE,
        step("get", 1),
        step("reply", settle=False),
        step("leave"),
    ],
    "the limit is raised": [*MAKE_ONE, step("get", 1), step("limits", which=4)],
    "a client is cut that has sent more": [
        *(step("limits", which=1), step("upload", 1), step("dial", 1), step("wait", 9)),
        *(step("full"), step("send", 1)),
        *(step("upload", 1, which=2), step("dial", 1)),
        *(step("send", 2), step("full")),
    ],
}


async def play(steps: Iterable[Step], max_connections: int, max_waiting: int) -> None:
    upstreams = Upstreams(clients=Clients(exempt=("10.0.0.0/8",)), share=0.5)
    pool = upstreams.pool(
        UpstreamTarget.parse("http://127.0.0.1:1"),
        max_connections=max_connections,
        max_waiting=max_waiting,
    )
    model = Model(pool)
    for each in steps:
        await model.take(each)
    await model.settle()
    await model.finish()
    await upstreams.close()
    assert (pool.open, pool.on_clients, len(pool._connections)) == (0, 0, 0)


@pytest.mark.parametrize("case", CASES)
@in_fake_time
async def test_the_places_add_up_in_this_order(case: str) -> None:
    await play(CASES[case], 1, 1)


@pytest.mark.parametrize("seed", range(SEEDS))
@in_fake_time
async def test_the_places_add_up(seed: int) -> None:
    rng = random.Random(seed)
    connections, waiting = rng.choice((1, 2, 3, 8, 9)), rng.choice((1, 2, 4, 16))
    await play(schedule(seed, 200), connections, waiting)
