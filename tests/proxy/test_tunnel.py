"""WebSockets through the gateway, between peers that don't share our code.

`websockets` and `wsproto` are two independent readings of RFC 6455. Rows F16 to F20,
C24, P7 and P15 of the tables.
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
from faults import FAULTS, OK, FaultUpstream, Peer, answer, until
from gateway_under_test import ORIGIN, UnderTest, gateway, until_cut
from kept import no_collector
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
"""Whatever waits for the end of these times fails the test."""
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


End = tuple[int | None, str | None]
"""Code and reason of a socket."""


@dataclass
class WebSocketService:
    """A WebSocket server of the `websockets` library, which keeps what happened."""

    url: str = ""
    sockets: list[ServerConnection] = field(default_factory=list)
    closed: asyncio.Queue[End] = field(default_factory=asyncio.Queue)
    """Code and reason of each socket, as the server heard them."""

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
    made = WebSocketService()
    options = {"max_size": None, "ping_interval": None, **options}
    async with serve(made.serve, "127.0.0.1", 0, **options) as server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


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
    """Return the code and reason that the client gets, whatever comes before."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


# --- what goes through ------------------------------------------------------


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_arrive_as_they_were_sent(compression: str | None) -> None:
    """Text, binary, empty, 5 MB, in fragments; with the extension that was agreed."""
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
    """Not by the gateway: a ping says that the service is alive."""
    async with service() as up, gateway(up.url) as gw, dial(gw) as socket:
        await asyncio.wait_for(await socket.ping(b"from the client"), 10)
        await asyncio.wait_for(await up.sockets[0].ping(b"from the service"), 10)


async def test_subprotocol_and_identity_are_the_services() -> None:
    """The handshake carries what any request carries, and its own fields."""
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
            seen = up.sockets[0].request
            assert seen is not None
            assert seen.path == "/ws?a=b"
            assert seen.headers.get_all("X-User-Id") == ["ann"]
            assert "Authorization" not in seen.headers
            assert seen.headers["Origin"] == ORIGIN


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (4001, "é reason"), (1011, "x" * 123)]
)
@pytest.mark.parametrize("by", ["client", "service"])
async def test_code_and_reason_are_the_two_ends_own(
    by: str, code: int, reason: str
) -> None:
    """Whoever closes, both ends agree why, and without delay."""
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
    """Serve as wsproto does, with permessage-deflate, and echo."""
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
    """A second implementation sees the same conversation."""
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
async def test_c24_what_is_no_101_to_a_websocket_opens_no_tunnel(
    reply: bytes, status: int
) -> None:
    """The reply is passed on, the connection ends; what follows reaches nobody."""
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
        assert [seen.line for seen in upstream.requests] == [b"GET /ws HTTP/1.1"]


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
        "two versions",
        "a body",
        "a chunked body",
    ],
)
async def test_f16_f17_a_refused_handshake_is_not_passed_on(
    fields: list[tuple[str, str]], status: int
) -> None:
    """Nobody is dialled for it, and its connection ends. A sound one is passed on."""
    sent = [each for each in HANDSHAKE if each[0] != "Origin"]
    async with FaultUpstream(answer()) as upstream, gateway(upstream.url) as gw:
        reply = await gw.ask("GET", "/ws", *sent, *fields)
        assert (reply.status, reply.one("Connection")) == (status, "close")
        assert not upstream.connections
        assert (await gw.record()).status == status
        assert (await gw.ask("GET", "/ws", *HANDSHAKE)).status == 200
        assert upstream.requests[0].field(b"upgrade") == b"websocket"


