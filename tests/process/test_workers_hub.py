"""The hub: the messages that it accepts, and when it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from checked_services import check
from faults import until
from health_facts import WELL

from gateway.dev.core import ThreadedCore
from gateway.process import hub
from gateway.process.health import Level
from gateway.process.hub import Hub
from gateway.process.messages import (
    AskCore,
    Decoder,
    Deny,
    Drain,
    Failed,
    FetchKeys,
    Keys,
    KeySource,
    Message,
    Ping,
    Ready,
    Report,
    encode,
)
from gateway.process.target_messages import CheckTargets, TargetsDown
from gateway.session.keys import KeySet, key_set
from gateway.supertokens.core_check import CoreVerdict

DEADLINE_S = 10.0


class Supervisor:
    """The supervisor's end of the hub's channel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder()

    def send(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def receive(self) -> list[Message]:
        return self.decoder.feed(await self.reader.read(65536))

    async def keys_of(self, source: KeySource) -> Keys:
        """Return the next keys of *source*."""
        while True:
            for message in await self.receive():
                if isinstance(message, Keys) and message.source == source:
                    return message


@asynccontextmanager
async def running(here: Hub | None = None) -> AsyncIterator[Supervisor]:
    """Run a hub for the block, and wait until it has ended by itself."""
    ours, theirs = socket.socketpair()
    task = asyncio.create_task((here or Hub()).run(theirs))
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    async with asyncio.timeout(DEADLINE_S):
        yield Supervisor(reader, writer)
        await task
    writer.close()


async def test_it_reads_reports_and_answers_pings() -> None:
    """The hub sends `Ready`, accepts reports, answers pings, and ends after `Drain`."""
    async with running() as supervisor:
        assert await supervisor.receive() == [Ready()]
        for message in (Ready(), Deny({"a": 1.0}), Failed("x")):
            supervisor.send(Report(1, 0, message))
        supervisor.send(Ping())
        assert await supervisor.receive() == [Ping()]
        supervisor.send(Drain())


async def test_it_reports_the_keys_of_the_core_that_it_is_told(
    st_core: ThreadedCore,
) -> None:
    """It fetches the keys of the core named last, and says whose they are and when."""
    sources = [KeySource((st_core.url,), issuer) for issuer in "ab"]
    async with running() as supervisor:
        assert await supervisor.receive() == [Ready()]
        for source in sources:
            began = time.monotonic()
            supervisor.send(FetchKeys(source, 0.01, 1.0))
            keys = await supervisor.keys_of(source)
            assert began <= keys.fetched_at <= time.monotonic()
            assert keys.jwks == json.dumps(
                key_set(keys.jwks.encode(), known=KeySet()).jwks
            )
            later = await supervisor.keys_of(source)
            assert later.fetched_at > keys.fetched_at
        supervisor.send(Drain())


async def test_a_key_set_that_is_too_large_is_not_reported(
    st_core: ThreadedCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor would kill a hub that sends it."""
    monkeypatch.setattr(hub, "MAX_KEY_SET", 10)
    st_core.core.faults.forget_calls()
    st_core.core.faults.forget_calls()
    async with running() as supervisor:
        assert await supervisor.receive() == [Ready()]
        supervisor.send(FetchKeys(KeySource((st_core.url,), "a"), 0.01, 1.0))
        await st_core.core.faults.until_called("*jwks.json", times=3)
        supervisor.send(Ping())
        assert await supervisor.receive() == [Ping()]
        supervisor.send(Drain())


async def test_it_asks_the_core_that_it_is_told(
    st_core: ThreadedCore, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks with the key that was sent, keeps the answer, and reports a refusal."""
    faults = st_core.core.faults
    faults.clear()
    faults.error(401, "/apiversion", text="Invalid API key")
    here = Hub()
    async with running(here) as supervisor:
        assert await supervisor.receive() == [Ready()]
        supervisor.send(AskCore((st_core.url,), "secret", 5.0))
        await until(lambda: bool(caplog.records))
        assert here.core_check is not None
        assert here.core_check.last is not None
        assert here.core_check.last.state is CoreVerdict.REFUSING
        faults.clear()
        supervisor.send(AskCore((st_core.url,), "secret", 5.0))
        await until(lambda: here.core_check is not None and is_usable(here))
        supervisor.send(AskCore((), None, 5.0))
        await until(lambda: here.core_check is None)
        supervisor.send(Drain())
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


async def test_it_checks_the_targets_that_it_is_told(closed_port: int) -> None:
    """It reports what is down; if all targets of a service are, it is degraded."""
    url = f"http://127.0.0.1:{closed_port}"
    here = Hub()
    async with running(here) as supervisor:
        assert await supervisor.receive() == [Ready()]
        supervisor.send(
            WELL,
            CheckTargets(None),
            CheckTargets(check(targets=(url,), interval_s=0.01)),
        )
        assert await supervisor.receive() == [TargetsDown("up", (url,))]
        readiness = here._health("/readyz", frozenset()).checks["services"]
        assert readiness.finding.level is Level.DEGRADED
        supervisor.send(CheckTargets(None), Ping())
        assert await supervisor.receive() == [Ping()]
        readiness = here._health("/readyz", frozenset()).checks["services"]
        assert readiness.is_ok
        supervisor.send(Drain())


def is_usable(here: Hub) -> bool:
    last = None if here.core_check is None else here.core_check.last
    return last is not None and last.state is CoreVerdict.USABLE


@pytest.mark.parametrize(
    "sent", [b"", encode(Failed("x")), b"no message\n"], ids=["closed", "odd", "none"]
)
async def test_it_ends_with_its_channel(sent: bytes) -> None:
    """The hub ends when its channel closes or has a message not meant for a hub."""
    async with running() as supervisor:
        if sent:
            supervisor.writer.write(sent)
        else:
            supervisor.writer.write_eof()
