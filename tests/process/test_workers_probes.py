"""Probes of a real gateway: its start, an outage, lost processes, and its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from faults import FaultUpstream
from processes import DEADLINE_S, Process, command, serving, until_refused
from wire import WireReply, ask

from gateway.cli import main
from gateway.dev.core import ThreadedCore
from gateway.process import hub

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  shutdown_delay: ${DELAY:-1ms}
  drain_timeout: 5
  probes: {listen: "127.0.0.1:0", startup_timeout: "${STARTUP:-1h}"}
supertokens: {connection_uri: "${CORE}"}
routes: [{path: /open, upstream: "${UPSTREAM}", protected: false}]
"""
WELL, DEGRADED = (f'{{\n  "status": "{level}"' for level in ("ok", "degraded"))
"""How such an answer begins."""


class Probed:
    """A running gateway, and where it answers probes."""

    def __init__(self, process: Process, port: int, probes: int) -> None:
        self.process = process
        self.port = port
        self.probes = probes

    @property
    def children(self) -> set[int]:
        pid = self.process.child.pid
        return {
            int(child)
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        }

    @property
    def hubs(self) -> set[int]:
        return {
            pid
            for pid in self.children
            if Path(f"/proc/{pid}/comm").read_text().strip() == hub.NAME
        }

    async def probe(self, path: str) -> WireReply:
        return await ask(self.probes, "GET", path)

    async def until(self, path: str, status: int, text: str = "") -> WireReply:
        """Return the first answer with this status and *text*."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                reply = await self.probe(path)
                if reply.status == status and text in reply.body.decode():
                    return reply

    def health(self, *args: str) -> tuple[int, str]:
        """Return the exit code and the output of `gateway health`."""
        url = f"http://127.0.0.1:{self.probes}"
        done = CliRunner().invoke(main, ["health", "--url", url, *args])
        return done.exit_code, done.output


Start = Callable[..., Awaitable[Probed]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway of two workers with probes."""
    async with AsyncExitStack() as opened:

        async def run(**environ: str) -> Probed:
            path = tmp_path / "routes.yaml"
            path.write_text(ROUTES, encoding="utf-8")
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", path, "--workers", "2"),
                    cwd=tmp_path,
                    environ={"CORE": st_core.url, "UPSTREAM": upstream.url, **environ},
                )
            )
            port = await serving(process)
            match = await process.until_said(rb"probes on http://127\.0\.0\.1:(\d+)\n")
            return Probed(process, port, int(match[1]))

        yield run


async def test_a_gateway_becomes_ready_and_stops(start: Start) -> None:
    """It is ready until the signal, and then not, while it accepts and lives."""
    gateway = await start(DELAY="1h")
    for path in ("/startupz", "/readyz", "/livez"):
        await gateway.until(path, 200, WELL)
    assert await asyncio.to_thread(gateway.health, "--ready") == (0, "ok\n")
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    gateway.process.signal(signal.SIGTERM)
    await gateway.until("/readyz", 503)
    for path in ("/startupz", "/livez"):
        assert (await gateway.probe(path)).status == 200
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    code, line = await asyncio.to_thread(gateway.health, "--ready")
    assert (code, line) == (1, "failing (draining: the gateway stops)\n")
    assert await asyncio.to_thread(gateway.health) == (0, "ok\n")
    gateway.process.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 130


async def test_the_shutdown_delay_ends(start: Start) -> None:
    """After it, the gateway drains and exits with 0; nothing listens any more."""
    gateway = await start()
    await gateway.until("/readyz", 200)
    gateway.process.signal(signal.SIGTERM)
    await until_refused(gateway.port)
    assert await gateway.process.ended() == 0
    await until_refused(gateway.probes)


async def test_a_core_that_is_away_does_not_take_the_gateway_out(
    start: Start, st_core: ThreadedCore
) -> None:
    """Without keys it hasn't started; with an old set it is ready, and degraded."""
    faults = st_core.core.faults
    faults.disconnect()
    gateway = await start()
    for path in ("/open", "/auth/jwt/jwks.json"):
        await ask(gateway.port, "GET", path)
    await gateway.until("/startupz", 503, "signing keys are awaited")
    reply = await gateway.until("/readyz", 200, "the core can't be reached")
    assert {*reply.json()["checks"]} >= {"core", "keys"}
    assert st_core.url.encode() not in reply.body
    faults.clear()
    await gateway.until("/startupz", 200)
    await gateway.until("/readyz", 200, WELL)


async def test_without_keys_the_start_ends_after_a_time(
    start: Start, st_core: ThreadedCore
) -> None:
    """Public routes are served then."""
    st_core.core.faults.disconnect()
    gateway = await start(STARTUP="1ms")
    await gateway.until("/startupz", 200)
    await gateway.until("/readyz", 200, DEGRADED)
    st_core.core.faults.clear()


async def test_a_hub_that_dies_answers_again(start: Start) -> None:
    """Requests are served meanwhile; the next hub has the same address."""
    gateway = await start()
    await gateway.until("/readyz", 200, WELL)
    for pid in gateway.hubs:
        os.kill(pid, signal.SIGKILL)
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reply = await gateway.probe("/startupz")
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # in the queue of the hub that died
            assert reply.status == 200
            break
    await gateway.until("/readyz", 200, WELL)


async def test_a_worker_that_dies_degrades_the_gateway(start: Start) -> None:
    """It is ready all the same, and the check says since when."""
    gateway = await start()
    well = await gateway.until("/readyz?verbose", 200, WELL)
    before = well.json()["checks"]["accepting"]
    (worker, *_) = sorted(gateway.children - gateway.hubs)
    os.kill(worker, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    reply = await gateway.until("/readyz", 200, "1 of 2 workers accept")
    check = reply.json()["checks"]["accepting"]
    assert check["since"] > before["since"]
    await gateway.until("/readyz", 200, WELL)


async def test_an_address_in_use_ends_the_start(tmp_path: Path) -> None:
    """The message names the key and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "routes.yaml"
        path.write_text(
            'version: 1\ngateway: {listen: "127.0.0.1:0"}\n', encoding="utf-8"
        )
        async with command(
            *("serve", "-c", path, "--probes-listen", f"127.0.0.1:{port}"),
            cwd=tmp_path,
        ) as process:
            assert await process.ended() == 1
    said = process.err.decode()
    assert re.search(rf"port {port} is in use .* gateway.probes.listen or", said)