async def test_a_session_is_needed_before_anyone_is_dialled() -> None:
    """401 in SuperTokens' own words; and a route may take no sockets at all.

    With a session the handshake is passed on, and without an upgrade the request is.
    """
    async with FaultUpstream(answer()) as upstream:
        async with gateway(upstream.url, route={"protected": True}) as gw:
            reply = await gw.ask("GET", "/ws", *HANDSHAKE)
            assert (reply.status, reply.json()) == (401, {"message": "unauthorised"})
            assert not upstream.connections
            session = ("Authorization", "Bearer ann")
            assert (await gw.ask("GET", "/ws", *HANDSHAKE, session)).status == 200
        (seen,) = upstream.requests
        assert seen.field(b"upgrade") == b"websocket"
        dialled = upstream.connections
        async with gateway(upstream.url, route={"websocket": {"enabled": False}}) as gw:
            reply = await gw.ask("GET", "/ws", *HANDSHAKE)
            assert (reply.status, reply.json()["code"]) == (403, "websocket_disabled")
            assert upstream.connections == dialled
            assert (await gw.ask("GET", "/ws")).status == 200
        assert len(upstream.requests) == 2


# --- the terms end ----------------------------------------------------------


async def test_the_socket_ends_with_its_session() -> None:
    """4401 to both ends when the token would have expired; not without a session."""
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
    """At once, and nobody else's (row E27)."""
    async with (
        service() as up,
        gateway(up.url, route={"protected": True}) as gw,
        dial(gw, additional_headers={"Authorization": "Bearer ann"}) as ann,
        dial(gw, additional_headers={"Authorization": "Bearer bob"}) as bob,
    ):
        handles = set(gw.proxy.tunnels.values())
        assert len(handles) == 2
        gw.proxy.session_ended("session-ann")
        assert await closed(ann) == (4401, "session ended")
        await bob.send("still here")
        assert await bob.recv() == "still here"


async def test_a_sign_out_during_the_handshake_closes_the_socket() -> None:
    """The session was verified, and ended before the service answered with 101."""
    go = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.head()
        await go.wait()
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
        go.set()
        assert (await wire.head()).status == 101
        assert await wire.rest() == b"\x88\x0f\x11\x31session ended"
        assert (await gw.record()).reason == "closed_4401"


async def test_a_route_may_let_sockets_outlive_their_session() -> None:
    """`close_on_session_end: false`."""
    route = {"protected": True, "websocket": {"close_on_session_end": False}}
    async with service() as up, gateway(up.url, route=route) as gw:
        gw.verifier.expires_in_s = -1
        fields = {"Authorization": "Bearer ann"}
        async with dial(gw, additional_headers=fields) as socket:
            await socket.send("still here")
            assert await socket.recv() == "still here"


async def test_an_idle_socket_is_closed_and_a_busy_one_is_not() -> None:
    """1001 after `idle_timeout` of silence on both sides."""
    route = {"websocket": {"idle_timeout": 0.15}}
    async with service() as up, gateway(up.url, route=route) as gw, dial(gw) as socket:
        loop = asyncio.get_running_loop()
        busy_until = loop.time() + 0.5
        while loop.time() < busy_until:
            await socket.send("x")
            assert await socket.recv() == "x"
            await asyncio.sleep(0.03)
        assert await closed(socket) == (1001, "idle")
        assert await up.end() == (1001, "idle")


async def test_a_socket_has_a_longest_life() -> None:
    """1001 after `max_lifetime`, however busy it is; no message arrives in part."""
    route = {"websocket": {"max_lifetime": 0.2}}
    async with service() as up, gateway(up.url, route=route) as gw, dial(gw) as socket:
        with contextlib.suppress(ConnectionClosed):
            for number in itertools.count():
                await socket.send(str(number) * 10000)
                assert await socket.recv() == str(number) * 10000
        assert (socket.close_code, socket.close_reason) == (1001, "lifetime")
        assert await up.end() == (1001, "lifetime")


async def test_a_close_frame_waits_for_the_end_of_the_frame_before_it() -> None:
    """Half a frame is out when the time comes: its other half follows first."""
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
    """1001 everywhere, and the drain waits no longer than it takes to say so."""
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


