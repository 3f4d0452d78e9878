"""Replies in progress end with their session (`session.close_streams`), row E28."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from fake_time import MovableClock
from faults import CHUNKED_HEAD, OK, FaultUpstream, Peer, answer, until
from gateway_under_test import gateway, until_cut
from wire import Wire, request

ANN, BOB = ("Authorization", "Bearer ann"), ("Authorization", "Bearer bob")
PROTECTED = {"protected": True}
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
UNSIZED = b"HTTP/1.1 200 OK\r\n\r\n"
HEADS = {
    "chunked": (CHUNKED_HEAD, b"2\r\n1\n\r\n", b"0\r\n\r\n"),
    "sized": (SIZED, b"1\n", b"1234567"),
    "until close": (UNSIZED, b"1\n", b""),
}
"""The head, the first event, and the end."""


class Events:
    """A service that sends one event, and the rest when it may."""

    def __init__(self, kind: str = "chunked") -> None:
        self.kind = kind
        self.go = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        head, event, end = HEADS[self.kind]
        await peer.request()
        await peer.send(head + event)
        gone = asyncio.create_task(peer.gone())
        go = asyncio.create_task(self.go.wait())
        await asyncio.wait((gone, go), return_when=asyncio.FIRST_COMPLETED)
        if self.go.is_set():
            await peer.send(end)
        gone.cancel()
        go.cancel()


async def begin(wire: Wire, user: tuple[str, str], version: str = "1.1") -> None:
    """Ask for the stream, and read until its first event has arrived."""
    asked = request("GET", "/events", user)
    await wire.send(asked.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
    assert (await wire.head()).status == 200
    async with asyncio.timeout(10):
        await wire.reader.readuntil(b"1\n")


def assert_ended(record: Any, note: str) -> None:
    assert (record.status, record.side) == (401, "client")
    assert (record.reason, record.note) == ("stream_session_ended", note)


SIGNED_OUT = "the session was signed out or revoked"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", HEADS)
async def test_a_sign_out_cuts_the_replies_of_its_session(
    kind: str, version: str
) -> None:
    """At once, visibly, on both sides; and nobody else's."""
    service = Events(kind)
    async with (
        FaultUpstream(service) as upstream,
        gateway(upstream.url, route=PROTECTED) as gw,
        gw.connect() as ann,
        gw.connect() as bob,
    ):
        await begin(ann, ANN, version)
        await begin(bob, BOB)
        assert len(gw.proxy.forwarder.streams) == 2
        gw.proxy.session_ended("session-ann")
        if version == "1.0" and kind != "sized":  # a FIN would be the body's end
            with pytest.raises(ConnectionResetError):
                await ann.rest()
        else:
            assert b"0\r\n\r\n" not in await until_cut(ann)
        await upstream.lost.wait()
        assert_ended(await gw.record(), SIGNED_OUT)
        assert len(gw.proxy.forwarder.streams) == 1
        service.go.set()
        await until_whole(bob, kind)
        assert (await gw.record()).status == 200
    assert not gw.proxy.forwarder.streams


async def until_whole(wire: Wire, kind: str) -> None:
    """Read the rest of a stream, which must be whole."""
    if kind == "sized":
        assert await wire.read(7) == b"1234567"
    else:
        async with asyncio.timeout(10):
            await wire.reader.readuntil(b"0\r\n\r\n")


async def test_a_client_that_reads_nothing_is_cut_as_well() -> None:
    """The gateway waits for the client then, and not for the service."""

    async def flood(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD)
        while True:
            await peer.send(b"10000\r\n" + bytes(65536) + b"\r\n")

    async with (
        FaultUpstream(flood) as upstream,
        gateway(upstream.url, route=PROTECTED) as gw,
        gw.connect() as wire,
    ):
        wire.writer.transport.pause_reading()
        await wire.send(request("GET", "/events", ANN))
        await until(lambda: any(c.writing_paused for c in gw.listener._open))
        gw.proxy.session_ended("session-ann")
        assert_ended(await gw.record(), SIGNED_OUT)
        await until(lambda: not gw.listener.connections)


