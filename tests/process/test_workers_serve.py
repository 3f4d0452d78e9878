"""A gateway of several processes: sign-outs, crashes, reloads and stops.

The processes are real. The first half of a request id tells which worker answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import cast

import processes
import pytest
from click.testing import CliRunner
from faults import CHUNKED_HEAD, OK, FaultUpstream, Peer, until
from gateway_under_test import until_cut
from open_streams import HANDSHAKE, SESSION_ENDED, SWITCH
from processes import (
    DEADLINE_S,
    GATEWAY,
    Process,
    command,
    has_ended,
    serving,
    until_refused,
)
from stack import Gateway, Records, User, form
from wire import Wire, WireReply, ask, connect, request

from gateway.app import App
from gateway.cli import main
from gateway.dev.core import ThreadedCore
from gateway.process.sockets import bind, share
from gateway.session.keys import JWKS_PATH
from gateway.supertokens.api import UNCONFIRMED

ROUTES = """\
version: 1
gateway: {listen: "${LISTEN:-127.0.0.1:0}", drain_timeout: 20}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {path: /open, service: up, protected: false}
  - {path: /private, service: up}
"""
MORE_ROUTES = ROUTES + "  - {path: /new, service: up, protected: false}\n"

SHORT_PACE = """\
from functools import partial
from gateway.cli import main
from gateway.process import supervisor
from gateway.process.plan_pace import SupervisorPace

pace = SupervisorPace(tick_s=0.1, silent_ticks=20, start_ticks=600, keys_extra_s=0.5)
supervisor.supervise = partial(supervisor.supervise, pace=pace)
main()
"""
"""The command, with a short time for a worker that hangs, and a long one to start.

Those of a reload have a short time to fetch their first keys.
"""

MODULE = """\
import os, pathlib, signal
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.recipe import session

{trouble}
ORIGIN = "http://localhost:8000"
app_info = InputAppInfo(app_name="a", api_domain=ORIGIN, website_domain=ORIGIN)
supertokens_config = SupertokensConfig(os.environ["CORE"])
recipe_list = [session.init()]
"""
OWN_MODULE = """\
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens: {config_module: own_module}
routes: [{path: /open, upstream: "${UPSTREAM}", protected: false}]
"""


def module_path(folder: Path) -> str:
    """Return a PYTHONPATH with *folder* in it."""
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


class Service:
    """An upstream's behaviour: upgrades, and answers POST when `release` is set."""

    def __init__(self) -> None:
        self.received = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            if received.field(b"upgrade"):
                await peer.send(SWITCH)
                await peer.gone()
                return
            if b"/events" in received.line:
                await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
                await peer.gone()
                return
            if received.line.startswith(b"POST"):
                self.received.set()
                await self.release.wait()
            await peer.send(OK)


@pytest.fixture
def service(upstream: FaultUpstream) -> Service:
    upstream.behaviour = behaviour = Service()
    return behaviour


class Workers:
    """A running gateway of several workers."""

    def __init__(self, process: Process, port: int, path: Path, count: int) -> None:
        self.process = process
        self.count = count
        self.port = port
        self.path = path

    @property
    def workers(self) -> set[int]:
        """The process ids of the workers that run."""
        return processes.workers(self.process.child.pid)

    @property
    def hubs(self) -> set[int]:
        """The process id of the hub, if it has set its name."""
        return processes.hubs(self.process.child.pid)

    @property
    def children(self) -> set[int]:
        return processes.children(self.process.child.pid)

    def write(self, text: str) -> None:
        """Replace the configuration file atomically."""
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.path)

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)

    async def until_logged(self, pattern: bytes, times: int = 1) -> None:
        """Return when standard error has had *pattern* so many *times*."""
        await self.process.until_said(rb"(?s)" + rb".*".join([pattern] * times))

    async def ask(self, target: str = "/open") -> WireReply:
        return await ask(self.port, "GET", target)

    async def until_served(self, target: str) -> None:
        """Return when the first answer is 200, as after a reload."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.ask(target)).status != 200:
                pass

    @asynccontextmanager
    async def each(
        self, connections: int = 1, *, workers: int = 2, unlike: Sequence[str] = ()
    ) -> AsyncIterator[list[list[Wire]]]:
        """Yield so many connections to each of so many workers, none in *unlike*."""
        by_worker: dict[str, list[Wire]] = {}
        async with AsyncExitStack() as opened:
            async with asyncio.timeout(DEADLINE_S):
                while sum(len(w) == connections for w in by_worker.values()) < workers:
                    async with AsyncExitStack() as another:
                        wire = await another.enter_async_context(connect(self.port))
                        worker = worker_of(await get(wire, "/open"))
                        if worker not in unlike:
                            wires = by_worker.setdefault(worker, [])
                            if len(wires) < connections:
                                wires.append(wire)
                                await opened.enter_async_context(another.pop_all())
            yield [wires for wires in by_worker.values() if len(wires) == connections]


def worker_of(reply: WireReply) -> str:
    """Return the part of a request id that is the same for all ids of a worker."""
    request_id = reply.one("X-Request-Id")
    assert request_id is not None
    return request_id[:16]


@asynccontextmanager
async def connect_from(port: int, source: int) -> AsyncIterator[Wire]:
    """Connect for the block from port *source*, or from a free one if it is 0.

    The port is free again afterwards: no other test uses this address.
    """
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=("127.7.7.7", source)
    )
    try:
        yield Wire(reader, writer)
    finally:
        # A reset: otherwise the port would stay in use for a minute.
        writer.get_extra_info("socket").setsockopt(
            SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()
        await writer.wait_closed()


class StartBarrier:
    """A barrier at which starting workers wait while it is closed."""

    WAIT = """\