END_OF_IDLE = ({"websocket": {"idle_timeout": 0.05}}, 1001, "idle")
END_OF_LIFE = ({"websocket": {"max_lifetime": 0.05}}, 1001, "lifetime")
END_OF_SESSION = ({"protected": True}, 4401, "session ended")
END_OF_ALL: tuple[dict[str, Any], int, str] = ({}, 1001, "shutting down")
HELLO, BYE = b"\x82\x02hi", b"\x88\x00"
"""What a service sends. A client masks it (with zeros, which change nothing)."""
MASKED_HELLO, MASKED_BYE = b"\x82\x82\0\0\0\0hi", b"\x88\x80\0\0\0\0"


@dataclass
class Ends:
    """Both ends of one tunnel, as bytes."""

    gw: UnderTest
    client: Wire
    service: Wire

    async def turn(self) -> None:
        """Let the gateway read what was sent to it, and do what it does then."""
        for _ in range(50):
            await asyncio.sleep(0)

    def is_open(self) -> bool:
        """Return whether neither end has seen the gateway close."""
        ends = (self.client.reader, self.service.reader)
        return not any(end.at_eof() for end in ends)

    async def said(self, code: int, reason: str) -> None:
        """Assert that both ends are sent this close frame, and nothing else."""
        payload = code.to_bytes(2, "big") + reason.encode()
        size = len(payload)
        assert await self.client.read(2 + size) == bytes((0x88, size)) + payload
        frame = await self.service.read(6 + size)
        mask, hidden = frame[2:6], frame[6:]
        assert frame[:2] == bytes((0x88, 0x80 | size))
        assert bytes(byte ^ mask[i % 4] for i, byte in enumerate(hidden)) == payload


@asynccontextmanager
async def joined(route: dict[str, Any], pace: Pace) -> AsyncIterator[Ends]:
    """Open a tunnel of Ann's on a gateway with this route and pace."""
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
async def test_both_ends_are_told_and_both_answers_waited_for(
    route: dict[str, Any],
    code: int,
    reason: str,
    first: str,
) -> None:
    """Each end gets a close frame of the gateway's, before the other has said a word.

    The sockets stay open until both have sent their own, and end at once then. What
    an end sends before it reaches nobody (RFC 6455 §5.5.1, §7.1.1).
    """
    async with joined(route, PATIENT) as ends:
        ending = asyncio.create_task(ends.gw.stop()) if not route else None
        await ends.said(code, reason)
        answers = [(ends.client, MASKED_HELLO, MASKED_BYE), (ends.service, HELLO, BYE)]
        for end, hello, bye in answers if first == "client" else answers[::-1]:
            await ends.turn()
            assert ends.is_open()
            await end.send(hello)
            await ends.turn()
            assert ends.is_open()
            await end.send(bye)
        assert await ends.client.rest() == b""
        assert await ends.service.rest() == b""
        assert (await ends.gw.record()).reason == f"closed_{code}"
        if ending is not None:
            await ending


@pytest.mark.parametrize("answering", ["client", "service", None])
async def test_an_end_that_doesnt_answer_a_close_frame_is_not_waited_for_long(
    answering: str | None,
) -> None:
    """Then both sockets are closed, whoever of the two has answered."""
    route, code, reason = END_OF_IDLE
    async with joined(route, Pace(websocket_close_s=0.3)) as ends:
        await ends.said(code, reason)
        if answering == "client":
            await ends.client.send(MASKED_BYE)
        elif answering == "service":
            await ends.service.send(BYE)
        assert await ends.client.rest() == b""
        assert await ends.service.rest() == b""


# --- one end dies -----------------------------------------------------------


