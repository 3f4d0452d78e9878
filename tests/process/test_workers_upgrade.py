"""An upgrade of a real gateway: what is lost, what is known, and what is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner
from faults import CHUNKED_HEAD, OK, FaultUpstream, Peer, free_ports, until
from gateway_under_test import until_cut
from processes import DEADLINE_S, Process, command
from stack import Gateway, Records, User
from wire import Wire, WireReply, ask, connect, request

from gateway.app import App
from gateway.cli import main
from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: ["127.0.0.1:0", "unix:FOLDER/gateway.sock"]
  probes: {listen: "127.0.0.1:PROBES"}
  drain_timeout: 300
  pidfile: "FOLDER/gateway.pid"
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {path: /open, service: up, protected: false}
  - {path: /private, service: up}
"""
MODULE = """\
import os
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.recipe import session

if os.path.exists("wait"):
    open("wait").read()
ORIGIN = "http://localhost:8000"
app_info = InputAppInfo(app_name="a", api_domain=ORIGIN, website_domain=ORIGIN)
supertokens_config = SupertokensConfig(os.environ["CORE"])
recipe_list = [session.init()]
"""
OWN_MODULE = """\
version: 1
gateway: {listen: ["127.0.0.1:0"], pidfile: "FOLDER/gateway.pid"}
supertokens: {config_module: own_module}
routes: [{path: /open, upstream: "${UPSTREAM}", protected: false}]
"""

_PAUSE_S = 0.01
"""Between two requests of a client: the new gateway needs the processor to start."""


class Upgradable:
    """A running gateway and its successors, which have the same standard error."""

    def __init__(self, process: Process, port: int, probes: int, path: Path) -> None:
        self.process = process
        self.port = port
        self.probes = probes
        self.path = path
        self.pidfile = path.with_name("gateway.pid")

    @property
    def holder(self) -> int:
        """The process id in the pidfile. There is always one."""
        return int(self.pidfile.read_text())

    async def exit_code(self) -> int | None:
        """Wait until the first process has exited; others still have its output."""
        await until(lambda: self.process.child.returncode is not None)
        return self.process.child.returncode

    async def upgrade(self) -> int:
        """Upgrade, and return the process id of the next when it serves."""
        before = self.holder
        os.kill(before, signal.SIGUSR2)
        await until(lambda: self.holder != before)
        return self.holder

    async def command(self, *args: str) -> tuple[int, str]:
        """Run a command in this process; return its exit code and output."""
        where = ["--pidfile", str(self.pidfile)]
        done = await asyncio.to_thread(CliRunner().invoke, main, [*args, *where])
        return done.exit_code, done.output


Start = Callable[..., Awaitable[Upgradable]]


def is_there(pid: int) -> bool:
    """Return whether a process is there, ended but not waited for included."""
    return Path(f"/proc/{pid}").exists()


def worker_of(reply: WireReply) -> str:
    """Return the part of a request id that is the same for all ids of a worker."""
    return str(reply.one("X-Request-Id"))[:16]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Starts a gateway of two workers, whose successors end with the test."""
    async with AsyncExitStack() as opened:

        async def run(text: str = ROUTES, **environ: str) -> Upgradable:
            path = tmp_path / "routes.yaml"
            (probes,) = free_ports(1)
            text = text.replace("FOLDER", str(tmp_path)).replace("PROBES", str(probes))
            path.write_text(text)
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--workers", "2"),
                    cwd=tmp_path,
                    environ={"CORE": st_core.url, "UPSTREAM": upstream.url, **environ},
                )
            )
            opened.callback(end_holder)
            said = await process.until_said(rb" on http://127\.0\.0\.1:(\d+), ")
            return Upgradable(process, int(said[1]), probes, path)

        def end_holder() -> None:
            with suppress(OSError, ValueError):
                os.kill(int((tmp_path / "gateway.pid").read_text()), signal.SIGKILL)

        yield run


async def get(wire: Wire, target: str, *fields: tuple[str, str]) -> WireReply:
    await wire.send(request("GET", target, *fields))
    return await wire.reply()


class Load:
    """Clients that call without pause. Each request must be answered with 200."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_over = False
        self.replies = {"kept": 0, "new": 0}

    async def keep(self) -> None:
        """Use a connection until a reply announces its end."""
        while not self.is_over:
            async with connect(self.port) as wire:
                while not self.is_over:
                    reply = await get(wire, "/open")
                    assert reply.status == 200
                    self.replies["kept"] += 1
                    await asyncio.sleep(_PAUSE_S)
                    if reply.one("Connection") == "close":
                        assert await wire.rest() == b""
                        break

    async def renew(self) -> None:
        """Use each connection once."""
        while not self.is_over:
            assert (await ask(self.port, "GET", "/open")).status == 200
            self.replies["new"] += 1
            await asyncio.sleep(_PAUSE_S)

    async def more(self) -> None:
        """Return when each kind of client has had another 20 replies."""
        wanted = {kind: count + 20 for kind, count in self.replies.items()}
        await until(lambda: all(self.replies[kind] > wanted[kind] for kind in wanted))


