"""Connections to real servers on loopback: where each attempt fails, and why."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from faults import black_hole
from loopback import serving
from tls_rig import DAY, Authority, Pair

from gateway.doctor.judgments import PeerFacts, Step
from gateway.doctor.peers import PeerAddress, connect


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server(
    pair: Pair | None = None, *, is_reached: bool = True
) -> AbstractAsyncContextManager[int]:
    """Serve what says nothing, with TLS if it has a *pair*; the block gets its port."""
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
    return serving(context=context, is_reached=is_reached)


def local(port: int, context: ssl.SSLContext | None = None) -> PeerAddress:
    return PeerAddress(host="127.0.0.1", port=port, context=context)


async def test_it_is_connected() -> None:
    """By address, by name, and by the path of a Unix socket."""
    async with server() as port:
        assert await connect(local(port), timeout_s=10) == PeerFacts(
            addresses=("127.0.0.1",)
        )
        named = PeerAddress(host="localhost", port=port)
        facts = await connect(named, timeout_s=10)
        assert facts.failed is None
        assert "127.0.0.1" in facts.addresses


async def test_a_unix_socket(tmp_path: Path) -> None:
    """It has no name and no address."""
    path = str(tmp_path / "a.sock")
    async with serving(path=path):
        assert await connect(PeerAddress(socket_path=path), timeout_s=10) == PeerFacts()
    gone = await connect(PeerAddress(socket_path=path + "x"), timeout_s=10)
    assert (gone.failed, gone.why) == (Step.CONNECT, os.strerror(2))


async def test_a_port_that_nobody_listens_on(closed_port: int) -> None:
    """The system's words, without the address, which is known."""
    facts = await connect(local(closed_port), timeout_s=10)
    assert (facts.failed, facts.why) == (Step.CONNECT, "Connection refused")


async def test_a_name_that_is_unknown() -> None:
    """`.invalid` never exists (RFC 2606), and a label has 63 characters at most."""
    for host in ("a.invalid", f"{'a' * 64}.example"):
        facts = await connect(PeerAddress(host=host, port=1), timeout_s=10)
        assert facts.failed is Step.NAME
        assert facts.why


async def test_an_address_that_drops_packets() -> None:
    """The time is bounded."""
    async with black_hole() as port:
        facts = await connect(local(port), timeout_s=0.2)
    assert (facts.failed, facts.why) == (Step.CONNECT, "no answer within 0.2 s")


async def test_a_good_certificate(authority: Authority) -> None:
    """Its days are counted."""
    pair = authority.issue("127.0.0.1", ends=dt.timedelta(days=90))
    async with server(pair) as port:
        facts = await connect(local(port, authority.client()), timeout_s=10)
    assert facts.failed is None
    assert facts.days_left == pytest.approx(90, abs=0.1)


async def test_a_server_name(authority: Authority) -> None:
    """A certificate of another name than the target's, as in `tls.server_name`."""
    pair = authority.issue("orders.test")
    async with server(pair) as port:
        peer = PeerAddress(
            host="127.0.0.1",
            port=port,
            context=authority.client(),
            server_name="orders.test",
        )
        assert (await connect(peer, timeout_s=10)).failed is None
        wrong = await connect(local(port, authority.client()), timeout_s=10)
    assert wrong.failed is Step.TLS
    assert "127.0.0.1" in wrong.why


async def test_an_old_certificate(authority: Authority) -> None:
    """It has expired."""
    pair = authority.issue("127.0.0.1", ends=-DAY)
    async with server(pair, is_reached=False) as port:
        facts = await connect(local(port, authority.client()), timeout_s=10)
    assert (facts.failed, facts.why) == (Step.TLS, "certificate has expired")


async def test_an_unverified_certificate(authority: Authority) -> None:
    """Nothing is known about it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with server(authority.issue("other.test", ends=-DAY)) as port:
        facts = await connect(local(port, context), timeout_s=10)
    assert facts == PeerFacts(addresses=("127.0.0.1",))


async def test_a_server_without_tls(authority: Authority) -> None:
    """It answers the handshake with something else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with serving(serve) as port:
        facts = await connect(local(port, authority.client()), timeout_s=10)
    assert facts.failed is Step.TLS
    assert facts.why
