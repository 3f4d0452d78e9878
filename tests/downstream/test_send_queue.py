"""What a peer hasn't received, wherever it waits: on a real connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gateway.downstream.send_queue import unreceived


async def test_what_the_kernel_holds_counts() -> None:
    """The peer's reading shows, although the transport's buffer stays as it is."""
    loop = asyncio.get_running_loop()
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    transport: Any
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, accepted)
    try:
        assert unreceived(transport) == 0
        transport.write(bytes(2_000_000))
        buffered = transport.get_write_buffer_size()
        before = unreceived(transport)
        assert 0 < buffered < before < 2_000_000
        while unreceived(transport) == before:
            assert client.recv(2048)
        await asyncio.sleep(0)
        assert unreceived(transport) < before
        assert transport.get_write_buffer_size() == buffered
    finally:
        transport.abort()
        client.close()
        server.close()


async def test_a_closed_connection_holds_nothing() -> None:
    """Its deadline may be looked at once more before it is lost."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.abort()
        ours.close()
        assert unreceived(transport) == 0


async def test_an_unknown_system_counts_the_transports_buffer(monkeypatch: Any) -> None:
    """What the kernel has taken counts as received: the rule without its help."""
    monkeypatch.setattr("sys.platform", "other")
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport: Any
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.write(bytes(2_000_000))
        assert unreceived(transport) == transport.get_write_buffer_size() > 0
        transport.abort()
