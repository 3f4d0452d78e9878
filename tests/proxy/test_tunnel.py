"""WebSockets through the gateway, between peers that don't share its code.

`websockets` and `wsproto` are two independent implementations of RFC 6455. Rows F16 to
F20, C24, P7 and P15 of the tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_time import MovableClock
from faults import (
    FAULTS,
    OK,
    FaultUpstream,
    Peer,
    answer,
    answer_and_hang,
    until,
    until_stopped,
)
from gateway_under_test import (
    ORIGIN,
    UnderTest,
    gateway,
    until_cut,
)
from object_lifetime import collector_off
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from wire import Wire, request
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

from gateway import websocket
from gateway.pace import Pace
from gateway.upstream.tunnel import UpstreamTunnel

HANDSHAKE = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", ORIGIN),
)
PATIENT = Pace(websocket_close_s=600, websocket_linger_s=600)
"""Longer than a test may run: a test that waits for either timeout fails."""
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


End = tuple[int | None, str | None]
"""Code and reason of a socket."""


@dataclass
class WebSocketService:
    """A WebSocket server of the `websockets` library that records its sockets."""

    url: str = ""
    sockets: list[ServerConnection] = field(default_factory=list)
    closed: asyncio.Queue[End] = field(default_factory=asyncio.Queue)
    """Code and reason of each closed socket, as the server received them."""

    async def serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        try:
            async for message in socket:
                await socket.send(message)
        except ConnectionClosed:
            pass
        self.closed.put_nowait((socket.close_code, socket.close_reason))

    async def end(self) -> End:
        """Return how the next socket that ends has ended."""
        async with asyncio.timeout(10):
            return await self.closed.get()


@asynccontextmanager
async def service(**options: Any) -> AsyncIterator[WebSocketService]:
    """Run an echo service; it takes and sends messages of any size."""
    running = WebSocketService()
    options = {"max_size": None, "ping_interval": None, **options}
    async with serve(running.serve, "127.0.0.1", 0, **options) as server:
        running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield running


def dial(gw: UnderTest, path: str = "/ws", **options: Any) -> Any:
    """Connect with the `websockets` client."""
    options = {
        "origin": ORIGIN,
        "max_size": None,
        "proxy": None,
        "ping_interval": None,
        **options,
    }
    return connect(f"ws://127.0.0.1:{gw.port}{path}", **options)


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Return the code and reason that the client gets; messages are discarded."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


# --- messages, pings and the handshake --------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_arrive_as_they_were_sent(compression: str | None) -> None:
    """Text, binary, empty, 5 MB and fragmented; with and without compression."""
    messages = [
        "text é",
        b"\x00\xff",
        "",
        b"",
        bytes(range(256)) * 20000,
        "x" * 70_000,
    ]
    async with service() as up, gateway(up.url) as gw:
        async with dial(gw, compression=compression) as socket:
            for message in messages:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["frag", "men", "ted"])
            assert await socket.recv() == "fragmented"
            names = [extension.name for extension in socket.protocol.extensions]
            assert names == (["permessage-deflate"] if compression else [])
        record = await gw.record()
        assert (record.status, record.side) == (101, None)
        assert record.bytes_in > 0
        assert record.bytes_out > 0


async def test_pings_are_answered_by_the_other_end() -> None:
    """The gateway forwards pings and pongs in both directions."""
    async with service() as up, gateway(up.url) as gw, dial(gw) as socket:
        await asyncio.wait_for(await socket.ping(b"from the client"), 10)
        await asyncio.wait_for(await up.sockets[0].ping(b"from the service"), 10)


async def test_a_handshake_is_forwarded_like_a_request() -> None:
    """It carries the identity, new tokens, CORS fields and the subprotocol."""
    async with (
        service(subprotocols=["v2", "v1"]) as up,
        gateway(up.url, route={"protected": True}) as gw,
    ):
        gw.verifier.new_tokens = ((b"st-access-token", b"fresh"),)
        fields = {"Authorization": "Bearer ann", "X-User-Id": "forged"}
        async with dial(
            gw, "/ws?a=b", subprotocols=["v1"], additional_headers=fields
        ) as socket:
            assert socket.subprotocol == "v1"
            assert socket.response is not None
            assert socket.response.headers["st-access-token"] == "fresh"
            assert socket.response.headers["Cache-Control"] == "no-store"
            assert socket.response.headers["Access-Control-Allow-Origin"] == ORIGIN
            forwarded = up.sockets[0].request
            assert forwarded is not None
            assert forwarded.path == "/ws?a=b"
            assert forwarded.headers.get_all("X-User-Id") == ["ann"]
            assert "Authorization" not in forwarded.headers
            assert forwarded.headers["Origin"] == ORIGIN


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (4001, "é reason"), (1011, "x" * 123)]
)
@pytest.mark.parametrize("by", ["client", "service"])
async def test_close_code_and_reason_are_forwarded(
    by: str, code: int, reason: str
) -> None:
    """Either end may close; both get the same code and reason, without delay."""
    async with service() as up, gateway(up.url, pace=PATIENT) as gw:
        async with dial(gw) as socket:
            closer = socket if by == "client" else up.sockets[0]
            await closer.close(code, reason)
            assert await closed(socket) == (code, reason)
            assert await up.end() == (code, reason)
        record = await gw.record()
        assert (record.status, record.side) == (101, None)
        assert record.reason in ("client_closed", "upstream_closed")


# --- a second pair of peers -------------------------------------------------


@dataclass
class WsprotoEnd:
    """A peer made of `wsproto` and two streams."""

    connection: WSConnection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, event: Event) -> None:
        self.writer.write(self.connection.send(event))
        await self.writer.drain()

    async def events(self) -> AsyncIterator[Event]:
        while data := await self.reader.read(65536):
            self.connection.receive_data(data)
            for event in self.connection.events():
                yield event


async def wsproto_echo(peer: Peer) -> None:
    """Accept with permessage-deflate, and echo every message."""
    end = WsprotoEnd(WSConnection(ConnectionType.SERVER), peer.reader, peer.writer)
    async for event in end.events():
        match event:
            case Request():
                await end.send(AcceptConnection(extensions=[PerMessageDeflate()]))
            case TextMessage() | BytesMessage():
                await end.send(event)
            case CloseConnection():
                await end.send(event.response())
                return
            case _:
                raise AssertionError(event)


async def test_wsproto_agrees_on_both_ends() -> None:
    """Messages and the close pass between two ends that use `wsproto`."""
    async with (
        FaultUpstream(wsproto_echo) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        end = WsprotoEnd(WSConnection(ConnectionType.CLIENT), wire.reader, wire.writer)
        await end.send(
            Request(
                host="localhost",
                target="/ws",
                extensions=[PerMessageDeflate()],
                extra_headers=[(b"origin", ORIGIN.encode())],
            )
        )
        events = end.events()
        accepted = await anext(events)
        assert isinstance(accepted, AcceptConnection)
        assert [extension.name for extension in accepted.extensions] == [
            "permessage-deflate"
        ]
        sent = b"\x01" * 300_000
        await end.send(BytesMessage(sent[:1000], message_finished=False))
        await end.send(BytesMessage(sent[1000:]))
        got = b""
        async for event in events:
            assert isinstance(event, BytesMessage)
            got += event.data
            if event.message_finished:
                break
        assert got == sent
        await end.send(CloseConnection(code=4002, reason="enough"))
        last = await anext(events)
        assert isinstance(last, CloseConnection)
        assert (last.code, last.reason) == (4002, "enough")
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(events), 10)


# --- no tunnel --------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (OK, 200),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", 426),
        (SWITCH.replace(b"websocket", b"h2c"), 502),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502),
    ],
    ids=["200", "403", "426", "101 to h2c", "bare 101"],
)
async def test_c24_only_a_101_to_websocket_opens_a_tunnel(
    reply: bytes, status: int
) -> None:
    """Any other reply is passed on, or is a 502 if it is a 101 for something else.

    The connection ends, and a request pipelined behind the handshake isn't forwarded.
    """
    async with (
        FaultUpstream(answer(reply)) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.send(request("GET", "/secret"))
        got = await wire.reply()
        assert (got.status, got.one("Connection")) == (status, "close")
        assert await until_cut(wire) == b""
        assert [each.line for each in upstream.requests] == [b"GET /ws HTTP/1.1"]


ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"


@pytest.mark.parametrize(
    ("was", "line", "flaw"),
    [
        (b"s3pP", b"AAAA", "Sec-WebSocket-Accept does not match the key"),
        (ACCEPT, b"", "0 Sec-WebSocket-Accept fields"),
        (ACCEPT, ACCEPT * 2, "2 Sec-WebSocket-Accept fields"),
        (b"Connection: Upgrade", b"X: y", "Connection does not list Upgrade"),
        (ACCEPT, ACCEPT + b"Sec-WebSocket-Protocol: v1\r\n", "a subprotocol that"),
        (ACCEPT, ACCEPT + b"Sec-WebSocket-Extensions: x-a\r\n", "an extension that"),
    ],
)
async def test_c24_a_101_to_another_handshake_opens_no_tunnel(
    was: bytes, line: bytes, flaw: str
) -> None:
    """502, the reason is in the log, and the service's connection is closed."""
    frame = b"\x81\x05hello"
    reply = SWITCH.replace(was, line)
    assert reply != SWITCH
    async with (
        FaultUpstream(answer_and_hang(reply + frame)) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        got = await wire.reply()
        assert (got.status, got.json()["code"]) == (502, "upstream_bad_reply")
        assert await until_cut(wire) == b""
        await upstream.lost.wait()
        record = await gw.record()
        assert (record.status, record.side) == (502, "upstream")
        assert record.note.startswith(f"the 101 is not valid: {flaw}")
        assert not gw.proxy.tunnels


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("Origin", "https://evil.example")], 403),
        ([("Origin", "null")], 403),
        ([("Origin", ORIGIN), ("Origin", ORIGIN)], 403),
        ([("Cookie", "sAccessToken=x")], 403),
        ([("Origin", ORIGIN), ("Sec-WebSocket-Version", "8")], 426),
        ([("Origin", ORIGIN), ("Content-Length", "5")], 400),
        ([("Origin", ORIGIN), ("Transfer-Encoding", "chunked")], 400),
    ],
    ids=[
        "other",
        "null",
        "two",
        "none with a cookie",
        "two versions of the protocol",
        "a body",
        "a chunked body",
    ],
)
async def test_f16_f17_a_refused_handshake_is_not_forwarded(
    fields: list[tuple[str, str]], status: int
) -> None:
    """No upstream is dialled, and the connection ends. A valid one is forwarded."""
    sent = [each for each in HANDSHAKE if each[0] != "Origin"]
    async with FaultUpstream(answer()) as upstream, gateway(upstream.url) as gw:
        reply = await gw.ask("GET", "/ws", *sent, *fields)
        assert (reply.status, reply.one("Connection")) == (status, "close")
        assert not upstream.connections
        assert (await gw.record()).status == status
        assert (await gw.ask("GET", "/ws", *HANDSHAKE)).status == 200
        assert upstream.requests[0].field(b"upgrade") == b"websocket"


