"""WebSockets over reloads, in real processes.

The client and the service are those of the `websockets` library.
"""

from __future__ import annotations

import asyncio
import http
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import processes
import pytest
from faults import until
from processes import DEADLINE_S, Process, command, has_ended, serving
from stack import ORIGIN, Gateway, Records, User
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin
from wire import ask
from wire import connect as connect_wire
from wire import request as wire_request

from gateway.app import App
from gateway.dev.core import ThreadedCore
from gateway.process.plan_drains import MAX_DRAINING
from gateway.settings import ConfigError, load

ROUTES = """\
version: 1
gateway: {listen: "127.0.0.1:0", drain_timeout: 300s, websocket_drain: 10m}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {path: /open, service: up, protected: false}
  - {path: /private, service: up}
"""
"""Both times are longer than a test: none may wait for them."""
GOING_AWAY = (1001, "shutting down")
SESSION_ENDED = (4401, "session ended")


@dataclass
class EchoService:
    """Echoes messages, and answers other requests once they are released."""

    url: str = ""
    received: asyncio.Event = field(default_factory=asyncio.Event)
    """A request has come that isn't a handshake."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for message in socket:
                await socket.send(message)

    async def answer(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        if "Upgrade" in request.headers:
            return None
        self.received.set()
        await self.released.wait()
        return connection.respond(http.HTTPStatus.OK, "ok")


@pytest.fixture
async def service() -> AsyncIterator[EchoService]:
    one = EchoService()
    async with serve(
        one.echo, "127.0.0.1", 0, process_request=one.answer, ping_interval=None
    ) as server:
        one.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        try:
            yield one
        finally:
            one.released.set()


class Reloadable:
    """A running gateway of one worker."""

    def __init__(self, process: Process, port: int, path: Path) -> None:
        self.process = process
        self.port = port
        self.path = path
        self._reloads = 0
        self._newest = ""
        """The worker of the last reload, as in request ids; empty: there was none."""

    def workers(self) -> set[int]:
        """Return the process ids of the workers that haven't ended."""
        return processes.workers(self.process.child.pid)

    async def reload(self) -> None:
        """Reload, with a new route, and return when that is served."""
        self._reloads += 1
        path = f"/new{self._reloads}"
        text = self.path.read_text()
        self.path.write_text(f"{text}  - {{path: {path}, respond: {{status: 204}}}}\n")
        self.process.signal(signal.SIGHUP)
        await self.process.until_said(rb"route %b added" % path.encode())
        async with asyncio.timeout(DEADLINE_S):
            while (reply := await ask(self.port, "GET", path)).status == 404:
                pass
        self._newest = worker_of(reply.one("X-Request-Id"))

    async def dial(self, path: str, *fields: tuple[str, str]) -> ClientConnection:
        """Return an open WebSocket of the newest worker.

        For a moment after a reload, the one before accepts as well.
        """
        options: dict[str, Any] = {"proxy": None, "ping_interval": None}
        async with asyncio.timeout(DEADLINE_S):
            while True:
                socket = await connect(
                    f"ws://127.0.0.1:{self.port}{path}",
                    origin=Origin(ORIGIN),
                    additional_headers=fields,
                    **options,
                )
                assert socket.response is not None
                worker = worker_of(socket.response.headers["X-Request-Id"])
                if not self._newest or worker == self._newest:
                    return socket
                await socket.close()

    async def sign_up(self, core: ThreadedCore) -> User:
        url = f"http://127.0.0.1:{self.port}"
        one = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
        return await one.sign_up()


def worker_of(request_id: str | None) -> str:
    """Return the part of a request id that is the same for all ids of a worker."""
    assert request_id is not None
    return request_id[:16]


async def echoes(socket: ClientConnection) -> bool:
    """Return whether a message comes back."""
    async with asyncio.timeout(DEADLINE_S):
        await socket.send("hello")
        return await socket.recv() == "hello"