async def test_an_upgrade_under_load_loses_nothing(
    start: Start, upstream: FaultUpstream
) -> None:
    """Kept connections, new ones, and a request that outlasts two upgrades.

    A file with a mistake in between changes nothing. Probes are answered throughout.
    """
    release, received = asyncio.Event(), asyncio.Event()

    async def service(peer: Peer) -> None:
        while True:
            if (await peer.request()).line.startswith(b"POST"):
                received.set()
                await release.wait()
            await peer.send(OK)

    upstream.behaviour = service
    gateway = await start()
    load = Load(gateway.port)

    async def probe() -> None:
        while not load.is_over:
            reply = await ask(gateway.probes, "GET", "/livez")
            assert reply.status == 200
            await asyncio.sleep(0.02)

    async with connect(gateway.port) as slow, asyncio.TaskGroup() as tasks:
        await slow.send(request("POST", "/open", body=b"x"))
        await received.wait()
        for _ in range(2):
            tasks.create_task(load.keep())
            tasks.create_task(load.renew())
        tasks.create_task(probe())
        await load.more()
        first = gateway.holder
        second = await gateway.upgrade()
        await load.more()
        good = gateway.path.read_text()
        gateway.path.write_text(f"{good}nonsense: 1\n")
        os.kill(second, signal.SIGUSR2)
        said = rb"not upgraded: the new gateway .* ended with exit code 1\. This"
        await gateway.process.until_said(said)
        assert gateway.holder == second
        gateway.path.write_text(good)
        await load.more()
        third = await gateway.upgrade()
        await load.more()
        load.is_over = True
        assert len({first, second, third}) == 3
        release.set()
        assert (await slow.reply()).status == 200
    await until(lambda: not is_there(second))
    assert await gateway.exit_code() == 0
    # A Unix socket's file is the last one's.
    assert stat.S_ISSOCK((gateway.path.parent / "gateway.sock").stat().st_mode)
    assert gateway.holder == third
    assert await gateway.command("stop", "--wait", "30") == (
        *(0, f"stopped: pid {third}\n"),
    )
    await gateway.process.ended()
    assert {path.name for path in gateway.path.parent.iterdir()} == {"routes.yaml"}


async def sign_up(gateway: Upgradable, core: ThreadedCore) -> User:
    """Return a user with a session."""
    url = f"http://127.0.0.1:{gateway.port}"
    one = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
    return await one.sign_up()


async def both_workers(gateway: Upgradable) -> set[str]:
    """Return the names of the two workers that accept."""
    found: set[str] = set()
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < 2:
            found.add(worker_of(await ask(gateway.port, "GET", "/open")))
    return found


