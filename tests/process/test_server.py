"""Listening sockets, signals, and requests in flight during a drain."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import sdk_reset
from faults import FaultUpstream, Peer, until
from processes import until_refused
from stack import Records, running
from wire import DEADLINE_S, Wire, ask, connect, request

from gateway import settings
from gateway.app import open_app
from gateway.dev.core import ThreadedCore
from gateway.process import serve, signals, sockets
from gateway.process.sockets import ListenError, bind, url_of

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


class HeldUpstream:
    """An upstream's behaviour: answers requests when `release` is set."""

    def __init__(self) -> None:
        self.received = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.received.set()
            await self.release.wait()
            await peer.send(OK)


# --- listening sockets ----------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:0", "http://127.0.0.1:"),
        ("localhost:0", "http://"),
        ("[::1]:0", "http://[::1]:"),
    ],
)
def test_bind_takes_a_free_port(listen: str, url: str) -> None:
    """Port 0 binds a free port, and `url_of` has its number."""
    with bind(listen) as sock:
        assert url_of(sock).startswith(url)
        assert not url_of(sock).endswith(":0")
        assert not sock.getblocking()


def test_port_in_use() -> None:
    """The error is one line with the port, the configuration key and the option."""
    with bind("127.0.0.1:0") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            bind(f"127.0.0.1:{port}")
    text = str(caught.value)
    assert f"port {port} is in use on 127.0.0.1" in text
    assert "gateway.listen or --listen" in text
    assert "\n" not in text


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:80"])
def test_address_that_isnt_ours(listen: str) -> None:
    """The error names an address that isn't this machine's."""
    with pytest.raises(ListenError, match=f"can't listen on {listen}: "):
        bind(listen)


@pytest.mark.parametrize("listen", ["8000", ":8000", "", "localhost", "x:y", "x:65536"])
def test_invalid_address(listen: str) -> None:
    """Host and port are both required: a port alone doesn't mean all hosts."""
    with pytest.raises(ListenError, match=f"{listen}: expected host:port"):
        bind(listen)


def test_port_that_needs_more_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a privileged port recommends one above 1023, not to run as root."""

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(ListenError, match="choose one above 1023"):
        bind("127.0.0.1:80")


def test_several_sockets_share_a_port() -> None:
    """The system distributes clients over shared sockets.

    A bind that doesn't share finds the port in use.
    """
    shared = sockets.share(bind("127.0.0.1:0"), 3)
    with ExitStack() as opened:
        for sock in shared:
            opened.enter_context(sock)
        port = shared[0].getsockname()[1]
        assert [sock.getsockname()[1] for sock in shared] == [port] * 3
        with pytest.raises(ListenError, match=f"port {port} is in use"):
            bind(f"127.0.0.1:{port}")
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        counts = []
        for sock in shared:
            assert not sock.getblocking()
            counts.append(0)
            with suppress(BlockingIOError):
                while True:
                    opened.enter_context(sock.accept()[0])
                    counts[-1] += 1
        assert sum(counts) == 100
        assert min(counts) > 0


class Unshared(socket.socket):
    """A socket that refuses SO_REUSEPORT before it is bound."""

    def setsockopt(self, *args: Any) -> None:
        if args[1] == socket.SO_REUSEPORT and self.getsockname()[1] == 0:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(*args)


@pytest.mark.parametrize("reason", ["not Linux", "refused"])
def test_without_reuseport_there_is_one_socket(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """If sockets can't share a port, all workers get the one socket."""
    with bind("127.0.0.1:0") as sock:
        if reason == "refused":
            monkeypatch.setattr(socket, "socket", Unshared)
        else:
            monkeypatch.setattr(sys, "platform", "darwin")
        assert sockets.share(sock, 3) == [sock]


# --- draining -------------------------------------------------------------------