async def test_the_route_decides_before_the_upstream_is_dialled() -> None:
    """Without a session a protected route answers a handshake with SuperTokens' 401.

    With `websocket.enabled: false` it answers 403. A handshake with a session, or a
    request without an upgrade, is forwarded.
    """
    async with FaultUpstream(answer()) as upstream:
        async with gateway(upstream.url, route={"protected": True}) as gw:
            reply = await gw.ask("GET", "/ws", *HANDSHAKE)
            assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
            assert not upstream.connections
            session = ("Authorization", "Bearer ann")
            assert (await gw.ask("GET", "/ws", *HANDSHAKE, session)).status == 200
        (forwarded,) = upstream.requests
        assert forwarded.field(b"upgrade") == b"websocket"
        dialled = upstream.connections
        async with gateway(upstream.url, route={"websocket": {"enabled": False}}) as gw:
            reply = await gw.ask("GET", "/ws", *HANDSHAKE)
            assert (reply.status, reply.json()["code"]) == (403, "websocket_disabled")
            assert upstream.connections == dialled
            assert (await gw.ask("GET", "/ws")).status == 200
        assert len(upstream.requests) == 2


# --- when the gateway closes a socket ---------------------------------------


async def test_the_socket_ends_with_its_session() -> None:
    """Both ends get 4401 when the access token expires; an anonymous socket stays."""
    async with (
        service() as up,
        gateway(up.url, route={"protected": "optional"}) as gw,
        dial(gw) as anonymous,
    ):
        gw.verifier.expires_in_s = 0.2
        async with dial(
            gw, additional_headers={"Authorization": "Bearer ann"}
        ) as socket:
            assert await closed(socket) == (4401, "session ended")
            assert await up.end() == (4401, "session ended")
            assert (await gw.record()).reason == "closed_4401"
        await anonymous.send("still here")
        assert await anonymous.recv() == "still here"


