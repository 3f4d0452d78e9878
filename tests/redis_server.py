"""A real Redis server of a test's own, on a free port and without persistence."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30.0
PROGRAM = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    PROGRAM is None,
    reason="redis-server isn't installed: Debian's package redis-server has it",
)


class RedisServer:
    """The server. It can be killed, hung and started again, and loses all data then."""

    def __init__(self, folder: Path, *args: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self._args = args
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        assert PROGRAM is not None
        self._process = self._spawn(PROGRAM)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    if (await self._raw("PING"))[:1] in (b"+", b"-"):
                        return
                await asyncio.sleep(0.01)

    def _spawn(self, program: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(program, "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                *self._args,
            ],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """End it at once, with its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Let it answer nothing from now on. The system still accepts connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def _raw(self, *words: str) -> bytes:
        """Send a command; return the first bytes of the reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            parts = [f"*{len(words)}"]
            parts += [f"${len(word.encode())}\r\n{word}" for word in words]
            writer.write(("\r\n".join(parts) + "\r\n").encode())
            return await reader.read(65536)
        finally:
            writer.close()

    async def do(self, *words: str) -> bytes:
        """Send a command; return its reply, which must be no error and not long."""
        async with asyncio.timeout(DEADLINE_S):
            reply = await self._raw(*words)
        assert not reply.startswith(b"-"), reply
        return reply


@contextlib.asynccontextmanager
async def redis_running(folder: Path, *args: Any) -> AsyncIterator[RedisServer]:
    """Run a server for the block."""
    server = RedisServer(folder, *args)
    await server.start()
    try:
        yield server
    finally:
        server.kill()