async def test_queued_connections_are_served_before_closing(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Connections that aren't accepted yet are served when the socket is closed.

    Otherwise closing it would reset them.
    """
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    sock = bind("127.0.0.1:0")
    address = sock.getsockname()
    async with open_app(loaded.config, loaded.table, observer=Records()) as app:
        listening = serve.ServerSockets(app, linger_s=5)
        await listening.open(sock)
        waiting = [socket.create_connection(address) for _ in range(20)]
        for client in waiting:
            client.sendall(request("GET", "/"))
        await asyncio.wait_for(listening.close(), DEADLINE_S)
        for client in waiting:
            with client:
                reply = client.recv(65536)
                assert reply.startswith(b"HTTP/1.1 200")
                assert b"\r\nConnection: close\r\n" in reply
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_the_kernel_queues_a_thousand_clients(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """While the event loop is busy, 400 clients can connect.

    asyncio calls listen() again when it starts to serve, by default for 100 clients.
    The others would wait for TCP's retransmission, and in vain while the loop is busy.
    """
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    sock = bind("127.0.0.1:0")
    address = sock.getsockname()
    async with open_app(loaded.config, loaded.table, observer=Records()) as app:
        listening = serve.ServerSockets(app)
        await listening.open(sock)
        with ExitStack() as opened:
            clients = [opened.enter_context(socket.socket()) for _ in range(400)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(address)
            # Nothing is awaited here, so that the gateway accepts none of them.
            waiting = set(clients)
            while waiting and (ready := select.select([], waiting, [], 5)[1]):
                waiting.difference_update(ready)
        await asyncio.wait_for(listening.close(), DEADLINE_S)
    assert not waiting


async def test_a_last_request_is_answered(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """While draining, an idle connection stays open for one more request.

    Its client may just be sending one. After the reply, it is closed.
    """
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    sock = bind("127.0.0.1:0")
    port = sock.getsockname()[1]
    async with open_app(loaded.config, loaded.table, observer=Records()) as app:
        listening = serve.ServerSockets(app, linger_s=20)
        await listening.open(sock)
        async with connect(port) as wire:
            await wire.send(request("GET", "/"))
            assert (await wire.reply()).one("Connection") is None
            closing = asyncio.create_task(listening.close())
            await until(lambda: app.proxy.draining)
            await wire.send(request("GET", "/"))
            reply = await wire.reply()
            assert (reply.status, reply.one("Connection")) == (200, "close")
            # No connection is left, so `close` returns.
            await asyncio.wait_for(closing, DEADLINE_S)


async def test_requests_in_flight_finish(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """A drain refuses new connections, closes idle ones and answers busy ones."""
    upstream.behaviour = held = HeldUpstream()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    async with AsyncExitStack() as block:
        gateway = await block.enter_async_context(running(path, environ, st_core))
        async with connect(gateway.port) as idle, connect(gateway.port) as busy:
            await busy.send(request("GET", "/"))
            await held.received.wait()
            closing = asyncio.create_task(block.aclose())
            assert await idle.rest() == b""  # closed without a reply
            await until_refused(gateway.port)
            assert not closing.done()
            held.release.set()
            reply = await busy.reply()
            assert (reply.status, reply.body) == (200, b"ok")
            assert await busy.rest() == b""
        await closing


async def test_request_that_takes_too_long_is_cut(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """After `gateway.drain_timeout`, requests in flight are cut."""
    upstream.behaviour = held = HeldUpstream()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url, "DRAIN": "0.1"}
    async with AsyncExitStack() as clients:
        async with running(path, environ, st_core) as gateway:
            busy = await clients.enter_async_context(connect(gateway.port))
            await busy.send(request("GET", "/"))
            await held.received.wait()
        assert not (await rest_or_reset(busy)).startswith(b"HTTP/1.1 200")


async def test_reply_while_draining_closes_its_connection(
    path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """While draining, a reply has `Connection: close`, and its connection ends."""
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


@pytest.fixture
def without_nohup() -> Iterator[None]:
    """Give SIGHUP its default action: tests that run under `nohup` ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("without_nohup")
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
    """A signal ends `run`; the log then has the record of the request."""
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        serve.run(
            loaded,
            log_format="json",
            listen="127.0.0.1:0",
            on_ready=ready.set_result,
        )
    )
    url = await asyncio.wait_for(ready, DEADLINE_S)
    assert url.startswith("http://127.0.0.1:")
    port = int(url.removeprefix("http://127.0.0.1:"))
    reply = await ask(port, "GET", "/path?query")
    os.kill(os.getpid(), number)
    await run
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["path"], record["status"]) == ("/path", 200)
    assert record["request_id"] == reply.one("X-Request-Id")


async def deliver(number: signal.Signals) -> None:
    """Send a signal to this process; return when the loop has handled it.

    A later SIGUSR1 proves it: the loop handles signals in the order of their arrival.
    """
    loop = asyncio.get_running_loop()
    handled = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, handled.set)
    try:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR1)
        async with asyncio.timeout(DEADLINE_S):
            await handled.wait()
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


async def test_second_signal_forces_the_stop() -> None:
    """The second SIGTERM or SIGINT calls `force`; the first one doesn't.

    SIGHUP never does, because a closed terminal and its shell both send it.
    """
    forced: list[bool] = []
    stopped = signals.stop_signal(force=lambda: forced.append(True))
    try:
        async with asyncio.timeout(DEADLINE_S):
            os.kill(os.getpid(), signal.SIGTERM)
            await stopped.wait()
            await deliver(signal.SIGHUP)
            assert not forced
            await deliver(signal.SIGINT)
            assert forced == [True]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_an_ignored_sighup_stays_ignored() -> None:
    """A process that was started with `nohup` isn't stopped by SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopped = signals.stop_signal(force=lambda: None)
    try:
        await deliver(signal.SIGHUP)
        assert not stopped.is_set()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(signal.SIGHUP, before)


async def test_log_is_written_without_another_request(
    path: Path,
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A record is written soon, even if no other request follows."""
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        serve.run(loaded, log_format="text", listen=None, on_ready=ready.set_result)
    )
    url = await asyncio.wait_for(ready, DEADLINE_S)
    await ask(int(url.rpartition(":")[2]), "GET", "/quiet")
    log = ""
    async with asyncio.timeout(5):
        while "/quiet" not in log:
            await asyncio.sleep(0.02)
            log += capsys.readouterr().out
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert log.count("\n") == 1


async def test_one_process_asks_the_core_too(
    path: Path,
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a supervisor, the process itself reports a refusal."""
    st_core.core.faults.error(401, "/apiversion", text="Invalid API key")
    loaded = settings.load(path, {"CORE": st_core.url, "UPSTREAM": upstream.url})
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    run = asyncio.create_task(
        serve.run(loaded, log_format="none", listen=None, on_ready=ready.set_result)
    )
    await asyncio.wait_for(ready, DEADLINE_S)
    await until(lambda: "it refuses the API key" in caplog.text)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [record.name for record in caplog.records] == ["gateway.core"]


async def rest_or_reset(wire: Wire) -> bytes:
    try:
        return await wire.rest()
    except ConnectionError:
        return b""
