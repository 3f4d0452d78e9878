"""The gateway's own messages on standard error."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import socket
import sys
from pathlib import Path

import pytest
from failing_streams import Broken, Stuck
from processes import DEADLINE_S, GATEWAY
from wire import connect, request

from gateway import observe
from gateway.events import ONCE, RuntimeEvent, Severity, about
from gateway.observe import Messages, Origin, stderr


def message(text: str) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"msg": text, "levelno": logging.WARNING, "name": "gateway.test"}
    )


def test_messages_to_a_stuck_stream_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the queue is full, messages are dropped, and a later line has their number.

    Each line begins with *who*.
    """
    monkeypatch.setattr(stderr, "_QUEUE_MESSAGES", 1)
    stream = Stuck()
    messages = Messages(stream, origin=Origin(who="worker 2: "))
    messages.handle(message("first"))
    assert stream.reached.wait(10)
    for text in ("second", "third", "fourth"):
        messages.handle(message(text))
    stream.release.set()
    messages.finish()
    lines = [line.partition("Z ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "WARNING worker 2: first",
        "WARNING worker 2: second",
        "WARNING worker 2: messages lost here, because nobody read them: 2",
    ]


@pytest.mark.parametrize(
    ("least", "written"),
    [
        (Severity.INFO, ["keys_fresh", "keys_stale", "other", "other", "admin_action"]),
        (Severity.WARNING, ["keys_stale", "other", "other", "admin_action"]),
        (Severity.ERROR, ["other", "admin_action"]),
    ],
)
def test_messages_below_the_level_are_left_out(
    least: Severity, written: list[str]
) -> None:
    """Errors of libraries aren't, nor is what an operator has done.

    What is relayed is judged by the supervisor.
    """
    stream = io.StringIO()
    messages = Messages(stream, origin=Origin(form="json"), least=least)
    for event in (RuntimeEvent.KEYS_FRESH, RuntimeEvent.KEYS_STALE):
        messages.handle(logging.makeLogRecord({"msg": "a", **about(event)}))
    messages.handle(message("a warning of a library"))
    messages.handle(logging.makeLogRecord({"msg": "a", "levelno": logging.ERROR}))
    admin = about(RuntimeEvent.ADMIN_ACTION)
    messages.handle(logging.makeLogRecord({"msg": "a", **admin}))
    relayed: list[object] = []
    messages.relay = lambda *args: relayed.append(args)
    proxy = about(RuntimeEvent.PROXY_NOT_TRUSTED)
    messages.handle(logging.makeLogRecord({"msg": "a", **proxy}))
    messages.finish()
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == written
    assert len(relayed) == 1


def test_a_message_has_its_event_and_facts() -> None:
    """One with an event has its severity and facts, and others have their logger."""
    stream = io.StringIO()
    messages = Messages(stream, origin=Origin(form="json", pid=7, worker=2))
    extra = about(RuntimeEvent.KEYS_EXPIRED)
    for more in (extra, {}):
        messages.handle(logging.makeLogRecord({**vars(message("why")), **more}))
    messages.finish()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"]) == ("keys_expired", "error")
    assert (first["pid"], first["worker"], first["message"]) == (7, 2, "why")
    assert (second["event"], second["level"]) == ("other", "warning")
    assert second["logger"] == "gateway.test"


def test_what_each_worker_notices_is_relayed() -> None:
    """Events of the whole gateway go to the relay, if there is one, and no others."""
    stream = io.StringIO()
    messages = Messages(stream)
    seen: list[RuntimeEvent] = []
    messages.relay = lambda event, _message, _facts: seen.append(event)
    for event in RuntimeEvent:
        messages.handle(
            logging.makeLogRecord({**vars(message(event.code)), "event": event})
        )
    messages.finish()
    assert set(seen) == ONCE
    assert len(stream.getvalue().splitlines()) == len(RuntimeEvent) - len(ONCE)


def test_an_exception_has_its_traceback() -> None:
    """In text its lines are indented, so that its words can't forge a line."""
    stream = io.StringIO()
    messages = Messages(stream)
    try:
        raise ValueError("a\n2026-11-27T13:27:37.273Z ERROR forged")
    except ValueError:
        messages.handle(
            logging.makeLogRecord(
                {**vars(message("failed")), "exc_info": sys.exc_info()}
            )
        )
    messages.finish()
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert "    Traceback (most recent call last):" in others
    assert all(line.startswith("    ") for line in others)


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