import socket
with socket.create_connection(("127.0.0.1", int(os.environ["BARRIER"]))) as barrier:
    barrier.sendall(b"%d\\n" % os.getpid())
    barrier.recv(1)
"""
    """Code of a `config_module` that waits at the barrier."""

    def __init__(self) -> None:
        self.port = 0
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._waiting: asyncio.Queue[int] = asyncio.Queue()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StartBarrier]:
        """Accept workers for the block."""
        server = await asyncio.start_server(self._on_worker, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            try:
                yield self
            finally:
                self.open()

    def close(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    async def next_waiting(self) -> int:
        """Return the process id of the next worker that waits here."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._waiting.get()

    async def _on_worker(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            pid = int(await reader.readline())
            if not self._is_open.is_set():
                self._waiting.put_nowait(pid)
                await self._is_open.wait()
        finally:
            writer.close()


Start = Callable[..., Awaitable[Workers]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway from a configuration's text."""
    async with AsyncExitStack() as opened:

        async def run(
            text: str = ROUTES,
            *arguments: str,
            workers: int = 2,
            program: Sequence[str | Path] = (GATEWAY,),
            **environ: str,
        ) -> Workers:
            path = tmp_path / "routes.yaml"
            path.write_text(text, encoding="utf-8")
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--workers", str(workers), *arguments),
                    cwd=tmp_path,
                    environ={"CORE": st_core.url, "UPSTREAM": upstream.url, **environ},
                    program=program,
                )
            )
            gateway = Workers(process, await serving(process), path, workers)
            async with gateway.each(workers=workers):  # all serve
                await until(lambda: gateway.hubs)
                return gateway

        yield run


@pytest.fixture
async def barrier() -> AsyncIterator[StartBarrier]:
    async with StartBarrier().running() as barrier:
        yield barrier


@pytest.fixture
def start_with_barrier(start: Start, barrier: StartBarrier, tmp_path: Path) -> Start:
    """Return a function that starts a gateway whose workers wait at the barrier."""
    (tmp_path / "own_module.py").write_text(MODULE.format(trouble=StartBarrier.WAIT))
    environ = {"PYTHONPATH": module_path(tmp_path), "BARRIER": str(barrier.port)}
    return partial(start, OWN_MODULE, **environ)


async def sign_up(gateway: Workers, core: ThreadedCore) -> User:
    """Return a user with a session, signed up at any worker."""
    url = f"http://127.0.0.1:{gateway.port}"
    one = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
    return await one.sign_up()


async def get(wire: Wire, target: str, *fields: tuple[str, str]) -> WireReply:
    await wire.send(request("GET", target, *fields))
    return await wire.reply()


async def stop_one(gateway: Workers, served: Wire) -> int:
    """Stop a worker that doesn't serve *served*; return its process id."""
    for pid in gateway.workers:
        os.kill(pid, signal.SIGSTOP)
        await served.send(request("GET", "/open"))
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await served.reply()
                return pid
        os.kill(pid, signal.SIGCONT)
        await served.reply()
    raise AssertionError


# --- sign-outs ------------------------------------------------------------------


