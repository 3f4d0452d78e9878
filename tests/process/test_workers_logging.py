"""How real processes log: `log.level`, and what an operator sets for an incident."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from faults import until
from processes import (
    DEADLINE_S,
    Process,
    ask_admin,
    command,
    hub_of,
    hubs,
    serving,
    workers,
)
from wire import WireReply, ask

from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  admin: {listen: "unix:SOCKET"}
supertokens: {connection_uri: "CORE", recipes: {emailpassword: {}}}
log: {level: info, exclude: [{path: /healthz}]}
routes:
  - {path: /healthz, respond: {status: 204}, protected: false}
  - {path: /seen, respond: {status: 204}, protected: false}
"""


class Logging:
    """A running gateway that logs, its port, and its admin socket."""

    def __init__(self, process: Process, port: int, path: Path, sock: str) -> None:
        self.process = process
        self.port = port
        self.path = path
        self.socket = sock

    async def admin(self, method: str, target: str, body: Any = None) -> WireReply:
        return await ask_admin(self.socket, method, target, body)

    async def shown(self) -> Any:
        reply = await self.admin("GET", "/log-level")
        assert reply.status == 200, reply.body
        return reply.json()

    async def change(self, **members: str) -> Any:
        reply = await self.admin("POST", "/log-level", members)
        assert reply.status == 200, reply.body
        return reply.json()

    async def get_from_each(self, target: str) -> None:
        """Have each of the two workers answer a request for *target*."""
        seen: set[str] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(seen) < 2:
                reply = await ask(self.port, "GET", target)
                request_id = reply.one("X-Request-Id")
                assert request_id is not None
                seen.add(request_id[:16])

    async def states(self) -> list[str]:
        """Return the states of the workers; none while the hub starts."""
        try:
            reply = await self.admin("GET", "/workers")
        except (ConnectionError, asyncio.IncompleteReadError):
            return []
        return [worker["state"] for worker in reply.json()["workers"]]

    async def until_ready(self) -> None:
        """Wait until two workers accept, and a hub answers."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.states() != ["accepting"] * 2 or len(self.workers()) != 2:
                pass

    def workers(self) -> set[int]:
        """Return the process ids of the workers."""
        return workers(self.process.child.pid)

    def processes(self, said: str) -> set[int]:
        """Return which processes have a line with *said* in the access log."""
        lines = map(json.loads, whole(self.process.out))
        return {line["pid"] for line in lines if line["path"] == said}

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in whole(self.process.err)]


def whole(output: bytes) -> list[bytes]:
    """Return the lines that are complete."""
    return output.split(b"\n")[:-1]


Start = Callable[..., Awaitable[Logging]]


@pytest.fixture
def folder() -> Iterator[str]:
    """Return a folder whose path is short enough for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="gw") as path:
        yield path