async def test_the_end_of_the_token_ends_what_has_no_length(
    clock: MovableClock,
) -> None:
    """As WebSockets end then. A download that was begun in time ends by itself."""
    for kind in ("chunked", "sized"):
        service = Events(kind)
        async with (
            FaultUpstream(service) as upstream,
            gateway(upstream.url, route=PROTECTED) as gw,
            gw.connect() as wire,
        ):
            gw.verifier.expires_in_s = 30
            await begin(wire, ANN)
            await clock.pass_time(30)
            if kind == "chunked":
                assert b"0\r\n" not in await until_cut(wire)
                assert_ended(await gw.record(), "the access token has expired")
            else:
                service.go.set()
                await until_whole(wire, kind)
                assert (await gw.record()).status == 200


async def test_a_sign_out_before_the_reply_cuts_it() -> None:
    """The session was verified, and ended before the service answered."""
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(CHUNKED_HEAD + b"2\r\n1\n\r\n")
        await peer.gone()

    async with (
        FaultUpstream(slow) as upstream,
        gateway(upstream.url, route=PROTECTED) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/events", ANN))
        await upstream.got_request.wait()
        gw.verifier.ended.add("session-ann")
        gw.proxy.session_ended("session-ann")
        go.set()
        assert b"0\r\n\r\n" not in await until_cut(wire)
        await upstream.lost.wait()
        assert_ended(await gw.record(), SIGNED_OUT)


@pytest.mark.parametrize(
    ("route", "user"),
    [
        ({"protected": True, "session": {"close_streams": False}}, ANN),
        ({"protected": False}, ANN),
        ({"protected": "optional"}, ("X-Nobody", "x")),
    ],
    ids=["switched off", "public", "anonymous"],
)
async def test_other_streams_outlive_the_session(
    route: dict[str, Any], user: tuple[str, str]
) -> None:
    """Without a session there is nothing to end; and a route may say so."""
    service = Events()
    async with (
        FaultUpstream(service) as upstream,
        gateway(upstream.url, route=route) as gw,
        gw.connect() as wire,
    ):
        gw.verifier.expires_in_s = 0.0
        await begin(wire, user)
        assert not gw.proxy.forwarder.streams
        gw.proxy.session_ended("session-ann")
        service.go.set()
        await until_whole(wire, "chunked")
        assert (await gw.record()).status == 200


async def test_a_reply_that_came_at_once_is_no_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Usual replies aren't watched: it would cost each of them."""
    async with (
        FaultUpstream(answer(OK)) as upstream,
        gateway(upstream.url, route=PROTECTED) as gw,
    ):
        monkeypatch.setattr(gw.proxy.forwarder, "_open_stream", None)
        assert (await gw.ask("GET", "/a", ANN)).body == b"ok"


async def test_many_streams_of_one_session_end_together() -> None:
    """Each cut resumes a coroutine at once, which changes what is walked over.

    They are no tasks: nothing but bytes is waited for, on connections that were open.
    """
    count = 5
    full = asyncio.Event()

    async def second_time(peer: Peer) -> None:
        await peer.request()
        if len(peer.upstream.requests) == count:
            full.set()
        await full.wait()
        await peer.send(OK)
        await Events()(peer)

    async with (
        FaultUpstream(second_time) as upstream,
        gateway(upstream.url, route=PROTECTED) as gw,
        AsyncExitStack() as opened,
    ):
        gw.verifier.at_once = True
        wires = [await opened.enter_async_context(gw.connect()) for _ in range(count)]
        for wire in wires:
            await wire.send(request("GET", "/a", ANN))
        for wire in wires:
            assert (await wire.reply()).status == 200
            await gw.record()
        for wire in wires:
            await begin(wire, ANN)
        assert len(gw.proxy.forwarder.streams) == count
        gw.proxy.session_ended("session-ann")
        assert not gw.proxy.forwarder.streams
        for wire in wires:
            await until_cut(wire)
            assert_ended(await gw.record(), SIGNED_OUT)
