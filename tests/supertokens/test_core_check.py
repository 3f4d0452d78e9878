"""The check at start whether the core accepts the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from faults import FaultUpstream, Peer, until
from sdk_reset import running

from gateway.config import SuperTokensConfig
from gateway.dev.core import CoreSettings, serve
from gateway.pace import Pace
from gateway.supertokens import core_check
from gateway.supertokens.core_check import CoreCheck, CoreState, CoreVerdict

PACE = Pace(keys_retry_s=0.005, keys_max_retry_s=0.01)
KEY = "a-secret-key-of-20-characters"
VERSIONS = json.dumps({"versions": ["2.7", "5.4", "5.3"]})
OLD = json.dumps({"versions": ["2.7", "5.3", "3.0"]})


@dataclass
class Answers:
    """A core that answers `/apiversion` with what it is told."""

    status: int = 200
    text: str = VERSIONS
    asked: list[bytes] = field(default_factory=list)
    """The heads of the requests."""

    async def serve(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.asked.append((await peer.head()).head)
                body = self.text.encode()
                await peer.send(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b"
                    % (self.status, len(body), body)
                )


@contextlib.asynccontextmanager
async def checking(
    *hosts: str, api_key: str | None = KEY, timeout_s: float = 5.0
) -> AsyncIterator[CoreCheck]:
    check = CoreCheck(
        hosts, api_key, timeout_s=timeout_s, pace=PACE, clock=lambda: 1000.0
    )
    assert check.last is None
    check.start()
    try:
        yield check
    finally:
        await check.close()


def found(check: CoreCheck) -> Callable[[CoreVerdict], Callable[[], bool]]:
    """Return what makes a condition: that the core was found in a state."""
    return lambda state: lambda: check.last is not None and check.last.state is state


async def test_a_core_that_accepts_the_gateway(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is asked once, with the key, below the path of its address, in silence."""
    answers = Answers()
    async with FaultUpstream(answers.serve) as core:
        async with checking(f"{core.url}/appid-a/") as check:
            await until(found(check)(CoreVerdict.USABLE))
            assert check._task is not None
            await check._task
        assert check.last == CoreState(CoreVerdict.USABLE, 1000.0)
    (head,) = answers.asked
    assert head.startswith(b"GET /appid-a/apiversion HTTP/1.1\r\n")
    assert f"api-key: {KEY}".encode() in head
    assert not caplog.records


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        (401, "Invalid API key\n", "Set supertokens.api_key to one of the core's"),
        (200, OLD, "speaks CDI 2.7 to 5.3, and the gateway speaks CDI 5.4"),
        (402, "Multitenancy feature is not enabled.", "Multitenancy feature is not"),
    ],
)
async def test_a_core_that_refuses_the_gateway(
    caplog: pytest.LogCaptureFixture, status: int, text: str, remedy: str
) -> None:
    """One line has the remedy, and no secret; another one the end of the trouble."""
    answers = Answers(status, text)
    async with FaultUpstream(answers.serve) as core, checking(core.url) as check:
        await until(found(check)(CoreVerdict.REFUSING))
        await until(lambda: len(answers.asked) >= 4)
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("gateway.core", "WARNING")
        line = record.getMessage()
        assert line.startswith(f"the core at {core.url} ")
        assert remedy in line
        assert line.isprintable()
        assert check.last is not None
        assert check.last.trouble in line
        answers.status, answers.text = 200, VERSIONS
        await until(found(check)(CoreVerdict.USABLE))
    lines = [record.getMessage() for record in caplog.records[1:]]
    assert lines == ["the core accepts the gateway now"]
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        *((503, "no"), (500, "Internal Error"), (429, ""), (302, ""), (400, "no")),
        *((200, "<html>"), (200, "[]"), (200, "{}"), (200, '"versions"')),
    ],
)
async def test_what_is_no_core_s_answer_is_asked_again(
    caplog: pytest.LogCaptureFixture, status: int, text: str
) -> None:
    """An outage is none of this check's messages: the fetch of the keys reports it."""
    answers = Answers(status, text)
    async with FaultUpstream(answers.serve) as core, checking(core.url) as check:
        await until(lambda: len(answers.asked) >= 3)
        assert check.last == CoreState(CoreVerdict.UNREACHABLE, 1000.0)
        answers.status, answers.text = 200, VERSIONS
        await until(found(check)(CoreVerdict.USABLE))
    assert not caplog.records


@pytest.mark.parametrize(
    ("status", "words"), [(403, "IP filter"), (404, "supertokens.connection_uri")]
)
async def test_what_is_before_the_core_is_reported(
    caplog: pytest.LogCaptureFixture, status: int, words: str
) -> None:
    """A filter that refuses the gateway, and a wrong address, are for the operator."""
    answers = Answers(status, "<html>no</html>")
    async with FaultUpstream(answers.serve) as core, checking(core.url) as check:
        await until(lambda: len(answers.asked) >= 3)
        assert check.last is not None
        assert check.last.state is CoreVerdict.UNREACHABLE
    (record,) = caplog.records
    assert words in record.getMessage()


async def test_a_core_that_cannot_be_reached(
    caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    """Neither one that takes no connection nor one that doesn't answer is an error."""

    async def never(peer: Peer) -> None:
        await peer.head()
        await peer.gone()

    async with (
        FaultUpstream(never) as hung,
        checking(f"http://127.0.0.1:{closed_port}", hung.url, timeout_s=0.05) as check,
    ):
        await until(found(check)(CoreVerdict.UNREACHABLE))
    assert not caplog.records


async def test_each_host_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    """One of several cores may be older; the line says which, without credentials."""
    good, old = Answers(), Answers(text=OLD)
    async with FaultUpstream(good.serve) as one, FaultUpstream(old.serve) as two:
        url = two.url.replace("://", "://user:password@")
        async with checking(one.url, url, api_key=None) as check:
            await until(found(check)(CoreVerdict.REFUSING))
    (record,) = caplog.records
    assert two.url in record.getMessage()
    assert one.url not in record.getMessage()
    assert "password" not in record.getMessage()
    assert b"api-key" not in good.asked[0]


async def test_the_embedded_core_and_the_settings_of_the_sdk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key and the address are those that the SDK runs with."""
    async with serve(CoreSettings(api_keys=(KEY,))) as core:
        for api_key, state in (
            (KEY, CoreVerdict.USABLE),
            ("x" * 20, CoreVerdict.REFUSING),
        ):
            values = {"connection_uri": core.url, "api_key": api_key}
            settings = SuperTokensConfig.model_validate(values)
            async with (
                running(settings) as sdk,
                core_check.asking(sdk, timeout_s=5.0) as check,
            ):
                assert check is not None
                await until(found(check)(state))
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("status", "text", "state"),
    [
        (200, VERSIONS, CoreVerdict.USABLE),
        (200, OLD, CoreVerdict.REFUSING),
        (401, "Invalid API key", CoreVerdict.REFUSING),
        (500, "", CoreVerdict.UNREACHABLE),
    ],
)
async def test_a_single_question(
    status: int, text: str, state: CoreVerdict, caplog: pytest.LogCaptureFixture
) -> None:
    """`gateway doctor` asks once, and says itself what is wrong."""
    answers = Answers(status, text)
    async with FaultUpstream(answers.serve) as core:
        check = CoreCheck([core.url], KEY, timeout_s=5.0)
        assert (await check.ask()).state is state
    assert len(answers.asked) == 1
    assert not caplog.records