async def test_p15_the_upstream_dies() -> None:
    """The client's connection ends within a second, without a close frame: 1006."""
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
    """Return a behaviour that opens a socket, and acts at the first byte."""

    async def behaviour(peer: Peer) -> None:
        seen = await peer.request()
        key = seen.field(b"sec-websocket-key")
        assert key is not None
        connection = WSConnection(ConnectionType.SERVER)
        connection.receive_data(seen.head)
        await peer.send(connection.send(AcceptConnection()))
        await peer.reader.read(1)
        act(peer)

    return behaviour


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_p15_the_client_dies(how: str) -> None:
    """The service's socket ends within a second; what came before a FIN has arrived."""
    got: list[bytes] = []
    frame = b"\x82\x85mask" + b"hello"

    async def keep(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        with contextlib.suppress(ConnectionError):
            while data := await peer.reader.read(65536):
                got.append(data)
        peer.upstream.lost.set()

    async with FaultUpstream(keep) as upstream, gateway(upstream.url) as gw:
        async with gw.connect() as wire:
            await wire.send(request("GET", "/ws", *HANDSHAKE))
            await wire.head()
            if how == "FIN":
                wire.writer.write(frame)
                wire.writer.write_eof()
                await upstream.lost.wait()
                assert b"".join(got) == frame
            else:
                wire.writer.transport.abort()
                await upstream.lost.wait()
        await gw.record()
        await until(lambda: not gw.pools[0].open)


@pytest.mark.parametrize("who", ["client", "service", "gateway"])
async def test_a_socket_that_is_over_is_gone(who: str) -> None:
    """Without the garbage collector, which comes rarely here."""
    async with service() as up, gateway(up.url) as gw:
        with no_collector(websocket.Tunnel, websocket.tunnel.Pump) as kept:
            async with dial(gw) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                if who == "service":
                    await up.sockets[0].close()
                elif who == "gateway":
                    gw.proxy.drain()
                if who != "client":
                    await socket.wait_closed()
            await gw.record()
            await until(lambda: not kept())


async def test_f20_a_half_closed_socket_still_gets_its_answer() -> None:
    """A client that sends its close frame and a FIN hears the service's close frame."""
    ask, reply = b"\x88\x82\0\0\0\0\x03\xe8", b"\x88\x02\x03\xe8"

    async def polite(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        assert await peer.reader.read() == ask  # up to the FIN, which came through
        await peer.send(reply)

    async with (
        FaultUpstream(polite) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        await wire.send(ask)
        wire.writer.write_eof()
        assert await until_cut(wire) == reply
        record = await gw.record()
        assert (record.status, record.reason) == (101, "client_closed")


# --- slow ends --------------------------------------------------------------


async def flood(wire: Wire, most: int) -> int:
    """Send frames until nobody takes more; return how much that was."""
    sent = idle = 0
    payload = bytes(65536)
    frame = b"\x82\xff" + len(payload).to_bytes(8, "big") + b"mask" + payload
    sock = wire.writer.get_extra_info("socket").dup()
    with sock:
        sock.setblocking(False)
        while idle < 10 and sent < most:
            try:
                sent += sock.send(frame)
                idle = 0
            except BlockingIOError:
                idle += 1
                await asyncio.sleep(0.01)
    return sent


async def test_p15_a_service_that_never_reads_holds_back_its_client() -> None:
    """Nothing is gathered here but a few buffers."""

    async def deaf(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        await FAULTS["never read"](peer)

    most = 64 * 1024**2
    async with (
        FaultUpstream(deaf) as upstream,
        gateway(upstream.url) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("GET", "/ws", *HANDSHAKE))
        await wire.head()
        assert await flood(wire, most) < most / 2
        (tunnel,) = gw.proxy.tunnels
        assert isinstance(tunnel._upstream, UpstreamTunnel)
        assert isinstance(tunnel._up._source, websocket.tunnel._ClientSocket)
        assert tunnel._upstream._transport is not None
        assert tunnel._upstream._transport.get_write_buffer_size() < 1024**2
        assert tunnel._up._source._size < 1024**2


async def test_p15_a_client_that_never_reads_holds_back_its_service() -> None:
    """The other way round."""
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
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 32 * 1024**2
            (tunnel,) = gw.proxy.tunnels
            assert isinstance(tunnel._down._source, UpstreamTunnel)
            assert tunnel._down._source._size < 1024**2
        await until(lambda: not gw.pools[0].open)
