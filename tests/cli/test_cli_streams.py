"""`gateway serve` with closed, full or unread streams, as under some supervisors.

PYTHONUNBUFFERED is unset: with it, standard output has no buffer that could delay or
break the stop, and the tests would prove less.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from faults import free_ports
from processes import DEADLINE_S, GATEWAY
from wire import connect, request

ENVIRON = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}


@asynccontextmanager
async def serving(
    tmp_path: Path, shell: str, *, workers: int = 1, out: int = subprocess.DEVNULL
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Serve for the block, with the redirections of *shell*; yield process and port.

    The port is chosen here, because standard error can't be read in some tests.
    """
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\n")
    (port,) = free_ports(1)
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
    """Send *times* requests on one connection; each reply is 404, without routes."""
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
    """Stop the process by SIGTERM; return its exit code."""
    process.terminate()
    async with asyncio.timeout(DEADLINE_S):
        _, errors = await process.communicate()
    assert b"Traceback" not in errors
    assert b"ignored" not in errors
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
    """With closed or full streams, it serves and stops with exit code 0.

    A closed stream's descriptor must not become a socket: output would be sent to a
    client, and uvloop would abort when it closes the descriptor.
    """
    async with serving(tmp_path, shell, workers=workers) as (process, port):
        await ask(process, port, 300)
        assert await end(process) == 0


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])
@pytest.mark.parametrize("reader", ["gone", "asleep"])
async def test_an_unread_log_does_not_delay_the_stop(
    tmp_path: Path, reader: str, workers: int
) -> None:
    """If the log's reader is gone or hangs, it serves, and exits with 0 on a stop."""
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