async def test_a_sign_out_is_known_on_both_sides(
    start: Start, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """One before the upgrade, and one in the new gateway while the old one drains.

    No route here asks the core, so that they can be known only from each other.
    """

    async def service(peer: Peer) -> None:
        while True:
            if (await peer.request()).line.startswith(b"POST"):
                await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
                await peer.gone()
                return
            await peer.send(OK)

    upstream.behaviour = service
    gateway = await start()
    before, during = [await sign_up(gateway, st_core) for _ in range(2)]
    assert (await before.sign_out()).status == 200
    async with connect(gateway.port) as stream:
        old = await both_workers(gateway)
        await stream.send(request("POST", "/private", during.bearer, body=b"x"))
        assert (await stream.head()).status == 200
        assert await stream.chunk() == b"1\n"
        await gateway.upgrade()
        seen = len(upstream.requests)
        seen_by: set[str] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(seen_by - old) < 2:
                reply = await ask(gateway.port, "GET", "/private", before.bearer)
                assert reply.status == 401
                seen_by.add(worker_of(reply))
        assert len(upstream.requests) == seen
        reply = await ask(gateway.port, "GET", "/private", during.bearer)
        assert reply.status == 200
        # The old gateway hears of this one, and cuts the stream.
        assert (await during.sign_out()).status == 200
        async with asyncio.timeout(DEADLINE_S):
            await until_cut(stream)
        for _ in range(6):
            reply = await ask(gateway.port, "GET", "/private", during.bearer)
            assert reply.status == 401


async def test_a_changed_listen_binds_only_what_is_new(start: Start) -> None:
    """The command waits until the next gateway serves. What is gone is closed."""
    gateway = await start()
    before = gateway.holder
    (port,) = free_ports(1)
    text = gateway.path.read_text()
    sock = gateway.path.with_name("gateway.sock")
    assert stat.S_ISSOCK(sock.stat().st_mode)
    gateway.path.write_text(
        text.replace(f'"unix:{sock}"', f'"127.0.0.1:{port}"'),
    )
    done = await gateway.command("upgrade", "--wait", "30")
    assert done == (0, f"upgraded: pid {gateway.holder}\n")
    assert gateway.holder != before
    for each in (gateway.port, port):
        assert (await ask(each, "GET", "/open")).status == 200
    assert not sock.exists()


async def test_a_stop_during_an_upgrade_stops_both(
    start: Start, tmp_path: Path
) -> None:
    """A second signal for an upgrade is ignored with a line."""
    (tmp_path / "own_module.py").write_text(MODULE)
    environ = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *_paths()])}
    gateway = await start(OWN_MODULE, **environ)
    os.mkfifo(tmp_path / "wait")
    assert await gateway.command("upgrade") == (
        *(0, f"upgrading: pid {gateway.holder}\n"),
    )
    async with asyncio.timeout(DEADLINE_S):  # until the new one waits there
        end = await asyncio.to_thread(os.open, tmp_path / "wait", os.O_WRONLY)
    gateway.process.signal(signal.SIGUSR2)
    await gateway.process.until_said(rb"not upgraded: another upgrade is under way\.")
    gateway.process.signal(signal.SIGTERM)
    # `ended` waits for the ends of the output that the new one has, too.
    assert await gateway.process.ended() == 0
    os.close(end)
    assert not gateway.pidfile.exists()
    assert gateway.process.err.count(b"not upgraded") == 1


def _paths() -> list[str]:
    return [path for path in (os.environ.get("PYTHONPATH"),) if path]


async def test_systemd_is_told_of_the_new_process(start: Start, tmp_path: Path) -> None:
    """MAINPID by the old one; then READY by the new one. No STOPPING.

    Source: sd_notify(3). Signs of life go on.
    """
    told: list[str] = []

    def receive() -> None:
        told.extend(systemd.recv(4096).decode().split("\n"))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(systemd, receive)  # the queue of such a socket is short
        environ = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "200000",
        }
        gateway = await start(**environ)
        await until(lambda: "READY=1" in told)
        told.clear()
        new = await gateway.upgrade()
        await until(lambda: "READY=1" in told)
        assert f"MAINPID={new}" in told[: told.index("READY=1")]
        assert await gateway.exit_code() == 0
        del told[: told.index("READY=1")]
        await until(lambda: "WATCHDOG=1" in told)
        assert "STOPPING=1" not in told
        loop.remove_reader(systemd)


async def test_the_variable_of_an_upgrade_is_not_for_people(
    start: Start, tmp_path: Path
) -> None:
    """A gateway that no other one has started refuses it."""
    facts = {"form": 1, "pid": 1, "sdk": "", "channel": 0, "listens": []}
    path = tmp_path / "routes.yaml"
    text = ROUTES.replace("FOLDER", str(tmp_path))
    path.write_text(text.replace("127.0.0.1:PROBES", "127.0.0.1:0"))
    environ = {"GATEWAY_UPGRADE": json.dumps(facts), "CORE": "http://127.0.0.1:9"}
    environ["UPSTREAM"] = "http://127.0.0.1:8"
    async with command("serve", "-c", path, cwd=tmp_path, environ=environ) as process:
        assert await process.ended() == 1
        assert b"don't set this variable" in process.err
