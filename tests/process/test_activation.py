"""Sockets of LISTEN_FDS: which addresses they are used for, in real processes, too."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from processes import DEADLINE_S, GATEWAY, command
from wire import ask

from gateway.config import ListenConfig
from gateway.process import activation
from gateway.process.activation import given_sockets
from gateway.process.sockets import ListenError

ROUTES = """\
version: 1
gateway:
  listen: ["127.0.0.1:PORT", "unix:FOLDER/gateway.sock"]
  pidfile: "FOLDER/gateway.pid"
supertokens: {connection_uri: "http://127.0.0.1:9", recipes: {emailpassword: {}}}
routes: [{path: /, upstream: "http://127.0.0.1:8", protected: false}]
"""
AS_SYSTEMD = """\
import os, sys
count, arguments = int(sys.argv[1]), sys.argv[2:]
for number, descriptor in enumerate(map(int, arguments[:count]), 3):
    os.dup2(descriptor, 100 + number)
for number in range(3, 3 + count):
    os.dup2(100 + number, number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(arguments[count], arguments[count:])
"""
"""Puts descriptors where systemd puts them, and runs a program."""


def listening(address: str) -> socket.socket:
    """Return a listening socket at `host:port` or at a path."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(address)
    else:
        host, _, port = address.rpartition(":")
        is_6 = ":" in host
        sock = socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET)
        if is_6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host.strip("[]"), int(port)))
    sock.listen()
    return sock


def given(
    monkeypatch: pytest.MonkeyPatch, sock: socket.socket, **more: str
) -> activation.GivenSockets:
    """Return what is made of *sock*, which it owns from now on."""
    monkeypatch.setattr(activation, "FIRST_DESCRIPTOR", sock.detach())
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", **more}
    environ["LISTEN_FDNAMES"] = "http"
    found = given_sockets(environ)
    assert environ == {}
    return found


@pytest.mark.parametrize(
    ("bound", "named", "is_same"),
    [
        ("127.0.0.1:0", "127.0.0.1:PORT", True),
        ("127.0.0.1:0", "localhost:PORT", True),
        ("127.0.0.1:0", "127.0.0.2:PORT", False),
        ("127.0.0.1:0", "0.0.0.0:PORT", False),
        ("127.0.0.1:0", "127.0.0.1:1", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:0", "unix:FOLDER/s", False),
        ("0.0.0.0:0", "0.0.0.0:PORT", True),
        ("[::1]:0", "[::1]:PORT", True),
        ("[::1]:0", "[0:0::1]:PORT", True),
        ("[::1]:0", "127.0.0.1:PORT", False),
        ("FOLDER/s", "unix:FOLDER/s", True),
        ("FOLDER/s", "unix:FOLDER/t", False),
    ],
)
def test_a_socket_is_used_for_the_address_that_it_is_bound_to(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bound: str,
    named: str,
    is_same: bool,
) -> None:
    """Once. One that is left over is an error that names its address."""
    sock = listening(bound.replace("FOLDER", str(tmp_path)))
    port = "" if bound.startswith("FOLDER") else str(sock.getsockname()[1])
    name = named.replace("FOLDER", str(tmp_path)).replace("PORT", port)
    config = ListenConfig(address=name)
    sockets = given(monkeypatch, sock)
    if not is_same:
        assert sockets.take(config) is None
        with pytest.raises(ListenError, match=r"which isn't an address in gateway\.l"):
            sockets.refuse_rest()
        return
    found = sockets.take(config)
    assert found is not None
    assert found.file is None, "the file is the service manager's"
    assert len(found.sockets) == 1
    assert sockets.take(config) is None
    sockets.refuse_rest()
    found.sockets[0].close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_of_another_process_are_not_used(environ: dict[str, str]) -> None:
    """The variables may come from a parent."""
    environ = dict(environ)
    given_sockets(environ).refuse_rest()
    assert environ == {}


def test_what_is_no_listening_stream_socket_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A datagram socket, one that doesn't listen, a pipe; and no number."""
    reads, writes = os.pipe()
    with ExitStack() as opened:
        opened.callback(os.close, reads)
        opened.callback(os.close, writes)
        datagram = opened.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        silent = opened.enter_context(socket.socket())
        for descriptor in (datagram.fileno(), silent.fileno(), reads):
            monkeypatch.setattr(activation, "FIRST_DESCRIPTOR", os.dup(descriptor))
            with pytest.raises(ListenError, match="isn't a stream socket that listens"):
                given_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    for text in ("x", "-1", "12345"):
        with pytest.raises(ListenError, match="isn't a number of sockets"):
            given_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": text})


def read(path: Path) -> str:
    return path.read_text()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_gateway_serves_and_is_upgraded_on_given_sockets(
    tmp_path: Path,
) -> None:
    """Two workers. The Unix socket's file stays at the end: it is systemd's."""
    with listening("127.0.0.1:0") as tcp, listening(f"{tmp_path}/gateway.sock") as unix:
        port = tcp.getsockname()[1]
        file, pidfile = tmp_path / "routes.yaml", tmp_path / "gateway.pid"
        text = ROUTES.replace("PORT", str(port)).replace("FOLDER", str(tmp_path))
        file.write_text(text)
        descriptors = (unix.fileno(), tcp.fileno())
        async with command(
            "2",
            *map(str, descriptors),
            *(GATEWAY, "serve", "-c", file),
            cwd=tmp_path,
            environ={"GATEWAY_WORKERS": "2"},
            program=(sys.executable, "-c", AS_SYSTEMD),
            pass_fds=descriptors,
        ) as process:
            try:
                await process.until_said(rb" on http://127\.0\.0\.1:%d, unix" % port)
                for _ in range(4):
                    assert (await ask(port, "GET", "/")).status == 502
                before = read(pidfile)
                process.signal(signal.SIGUSR2)
                async with asyncio.timeout(DEADLINE_S):
                    while read(pidfile) == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert (await ask(port, "GET", "/")).status == 502
                os.kill(int(read(pidfile)), signal.SIGTERM)
                assert await process.ended() == 0
            finally:
                with suppress(OSError, ValueError):
                    os.kill(int(read(pidfile)), signal.SIGKILL)
        assert (tmp_path / "gateway.sock").is_socket()


async def test_a_given_socket_that_the_file_does_not_name_is_refused(
    tmp_path: Path,
) -> None:
    with listening("127.0.0.1:0") as sock:
        file = tmp_path / "routes.yaml"
        file.write_text(ROUTES.replace("PORT", "0").replace("FOLDER", str(tmp_path)))
        async with command(
            *("1", str(sock.fileno()), GATEWAY, "serve", "-c", file),
            cwd=tmp_path,
            program=(sys.executable, "-c", AS_SYSTEMD),
            pass_fds=(sock.fileno(),),
        ) as process:
            assert await process.ended() == 1
            port = sock.getsockname()[1]
            assert f"LISTEN_FDS is bound to 127.0.0.1:{port}," in process.err.decode()
    assert names_in(tmp_path) == ["routes.yaml"]
