"""edge. Development only: `gateway serve` as a child process of `gateway dev`.

It is the gateway of production: with a supervisor, a hub and one worker. So a changed
file is loaded, and the admin listener answers.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

_PROGRAM: Final = ("-m", "gateway.cli")
_MAX_SOCKET_PATH: Final = 100
"""In bytes. Systems take 103 or 107."""
_PR_SET_PDEATHSIG: Final = 1


class GatewayEnded(Exception):
    """The gateway has ended by itself, and has said why."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the gateway has ended (exit code {code})")
        self.code = code
        """Its exit code."""


def admin_socket(state: Path, port: int) -> Path | None:
    """Return where the admin listener of the gateway on *port* is.

    None: the system takes no path of that length, so there is none.
    """
    path = (state / f"admin-{port}.sock").absolute()
    return path if len(os.fsencode(path)) <= _MAX_SOCKET_PATH else None


async def serve(
    config: Sequence[Path],
    environ: Mapping[str, str],
    *,
    outbox: Path,
    admin: Path | None,
    options: Sequence[str] = (),
    ready: Callable[[], None],
) -> None:
    """Run `gateway serve` until it is cancelled, which drains it.

    *ready* is called when it serves. Messages go to standard error, and mails to
    *outbox*. Cancelled again, it kills the gateway.

    Raises:
        GatewayEnded: it has ended by itself.
    """
    arguments = [*_PROGRAM, "serve", "--workers", "1", "--watch", *options]
    for path in config:
        arguments += ["-c", str(path)]
    arguments += ["--outbox", str(outbox)]
    if admin is not None:
        arguments += ["--admin-listen", f"unix:{admin}"]
    async with _told(ready) as address:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env={**environ, "NOTIFY_SOCKET": address},
            # Ctrl-C goes to this process, which stops the gateway.
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            await _stop(child)
            raise
    raise GatewayEnded(code)


async def _stop(child: Process) -> None:
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        # The gateway's own deadlines bound this (`gateway.drain_timeout`).
        await child.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _end_with_parent() -> None:
    """Have the system end this process with its parent, even if that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@asynccontextmanager
async def _told(ready: Callable[[], None]) -> AsyncIterator[str]:
    """Yield an address for `NOTIFY_SOCKET`; call *ready* when it is told READY=1."""
    loop = asyncio.get_running_loop()
    with (
        tempfile.TemporaryDirectory(prefix="gateway-dev-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        address = f"{folder}/notify"
        sock.bind(address)
        sock.setblocking(False)

        def read() -> None:
            with suppress(BlockingIOError):
                if b"READY=1" in sock.recv(4096).split(b"\n"):
                    ready()

        loop.add_reader(sock, read)
        try:
            yield address
        finally:
            loop.remove_reader(sock)