async def end_of(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Return the code and the reason with which a WebSocket is closed."""
    async with asyncio.timeout(DEADLINE_S):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


Start = Callable[..., Awaitable[Reloadable]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, service: EchoService
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway from a configuration's text."""
    async with AsyncExitStack() as opened:

        async def run(text: str = ROUTES) -> Reloadable:
            path = tmp_path / "routes.yaml"
            path.write_text(text)
            environ = {"CORE": st_core.url, "UPSTREAM": service.url}
            process = await opened.enter_async_context(
                command("serve", "-c", path, cwd=tmp_path, environ=environ)
            )
            return Reloadable(process, await serving(process), path)

        yield run


async def test_a_websocket_outlives_reloads_but_not_its_session(
    start: Start, st_core: ThreadedCore
) -> None:
    """A sign-out at the new worker closes it. An old worker without any exits."""
    gateway = await start()
    user = await gateway.sign_up(st_core)
    (first,) = gateway.workers()
    private = await gateway.dial("/private", user.bearer)
    public = await gateway.dial("/open")
    for _ in range(2):
        await gateway.reload()
        assert await echoes(private)
        assert await echoes(public)
    await until(lambda: len(gateway.workers()) == 2)  # the second had none
    assert first in gateway.workers()
    assert (await user.sign_out()).status == 200
    assert await end_of(private) == SESSION_ENDED
    assert await echoes(public)
    await public.close()
    await until(lambda: first not in gateway.workers())
    assert b"worker 1" not in gateway.process.err


async def test_a_stop_closes_websockets_of_old_workers(start: Start) -> None:
    """With 1001, at once, as those of the worker that accepts."""
    gateway = await start()
    old = await gateway.dial("/open")
    await gateway.reload()
    new = await gateway.dial("/open")
    assert await echoes(old)
    gateway.process.signal(signal.SIGTERM)
    assert await end_of(old) == GOING_AWAY
    assert await end_of(new) == GOING_AWAY
    assert await gateway.process.ended() == 0
    assert b"worker 1" not in gateway.process.err


async def test_websockets_are_closed_when_their_time_is_over(
    start: Start, service: EchoService
) -> None:
    """With 1001. A request in flight still has the rest of `drain_timeout`."""
    gateway = await start(ROUTES.replace("websocket_drain: 10m", "websocket_drain: 2s"))
    (first,) = gateway.workers()
    socket = await gateway.dial("/open")
    async with connect_wire(gateway.port) as wire:
        await wire.send(wire_request("GET", "/open"))
        await service.received.wait()
        await gateway.reload()
        assert await end_of(socket) == GOING_AWAY
        assert first in gateway.workers()
        service.released.set()
        assert (await wire.reply()).status == 200
    await until(lambda: first not in gateway.workers())


async def test_a_stop_closes_websockets_while_requests_are_in_flight(
    start: Start, service: EchoService
) -> None:
    """In a worker that drains for a reload, requests go on after a stop."""
    gateway = await start()
    socket = await gateway.dial("/open")
    async with connect_wire(gateway.port) as wire:
        await wire.send(wire_request("GET", "/open"))
        await service.received.wait()
        await gateway.reload()
        assert await echoes(socket)
        gateway.process.signal(signal.SIGTERM)
        assert await end_of(socket) == GOING_AWAY
        service.released.set()
        assert (await wire.reply()).status == 200
    assert await gateway.process.ended() == 0


async def test_only_some_generations_keep_websockets(start: Start) -> None:
    """One reload more closes those of the oldest."""
    gateway = await start()
    sockets = []
    for _ in range(MAX_DRAINING):
        sockets.append(await gateway.dial("/open"))
        await gateway.reload()
    for socket in sockets:
        assert await echoes(socket)
    sockets.append(await gateway.dial("/open"))
    await gateway.reload()
    assert await end_of(sockets.pop(0)) == GOING_AWAY
    for socket in sockets:
        assert await echoes(socket)
    await until(lambda: len(gateway.workers()) == MAX_DRAINING + 1)


async def test_websockets_end_with_the_supervisor(start: Start) -> None:
    """Nobody would tell an old worker of a sign-out: it closes them and exits."""
    gateway = await start()
    socket = await gateway.dial("/open")
    await gateway.reload()
    assert await echoes(socket)
    workers = gateway.workers()
    os.kill(gateway.process.child.pid, signal.SIGKILL)
    assert await end_of(socket) == GOING_AWAY
    await until(lambda: all(map(has_ended, workers)))


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("0", "gateway.websocket_drain: must be more than 0"),
        ("long", "gateway.websocket_drain: expected a duration such as 3s"),
    ],
)
def test_a_bad_time_is_refused_with_its_place(
    tmp_path: Path, time: str, message: str
) -> None:
    """With line and column."""
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES.replace("10m", time))
    with pytest.raises(ConfigError) as error:
        load(file, {"CORE": "http://c", "UPSTREAM": "http://u"})
    (problem,) = error.value.problems
    assert str(problem).startswith(f"{file}:2:")
    assert message in str(problem)
