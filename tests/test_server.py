"""The listening socket, signals, and how requests in flight come to their end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import sdk_reset
from faults import FaultUpstream, Peer, closed_port
from stack import running
from wire import DEADLINE_S, Wire, ask, connect, request

from gateway import server, settings
from gateway.dev.core import ThreadedCore
from gateway.server import ListenError, bind, url_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0", drain_timeout: "${DRAIN:-20}"}
supertokens: {connection_uri: "${CORE}"}
routes:
  - {path: /, upstream: "${UPSTREAM}", protected: false}
"""


@pytest.fixture(autouse=True)
def fresh_sdk() -> Iterator[None]:
    sdk_reset.reset()
    yield
    sdk_reset.reset()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES, encoding="utf-8")
    return file


class Held:
    """An upstream's behaviour: takes requests, and answers when it is let go."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.taken.set()
            await self.let_go.wait()
            await peer.send(OK)


# --- the socket -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:0", "http://127.0.0.1:"),
        ("localhost:0", "http://"),
        ("[::1]:0", "http://[::1]:"),
    ],
)
def test_bind_takes_a_free_port(listen: str, url: str) -> None:
    """Port 0 is for tests, and says which it became."""
    with bind(listen) as sock:
        assert url_of(sock).startswith(url)
        assert not url_of(sock).endswith(":0")
        assert not sock.getblocking()


def test_port_in_use_says_what_to_do() -> None:
    """One line with the port and both ways round it."""
    with bind("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as told:
            bind(f"127.0.0.1:{port}")
    text = str(told.value)
    assert f"port {port} is in use on 127.0.0.1" in text
    assert "gateway.listen or --listen" in text
    assert "\n" not in text


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:80"])
def test_address_that_isnt_ours(listen: str) -> None:
    """It is named, with the system's reason."""
    with pytest.raises(ListenError, match=f"can't listen on {listen}: "):
        bind(listen)


@pytest.mark.parametrize("listen", ["8000", ":8000", "", "localhost", "x:y", "x:65536"])
def test_address_that_is_none(listen: str) -> None:
    """A port alone doesn't open every address of the machine."""
    with pytest.raises(ListenError, match=f"{listen}: expected host:port"):
        bind(listen)


def test_port_that_needs_more_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is a port above 1023, not to run the gateway as root."""

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(server.socket, "socket", Refusing)
    with pytest.raises(ListenError, match="choose one above 1023"):
        bind("127.0.0.1:80")


# --- the end --------------------------------------------------------------------


async def test_requests_in_flight_finish(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Nobody new is let in, whoever is inside is served, then it's over."""
    upstream.behaviour = held = Held()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    async with AsyncExitStack() as block:
        gateway = await block.enter_async_context(running(path, environ, st_core))
        async with connect(gateway.port) as idle, connect(gateway.port) as busy:
            await busy.send(request("GET", "/"))
            await held.taken.wait()
            closing = asyncio.create_task(block.aclose())
            assert await idle.rest() == b""  # without a request it just ends
            await until_refused(gateway.port)
            assert not closing.done()
            held.let_go.set()
            reply = await busy.reply()
            assert (reply.status, reply.body) == (200, b"ok")
            assert await busy.rest() == b""
        await closing


async def test_request_that_takes_too_long_is_cut(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """`gateway.drain_timeout` is the longest that a stop can take."""
    upstream.behaviour = held = Held()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url, "DRAIN": "0.1"}
    async with AsyncExitStack() as clients:
        async with running(path, environ, st_core) as gateway:
            busy = await clients.enter_async_context(connect(gateway.port))
            await busy.send(request("GET", "/"))
            await held.taken.wait()
        assert not (await rest_or_reset(busy)).startswith(b"HTTP/1.1 200")


async def test_answer_while_draining_ends_its_connection(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Keep-alive clients must learn that this connection is no more."""
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    async with (
        running(path, environ, st_core) as gateway,
        connect(gateway.port) as wire,
    ):
        await wire.send(request("GET", "/"))
        assert (await wire.reply()).one("Connection") is None
        gateway.app.proxy.drain()
        await wire.send(request("GET", "/"))
        assert (await wire.reply()).one("Connection") == "close"
        assert await wire.rest() == b""


# --- signals --------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=str
)
async def test_signal_ends_the_run(
    path: Path,
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first one drains; what was served stands in the log before it returns."""
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        server.run(
            loaded,
            log_format="json",
            listen=f"127.0.0.1:{(port := closed_port())}",
            on_ready=ready.set_result,
        )
    )
    assert await asyncio.wait_for(ready, DEADLINE_S) == f"http://127.0.0.1:{port}"
    reply = await ask(port, "GET", "/path?query")
    os.kill(os.getpid(), number)
    await run
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["path"], said["status"]) == ("/path", 200)
    assert said["request_id"] == reply.one("X-Request-Id")


async def test_second_signal_is_not_patient() -> None:
    """It calls what ends the process at once, and the first one doesn't."""
    forced = asyncio.Event()
    stopped = server.stop_signal(force=forced.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            os.kill(os.getpid(), signal.SIGTERM)
            await stopped.wait()
            assert not forced.is_set()
            os.kill(os.getpid(), signal.SIGINT)
            await forced.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_log_comes_without_another_request(
    path: Path,
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last line before a quiet hour isn't held back for an hour."""
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        server.serve_until_cancelled(
            loaded, log_format="text", on_ready=ready.set_result
        )
    )
    url = await asyncio.wait_for(ready, DEADLINE_S)
    await ask(int(url.rpartition(":")[2]), "GET", "/quiet")
    said = ""
    async with asyncio.timeout(5):
        while "/quiet" not in said:
            await asyncio.sleep(0.02)
            said += capsys.readouterr().out
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert said.count("\n") == 1


async def until_refused(port: int) -> None:
    """Return when nobody is let in any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                async with connect(port) as wire:
                    await wire.rest()
            except ConnectionRefusedError:
                return


async def rest_or_reset(wire: Wire) -> bytes:
    try:
        return await wire.rest()
    except ConnectionError:
        return b""
