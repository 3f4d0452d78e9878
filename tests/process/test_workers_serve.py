"""A gateway of several processes: sign-outs, crashes, reloads and ends.

The processes are real. Which worker answered shows in the first half of a request id,
which each makes up for itself.
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
from functools import partial
from itertools import islice
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import cast

import pytest
from click.testing import CliRunner
from faults import OK, FaultUpstream, Peer
from processes import DEADLINE_S, GATEWAY, Process, command, serving, until_refused
from stack import Gateway, Records, User
from wire import Wire, WireReply, ask, connect, request

from gateway.app import App
from gateway.cli import main
from gateway.dev.core import ThreadedCore
from gateway.process import hub
from gateway.process.sockets import bind, share

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

HANDSHAKE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", "http://localhost:8000"),
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
SESSION_ENDED = b"\x88\x0f" + (4401).to_bytes(2, "big") + b"session ended"

IMPATIENT = """\
from functools import partial
from gateway.cli import main
from gateway.process import supervisor
from gateway.process.plan import SupervisorPace

pace = SupervisorPace(tick_s=0.1, silent_ticks=20, start_ticks=600)
supervisor.supervise = partial(supervisor.supervise, pace=pace)
main()
"""
"""The command with less time for a worker that hangs, and as much for one that starts.
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
    """An upstream's behaviour: switches protocols, and holds what is posted."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            seen = await peer.request()
            if seen.field(b"upgrade"):
                await peer.send(SWITCH)
                await peer.gone()
                return
            if seen.line.startswith(b"POST"):
                self.taken.set()
                await self.let_go.wait()
            await peer.send(OK)


@pytest.fixture
def service(upstream: FaultUpstream) -> Service:
    upstream.behaviour = behaviour = Service()
    return behaviour


class Crew:
    """A gateway of several workers that runs."""

    def __init__(self, process: Process, port: int, path: Path) -> None:
        self.process = process
        self.port = port
        self.path = path

    @property
    def workers(self) -> set[int]:
        """The process ids of all that live."""
        return self.children - self.hubs

    @property
    def hubs(self) -> set[int]:
        """The process id of the hub, if it has said its name."""
        return {pid for pid in self.children if comm(pid) == hub.NAME}

    @property
    def children(self) -> set[int]:
        return children(self.process.child.pid)

    def write(self, text: str) -> None:
        """Put *text* in the place of the file, all at once."""
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.path)

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)

    async def said(self, pattern: bytes, times: int = 1) -> None:
        """Return when it has said so, so often."""
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
        found: dict[str, list[Wire]] = {}
        async with AsyncExitStack() as opened:
            async with asyncio.timeout(DEADLINE_S):
                while sum(len(w) == connections for w in found.values()) < workers:
                    async with AsyncExitStack() as another:
                        wire = await another.enter_async_context(connect(self.port))
                        worker = worker_of(await get(wire, "/open"))
                        if worker not in unlike:
                            wires = found.setdefault(worker, [])
                            if len(wires) < connections:
                                wires.append(wire)
                                await opened.enter_async_context(another.pop_all())
            yield [wires for wires in found.values() if len(wires) == connections]


def worker_of(reply: WireReply) -> str:
    """Return what the request ids of one worker have in common."""
    request_id = reply.one("X-Request-Id")
    assert request_id is not None
    return request_id[:16]


@asynccontextmanager
async def connect_from(port: int, source: int) -> AsyncIterator[Wire]:
    """Connect for the block from a port, which is free again afterwards.

    Or from one that is free if *source* is 0. Nobody else uses its address.
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


