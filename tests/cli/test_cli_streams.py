"""`gateway serve` when nobody takes what it writes, as under some supervisors.

PYTHONUNBUFFERED is taken away: with it, standard output has no buffer that could
stand in the way of the end, and the tests would say less.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from processes import DEADLINE_S, GATEWAY
from wire import connect, request

ENVIRON = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}


@asynccontextmanager
async def serving(
    tmp_path: Path, shell: str, *, workers: int = 1, out: int = subprocess.DEVNULL
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Serve for the block, with the redirections of *shell*; yield process and port.

    The port is chosen here: where nobody reads, none can be told.
    """
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {shell}', "sh"),
        *(GATEWAY, "serve", "-c", file, "--listen", f"127.0.0.1:{port}"),
        *("--workers", str(workers)),
        env=ENVIRON,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
    )
    try:
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ask(process: asyncio.subprocess.Process, port: int, times: int) -> None:
    """Have *times* requests answered (404: there are no routes) on one connection."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            assert process.returncode is None, "it ended instead of serving"
            try:
                async with connect(port) as wire:
                    for _ in range(times):
                        await wire.send(request("GET", "/nothing"))
                        assert (await wire.reply()).status == 404
                return
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def end(process: asyncio.subprocess.Process) -> int | None:
    """Stop it as a supervisor does; return its exit code."""
    process.terminate()
    async with asyncio.timeout(DEADLINE_S):
        _, complained = await process.communicate()
    assert b"Traceback" not in complained
    assert b"ignored" not in complained
    return process.returncode


@pytest.mark.parametrize(
    ("shell", "workers"),
    [
        (">&-", 1),
        ("<&-", 1),
        ("<&- >&- 2>&-", 1),
        ("<&- >&- 2>&-", 2),
        ("> /dev/full", 1),
        ("2>/dev/full", 1),
        (">/dev/full 2>/dev/full", 2),
    ],
    ids=[
        "no output",
        "no input",
        "none",
        "none for workers",
        "full disk",
        "no errors",
        "full disk for workers",
    ],
)
async def test_closed_streams_neither_end_nor_break_it(
    tmp_path: Path, shell: str, workers: int
) -> None:
    """It serves and stops as usual.

    A closed stream's number must not go to a socket: what is printed would be sent
    to a client, and uvloop aborts when it closes it.
    """
    async with serving(tmp_path, shell, workers=workers) as (process, port):
        await ask(process, port, 300)
        assert await end(process) == 0


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])
@pytest.mark.parametrize("reader", ["gone", "asleep"])
async def test_log_that_nobody_reads_does_not_hold_up_the_end(
    tmp_path: Path, reader: str, workers: int
) -> None:
    """`gateway serve | head -1`, and a collector that hangs: served, and exit 0."""
    reads, writes = os.pipe()
    try:
        fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096)
        if reader == "gone":
            os.close(reads)
        async with serving(tmp_path, "", workers=workers, out=writes) as (
            process,
            port,
        ):
            await ask(process, port, 500)
            assert await end(process) == 0
    finally:
        os.close(writes)
        if reader == "asleep":
            os.close(reads)
