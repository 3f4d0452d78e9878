"""The corpus, sent whole to the gateway in an aiohttp application.

aiohttp's server parses the requests. Cases that it refuses or parses otherwise are
listed here; all others end as with the gateway's own listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from aiohttp import web
from corpus import cases as corpus
from corpus.play import DEADLINE_S, play
from corpus.rig import Rig, running

from gateway.aiohttp_app import application
from gateway.app import App
from gateway.config import Config
from gateway.proxy import Proxy


class Watched(web.RequestHandler):
    """aiohttp's connection; counts the bytes that it has received."""

    __slots__ = ("_news", "_watched", "gone", "taken")

    def __init__(self, watched: dict[int, Watched], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched = watched
        self._news = asyncio.Event()
        self.gone = False
        self.taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watched[transport.get_extra_info("peername")[1]] = self

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.taken += len(data)
        self._news.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        self._news.set()

    async def until_gone(self) -> None:
        while not self.gone:
            self._news.clear()
            await self._news.wait()


class Serving:
    """aiohttp's server in place of the gateway's listener."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self._server = runner.server
        self.watched: dict[int, Watched] = {}

    def __call__(self) -> Watched:
        server: Any = self._server
        return Watched(self.watched, server, loop=server._loop, **server._kwargs)

    async def close(self, timeout_s: float) -> None:
        await self._runner.cleanup()


async def serve(proxy: Proxy, settings: Config) -> Serving:
    gateway = App(
        config=settings,
        proxy=proxy,
        sessions=None,  # type: ignore[arg-type] # sessions are fakes
        observer=proxy.dependencies.observer,
        keys=None,  # type: ignore[arg-type] # the same
        upstreams=None,  # type: ignore[arg-type] # the same
        sdk=None,  # type: ignore[arg-type] # the same
        make_id=proxy.dependencies.make_id,
        engine=None,  # type: ignore[arg-type] # the same
    )

    @asynccontextmanager
    async def opening() -> AsyncIterator[App]:
        yield gateway

    app = application(opening, limits=settings.gateway.limits)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    return Serving(runner)


class Stage:
    """The rig, and the loop that it runs on."""

    def __init__(self, runner: asyncio.Runner, rig: Rig) -> None:
        self.runner = runner
        self.rig = rig

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.runner.run(work)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Return one gateway for all cases."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = running(
            limits={"max_head_size": 32768}, trusted=("127.0.0.2",), serve=serve
        )
        rig = runner.run(opened.__aenter__())
        # aiohttp answers with the request's version.
        rig.versions += (b"HTTP/1.0 ", b"HTTP/0.9 ", b"HTTP/2.0 ")
        yield Stage(runner, rig)
        runner.run(opened.__aexit__(None, None, None))


REFUSED_BY_AIOHTTP = frozenset(
    """
    A10-byte-above-0x7F-in-a-name B9-raw-control B9-raw-NUL B10-raw-UTF-8
    B10-raw-byte-above-0x7F B10-DEL-in-the-query B13-control-in-the-query
    B15-no-leading-slash
    B15-asterisk-with-GET B15-tab B15-space-in-the-target B15-no-target
    B15-leading-space B15-authority-form C1-length-and-chunks C1-chunks-and-length
    C1-hidden-request-behind-the-chunks C1-length-zero-and-chunks C2-unknown-coding
    C2-chunked-and-identity C2-chunked-and-gzip C2-chunked-twice-in-a-list C2-two-fields
    C2-two-fields-of-chunked C2-quoted C2-vertical-tab C2-NUL-behind C2-parameter
    C2-identity C2-comma-behind C3-space-before-the-colon C3-tab-before-the-colon
    C3-space-before-the-name C3-space-before-the-first-name C3-NUL-in-the-name
    C5-two-different-lengths C5-the-same-length-twice C5-list-of-lengths
    C5-list-of-different-lengths C6-plus-sign C6-minus-sign C6-hexadecimal C6-exponent
    C6-space-within C6-other-digits C6-larger-than-64-bits C6-underscore C6-empty
    C6-decimal-point C6-quoted C7-chunk-size-in-C's-spelling C7-plus-sign C7-minus-sign
    C7-space-before C7-space-behind C7-underscore C7-larger-than-64-bits C7-no-digit
    C7-empty-size C8-empty-extension C8-broken-extension
    C8-extension-with-a-bare-line-end C8-line-end-in-a-quoted-extension
    C9-no-line-end-behind-the-data C9-bare-line-end-behind-the-data
    C9-bare-line-end-behind-the-size C9-bare-line-ends-at-the-end
    C9-bare-CR-behind-the-size C10-spill C10-a-request-in-place-of-the-line-end
    C11-length-in-a-trailer C11-bare-line-end-in-a-trailer C11-many-trailers
    C11-long-trailer C12-bare-line-ends C12-bare-line-end-in-a-field
    C12-bare-CR-in-a-field C12-CR-twice C12-CR-before-the-colon
    C12-bare-line-end-behind-the-request-line C13-folded-field C13-folded-with-a-tab
    C13-folded-coding C14-NUL-in-a-value C14-NUL-in-a-name C14-DEL-in-a-value
    C14-vertical-tab-in-a-value C14-escape-in-a-value C15-no-colon C15-empty-name
    C15-brackets-in-a-name C15-space-in-a-name C15-colon-first
    C19-Expect-with-two-lengths
    C26-preface-of-HTTP/2 C27-HTTP/1.2 C27-HTTP/1.10 C27-HTTP/11 C27-lower-case
    C27-space-behind-the-version C27-version-in-words D1-missing D1-two
    D1-the-same-twice D1-HTTP/1.0-with-two D2-NUL F2-control-in-the-name G1-TRACK
    G1-DEBUG G1-lower-case G1-made-up G1-long-method G1-method-with-a-control
    G1-TLS-where-HTTP-is-spoken G3-target-over-the-limit G3-query-over-the-limit
    G3-target-far-over-the-limit G3-field-over-the-limit G3-long-field-name
    G3-one-field-too-many I1-bad-head
    """.split()  # noqa: SIM905 - a hundred names
)
"""Malformed requests and requests over a limit: aiohttp's parser refuses them, and its
server answers 400 without calling the application."""

REFUSED_THERE_ONLY = frozenset(
    (
        "B10-raw-UTF-8-in-the-query",
        "B10-raw-bytes-above-0x7F-in-the-query",
        "B10-raw-byte-above-0x7F-in-the-query-of-a-protected-route",
        "C21-nothing-behind-a-request-that-closes",
    )
)
"""Requests that the listener accepts; aiohttp answers them, too, with its 400."""

ENDED_THERE = frozenset(
    (
        "A9-identity-in-a-trailer",
        "A9-identity-in-a-trailer-of-a-protected-request",
        "C7-leading-zeros",
        "C17-chunked-body-of-a-refused-request",
    )
)
"""The connection ends after a chunked request, because aiohttp's parser makes the last
trailer a field of the next one."""

READ_OTHERWISE = frozenset(
    (
        "A9-trailer-before-another-request",
        "B15-two-spaces",
        "B15-two-spaces-before-the-version",
        "C21-a-malformed-request-behind-a-good-one",
        "C21-broken-chunks-behind-a-good-request",
        "C27-another-protocol",
    )
)
"""Not played: the first ends the connection before its second request; aiohttp accepts
several spaces in a request line, drops a good request before a bad one in the same
segment, and reads RTSP/1.0 as HTTP/1.0."""

UNSENDABLE = frozenset({"I2-byte-above-0x7F"})
"""The reply has a field that aiohttp's writer can't send as it is."""

CASES = dict(zip(corpus.ids(loaded := corpus.load()), loaded, strict=True))
REFUSED = REFUSED_BY_AIOHTTP | REFUSED_THERE_ONLY
OTHERS = REFUSED | READ_OTHERWISE | UNSENDABLE
OURS = [name for name in CASES if name not in OTHERS]


@pytest.mark.parametrize("name", OURS)
def test_whole(stage: Stage, name: str) -> None:
    """Sent in one piece, with a canary after the last reply, a case has its result."""
    case = CASES[name]
    stage.run(
        play(stage.rig, replace(case, closes=None) if name in ENDED_THERE else case)
    )


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_aiohttp(stage: Stage, name: str) -> None:
    """aiohttp answers one 400 and closes; nothing is forwarded or recorded."""
    case, rig = CASES[name], stage.rig
    assert name in REFUSED_THERE_ONLY or max(case.replies[-1]) >= 400

    async def talk() -> bytes:
        rig.upstream.forget()
        rig.records.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        try:
            async with asyncio.timeout(DEADLINE_S):
                writer.write(case.sent)
                return await reader.read()
        finally:
            writer.transport.abort()

    received = stage.runner.run(talk())
    assert received.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert received.count(b" 400 Bad Request\r\n") == 1
    assert not rig.upstream.requests
    assert not rig.upstream.begun
    assert not rig.records


def test_a_field_that_aiohttp_cannot_send_is_a_502(stage: Stage) -> None:
    """A reply with such a field is 502, and the next request is served."""
    (name,) = UNSENDABLE
    case = replace(CASES[name], replies=(frozenset({502}),), answer=())
    stage.run(play(stage.rig, case))


def test_every_case_is_played() -> None:
    """Each case is in exactly one list; at least 381 end as with the listener."""
    assert set(CASES) >= OTHERS | ENDED_THERE
    parts = (OURS, REFUSED_BY_AIOHTTP, REFUSED_THERE_ONLY, READ_OTHERWISE, UNSENDABLE)
    assert sum(map(len, parts)) == len(CASES)
    assert len(OURS) >= 381