async def test_a_sign_out_ends_the_session_in_every_worker(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """A sign-out ends the session's tokens, WebSockets and streams in every worker.

    Workers that start afterwards know of it, too. No route here queries the core, so
    that a worker can know of it only from the supervisor.
    """
    gateway = await start()
    user = await sign_up(gateway, st_core)
    async with gateway.each(3) as ((ours, our_stream, _), (theirs, stream, socket)):
        for wire in (ours, theirs):
            assert (await get(wire, "/private", user.bearer)).status == 200
        await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
        assert (await socket.head()).status == 101
        for wire in (our_stream, stream):
            await wire.send(request("GET", "/private/events", user.bearer))
            assert (await wire.head()).status == 200
            assert await wire.chunk() == b"1\n"
        await ours.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
        assert (await ours.reply()).status == 200
        assert await socket.rest() == SESSION_ENDED
        for wire in (our_stream, stream):
            assert await until_cut(wire) == b""
        for wire in (theirs, ours):
            reply = await get(wire, "/private", user.bearer)
            assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
        known = [worker_of(await get(wire, "/open")) for wire in (ours, theirs)]
        for worker in gateway.workers:
            os.kill(worker, signal.SIGKILL)
    async with gateway.each(unlike=known) as new:
        for (wire,) in new:
            assert (await get(wire, "/private", user.bearer)).status == 401


async def test_every_sign_out_is_known_in_every_worker(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """Each worker knows all sign-outs, also of other workers and before its start."""
    gateway = await start()
    users = [await sign_up(gateway, st_core) for _ in range(3)]

    async def sign_out(user: User, at: Wire, socket: Wire) -> None:
        """Sign *user* out at one worker; return when another has closed *socket*."""
        await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
        assert (await socket.head()).status == 101
        assert (await get(at, "/private", user.bearer)).status == 200
        await at.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
        assert (await at.reply()).status == 200
        assert await socket.rest() == SESSION_ENDED

    async def refused(wire: Wire) -> list[bool]:
        """Return for each user whether the worker at *wire* refuses it."""
        replies = [await get(wire, "/private", user.bearer) for user in users]
        return [reply.status == 401 for reply in replies]

    async with gateway.each(2) as ((ours, our_socket), (theirs, their_socket)):
        await sign_out(users[0], ours, their_socket)
        await sign_out(users[1], theirs, our_socket)
        for wire in (ours, theirs):
            assert await refused(wire) == [True, True, False]
        known = [worker_of(await get(wire, "/open")) for wire in (ours, theirs)]
    os.kill(min(gateway.workers), signal.SIGKILL)
    async with gateway.each(workers=1, unlike=known) as ((new,),):
        assert await refused(new) == [True, True, False]
        unlike = [worker_of(await get(new, "/open"))]
        async with gateway.each(2, workers=1, unlike=unlike) as ((old, old_socket),):
            await sign_out(users[2], new, old_socket)
            for wire in (new, old):
                assert await refused(wire) == [True, True, True]


async def test_a_sign_out_is_known_everywhere_before_its_answer(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """Once a sign-out is answered, no worker accepts the session: 200 times in turn.

    A busy machine may keep a worker from acknowledging in time. The log says so then.
    """
    gateway = await start()
    user = await sign_up(gateway, st_core)
    accepted = []
    async with gateway.each() as ((ours,), (theirs,)):
        for trial in range(200):
            if trial:
                await user.enter()
            at, other = (ours, theirs) if trial % 2 else (theirs, ours)
            assert (await get(other, "/private", user.bearer)).status == 200
            await at.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
            assert (await at.reply()).status == 200
            reply = await get(other, "/private", user.bearer)
            if reply.status != 401:
                accepted.append(trial)
    unconfirmed = gateway.process.out.count(UNCONFIRMED.encode())
    assert len(accepted) <= unconfirmed < 20


async def test_a_sign_out_is_answered_though_a_worker_hangs(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """The answer waits a limited time, and the log says that it has gone out before."""
    gateway = await start()
    user = await sign_up(gateway, st_core)
    async with gateway.each() as ((ours,), (theirs,)):
        for wire in (ours, theirs):
            assert (await get(wire, "/private", user.bearer)).status == 200
        stopped = await stop_one(gateway, ours)
        await ours.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
        assert (await ours.reply()).status == 200
        await gateway.until_logged(UNCONFIRMED.encode())
        os.kill(stopped, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while (await get(theirs, "/private", user.bearer)).status != 401:
                pass


# --- crashes ----------------------------------------------------------------------


async def test_queued_connections_of_a_dead_worker_are_served(
    start_with_barrier: Start, barrier: StartBarrier
) -> None:
    """Another worker accepts the connections that a dead one had not accepted.

    It does so before the dead one is replaced.
    """
    gateway = await start_with_barrier()
    first, second = gateway.workers
    # While both are stopped, connections stay in their queues; one of them then dies.
    for worker in (first, second):
        os.kill(worker, signal.SIGSTOP)
    async with AsyncExitStack() as opened:
        wires = [
            await opened.enter_async_context(connect(gateway.port)) for _ in range(40)
        ]
        for wire in wires:
            await wire.send(request("GET", "/open"))
        barrier.close()
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        for wire in wires:
            assert (await wire.reply()).status == 200
    await gateway.until_logged(
        rb"worker \d \(pid %d\) was ended by SIGKILL; another one starts in 0\.1 s"
        % first
    )
    replacing = await barrier.next_waiting()
    assert gateway.workers == {second, replacing}
    barrier.open()
    async with gateway.each():
        pass


async def test_a_dead_worker_s_socket_has_one_other_worker(
    start_with_barrier: Start, barrier: StartBarrier
) -> None:
    """One other worker accepts on a dead worker's socket, until it is replaced.

    The system assigns a client's port to the same socket each time. If only one worker
    accepts there, the same one answers, whichever of the others is stopped.
    """
    gateway = await start_with_barrier(workers=3)
    ports = [0] * 30

    async def who_answers(stopped: int, wires: Sequence[Wire]) -> tuple[str, ...]:
        """Send requests from *ports* while one worker is *stopped*; return who answers.

        *wires* are connected to all workers. When the others have answered a later
        request there, they have also accepted their share of the earlier connections.
        """
        async with AsyncExitStack() as opened:
            clients = []
            os.kill(stopped, signal.SIGSTOP)
            try:
                for number, port in enumerate(ports):
                    client = await opened.enter_async_context(
                        connect_from(gateway.port, port)
                    )
                    ports[number] = client.writer.get_extra_info("sockname")[1]
                    await client.send(request("GET", "/open"))
                    clients.append(client)
                later = [asyncio.create_task(get(wire, "/open")) for wire in wires]
                for answer in islice(asyncio.as_completed(later), len(wires) - 1):
                    await answer
            finally:
                os.kill(stopped, signal.SIGCONT)
            await asyncio.gather(*later)
            return tuple([worker_of(await client.reply()) for client in clients])

    async with gateway.each(workers=3) as wires:
        first, second, third = gateway.workers
        barrier.close()
        os.kill(first, signal.SIGKILL)
        await barrier.next_waiting()
        left = []
        for (wire,) in wires:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await get(wire, "/open")
                left.append(wire)
        assert len(left) == 2
        answers = await who_answers(second, left)
        assert len(set(answers)) == 2
        assert await who_answers(third, left) == answers
    barrier.open()
    async with gateway.each(workers=3) as wires, asyncio.timeout(DEADLINE_S):
        all_three = [wire for (wire,) in wires]
        while len({await who_answers(pid, all_three) for pid in gateway.workers}) > 1:
            pass  # the other worker still accepts on the replaced one's socket


async def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    """A worker that doesn't answer pings is killed and replaced."""
    gateway = await start(program=(sys.executable, "-c", SHORT_PACE))
    before = gateway.workers
    worker = min(before)
    os.kill(worker, signal.SIGSTOP)
    await gateway.until_logged(
        rb"pid %d\) was ended by SIGKILL: it didn't answer;" % worker
    )
    await until(lambda: gateway.workers - before and worker not in gateway.workers)
    async with gateway.each():
        pass


async def test_a_slow_start_is_no_hang(
    start_with_barrier: Start, barrier: StartBarrier
) -> None:
    """A worker that starts may be silent for longer than one that serves."""
    gateway = await start_with_barrier(program=(sys.executable, "-c", SHORT_PACE))
    lost, hangs = gateway.workers
    barrier.close()
    os.kill(lost, signal.SIGKILL)
    slow = await barrier.next_waiting()
    os.kill(hangs, signal.SIGSTOP)  # it is silent for a shorter time, and is killed
    await gateway.until_logged(
        rb"pid %d\) was ended by SIGKILL: it didn't answer;" % hangs
    )
    other = await barrier.next_waiting()
    assert gateway.workers == {slow, other}
    barrier.open()
    async with gateway.each():
        assert gateway.workers == {slow, other}


async def test_workers_drain_when_the_supervisor_is_killed(
    start: Start, service: Service
) -> None:
    """When the supervisor is killed, workers close the port, drain and end."""
    gateway = await start()
    family = gateway.children
    async with connect(gateway.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.received.wait()
        gateway.signal(signal.SIGKILL)
        await until_refused(gateway.port)
        service.release.set()
        reply = await wire.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
    await until(lambda: all(map(has_ended, family)))


async def test_a_hub_that_hangs_or_dies_affects_no_request(start: Start) -> None:
    """Requests are served while the hub is stopped or dead, and it is replaced."""
    gateway = await start(workers=1)
    workers = gateway.workers
    (pid,) = gateway.hubs
    os.kill(pid, signal.SIGSTOP)
    assert (await gateway.ask()).status == 200
    os.kill(pid, signal.SIGKILL)
    assert (await gateway.ask()).status == 200
    await gateway.until_logged(
        rb"hub \(pid %d\) was ended by SIGKILL; another one" % pid
    )
    await until(lambda: gateway.hubs - {pid})
    assert gateway.workers == workers
    os.kill(min(gateway.hubs), signal.SIGINT)  # as a terminal does: ignored
    gateway.signal(signal.SIGINT)
    assert await gateway.process.ended() == 0
    assert b"Traceback" not in gateway.process.err


ADOPTING = """\
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
reads, writes = os.pipe()
parent = os.fork()
if parent == 0:
    orphan = os.fork()
    if orphan == 0:
        for number in (1, 2, writes):
            os.close(number)
        os.read(reads, 1)  # until the gateway has ended, at the latest
    else:
        print("orphan", orphan, flush=True)
    os._exit(0)
os.waitpid(parent, 0)
os.close(reads)
os.set_inheritable(writes, True)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command to which orphans are reparented, as to process 1, with one orphan."""


async def test_an_orphan_is_reaped(start: Start) -> None:
    """A supervisor that is process 1 reaps an orphan, without logging it."""
    gateway = await start(program=(sys.executable, "-c", ADOPTING, GATEWAY))
    orphan = int((await gateway.process.until_said(rb"orphan (\d+)"))[1])
    assert orphan in gateway.children
    before = gateway.workers
    worker = min(before)
    os.kill(orphan, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{orphan}").exists())
    assert gateway.workers == before
    os.kill(worker, signal.SIGKILL)
    await until(lambda: worker not in gateway.workers and len(gateway.workers) == 2)
    async with gateway.each():
        pass
    gateway.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 0
    assert b"pid %d)" % orphan not in gateway.process.err


MISBEHAVING = """\
import sys, time
from gateway import settings
from gateway.process.holding import Holdings
from gateway.process.plan_pace import SupervisorPace
from gateway.process.service_manager import service_manager
from gateway.process.supervisor import Supervisor

said = []

def closes(end):
    end.close()

def babbles(end):
    end.sendall(b"no message\\n")

def commands(end):
    end.sendall(b'{"drain":0}\\n')

def floods(end):
    while True:
        end.sendall(bytes(65536))

def work(_settings, end, _slot, _generation):
    (closes, babbles, commands, floods)[len(said) % 4](end)
    time.sleep(60)

def say(_event, text, **_facts):
    said.append(text)
    print(text, flush=True)

sys.exit(
    Supervisor(
        settings.load(sys.argv[1], {}),
        Holdings(listens=[], probes=None, admin=None, pidfile=None),
        workers=1,
        work=work,
        hub=None,
        load=None,
        say=say,
        on_ready=lambda: None,
        manager=service_manager({}),
        pace=SupervisorPace(
            tick_s=0.02, silent_ticks=10, start_ticks=10_000, first_delay_s=0.01
        ),
    ).run()
)
"""
"""A supervisor of one worker; each replacement misbehaves in another way."""


async def test_a_worker_that_misbehaves_is_replaced(tmp_path: Path) -> None:
    """A worker that is silent or sends an invalid message is killed and replaced."""
    (tmp_path / "routes.yaml").write_text("version: 1\n")
    reasons = [
        b"it didn't answer",
        b"a message isn't JSON",
        b"it sent a message that a worker doesn't send",
        b"a message is too long",
        b"it didn't answer",  # the replacement of the last one
    ]
    lines = rb".*\n".join(
        rb"worker 1 \(pid \d+\) was ended by SIGKILL: %b;" % why for why in reasons
    )
    program = (sys.executable, "-c", MISBEHAVING)
    async with command("routes.yaml", cwd=tmp_path, program=program) as supervisor:
        await supervisor.until_said(b"^" + lines)
        supervisor.signal(signal.SIGTERM)
        assert await supervisor.ended() == 0
    assert not supervisor.err


# --- an outage of the core ---------------------------------------------------------


@asynccontextmanager
async def outage(gateway: Workers, core: ThreadedCore) -> AsyncIterator[User]:
    """Yield a user whom every worker knows, with the core away for the block."""
    user = await sign_up(gateway, core)
    async with gateway.each(workers=gateway.count) as wires:
        for (wire,) in wires:
            assert (await get(wire, "/private", user.bearer)).status == 200
    # The workers' first fetches and the hub's.
    await core.core.faults.until_called(JWKS_PATH, times=gateway.count + 1)
    core.core.faults.disconnect()
    try:
        yield user
    finally:
        core.core.faults.clear()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_worker_that_starts_in_an_outage_verifies(
    start: Start, st_core: ThreadedCore, service: Service, workers: int
) -> None:
    """Its first request is verified with the keys that the supervisor has kept.

    The hub may have died, too.
    """
    st_core.core.faults.forget_calls()
    gateway = await start(workers=workers)
    async with outage(gateway, st_core) as user:
        async with gateway.each(workers=workers) as wires:
            known = [worker_of(await get(wire, "/open")) for (wire,) in wires]
        for child in gateway.children:
            os.kill(child, signal.SIGKILL)
        async with gateway.each(workers=workers, unlike=known) as new:
            for (wire,) in new:
                assert (await get(wire, "/private", user.bearer)).status == 200
        forged = replace(user, access=user.access[:-8] + "AAAAAAAA")
        assert (await forged.get("/private")).status == 401


async def test_a_reload_in_an_outage_verifies(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """A reload with the same core takes over with the keys of before, at once.

    With another core, which doesn't answer either, there would be no keys: the old
    configuration stays in use.
    """
    st_core.core.faults.forget_calls()
    elsewhere = ROUTES.replace("${CORE}", "${CORE}/appid-other")
    program = (sys.executable, "-c", SHORT_PACE)
    gateway = await start(ROUTES, program=program)
    async with outage(gateway, st_core) as user:
        before = set(gateway.workers)
        gateway.write(MORE_ROUTES)
        gateway.signal(signal.SIGHUP)
        await gateway.until_served("/new")
        # A connection to one that drains is closed when it is idle.
        await until(lambda: not before & set(gateway.workers))
        async with gateway.each() as wires:
            for (wire,) in wires:
                assert (await get(wire, "/private", user.bearer)).status == 200
        gateway.write(elsewhere.replace("recipes:", "keys: {timeout: 0.1}, recipes:"))
        gateway.signal(signal.SIGHUP)
        await gateway.until_logged(
            rb"the new workers can't fetch the core's signing keys\n.*"
            rb"not reloaded: the old configuration stays in use"
        )
        assert (await user.get("/private")).status == 200
        assert (await gateway.ask("/new")).status == 200


async def test_a_core_that_refuses_the_gateway_is_reported_once(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """One line for each start and reload, whatever the number of workers.

    The gateway starts all the same, `/auth/*` is 503, and the key is in no output.
    """
    faults = st_core.core.faults
    faults.error(401, "/apiversion", text="Invalid API key")
    secret = "not-the-key-of-this-core"
    own_key = ROUTES.replace("{connection", f"{{api_key: {secret}, connection")
    gateway = await start(own_key)
    line = rb"Z ERROR the core at http://[^\n]+ answered 401: [^\n]+api_key[^\n]+\n"
    await gateway.until_logged(line)
    assert (await gateway.ask()).status == 200
    body = json.dumps(form("ann@example.com")).encode()
    reply = await ask(gateway.port, "POST", "/auth/signin", body=body)
    assert (reply.status, reply.json()["code"]) == (503, "core_unusable")
    await gateway.until_logged(rb"/auth/signin [^\n]+api_key")
    async with gateway.each(workers=2) as wires:
        known = [worker_of(await get(wire, "/open")) for (wire,) in wires]
    for worker in gateway.workers:
        os.kill(worker, signal.SIGKILL)
    async with gateway.each(workers=2, unlike=known):
        pass
    gateway.signal(signal.SIGHUP)
    await gateway.until_logged(line, times=2)
    faults.clear()
    faults.forget_calls()
    gateway.signal(signal.SIGHUP)
    await faults.until_called("/apiversion")
    gateway.signal(signal.SIGINT)
    assert await gateway.process.ended() == 0
    assert gateway.process.err.count(b"the core at") == 2
    assert secret.encode() not in gateway.process.err + gateway.process.out


# --- the start --------------------------------------------------------------------


async def test_a_worker_killed_while_it_starts_is_started_again(
    start: Start, tmp_path: Path
) -> None:
    """A worker that is killed while it starts, as for memory, is started again."""
    trouble = """\
marker = pathlib.Path("killed")
if not marker.exists():
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "own_module.py").write_text(MODULE.format(trouble=trouble))
    gateway = await start(OWN_MODULE, PYTHONPATH=module_path(tmp_path))
    lines = gateway.process.err.decode().splitlines()
    assert "was ended by SIGKILL; another one starts in 0.1 s" in lines[0]
    assert len(lines) == 2


async def test_a_configuration_that_no_worker_can_serve_is_logged_once(
    tmp_path: Path,
) -> None:
    """The gateway exits with code 1 after one line, without restarts."""

    async def fail(name: str, text: str) -> None:
        environ = {
            "UPSTREAM": "http://127.0.0.1:9",
            "PYTHONPATH": module_path(tmp_path),
        }
        arguments = ("serve", "-c", f"{name}.yaml", "--workers", "3")
        async with command(*arguments, cwd=tmp_path, environ=environ) as failed:
            assert await failed.ended() == 1
        (line,) = failed.err.decode().splitlines()
        assert text in line
        assert failed.out == b""

    troubles = {
        "raises": (
            "raise OSError('no such thing')",
            "can't import raises: OSError: no such",
        ),
        "exits": ("os._exit(3)", "ended with exit code 3"),
    }
    for name, (trouble, _) in troubles.items():
        (tmp_path / f"{name}.py").write_text(MODULE.format(trouble=trouble))
        (tmp_path / f"{name}.yaml").write_text(OWN_MODULE.replace("own_module", name))
    async with asyncio.TaskGroup() as both:
        for name, (_, text) in troubles.items():
            both.create_task(fail(name, text))


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", "100000"])
def test_invalid_number_of_workers(workers: str) -> None:
    """It is a usage error on the command line and in the environment."""
    for arguments, variable in (([f"--workers={workers}"], None), ([], workers)):
        environ = {"GATEWAY_WORKERS": variable}
        failed = CliRunner().invoke(main, ["serve", *arguments], env=environ)
        assert failed.exit_code == 2
        assert "Invalid value for '--workers'" in failed.output


async def test_a_port_isnt_shared_with_another_gateway(tmp_path: Path) -> None:
    """A gateway doesn't start on a port that another one shares among its workers.

    Otherwise, each would get a part of the other's requests.
    """
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    sockets = share(bind("127.0.0.1:0"), 2)
    port = sockets[0].getsockname()[1]

    async def join(workers: str) -> None:
        async with command(
            *("serve", "-c", path, "--listen", f"127.0.0.1:{port}"),
            cwd=tmp_path,
            environ={
                "GATEWAY_WORKERS": workers,
                "CORE": "http://127.0.0.1:9",
                "UPSTREAM": "http://127.0.0.1:10",
            },
        ) as other:
            assert await other.ended() == 1
        (line,) = other.err.decode().splitlines()
        assert line.startswith(f"port {port} is in use on 127.0.0.1")

    with ExitStack() as opened:
        for sock in sockets:
            opened.enter_context(sock)
        async with asyncio.TaskGroup() as others:
            for workers in ("1", "2"):
                others.create_task(join(workers))


# --- reloads ----------------------------------------------------------------------


async def test_a_reload_under_load_loses_nothing(
    start: Start, service: Service
) -> None:
    """During a reload, every request is answered.

    There are kept connections, new ones, and a request that outlasts the reload.
    """
    gateway = await start()
    before = gateway.workers
    is_over = asyncio.Event()
    replies = [0, 0]

    async def keep() -> None:
        """Send requests on one connection until the gateway closes it."""
        while not is_over.is_set():
            async with connect(gateway.port) as wire:
                while not is_over.is_set():
                    reply = await get(wire, "/open")
                    assert reply.status == 200
                    replies[0] += 1
                    if reply.one("Connection") == "close":
                        assert await wire.rest() == b""
                        break

    async def renew() -> None:
        """Send each request on a new connection."""
        while not is_over.is_set():
            assert (await gateway.ask()).status == 200
            replies[1] += 1

    async with gateway.each(2) as wires, asyncio.TaskGroup() as load:
        (slow, idle), (_, other) = wires
        await slow.send(request("POST", "/open", body=b"x"))
        await service.received.wait()
        for _ in range(8):
            load.create_task(keep())
            load.create_task(renew())
        await until(lambda: min(replies) > 20)
        gateway.write(MORE_ROUTES)
        gateway.signal(signal.SIGHUP)
        gateway.signal(signal.SIGHUP)  # makes no difference, at most another reload
        await gateway.until_logged(rb"reloaded ")
        await gateway.until_served("/new")
        for wire in (idle, other):
            assert await wire.rest() == b""
        service.release.set()
        reply = await slow.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
        await until(lambda: not gateway.workers & before)
        is_over.set()
    assert b"worker" not in gateway.process.err.replace(b"2 workers", b"")


async def test_one_worker_is_replaced_and_reloaded(start: Start) -> None:
    """A single worker is replaced and reloaded as several are, and requests succeed."""
    gateway = await start(workers=1)
    assert re.search(rb"routes from [^,]+\n$", gateway.process.err)
    (worker,) = gateway.workers
    os.kill(worker, signal.SIGKILL)
    await gateway.until_logged(
        rb"worker 1 \(pid %d\) was ended by SIGKILL; another" % worker
    )
    assert (await gateway.ask()).status == 200
    gateway.write("version: 2\n")
    gateway.signal(signal.SIGHUP)
    await gateway.until_logged(rb"version: expected 1.*not reloaded")
    assert (await gateway.ask("/new")).status == 404
    gateway.write(MORE_ROUTES)
    gateway.signal(signal.SIGHUP)
    await gateway.until_served("/new")
    gateway.signal(signal.SIGINT)
    assert await gateway.process.ended() == 0
    assert b"Traceback" not in gateway.process.err


async def test_an_invalid_file_isn_t_reloaded(start: Start, tmp_path: Path) -> None:
    """Its problems are logged as by `check`; the old configuration stays in use."""
    gateway = await start()
    before = gateway.workers
    no_file = f"tls: {{ca_file: {tmp_path}/none.pem}}"
    bad = {
        "version: 2\nroutes: [{path: a}]\n": [
            f"{gateway.path}:1:10: version: expected 1",
            f"{gateway.path}:2:17: routes[0].path: ",
        ],
        MORE_ROUTES.replace("]}}", f"], {no_file}}}}}").replace(
            '"${UPSTREAM}"', '"https://a.invalid"'
        ): ["services.up.tls.ca_file: "],
    }
    for number, (text, begins) in enumerate(bad.items(), 1):
        logged = len(gateway.process.err)
        gateway.write(text)
        gateway.signal(signal.SIGHUP)
        await gateway.until_logged(
            rb"not reloaded: the old configuration stays in use", number
        )
        lines = gateway.process.err[logged:].decode().splitlines()
        assert len(lines) > len(begins)
        for line, begin in zip(lines, begins, strict=False):
            assert line.partition("Z ERROR ")[2].startswith(begin)
        assert (await gateway.ask()).status == 200
        assert (await gateway.ask("/new")).status == 404
    await until(lambda: gateway.workers == before)
    gateway.write(MORE_ROUTES.replace("127.0.0.1:0", "127.0.0.1:1"))
    gateway.signal(signal.SIGHUP)
    await gateway.until_logged(rb"gateway\.listen has changed: that needs a restart")
    await gateway.until_served("/new")


async def test_a_stop_during_a_reload(
    start_with_barrier: Start, service: Service, barrier: StartBarrier
) -> None:
    """New workers are ended, old ones drain, and the exit code is 0."""
    gateway = await start_with_barrier()
    async with connect(gateway.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.received.wait()
        barrier.close()
        gateway.signal(signal.SIGHUP)
        await barrier.next_waiting()
        gateway.signal(signal.SIGTERM)
        await until_refused(gateway.port)
        service.release.set()
        assert (await wire.reply()).status == 200
    assert await gateway.process.ended() == 0
    _ready, stopping = gateway.process.err.splitlines()
    assert stopping.endswith(b"stopping: requests in flight are finished")


# --- stops ------------------------------------------------------------------------


async def test_ctrl_c_counts_once(start: Start, service: Service) -> None:
    """Signals to the workers are ignored; the one to the supervisor drains.

    A terminal sends SIGINT to every process, a service manager SIGTERM.
    """
    gateway = await start()
    async with connect(gateway.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.received.wait()
        for worker in gateway.workers:
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        gateway.signal(signal.SIGINT)
        await until_refused(gateway.port)
        service.release.set()
        reply = await wire.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
    assert await gateway.process.ended() == 0
    line, stopping = gateway.process.err.decode().splitlines()
    assert stopping.endswith("stopping: requests in flight are finished")
    assert line.endswith(
        f"on http://127.0.0.1:{gateway.port}, routes from {gateway.path}, 2 workers"
    )


async def test_a_second_signal_ends_all_at_once(start: Start, service: Service) -> None:
    """A second SIGTERM ends every process, though a request is in flight: exit 130."""
    gateway = await start()
    family = gateway.children
    async with connect(gateway.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.received.wait()
        gateway.signal(signal.SIGTERM)
        await until_refused(gateway.port)
        gateway.signal(signal.SIGTERM)
        assert await gateway.process.ended() == 130
    assert all(map(has_ended, family))


ON_A_TERMINAL = """\
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may have been started with nohup
os.close(os.open(os.ttyname(0), os.O_RDWR))  # it becomes the session's terminal
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command on a terminal, as the first process of a session."""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_closed_terminal_is_no_reload(
    tmp_path: Path, upstream: FaultUpstream, service: Service, workers: str
) -> None:
    """After its terminal is closed, SIGHUP drains the gateway, also the second one."""
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    ours, theirs = pty.openpty()
    terminal = os.fdopen(ours, "rb", buffering=0)
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ON_A_TERMINAL),
        *(GATEWAY, "serve", "-c", path, "--workers", workers),
        env={**os.environ, "CORE": "http://127.0.0.1:9", "UPSTREAM": upstream.url},
        start_new_session=True,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        output = b""
        async with asyncio.timeout(DEADLINE_S):
            while not (url := re.search(rb" on http://127\.0\.0\.1:(\d+),", output)):
                output += await asyncio.to_thread(terminal.read, 4096)
        port = int(url[1])
        async with connect(port) as wire:
            await wire.send(request("POST", "/open", body=b"x"))
            await service.received.wait()
            terminal.close()
            await until_refused(port)
            gateway.send_signal(signal.SIGHUP)
            service.release.set()
            assert (await wire.reply()).status == 200
        async with asyncio.timeout(DEADLINE_S):
            assert await gateway.wait() == 0
    finally:
        if gateway.returncode is None:
            gateway.kill()
            await gateway.wait()
        terminal.close()


# --- the log ----------------------------------------------------------------------


async def test_the_lines_of_several_processes_stay_whole(start: Start) -> None:
    """Log lines of two workers in one pipe stay whole, also with long paths.

    The core is away, which one line on standard error says, in JSON as all lines.
    """
    gateway = await start(ROUTES, "--log-format", "json", CORE="http://127.0.0.1:9")
    await gateway.until_logged(rb'"event": "core_lost"')
    targets = [f"/open/{number}/" + "x" * (number * 40) for number in range(150)]

    async def ask_all(wire: Wire) -> None:
        for target in targets:
            assert (await get(wire, target)).status == 200

    async with gateway.each() as wires, asyncio.TaskGroup() as group:
        for wire, *_ in wires:
            group.create_task(ask_all(wire))
    gateway.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 0
    events = [json.loads(line)["event"] for line in gateway.process.err.splitlines()]
    assert events == ["ready", "core_lost", "shutdown"]
    written = [json.loads(line) for line in gateway.process.out.splitlines()]
    assert {line["worker"] for line in written} == {1, 2}
    assert {line["generation"] for line in written} == {1}
    paths = [line["path"] for line in written]
    long = [path for path in paths if path != "/open"]
    assert len(long) == 2 * len(targets)
    for path in long:
        assert any(target.startswith(path.rstrip("…")) for target in targets)
