"""The walk of one request in docs/architecture.md is what the gateway does."""

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
from gateway.downstream.listener import ClientConnection, Listener
from gateway.session import tokens
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.rules import SessionRules
from gateway.upstream.connection import UpstreamConnection
from gateway.verify import Engine

ROOT = Path(__file__).parent.parent
PACKAGE = str(Path(gateway.__file__).parent) + "/"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Keys:
    """A key store that has the one key."""

    def __init__(self, mint: Mint) -> None:
        self._mint = mint

    def get(self, _: str) -> Any:
        return self._mint.key.public_key()

    def usable_for_s(self) -> float:
        return 3600.0


class Wire:
    """A transport without a socket: what is written is kept."""

    def __init__(self) -> None:
        self.out = b""

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.out += data

    def close(self) -> None:
        """Nothing is open."""

    abort = close


class WithSocket(Wire):
    """The same for a service's side, whose socket is looked at: it is quiet."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock

    def get_extra_info(self, name: str) -> Any:
        return self._socket if name == "socket" else super().get_extra_info(name)


def calls_of(serve: Any) -> list[str]:
    """Return the gateway's functions that run in *serve*, as `file function`."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE):
            found.append(f"{path.removeprefix(PACKAGE)} {frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        serve()
    finally:
        sys.setprofile(None)
    return found


async def test_the_walk_in_the_documents_is_the_one_that_is_taken() -> None:
    """A protected GET, the session's token seen before, over connections that exist.

    A function that waits stands there twice: when it begins, and when it goes on.
    """
    mint = Mint(now=time.time())
    made = gateway_under_test.make("http://127.0.0.1:1", route={"protected": True})
    proxy, loop = made.app.proxy, asyncio.get_running_loop()
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
        make_id=made.app.make_id,
        pace=proxy.dependencies.pace,
    )
    (pool,) = made.pools
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
    walked = calls_of(serve)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.search(r"call by call\n.*?```text\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    told = [line.partition(" · ")[0].strip() for line in shown[1].splitlines()]
    assert walked == told, "\n".join(walked)
    service.abort()
    ours.close()
    theirs.close()
    await listener.close(0)
    await made.upstreams.close()
