"""`gateway` commands as child processes, for tests that read their output."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from faults import until
from wire import Wire, WireReply, connect, request

from gateway.process.surroundings import HUB_NAME, WORKER_NAME

GATEWAY = Path(sys.executable).with_name("gateway")
"""The installed command."""

DEADLINE_S = 30.0
"""For a process to start or end, on a busy machine."""


class Process:
    """A running `gateway` command, and its output so far."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.out = b""
        self.err = b""
        self._more = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._read("out", child.stdout)),
            asyncio.create_task(self._read("err", child.stderr)),
        ]

    async def _read(self, name: str, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(65536):
            setattr(self, name, getattr(self, name) + data)
            self._more.set()
        self._more.set()

    async def until_said(self, pattern: bytes) -> re.Match[bytes]:
        """Wait for *pattern* in the output of either stream; return the match."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for output in (self.err, self.out):
                    if match := re.search(pattern, output):
                        return match
                assert not all(reader.done() for reader in self._readers), self.err
                self._more.clear()
                await self._more.wait()

    async def ended(self) -> int:
        """Return its exit code, once all its output has been read."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._readers)
            return await self.child.wait()

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)


@asynccontextmanager
async def command(
    *args: str | Path,
    cwd: Path,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str | Path] = (GATEWAY,),
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Process]:
    """Run a command for the block; it is killed at the end if it still runs.

    `serve` has one worker by default, on any machine.
    """
    child = await asyncio.create_subprocess_exec(
        *program,
        *args,
        cwd=cwd,
        env={**os.environ, "GATEWAY_WORKERS": "1", **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    )
    process = Process(child)
    try:
        yield process
    finally:
        if child.returncode is None:
            child.kill()
        await process.ended()


async def serving(process: Process) -> int:
    """Wait until `gateway serve` listens; return its port."""
    match = await process.until_said(rb" on http://127\.0\.0\.1:(\d+), routes from ")
    return int(match[1])


def children(pid: int) -> set[int]:
    """Return the child processes of *pid*; none if it has ended."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found |= {*map(int, path.read_text().split())}
    return found


def hubs(supervisor: int) -> set[int]:
    """Return the hub of a gateway; for a moment there may be none, or two.

    A child that has just been forked has no name of its own yet.
    """
    return {pid for pid in children(supervisor) if comm(pid) == HUB_NAME}


async def hub_of(supervisor: int) -> int:
    """Return the hub of a gateway, once it has one."""
    await until(lambda: hubs(supervisor))
    return min(hubs(supervisor))


def workers(supervisor: int) -> set[int]:
    """Return the workers of a gateway that haven't ended."""
    return {pid for pid in children(supervisor) if comm(pid) == WORKER_NAME}


def comm(pid: int) -> str:
    """Return the system's name of a process; nothing if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, waited for or not."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def until_refused(port: int) -> None:
    """Return when *port* refuses connections."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                # Close at once: an open connection would delay the drain.
                async with connect(port):
                    pass
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                pass  # the listener was closed with this connection in its queue
            await asyncio.sleep(0.01)


async def ask_admin(
    socket: str, method: str, target: str, body: Any = None
) -> WireReply:
    """Send one request to the admin listener at a Unix socket; return the reply."""
    reader, writer = await asyncio.open_unix_connection(socket)
    wire = Wire(reader, writer)
    fields = [("Content-Type", "application/json")] if method == "POST" else []
    sent = json.dumps(body or {}).encode() if method == "POST" else None
    try:
        await wire.send(request(method, target, *fields, body=sent))
        return await wire.reply()
    finally:
        writer.transport.abort()
