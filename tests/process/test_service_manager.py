"""What systemd is told, over real datagram sockets."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from processes import DEADLINE_S, command, serving

from gateway.process.plan_state import Phase
from gateway.process.service_manager import service_manager

ROUTES = """\
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens: {connection_uri: "http://127.0.0.1:9", recipes: {emailpassword: {}}}
routes: [{path: /, upstream: "http://127.0.0.1:8", protected: false}]
"""


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """A notification socket, at `tmp_path / "notify"`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(DEADLINE_S)
        yield sock


def lines(sock: socket.socket) -> list[str]:
    """Return the lines of the next message."""
    return sock.recv(4096).decode().split("\n")


def all_told(sock: socket.socket) -> list[list[str]]:
    """Return the lines of each message that has arrived."""
    sock.setblocking(False)
    told = []
    with suppress(BlockingIOError):
        while True:
            told.append(lines(sock))
    return told


def test_each_phase_is_told_once(systemd: socket.socket, tmp_path: Path) -> None:
    """READY follows the start and each reload; STOPPING is told once.

    A reload has the time on the monotonic clock (systemd.service(5), notify-reload).
    """
    manager = service_manager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    before = time.monotonic_ns() // 1000
    manager.update(Phase.STARTING)
    manager.update(Phase.RUNNING)
    manager.update(Phase.RUNNING)
    manager.reloading()
    manager.update(Phase.RELOADING)
    manager.update(Phase.RUNNING)
    manager.update(Phase.STOPPING)
    manager.update(Phase.STOPPING)
    manager.tick(0.0)
    manager.close()
    told = all_told(systemd)
    assert [message[0] for message in told] == [
        *("READY=1", "RELOADING=1", "READY=1", "STOPPING=1"),
    ]
    name, _, usec = told[1][1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.monotonic_ns() // 1000
    assert all(message[-1].startswith("STATUS=") for message in told)


def test_an_abstract_socket_is_told(tmp_path: Path) -> None:
    """`@` stands for the first byte of an abstract name."""
    name = f"gateway{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(DEADLINE_S)
        manager = service_manager({"NOTIFY_SOCKET": f"@{name}"})
        manager.update(Phase.RUNNING)
        assert lines(sock)[0] == "READY=1"
        manager.close()


@pytest.mark.parametrize(
    ("environ", "every_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(
    systemd: socket.socket,
    tmp_path: Path,
    environ: dict[str, str],
    every_s: float | None,
) -> None:
    """Not if the watchdog is another process's, or off. The variables are removed."""
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), **environ}
    manager = service_manager(variables)
    assert variables == {}
    for now in (100.0, 101.0, 101.5, 102.0):
        manager.tick(now)
    told = all_told(systemd)
    assert told == ([] if every_s is None else [["WATCHDOG=1"]] * 2)
    manager.close()


@pytest.mark.parametrize("address", [None, "", "@", "vsock:1:2", "/nowhere/at/all"])
def test_nothing_is_told_where_nobody_listens(address: str | None) -> None:
    """Nor does it raise."""
    manager = service_manager({} if address is None else {"NOTIFY_SOCKET": address})
    manager.update(Phase.RUNNING)
    manager.close()


async def test_a_gateway_tells_its_start_reloads_and_stop(
    systemd: socket.socket, tmp_path: Path
) -> None:
    """A reload that fails is over with READY, too; signs of life come meanwhile."""
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES, encoding="utf-8")
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}

    async def next_states(count: int) -> list[str]:
        states: list[str] = []
        while len(states) < count:
            told = await asyncio.to_thread(lines, systemd)
            if told != ["WATCHDOG=1"]:
                states.append(told[0])
        return states

    async with command("serve", "-c", file, cwd=tmp_path, environ=environ) as process:
        assert await next_states(1) == ["READY=1"]
        await serving(process)
        assert await asyncio.to_thread(lines, systemd) == ["WATCHDOG=1"]
        process.signal(signal.SIGHUP)
        assert await next_states(2) == ["RELOADING=1", "READY=1"]
        file.write_text(re.sub("version: 1", "version: x", ROUTES), encoding="utf-8")
        process.signal(signal.SIGHUP)
        assert await next_states(2) == ["RELOADING=1", "READY=1"]
        process.signal(signal.SIGTERM)
        assert await next_states(1) == ["STOPPING=1"]
        assert await process.ended() == 0