async def test_a_sign_out_closes_the_sockets_of_its_session() -> None:
    """They are closed at once; the sockets of other sessions stay (row E27)."""
    async with (
        service() as up,
        gateway(up.url, route={"protected": True}) as gw,
        dial(gw, additional_headers={"Authorization": "Bearer ann"}) as ann,
        dial(gw, additional_headers={"Authorization": "Bearer bob"}) as bob,
    ):
        assert len(gw.proxy.tunnels) == 2
        gw.proxy.session_ended("session-ann")
        assert await closed(ann) == (4401, "session ended")
        await bob.send("still here")
        assert await bob.recv() == "still here"


async def test_a_sign_out_during_the_handshake_closes_the_socket() -> None:
    """The session ends after its verification and before the service's 101."""
    signed_out = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.head()
        await signed_out.wait()
        await peer.send(SWITCH)
        await peer.gone()

    async with (
        FaultUpstream(slow) as upstream,
        gateway(upstream.url, route={"protected": True}) as gw,
        gw.connect() as wire,
    ):
        fields = (*HANDSHAKE, ("Authorization", "Bearer ann"))
        await wire.send(request("GET", "/ws", *fields))
        await upstream.got_request.wait()
        gw.verifier.ended.add("session-ann")
        gw.proxy.session_ended("session-ann")
        signed_out.set()
        assert (await wire.head()).status == 101
        assert await wire.rest() == b"\x88\x0f\x11\x31session ended"
        assert (await gw.record()).reason == "closed_4401"


