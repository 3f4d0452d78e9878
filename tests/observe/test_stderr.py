"""The gateway's own messages on standard error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from pathlib import Path

import pytest
from failing_streams import Broken, Stuck
from processes import DEADLINE_S, GATEWAY
from wire import connect, request

from gateway import observe
from gateway.observe import Messages, stderr


def message(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": logging.WARNING})


def test_messages_to_a_stuck_stream_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the queue is full, messages are dropped, and a later line has their number.

    Each line begins with *who*.
    """
    monkeypatch.setattr(stderr, "_QUEUE_MESSAGES", 1)
    stream = Stuck()
    messages = Messages(stream, who="worker 2: ")
    messages.handle(message("first"))
    assert stream.reached.wait(10)
    for text in ("second", "third", "fourth"):
        messages.handle(message(text))
    stream.release.set()
    messages.finish()
    assert stream.getvalue() == (
        "worker 2: first\n"
        "worker 2: second\n"
        "worker 2: messages lost here, because nobody read them: 2\n"
    )


def test_a_broken_pipe_raises_no_error() -> None:
    """Messages to a broken pipe are dropped without an error."""
    stream = Broken(BrokenPipeError())
    messages = Messages(stream)
    messages.handle(message("first"))
    messages.handle(message("second"))
    messages.finish()
    assert stream.tried


def test_messages_are_logging_s_last_resort() -> None:
    """Within the block, `Messages` is logging's handler of last resort.

    So handlers that a user configures are used instead.
    """
    before = logging.lastResort
    with observe.messages():
        assert isinstance(logging.lastResort, Messages)
        assert logging.lastResort.level == logging.WARNING
    assert logging.lastResort is before


async def test_a_full_pipe_for_messages_delays_no_request(tmp_path: Path) -> None:
    """With a full standard error, requests are answered, and the gateway stops."""
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    reads, writes = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)  # the access log fails, which is logged
    process = await asyncio.create_subprocess_exec(
        *(GATEWAY, "serve", "-c", file, "--listen", f"127.0.0.1:{port}"),
        env={**os.environ, "GATEWAY_WORKERS": "1"},
        stdout=full,
        stderr=writes,
    )
    os.close(full)
    try:
        async with asyncio.timeout(DEADLINE_S):
            output = b""
            while b"routes from" not in output:
                output += await asyncio.to_thread(os.read, reads, 4096)
            os.set_blocking(writes, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writes, b"x")
            os.set_blocking(writes, True)
            async with connect(port) as wire:
                for _ in range(500):
                    await wire.send(request("GET", "/nothing"))
                    assert (await wire.reply()).status == 404
            process.terminate()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(reads)
        os.close(writes)
