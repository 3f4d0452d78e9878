"""Connections that begin with a PROXY header, from a script and from a real HAProxy."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import FaultUpstream, closed_port, until
from gateway_under_test import UnderTest, gateway, until_cut
from tls_rig import Authority
from wire import Wire, request

from gateway.http.proxy_protocol import SIGNATURE

TEXT = b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 443\r\n"
GET = request("GET", "/a")


def listening(**more: Any) -> dict[str, Any]:
    item = {"address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.0/8"], **more}
    return {"listen": [item]}


@asynccontextmanager
async def proxied(
    upstream: FaultUpstream, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[UnderTest]:
    settings = {**listening(), **(settings or {})}
    async with gateway(upstream.url, settings=settings, **options) as gw:
        yield gw


@asynccontextmanager
async def sent(gw: UnderTest, *pieces: bytes) -> AsyncIterator[Wire]:
    """Connect for the block, and send *pieces* one after the other."""
    async with gw.connect() as wire:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.001)
        yield wire


@pytest.mark.parametrize(
    "pieces",
    [[TEXT + GET], [TEXT, GET], [TEXT[:1], TEXT[1:20], TEXT[20:] + GET[:5], GET[5:]]],
    ids=["at once", "in two", "in four"],
)
async def test_the_stated_address_is_the_clients(
    upstream: FaultUpstream, pieces: list[bytes]
) -> None:
    """Services and the log get the address in the header, however it arrives."""
    async with proxied(upstream) as gw:
        async with sent(gw, *pieces) as wire:
            assert (await wire.reply()).status == 200
            await wire.send(GET)
            assert (await wire.reply()).status == 200
        assert (await gw.record()).client == "192.0.2.7"
        assert (await gw.record()).client == "192.0.2.7"
    for received in upstream.requests:
        assert b"\r\nX-Forwarded-For: 192.0.2.7\r\n" in received.head


@pytest.mark.parametrize("trusted", [[], ["192.0.2.0/24"]])
async def test_the_stated_address_is_the_peer(
    upstream: FaultUpstream, trusted: list[str]
) -> None:
    """`trusted_proxies` has the address in the header, not the one of the proxy."""
    settings = {"trusted_proxies": trusted}
    claim = request("GET", "/a", ("X-Forwarded-For", "198.51.100.1"))
    async with proxied(upstream, settings) as gw:
        async with sent(gw, TEXT + claim) as wire:
            assert (await wire.reply()).status == 200
        record = await gw.record()
    assert record.client == ("198.51.100.1" if trusted else "192.0.2.7")


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"])
async def test_a_proxy_may_speak_for_itself(
    upstream: FaultUpstream, header: bytes
) -> None:
    """Health checks of a proxy come from its own address."""
    async with proxied(upstream) as gw:
        async with sent(gw, header + GET) as wire:
            assert (await wire.reply()).status == 200
        assert (await gw.record()).client == "127.0.0.1"


@pytest.mark.parametrize(
    ("settings", "data", "why"),
    [
        (listening(proxy_protocol=["10.0.0.0/8"]), TEXT + GET, "the peer isn't in it"),
        (listening(proxy_protocol=["unix"]), TEXT + GET, "the peer isn't in it"),
        ({}, GET, "there is no PROXY header"),
        ({}, b"PROXY TCP4 x y 1 2\r\n" + GET, "the line is malformed"),
        ({"limits": {"head_timeout": 0.2}}, TEXT[:-1], "no header within"),
    ],
    ids=["another peer", "a unix peer only", "none", "malformed", "late"],
)
async def test_others_are_closed(
    upstream: FaultUpstream, settings: dict[str, Any], data: bytes, why: str
) -> None:
    """There is no answer, no request and no guess; the log has the reason."""
    async with proxied(upstream, settings, log_expected=True) as gw:
        with contextlib.suppress(ConnectionError):
            async with sent(gw, data) as wire:
                assert await until_cut(wire) == b""
        await until(lambda: gw.log.lines)
        assert why in gw.log.lines[0]
        assert gw.listener.admission.waiting == 0
        assert gw.records.empty()
    assert not upstream.connections


async def test_an_incomplete_header_counts_as_a_connection(
    upstream: FaultUpstream,
) -> None:
    """It takes one of `max_connections`, and gives it back."""
    settings = {"limits": {"max_connections": 1}}
    async with proxied(upstream, settings, log_expected=True) as gw:
        async with sent(gw, TEXT[:5]):
            await until(lambda: gw.listener.admission.waiting == 1)
            async with sent(gw) as other:
                assert await until_cut(other) == b""
        await until(lambda: gw.listener.admission.waiting == 0)
        async with sent(gw, TEXT + GET) as wire:
            assert (await wire.reply()).status == 200


async def test_clients_have_shares_by_the_stated_address(
    upstream: FaultUpstream,
) -> None:
    """`per_client.connections` counts clients, not the proxy in front of them."""
    settings = {"limits": {"per_client": {"connections": 1}}}
    async with (
        proxied(upstream, settings, log_expected=True) as gw,
        sent(gw, TEXT + GET) as first,
    ):
        assert (await first.reply()).status == 200
        async with sent(gw, TEXT + GET) as second:
            assert await until_cut(second) == b""
        async with sent(gw, TEXT.replace(b".7", b".8") + GET) as other:
            assert (await other.reply()).status == 200


async def test_a_drain_ends_connections_without_a_header(
    upstream: FaultUpstream,
) -> None:
    """What has said nothing yet doesn't keep a process."""
    async with proxied(upstream) as gw, sent(gw, TEXT[:5]) as waiting:
        await until(lambda: gw.listener.admission.waiting == 1)
        await gw.stop()
        assert await until_cut(waiting) == b""