async def test_a_route_may_let_sockets_outlive_their_session() -> None:
    """With `close_on_session_end: false` a socket outlives an expired session."""
    route = {"protected": True, "websocket": {"close_on_session_end": False}}
    async with service() as up, gateway(up.url, route=route) as gw:
        gw.verifier.expires_in_s = -1
        fields = {"Authorization": "Bearer ann"}
        async with dial(gw, additional_headers=fields) as socket:
            await socket.send("still here")
            assert await socket.recv() == "still here"


async def test_an_idle_socket_is_closed_and_a_busy_one_is_not(
    clock: MovableClock,
) -> None:
    """Both ends get 1001 after `idle_timeout` without a byte from either."""
    route = {"websocket": {"idle_timeout": 30}}
    async with service() as up, gateway(up.url, route=route) as gw, dial(gw) as socket:
        for _ in range(4):
            await socket.send("x")
            assert await socket.recv() == "x"
            await clock.pass_time(20)
        await clock.pass_time(10)
        assert await closed(socket) == (1001, "idle")
        assert await up.end() == (1001, "idle")


async def test_a_socket_has_a_maximum_lifetime() -> None:
    """Both ends get 1001 after `max_lifetime`, even when busy; messages stay whole."""
    route = {"websocket": {"max_lifetime": 0.2}}
    async with service() as up, gateway(up.url, route=route) as gw, dial(gw) as socket:
        with contextlib.suppress(ConnectionClosed):
            for number in itertools.count():
                await socket.send(str(number) * 10000)
                assert await socket.recv() == str(number) * 10000
        assert (socket.close_code, socket.close_reason) == (1001, "lifetime")
        assert await up.end() == (1001, "lifetime")