@pytest.fixture
async def start(
    tmp_path: Path, folder: str, st_core: ThreadedCore
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway of two workers."""
    async with AsyncExitStack() as opened:

        async def run(form: str = "json") -> Logging:
            path = tmp_path / "routes.yaml"
            text = ROUTES.replace("SOCKET", f"{folder}/a")
            path.write_text(text.replace("CORE", st_core.url))
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--workers", "2"),
                    *("--log-format", form),
                    cwd=tmp_path,
                )
            )
            gateway = Logging(process, await serving(process), path, f"{folder}/a")
            await gateway.until_ready()
            return gateway

        yield run


async def test_every_request_has_a_line_until_a_reload(start: Start) -> None:
    """In both workers, and in one that starts later. A new hub knows it, too."""
    gateway = await start()
    await gateway.get_from_each("/healthz")
    await gateway.get_from_each("/seen")
    await until(lambda: gateway.processes("/seen") == gateway.workers())
    assert gateway.processes("/healthz") == set()
    as_configured = {"level": "info", "requests": "configured", "until": None}
    assert await gateway.shown() == as_configured

    now = {"level": "info", "requests": "all", "until": "the next reload or restart"}
    assert await gateway.change(requests="all") == now
    supervisor = gateway.process.child.pid
    os.kill(min(gateway.workers()), signal.SIGKILL)
    await gateway.until_ready()
    hub = await hub_of(supervisor)
    os.kill(hub, signal.SIGKILL)
    await until(lambda: hubs(supervisor) - {hub})
    await gateway.until_ready()
    assert await gateway.shown() == now
    async with asyncio.timeout(DEADLINE_S):
        while gateway.processes("/healthz") != gateway.workers():
            await gateway.get_from_each("/healthz")

    before = gateway.workers()
    assert (await gateway.admin("POST", "/reload")).status == 200
    await until(lambda: not before & gateway.workers())
    await gateway.until_ready()
    assert await gateway.shown() == as_configured
    await gateway.get_from_each("/healthz")
    await gateway.get_from_each("/seen")
    await until(lambda: gateway.processes("/seen") >= gateway.workers())
    assert not gateway.processes("/healthz") & gateway.workers()


async def test_messages_below_the_level_are_not_written(start: Start) -> None:
    """Errors are, and what operators do. A file that is refused ends nothing.

    The line about a reload is left out as long as the level was in force before it.
    """
    gateway = await start()
    assert (await gateway.change(level="warning"))["level"] == "warning"
    assert (await gateway.admin("POST", "/reload")).status == 200
    assert await gateway.shown() == {
        "level": "info",
        "requests": "configured",
        "until": None,
    }
    assert (await gateway.admin("POST", "/reload")).status == 200
    await until(lambda: "reload_done" in gateway.events())

    assert (await gateway.change(level="error"))["level"] == "error"
    good = gateway.path.read_text()
    gateway.path.write_text("version: [")
    assert (await gateway.admin("POST", "/reload")).status == 422
    gateway.path.write_text(good)
    await gateway.until_ready()
    hub = await hub_of(gateway.process.child.pid)
    os.kill(hub, signal.SIGKILL)
    await until(lambda: hubs(gateway.process.child.pid) - {hub})
    await gateway.until_ready()
    assert (await gateway.shown())["level"] == "error"
    os.kill(min(gateway.workers()), signal.SIGKILL)
    await until(lambda: "worker_lost" in gateway.events())
    said = gateway.events()
    assert said.count("reload_done") == 1
    assert {"config_problem", "reload_refused"} <= {*said}
    assert "hub_lost" not in said
    # Four changes and reloads, and the status of the refused one.
    assert said.count("admin_action") == 6


async def test_log_level_applies_at_a_reload(start: Start) -> None:
    """To the supervisor and to the hub. Its own reload is the last one with a line."""
    gateway = await start()
    gateway.path.write_text(
        gateway.path.read_text().replace("level: info", "level: warning")
    )
    for _ in range(2):
        assert (await gateway.admin("POST", "/reload")).status == 200
        assert await gateway.shown() == {
            "level": "warning",
            "requests": "configured",
            "until": None,
        }
    assert (await gateway.change(level="info"))["until"] is not None
    assert (await gateway.change(level="configured"))["level"] == "warning"
    await until(lambda: gateway.events().count("admin_action") == 4)
    assert gateway.events().count("reload_done") == 1


async def test_without_an_access_log_no_request_can_have_a_line(start: Start) -> None:
    """`none` is not for a reload to change, nor for an operator. The level is."""
    gateway = await start(form="none")
    reply = await gateway.admin("POST", "/log-level", {"requests": "all"})
    assert (reply.status, [*reply.json()]) == (409, ["error"])
    assert (await gateway.change(level="error"))["level"] == "error"
    assert (await gateway.change(requests="configured"))["requests"] == "configured"


async def test_both_streams_are_ecs(start: Start) -> None:
    """Each line, of each process, is JSON with the four first fields of ECS."""
    gateway = await start(form="ecs")
    await gateway.get_from_each("/seen")
    os.kill(min(gateway.workers()), signal.SIGKILL)
    await gateway.process.until_said(rb'"action":"worker_lost"')
    await gateway.process.until_said(rb'"path":"/seen"')
    for output, dataset in (
        (gateway.process.out, "gateway.access"),
        (gateway.process.err, "gateway.runtime"),
    ):
        for line in map(json.loads, whole(output)):
            first = ["@timestamp", "log.level", "message", "ecs.version"]
            assert [*line][:4] == first
            assert line["event"]["dataset"] == dataset