def children(pid: int) -> set[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {*map(int, text.split())}


def comm(pid: int) -> str:
    """Return what the system calls a process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, waited for or not."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def until(condition: Callable[[], object]) -> None:
    """Return when *condition* holds, of processes that tell nobody."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Gate:
    """Where workers wait while they start, as long as it is shut."""

    WAIT = """\
import socket
with socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))) as gate:
    gate.sendall(b"%d\\n" % os.getpid())
    gate.recv(1)
"""
    """What a `config_module` does to wait here."""

    def __init__(self) -> None:
        self.port = 0
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._waiting: asyncio.Queue[int] = asyncio.Queue()

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[Gate]:
        """Let workers come for the block."""
        server = await asyncio.start_server(self._on_worker, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            try:
                yield self
            finally:
                self.open()

    def shut(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    async def waits(self) -> int:
        """Return the process id of the next worker that waits."""
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


Start = Callable[..., Awaitable[Crew]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Return what runs a gateway from the text of a routes.yaml, with two workers."""
    async with AsyncExitStack() as opened:

        async def run(
            text: str = ROUTES,
            *arguments: str,
            workers: int = 2,
            program: Sequence[str | Path] = (GATEWAY,),
            **environ: str,
        ) -> Crew:
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
            crew = Crew(process, await serving(process), path)
            async with crew.each(workers=workers):  # all serve
                await until(lambda: crew.hubs)
                return crew

        yield run


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    async with Gate().standing() as gate:
        yield gate


@pytest.fixture
def start_gated(start: Start, gate: Gate, tmp_path: Path) -> Start:
    """Return what runs a gateway whose workers wait at the gate when they start."""
    (tmp_path / "own_module.py").write_text(MODULE.format(trouble=Gate.WAIT))
    environ = {"PYTHONPATH": module_path(tmp_path), "GATE": str(gate.port)}
    return partial(start, OWN_MODULE, **environ)


async def sign_up(crew: Crew, core: ThreadedCore) -> User:
    """Return a user with a session; who signed it up doesn't matter."""
    url = f"http://127.0.0.1:{crew.port}"
    gateway = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
    return await gateway.sign_up()


async def get(wire: Wire, target: str, *fields: tuple[str, str]) -> WireReply:
    await wire.send(request("GET", target, *fields))
    return await wire.reply()


# --- sign-outs ------------------------------------------------------------------


async def test_a_sign_out_ends_the_session_in_every_worker(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """Its tokens and its sockets, also in a worker that starts afterwards.

    No route here asks the core, so that only who was told can know.
    """
    crew = await start()
    user = await sign_up(crew, st_core)
    async with crew.each(2) as ((ours, _), (theirs, socket)):
        for wire in (ours, theirs):
            assert (await get(wire, "/private", user.bearer)).status == 200
        await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
        assert (await socket.head()).status == 101
        await ours.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
        assert (await ours.reply()).status == 200
        assert await socket.rest() == SESSION_ENDED
        for wire in (theirs, ours):
            reply = await get(wire, "/private", user.bearer)
            assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
        known = [worker_of(await get(wire, "/open")) for wire in (ours, theirs)]
        for worker in crew.workers:
            os.kill(worker, signal.SIGKILL)
    async with crew.each(unlike=known) as new:
        for (wire,) in new:
            assert (await get(wire, "/private", user.bearer)).status == 401


async def test_every_sign_out_is_known_in_every_worker(
    start: Start, st_core: ThreadedCore, service: Service
) -> None:
    """Whichever worker it came to, how many came before, and who has started since."""
    crew = await start()
    users = [await sign_up(crew, st_core) for _ in range(3)]

    async def sign_out(user: User, at: Wire, socket: Wire) -> None:
        """Sign *user* out at one worker; return when another has closed *socket*."""
        await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
        assert (await socket.head()).status == 101
        assert (await get(at, "/private", user.bearer)).status == 200
        await at.send(request("POST", "/auth/signout", user.bearer, body=b"{}"))
        assert (await at.reply()).status == 200
        assert await socket.rest() == SESSION_ENDED

    async def refused(wire: Wire) -> list[bool]:
        """Return of each user whether the worker at *wire* lets it in no more."""
        replies = [await get(wire, "/private", user.bearer) for user in users]
        return [reply.status == 401 for reply in replies]

    async with crew.each(2) as ((ours, our_socket), (theirs, their_socket)):
        await sign_out(users[0], ours, their_socket)
        await sign_out(users[1], theirs, our_socket)
        for wire in (ours, theirs):
            assert await refused(wire) == [True, True, False]
        known = [worker_of(await get(wire, "/open")) for wire in (ours, theirs)]
    os.kill(min(crew.workers), signal.SIGKILL)
    async with crew.each(workers=1, unlike=known) as ((new,),):
        assert await refused(new) == [True, True, False]
        unlike = [worker_of(await get(new, "/open"))]
        async with crew.each(2, workers=1, unlike=unlike) as ((old, old_socket),):
            await sign_out(users[2], new, old_socket)
            for wire in (new, old):
                assert await refused(wire) == [True, True, True]


# --- ends that nobody asked for ---------------------------------------------------


async def test_whoever_waits_at_a_dead_worker_s_door_is_served(
    start_gated: Start, gate: Gate
) -> None:
    """Connections that it hadn't taken are its sibling's, before it is replaced."""
    crew = await start_gated()
    first, second = crew.workers
    # Stopped, both leave what comes in their queues; one of them then dies.
    for worker in (first, second):
        os.kill(worker, signal.SIGSTOP)
    async with AsyncExitStack() as opened:
        wires = [
            await opened.enter_async_context(connect(crew.port)) for _ in range(40)
        ]
        for wire in wires:
            await wire.send(request("GET", "/open"))
        gate.shut()
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        for wire in wires:
            assert (await wire.reply()).status == 200
    await crew.said(
        rb"worker \d \(pid %d\) was ended by SIGKILL; another one starts in 0\.1 s"
        % first
    )
    replacing = await gate.waits()
    assert crew.workers == {second, replacing}
    gate.open()
    async with crew.each():
        pass


async def test_a_dead_worker_s_socket_is_one_other_s(
    start_gated: Start, gate: Gate
) -> None:
    """Until it is replaced; then it is the new one's, and nobody else's.

    From one port the system leads a client to the same socket each time. If only one
    worker accepts there, the same one answers, whichever of the others is stopped.
    """
    crew = await start_gated(workers=3)
    ports = [0] * 30

    async def who_answers(stopped: int, wires: Sequence[Wire]) -> tuple[str, ...]:
        """Ask from each of *ports* while one worker is *stopped*; return who answers.

        *wires* lead to all workers. When the others have answered what is asked there
        later, they have also accepted what they accept.
        """
        async with AsyncExitStack() as opened:
            clients = []
            os.kill(stopped, signal.SIGSTOP)
            try:
                for number, port in enumerate(ports):
                    client = await opened.enter_async_context(
                        connect_from(crew.port, port)
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

    async with crew.each(workers=3) as wires:
        first, second, third = crew.workers
        gate.shut()
        os.kill(first, signal.SIGKILL)
        await gate.waits()
        left = []
        for (wire,) in wires:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await get(wire, "/open")
                left.append(wire)
        assert len(left) == 2
        answers = await who_answers(second, left)
        assert len(set(answers)) == 2
        assert await who_answers(third, left) == answers
    gate.open()
    async with crew.each(workers=3) as wires, asyncio.timeout(DEADLINE_S):
        all_three = [wire for (wire,) in wires]
        while len({await who_answers(pid, all_three) for pid in crew.workers}) > 1:
            pass  # the one that stood in hasn't been told yet


async def test_a_worker_that_hangs_is_replaced(start: Start) -> None:
    """It doesn't hear of sign-outs, and whoever is connected to it waits in vain."""
    crew = await start(program=(sys.executable, "-c", IMPATIENT))
    before = crew.workers
    worker = min(before)
    os.kill(worker, signal.SIGSTOP)
    await crew.said(rb"pid %d\) was ended by SIGKILL: it didn't answer;" % worker)
    await until(lambda: crew.workers - before and worker not in crew.workers)
    async with crew.each():
        pass


async def test_a_slow_start_is_no_hang(start_gated: Start, gate: Gate) -> None:
    """A worker that starts may be silent for longer than one that serves."""
    crew = await start_gated(program=(sys.executable, "-c", IMPATIENT))
    lost, hangs = crew.workers
    gate.shut()
    os.kill(lost, signal.SIGKILL)
    slow = await gate.waits()
    os.kill(hangs, signal.SIGSTOP)  # its silence begins later, and is too long
    await crew.said(rb"pid %d\) was ended by SIGKILL: it didn't answer;" % hangs)
    other = await gate.waits()
    assert crew.workers == {slow, other}
    gate.open()
    async with crew.each():
        assert crew.workers == {slow, other}


async def test_without_a_supervisor_workers_finish_and_end(
    start: Start, service: Service
) -> None:
    """None is left behind, none keeps the port, and no request is lost by it."""
    crew = await start()
    family = crew.children
    async with connect(crew.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.taken.wait()
        crew.signal(signal.SIGKILL)
        await until_refused(crew.port)
        service.let_go.set()
        reply = await wire.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
    await until(lambda: all(map(has_ended, family)))


async def test_the_hub_is_nobody_s_business(start: Start) -> None:
    """A stopped or dead hub touches no request; another one takes its place."""
    crew = await start(workers=1)
    workers = crew.workers
    (pid,) = crew.hubs
    os.kill(pid, signal.SIGSTOP)
    assert (await crew.ask()).status == 200
    os.kill(pid, signal.SIGKILL)
    assert (await crew.ask()).status == 200
    await crew.said(rb"hub \(pid %d\) was ended by SIGKILL; another one" % pid)
    await until(lambda: crew.hubs - {pid})
    assert crew.workers == workers
    os.kill(min(crew.hubs), signal.SIGINT)  # as a terminal does: ignored
    crew.signal(signal.SIGINT)
    assert await crew.process.ended() == 0
    assert b"Traceback" not in crew.process.err


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
"""Runs a command that orphans come to, as to process 1, and has one already."""


async def test_an_orphan_is_reaped(start: Start) -> None:
    """A supervisor that is process 1 is left with no zombie, and loses nothing."""
    crew = await start(program=(sys.executable, "-c", ADOPTING, GATEWAY))
    orphan = int((await crew.process.until_said(rb"orphan (\d+)"))[1])
    assert orphan in crew.workers
    before = crew.workers - {orphan}
    worker = min(before)
    os.kill(orphan, signal.SIGKILL)
    await until(lambda: not Path(f"/proc/{orphan}").exists())
    assert crew.workers == before
    os.kill(worker, signal.SIGKILL)
    await until(lambda: worker not in crew.workers and len(crew.workers) == 2)
    async with crew.each():
        pass
    crew.signal(signal.SIGTERM)
    assert await crew.process.ended() == 0
    assert b"pid %d)" % orphan not in crew.process.err


MISBEHAVING = """\
import sys, time
from gateway import settings
from gateway.process.plan import SupervisorPace
from gateway.process.supervisor import Supervisor

said = []

def closes(end):
    end.close()

def babbles(end):
    end.sendall(b"no message\\n")

def commands(end):
    end.sendall(b'{"drain":true}\\n')

def floods(end):
    while True:
        end.sendall(bytes(65536))

def work(_settings, end, _slot):
    (closes, babbles, commands, floods)[len(said) % 4](end)
    time.sleep(60)

def say(text):
    said.append(text)
    print(text, flush=True)

sys.exit(
    Supervisor(
        settings.load(sys.argv[1], {}),
        [],
        workers=1,
        work=work,
        hub=None,
        load=None,
        say=say,
        on_ready=lambda: None,
        pace=SupervisorPace(
            tick_s=0.02, silent_ticks=10, start_ticks=10_000, first_delay_s=0.01
        ),
    ).run()
)
"""
"""A supervisor of one worker, each of which misbehaves in another way."""


async def test_a_worker_that_misbehaves_is_replaced(tmp_path: Path) -> None:
    """The supervisor takes nothing from it but what a worker says, and stays there."""
    (tmp_path / "routes.yaml").write_text("version: 1\n")
    told = [
        b"it didn't answer",
        b"a message isn't JSON",
        b"it sent a message that a worker doesn't send",
        b"a message is too long",
        b"it didn't answer",  # of the one that took the last one's place
    ]
    lines = rb".*\n".join(
        rb"worker 1 \(pid \d+\) was ended by SIGKILL: %b;" % why for why in told
    )
    program = (sys.executable, "-c", MISBEHAVING)
    async with command("routes.yaml", cwd=tmp_path, program=program) as supervisor:
        await supervisor.until_said(b"^" + lines)
        supervisor.signal(signal.SIGTERM)
        assert await supervisor.ended() == 0
    assert not supervisor.err


# --- the start --------------------------------------------------------------------


async def test_a_worker_killed_while_it_starts_is_started_again(
    start: Start, tmp_path: Path
) -> None:
    """Nothing is wrong with the configuration: the machine was short of memory, say."""
    trouble = """\
marker = pathlib.Path("killed")
if not marker.exists():
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "own_module.py").write_text(MODULE.format(trouble=trouble))
    crew = await start(OWN_MODULE, PYTHONPATH=module_path(tmp_path))
    lines = crew.process.err.decode().splitlines()
    assert "was ended by SIGKILL; another one starts in 0.1 s" in lines[0]
    assert len(lines) == 2


async def test_a_configuration_that_no_worker_can_serve_is_told_once(
    tmp_path: Path,
) -> None:
    """Exit code 1 as with one process: no loop, and no line for each worker."""

    async def fail(name: str, told: str) -> None:
        environ = {
            "UPSTREAM": "http://127.0.0.1:9",
            "PYTHONPATH": module_path(tmp_path),
        }
        arguments = ("serve", "-c", f"{name}.yaml", "--workers", "3")
        async with command(*arguments, cwd=tmp_path, environ=environ) as failed:
            assert await failed.ended() == 1
        (line,) = failed.err.decode().splitlines()
        assert told in line
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
        for name, (_, told) in troubles.items():
            both.create_task(fail(name, told))


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5", "100000"])
def test_a_number_that_is_none(workers: str) -> None:
    """Whether it comes from the command line or the environment."""
    for arguments, variable in (([f"--workers={workers}"], None), ([], workers)):
        environ = {"GATEWAY_WORKERS": variable}
        failed = CliRunner().invoke(main, ["serve", *arguments], env=environ)
        assert failed.exit_code == 2
        assert "Invalid value for '--workers'" in failed.output


async def test_a_port_isnt_shared_with_another_gateway(tmp_path: Path) -> None:
    """Of the same user, whatever its workers: half of the requests would be lost."""
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
    """Kept connections, new ones, and a request that takes longer than the reload."""
    crew = await start()
    before = crew.workers
    is_over = asyncio.Event()
    answered = [0, 0]

    async def keep() -> None:
        """Ask on one connection as long as the gateway lets it."""
        while not is_over.is_set():
            async with connect(crew.port) as wire:
                while not is_over.is_set():
                    reply = await get(wire, "/open")
                    assert reply.status == 200
                    answered[0] += 1
                    if reply.one("Connection") == "close":
                        assert await wire.rest() == b""
                        break

    async def renew() -> None:
        """Ask on a new connection each time."""
        while not is_over.is_set():
            assert (await crew.ask()).status == 200
            answered[1] += 1

    async with crew.each(2) as wires, asyncio.TaskGroup() as load:
        (slow, idle), (_, other) = wires
        await slow.send(request("POST", "/open", body=b"x"))
        await service.taken.wait()
        for _ in range(8):
            load.create_task(keep())
            load.create_task(renew())
        await until(lambda: min(answered) > 20)
        crew.write(MORE_ROUTES)
        crew.signal(signal.SIGHUP)
        crew.signal(signal.SIGHUP)  # makes no difference, at most another reload
        await crew.said(rb"reloaded ")
        await crew.until_served("/new")
        for wire in (idle, other):
            assert await wire.rest() == b""
        service.let_go.set()
        reply = await slow.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
        await until(lambda: not crew.workers & before)
        is_over.set()
    assert b"worker" not in crew.process.err.replace(b"2 workers", b"")


async def test_one_worker_is_replaced_and_reloaded(start: Start) -> None:
    """As several are, and nobody is turned away meanwhile."""
    crew = await start(workers=1)
    assert re.search(rb"routes from [^,]+\n$", crew.process.err)
    (worker,) = crew.workers
    os.kill(worker, signal.SIGKILL)
    await crew.said(rb"worker 1 \(pid %d\) was ended by SIGKILL; another" % worker)
    assert (await crew.ask()).status == 200
    crew.write("version: 2\n")
    crew.signal(signal.SIGHUP)
    await crew.said(rb"version: expected 1.*not reloaded")
    assert (await crew.ask("/new")).status == 404
    crew.write(MORE_ROUTES)
    crew.signal(signal.SIGHUP)
    await crew.until_served("/new")
    crew.signal(signal.SIGINT)
    assert await crew.process.ended() == 0
    assert b"Traceback" not in crew.process.err


async def test_what_can_t_be_served_isn_t_taken_over(
    start: Start, tmp_path: Path
) -> None:
    """Problems are told as by `check`, once; what was served before goes on."""
    crew = await start()
    before = crew.workers
    no_file = f"tls: {{ca_file: {tmp_path}/none.pem}}"
    bad = {
        "version: 2\nroutes: [{path: a}]\n": [
            f"{crew.path}:1:10: version: expected 1",
            f"{crew.path}:2:17: routes[0].path: ",
        ],
        MORE_ROUTES.replace("]}}", f"], {no_file}}}}}").replace(
            '"${UPSTREAM}"', '"https://a.invalid"'
        ): ["services.up.tls.ca_file: "],
    }
    for number, (text, told) in enumerate(bad.items(), 1):
        said = len(crew.process.err)
        crew.write(text)
        crew.signal(signal.SIGHUP)
        await crew.said(rb"not reloaded: the old configuration stays in use", number)
        lines = crew.process.err[said:].decode().splitlines()
        assert len(lines) > len(told)
        for line, begin in zip(lines, told, strict=False):
            assert line.startswith(begin)
        assert (await crew.ask()).status == 200
        assert (await crew.ask("/new")).status == 404
    await until(lambda: crew.workers == before)
    crew.write(MORE_ROUTES.replace("127.0.0.1:0", "127.0.0.1:1"))
    crew.signal(signal.SIGHUP)
    await crew.said(rb"gateway\.listen has changed: that needs a restart")
    await crew.until_served("/new")


async def test_a_stop_during_a_reload(
    start_gated: Start, service: Service, gate: Gate
) -> None:
    """Those who come are let go, those who serve finish; exit 0."""
    crew = await start_gated()
    async with connect(crew.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.taken.wait()
        gate.shut()
        crew.signal(signal.SIGHUP)
        await gate.waits()
        crew.signal(signal.SIGTERM)
        await until_refused(crew.port)
        service.let_go.set()
        assert (await wire.reply()).status == 200
    assert await crew.process.ended() == 0
    assert len(crew.process.err.splitlines()) == 1


# --- stops ------------------------------------------------------------------------


async def test_ctrl_c_counts_once(start: Start, service: Service) -> None:
    """A terminal sends it to every process; so does a service manager, with SIGTERM."""
    crew = await start()
    async with connect(crew.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.taken.wait()
        for worker in crew.workers:
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        crew.signal(signal.SIGINT)
        await until_refused(crew.port)
        service.let_go.set()
        reply = await wire.reply()
        assert (reply.status, reply.one("Connection")) == (200, "close")
    assert await crew.process.ended() == 0
    (line,) = crew.process.err.decode().splitlines()
    assert line.endswith(
        f"on http://127.0.0.1:{crew.port}, routes from {crew.path}, 2 workers"
    )


async def test_a_second_signal_ends_all_at_once(start: Start, service: Service) -> None:
    """Whoever is still served is cut; no process is left."""
    crew = await start()
    family = crew.children
    async with connect(crew.port) as wire:
        await wire.send(request("POST", "/open", body=b"x"))
        await service.taken.wait()
        crew.signal(signal.SIGTERM)
        await until_refused(crew.port)
        crew.signal(signal.SIGTERM)
        assert await crew.process.ended() == 130
    assert all(map(has_ended, family))


ON_A_TERMINAL = """\
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may have been started with nohup
os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first one is a session's own
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a command on a terminal, as the first process of a session."""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_closed_terminal_is_no_reload(
    tmp_path: Path, upstream: FaultUpstream, service: Service, workers: str
) -> None:
    """SIGHUP, once from the system and once from the shell, then means: finish."""
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
        said = b""
        async with asyncio.timeout(DEADLINE_S):
            while not (told := re.search(rb" on http://127\.0\.0\.1:(\d+),", said)):
                said += await asyncio.to_thread(terminal.read, 4096)
        port = int(told[1])
        async with connect(port) as wire:
            await wire.send(request("POST", "/open", body=b"x"))
            await service.taken.wait()
            terminal.close()
            await until_refused(port)
            gateway.send_signal(signal.SIGHUP)
            service.let_go.set()
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
    """In one pipe, however long the paths that clients choose; messages say whose."""
    crew = await start(ROUTES, "--log-format", "json", CORE="http://127.0.0.1:9")
    for number in (1, 2):
        await crew.said(rb"(?m:^)worker %d: the signing keys can't be" % number)
    targets = [f"/open/{number}/" + "x" * (number * 40) for number in range(150)]

    async def ask_all(wire: Wire) -> None:
        for target in targets:
            assert (await get(wire, target)).status == 200

    async with crew.each() as wires, asyncio.TaskGroup() as group:
        for wire, *_ in wires:
            group.create_task(ask_all(wire))
    crew.signal(signal.SIGTERM)
    assert await crew.process.ended() == 0
    paths = [json.loads(line)["path"] for line in crew.process.out.splitlines()]
    long = [path for path in paths if path != "/open"]
    assert len(long) == 2 * len(targets)
    for path in long:
        assert any(target.startswith(path.rstrip("…")) for target in targets)