@pytest.mark.parametrize("is_at_once", [True, False])
async def test_the_header_comes_before_tls(
    upstream: FaultUpstream, tmp_path: Path, is_at_once: bool
) -> None:
    """A proxy that passes TLS on states the client before the handshake."""
    authority = Authority(tmp_path)
    tls = {"certificates": [authority.issue("a.test").keys]}
    async with proxied(upstream, listening(tls=tls)) as gw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.client().wrap_bio(
            incoming, outgoing, server_hostname="a.test"
        )
        async with sent(gw, *([] if is_at_once else [TEXT])) as wire:
            start = TEXT if is_at_once else b""
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await wire.send(start + outgoing.read())
                    start = b""
                    incoming.write(await wire.reader.read(65536))
            client.write(GET)
            await wire.send(outgoing.read())
            received = b""
            while b"ok" not in received:
                incoming.write(await wire.reader.read(65536))
                try:
                    received += client.read(65536)
                except ssl.SSLWantReadError:
                    continue
        assert (await gw.record()).client == "192.0.2.7"
    assert b"\r\nX-Forwarded-For: 192.0.2.7\r\n" in upstream.requests[0].head
    assert b"\r\nX-Forwarded-Proto: https\r\n" in upstream.requests[0].head


OPTIONS = [
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2 proxy-v2-options unique-id,crc32c",
]
HAPROXY = """\
defaults
  mode {mode}
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server gateway 127.0.0.1:{gateway} source 127.0.0.9 {option}
"""


@pytest.mark.parametrize(
    "option",
    ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"],
)
@pytest.mark.parametrize("mode", ["tcp", "http"])
async def test_a_real_haproxy(
    upstream: FaultUpstream, tmp_path: Path, mode: str, option: str
) -> None:
    """HAProxy's headers, of both versions and with TLVs, state its client."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip("haproxy isn't installed")
    with closed_port() as free:
        port = free
    async with proxied(upstream, listening(proxy_protocol=["127.0.0.9/32"])) as gw:
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            HAPROXY.format(mode=mode, port=port, gateway=gw.port, option=option)
        )
        child = await asyncio.create_subprocess_exec(
            *(program, "-db", "-f", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            reader, writer = await connected(port)
            wire = Wire(reader, writer)
            await wire.send(GET)
            assert (await wire.reply()).status == 200
            writer.transport.abort()
            assert (await gw.record()).client == "127.0.0.5"
        finally:
            child.terminate()
            await child.wait()
    assert b"\r\nX-Forwarded-For: 127.0.0.5\r\n" in upstream.requests[0].head


async def connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from 127.0.0.5, once something listens."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=("127.0.0.5", 0)
                )
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
