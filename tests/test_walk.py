"""The calls of one request in docs/architecture.md are those that the gateway makes."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, cast

import gateway_under_test
from minting import ISSUER, Mint

import gateway
from gateway import config
from gateway.clients import Clients
from gateway.downstream.listener import ClientConnection, Listener
from gateway.session import tokens
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.rules import SessionRules
from gateway.upstream.connection import UpstreamConnection
from gateway.verify import Engine

ROOT = Path(__file__).parent.parent
PACKAGE = str(Path(gateway.__file__).parent) + "/"
REPLY = (
    b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"Content-Length: 2\r\n\r\nok"
)


class Keys:
    """A key store with one key."""

    def __init__(self, mint: Mint) -> None:
        self._mint = mint

    def get(self, _: str) -> Any:
        return self._mint.key.public_key()

    def usable_for_s(self) -> float:
        return 3600.0


class Wire:
    """A transport without a socket; it records what is written."""

    def __init__(self) -> None:
        self.out = b""

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.out += data

    def close(self) -> None:
        """Do nothing: there is no socket."""

    abort = close


class WithSocket(Wire):
    """A `Wire` with a socket, because the pool checks a service's socket for data."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock

    def get_extra_info(self, name: str) -> Any:
        return self._socket if name == "socket" else super().get_extra_info(name)


def calls_of(serve: Any) -> list[str]:
    """Return the gateway's functions that run in *serve*, as `file function`."""
    calls: list[str] = []

    def record(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            calls.append(f"{path.removeprefix(PACKAGE)} {frame.f_code.co_qualname}")

    sys.setprofile(record)
    try:
        serve()
    finally:
        sys.setprofile(None)
    return calls


async def test_the_documented_calls_are_those_of_a_request() -> None:
    """A protected GET with a cached token, over connections that are already open.

    A function that waits is listed twice: when it begins, and when it resumes.
    """
    mint = Mint(now=time.time())
    parts = gateway_under_test.make("http://127.0.0.1:1", route={"protected": True})
    proxy, loop = parts.app.proxy, asyncio.get_running_loop()
    sessions = SessionAuthenticator(
        keys=cast("Any", Keys(mint)),
        core=cast("Any", None),
        rules=SessionRules(tokens=tokens.TokenRules(issuers=frozenset({ISSUER}))),
        cache=config.CacheConfig(),
        client=config.CoreConfig(),
    )
    engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
    proxy.decider._verifier = proxy.forwarder._verifier = engine
    listener = Listener(
        proxy.handle,
        reader=proxy.dependencies.reader,
        limits=proxy.dependencies.limits,
        observer=proxy.dependencies.observer,
        make_id=parts.app.make_id,
        pace=proxy.dependencies.pace,
        clients=Clients(),
    )
    (pool,) = parts.pools
    service = UpstreamConnection(pool, "service", pool._heads, loop)
    ours, theirs = socket.socketpair()
    service.connection_made(cast("Any", WithSocket(ours)))
    pool._idle.append(service)
    pool._connections.add(service)
    client, wire = ClientConnection(listener, loop), Wire()
    client.connection_made(cast("Any", wire))
    token = mint.token().encode()
    request = b"GET /a HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %b\r\n\r\n" % token

    def serve() -> None:
        wire.out = b""
        client.data_received(request)
        service.data_received(REPLY)
        assert wire.out.startswith(b"HTTP/1.1 200 OK\r\n")
        assert wire.out.endswith(b"\r\n\r\nok")

    serve()
    calls = calls_of(serve)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"call by call\n.*?```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    documented = [line.partition(" · ")[0].strip() for line in block[1].splitlines()]
    assert calls == documented, "\n".join(calls)
    service.abort()
    ours.close()
    theirs.close()
    await listener.close(0)
    await parts.upstreams.close()