async def test_a_close_frame_waits_for_the_end_of_the_frame_before_it() -> None:
    """If half a frame has been forwarded, the other half is sent first."""
    frame = b"\x82\x7e\x01\x00" + b"x" * 256
    rest = asyncio.Event()

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH + frame[:100])
        await rest.wait()
        await peer.send(frame[100:] + frame)
        await peer.gone()

    async with (
        FaultUpstream(half) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        assert await wire.read(100) == frame[:100]
        (tunnel,) = gw.proxy.tunnels
        tunnel.end(4401, "session ended")
        await until(lambda: tunnel._down._close_frame)
        rest.set()
        got = await until_cut(wire)
        whole, _, close = got.partition(b"\x88")
        assert whole in (frame[100:], frame[100:] + frame)
        assert close == b"\x0f" + (4401).to_bytes(2, "big") + b"session ended"


async def test_p7_draining_closes_all_sockets_on_both_ends() -> None:
    """All ends get 1001, and the drain ends as soon as they have answered."""
    async with (
        service() as up,
        gateway(up.url, drain_timeout=600, pace=PATIENT) as gw,
        AsyncExitStack() as stack,
    ):
        sockets = [await stack.enter_async_context(dial(gw)) for _ in range(50)]
        stopping = asyncio.create_task(gw.stop())
        for socket in sockets:
            assert await closed(socket) == (1001, "shutting down")
            assert await up.end() == (1001, "shutting down")
        await stopping


async def test_sockets_are_kept_until_a_second_drain() -> None:
    """As of a worker that a reload has replaced: also those that open while it drains.

    They still end with their session and their access token.
    """
    async with (
        service() as up,
        gateway(up.url, route={"protected": "optional"}) as gw,
        dial(gw) as anonymous,
        dial(gw, additional_headers={"Authorization": "Bearer ann"}) as ann,
    ):
        gw.proxy.drain(keeps_websockets=True)
        gw.verifier.expires_in_s = 0.2
        bearer = {"Authorization": "Bearer bob"}
        async with dial(gw, additional_headers=bearer) as bob, dial(gw) as late:
            gw.proxy.session_ended("session-ann")
            assert await closed(ann) == (4401, "session ended")
            assert await closed(bob) == (4401, "session ended")
            for socket in (anonymous, late):
                await socket.send("still here")
                assert await socket.recv() == "still here"
            gw.proxy.drain()
            for socket in (anonymous, late):
                assert await closed(socket) == (1001, "shutting down")


END_OF_IDLE = ({"websocket": {"idle_timeout": 0.05}}, 1001, "idle")
END_OF_LIFE = ({"websocket": {"max_lifetime": 0.05}}, 1001, "lifetime")
END_OF_SESSION = ({"protected": True}, 4401, "session ended")
END_OF_ALL: tuple[dict[str, Any], int, str] = ({}, 1001, "shutting down")
HELLO, BYE = b"\x82\x02hi", b"\x88\x00"
"""Frames of a service. A client masks its own; a mask of zeros changes nothing."""
MASKED_HELLO, MASKED_BYE = b"\x82\x82\0\0\0\0hi", b"\x88\x80\0\0\0\0"


@dataclass
class Ends:
    """Both ends of one tunnel, as raw connections."""

    gw: UnderTest
    client: Wire
    service: Wire

    async def settle(self) -> None:
        """Run the loop until the gateway has read and handled the bytes sent to it."""
        for _ in range(50):
            await asyncio.sleep(0)

    def is_open(self) -> bool:
        """Return whether the gateway has closed neither end."""
        ends = (self.client.reader, self.service.reader)
        return not any(end.at_eof() for end in ends)

    async def assert_close(self, code: int, reason: str) -> None:
        """Assert that the next frame of both ends is this close frame."""
        payload = code.to_bytes(2, "big") + reason.encode()
        size = len(payload)
        assert await self.client.read(2 + size) == bytes((0x88, size)) + payload
        frame = await self.service.read(6 + size)
        mask, hidden = frame[2:6], frame[6:]
        assert frame[:2] == bytes((0x88, 0x80 | size))
        assert bytes(byte ^ mask[i % 4] for i, byte in enumerate(hidden)) == payload


@asynccontextmanager
async def joined(route: dict[str, Any], pace: Pace) -> AsyncIterator[Ends]:
    """Open a tunnel with Ann's session on a gateway with this route and pace."""
    arrived: asyncio.Queue[Wire] = asyncio.Queue()
    over = asyncio.Event()

    async def stay(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        arrived.put_nowait(Wire(peer.reader, peer.writer))
        await over.wait()

    async with (
        FaultUpstream(stay) as upstream,
        gateway(upstream.url, route=route, pace=pace) as gw,
        gw.connect() as wire,
    ):
        if route is END_OF_SESSION[0]:
            gw.verifier.expires_in_s = 0.05
        ann = ("Authorization", "Bearer ann")
        await wire.send(request("GET", "/ws", *HANDSHAKE, ann))
        assert (await wire.head()).status == 101
        yield Ends(gw, wire, await arrived.get())
        over.set()


@pytest.mark.parametrize("first", ["client", "service"])
@pytest.mark.parametrize(
    ("route", "code", "reason"),
    [END_OF_IDLE, END_OF_LIFE, END_OF_SESSION, END_OF_ALL],
    ids=["idle", "lifetime", "session", "drain"],
)
async def test_the_gateway_closes_both_ends_and_awaits_both_answers(
    route: dict[str, Any],
    code: int,
    reason: str,
    first: str,
) -> None:
    """Each end gets a close frame from the gateway, before the other has answered.

    The sockets stay open until both ends have sent their close frame, and then close at
    once. Messages that arrive in between are discarded (RFC 6455 §5.5.1, §7.1.1).
    """
    async with joined(route, PATIENT) as ends:
        ending = asyncio.create_task(ends.gw.stop()) if not route else None
        await ends.assert_close(code, reason)
        answers = [(ends.client, MASKED_HELLO, MASKED_BYE), (ends.service, HELLO, BYE)]
        for end, hello, bye in answers if first == "client" else answers[::-1]:
            await ends.settle()
            assert ends.is_open()
            await end.send(hello)
            await ends.settle()
            assert ends.is_open()
            await end.send(bye)
        assert await ends.client.rest() == b""
        assert await ends.service.rest() == b""
        assert (await ends.gw.record()).reason == f"closed_{code}"
        if ending is not None:
            await ending


@pytest.mark.parametrize("answering", ["client", "service", None])
async def test_the_wait_for_an_answer_to_a_close_frame_is_limited(
    answering: str | None,
) -> None:
    """After `websocket_close_s` both sockets close, even if only one end answered."""
    route, code, reason = END_OF_IDLE
    async with joined(route, Pace(websocket_close_s=0.3)) as ends:
        await ends.assert_close(code, reason)
        if answering == "client":
            await ends.client.send(MASKED_BYE)
        elif answering == "service":
            await ends.service.send(BYE)
        assert await ends.client.rest() == b""
        assert await ends.service.rest() == b""


# --- one end dies -----------------------------------------------------------


async def test_p15_the_upstream_dies() -> None:
    """The client's connection ends without a close frame: its library reports 1006."""
    for behaviour in (switch_then(Peer.reset), switch_then(lambda peer: None)):
        async with (
            FaultUpstream(behaviour) as upstream,
            gateway(upstream.url, pace=PATIENT) as gw,
            dial(gw) as socket,
        ):
            await socket.send("go")
            assert await closed(socket) == (1006, "")
            assert (await gw.record()).reason == "upstream_closed"


def switch_then(act: Callable[[Peer], Any]) -> Callable[[Peer], Awaitable[None]]:
    """Return a behaviour that accepts a socket, and acts at its first byte."""

    async def behaviour(peer: Peer) -> None:
        handshake = await peer.request()
        key = handshake.field(b"sec-websocket-key")
        assert key is not None
        connection = WSConnection(ConnectionType.SERVER)
        connection.receive_data(handshake.head)
        await peer.send(connection.send(AcceptConnection()))
        await peer.reader.read(1)
        act(peer)

    return behaviour


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_p15_the_client_dies(how: str) -> None:
    """The service's connection ends; bytes sent before a FIN are delivered first."""
    received: list[bytes] = []
    frame = b"\x82\x85mask" + b"hello"

    async def record(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        with contextlib.suppress(ConnectionError):
            while data := await peer.reader.read(65536):
                received.append(data)
        peer.upstream.lost.set()

    async with FaultUpstream(record) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(request("GET", "/ws", *HANDSHAKE))
            await wire.head()
            if how == "FIN":
                wire.writer.write(frame)
                wire.writer.write_eof()
                await upstream.lost.wait()
                assert b"".join(received) == frame
            else:
                wire.writer.transport.abort()
                await upstream.lost.wait()
        await gw.record()
        await until(lambda: not gw.pools[0].open)


@pytest.mark.parametrize("closer", ["client", "service", "gateway"])
async def test_a_closed_socket_is_freed(closer: str) -> None:
    """Its objects are freed without the garbage collector."""
    async with service() as up, gateway(up.url) as gw:
        with collector_off(websocket.Tunnel, websocket.tunnel.Pump) as leaked:
            async with dial(gw) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                if closer == "service":
                    await up.sockets[0].close()
                elif closer == "gateway":
                    gw.proxy.drain()
                if closer != "client":
                    await socket.wait_closed()
            await gw.record()
            await until(lambda: not leaked())


async def test_f20_a_half_closed_socket_still_gets_its_answer() -> None:
    """A client that sends a close frame and a FIN gets the service's close frame."""
    close, reply = b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x02\x03\xe8"

    async def polite(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        assert await peer.reader.read() == close  # up to the FIN, which is forwarded
        await peer.send(reply)

    async with (
        FaultUpstream(polite) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        await wire.send(close)
        wire.writer.write_eof()
        assert await until_cut(wire) == reply
        record = await gw.record()
        assert (record.status, record.reason) == (101, "client_closed")


# --- slow ends --------------------------------------------------------------


async def flood(wire: Wire, most: int, is_full: Callable[[], bool]) -> int:
    """Send frames until the socket takes no more; return how many bytes it took.

    *is_full* returns whether the gateway has stopped reading.
    """
    sent = 0
    payload = bytes(65536)
    frame = b"\x82\xff" + len(payload).to_bytes(8, "big") + b"mask" + payload
    sock = wire.writer.get_extra_info("socket").dup()
    with sock:
        sock.setblocking(False)
        while sent < most:
            try:
                sent += sock.send(frame)
            except BlockingIOError:
                if is_full():
                    break
                await asyncio.sleep(0)
    return sent


async def test_p15_a_service_that_never_reads_holds_back_its_client() -> None:
    """The gateway buffers less than 1 MiB of the frames in each of its two buffers."""

    async def unread(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        await FAULTS["never read"](peer)

    most = 64 * 1024**2
    async with (
        FaultUpstream(unread) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        (tunnel,) = gw.proxy.tunnels
        upstream_side = tunnel._upstream
        assert isinstance(upstream_side, UpstreamTunnel)
        taken = await flood(wire, most, lambda: upstream_side._drained is not None)
        assert taken < most / 2
        assert isinstance(tunnel._up._source, websocket.tunnel._ClientSocket)
        assert upstream_side._transport is not None
        assert upstream_side._transport.get_write_buffer_size() < 1024**2
        assert tunnel._up._source._size < 1024**2


async def test_p15_a_client_that_never_reads_holds_back_its_service() -> None:
    """The gateway stops reading from the service, and buffers less than 1 MiB."""
    sent = 0

    async def flooding(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(SWITCH)
        while True:
            await peer.send(b"\x82\x7e\xff\xff" + bytes(65535))
            sent += 65539

    async with FaultUpstream(flooding) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(request("GET", "/ws", *HANDSHAKE))
            await wire.head()
            wire.writer.transport.pause_reading()
            (tunnel,) = gw.proxy.tunnels
            assert isinstance(tunnel._down._source, UpstreamTunnel)
            await until_stopped(tunnel._down._source._transport, lambda: sent)
            assert sent < 32 * 1024**2
            assert tunnel._down._source._size < 1024**2
        await until(lambda: not gw.pools[0].open)


async def test_g7_a_socket_whose_client_stops_reading_ends() -> None:
    """After `write_idle_timeout`, with the reason that a download has."""

    async def flooding(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        while True:
            await peer.send(b"\x82\x7e\xff\xff" + bytes(65535))

    limits = {"write_idle_timeout": 0.2, "download_min_rate": 10**12}
    pace = Pace(sweep_s=0.02, reply_rate_grace_s=0)
    async with (
        FaultUpstream(flooding) as upstream,
        gateway(upstream.url, settings={"limits": limits}, pace=pace) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        wire.writer.transport.pause_reading()
        record = await gw.record()
        assert (record.status, record.reason) == (408, "client_stalled")
        await until(lambda: not gw.pools[0].open)
