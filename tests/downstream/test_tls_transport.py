"""TLS towards clients, through a whole gateway: handshakes, limits, and how it ends.

The clients are Python's `ssl` and the `openssl` command. Each refused connection is
followed by a look at the upstream, which must have seen nothing.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography.x509.oid import NameOID
from faults import FaultUpstream, Peer, until
from gateway_under_test import UnderTest, gateway, until_cut
from tls_rig import Authority, Pair
from wire import DEADLINE_S, Wire, request

from gateway.downstream.tls_transport import TlsTransport
from gateway.pace import Pace

OFTEN = Pace(sweep_s=0.02)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def secure(
    upstream: FaultUpstream,
    *pairs: Pair,
    tls: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[UnderTest]:
    """Run a gateway with one address, which has TLS with *pairs*."""
    keys = {"certificates": [pair.keys for pair in pairs], **(tls or {})}
    listen = [{"address": "127.0.0.1:0", "tls": keys}]
    async with gateway(
        upstream.url, settings={"listen": listen, **(settings or {})}, **options
    ) as gw:
        yield gw


@asynccontextmanager
async def over_tls(
    port: int, context: ssl.SSLContext, name: str | None = "a.test"
) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def get(gw: UnderTest, context: ssl.SSLContext, *fields: tuple[str, str]) -> Any:
    async with over_tls(gw.port, context) as wire:
        await wire.send(request("GET", "/a", *fields, host="a.test"))
        return await wire.reply()


async def openssl(port: int, *options: str | Path) -> str:
    """Return the output of `openssl s_client`, with its input closed."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl isn't installed")
    child = await asyncio.create_subprocess_exec(
        *(program, "s_client", "-connect", f"127.0.0.1:{port}"),
        *map(str, options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(child.communicate(), DEADLINE_S)
    return output.decode("latin-1")


# --- what is spoken -----------------------------------------------------------------


async def test_services_see_https(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """Over TLS, the scheme is https in every field that says so."""
    settings = {"forwarded": {"rfc7239": True}}
    async with secure(upstream, authority.issue("a.test"), settings=settings) as gw:
        reply = await get(gw, authority.client())
        record = await gw.record()
    assert (reply.status, record.status) == (200, 200)
    assert reply.one("Strict-Transport-Security") is None
    head = upstream.requests[0].head
    assert b"\r\nX-Forwarded-Proto: https\r\n" in head
    assert b"proto=https" in head
    assert b"\r\nX-Forwarded-Host: a.test\r\n" in head


@pytest.mark.parametrize(
    ("version", "is_served"),
    [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)],
)
@pytest.mark.parametrize("least", ["1.2", "1.3"])
async def test_versions(
    authority: Authority,
    upstream: FaultUpstream,
    version: str,
    is_served: bool,
    least: str,
) -> None:
    """TLS 1.2 and 1.3 are spoken, or only 1.3, and nothing older."""
    tls = {"min_version": least}
    async with secure(upstream, authority.issue("a.test"), tls=tls) as gw:
        # Level 0, so that openssl itself would speak TLS 1.1.
        said = await openssl(gw.port, version, "-cipher", "ALL:@SECLEVEL=0")
        gw.log.lines.clear()
    if least == "1.3":
        is_served = version == "-tls1_3"
    assert (
        "Verify return code" in said and "Cipher is (NONE)" not in said
    ) is is_served


@pytest.mark.parametrize(
    ("cipher", "is_served"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("ECDHE-ECDSA-AES128-SHA", False),
        ("ECDHE-ECDSA-AES256-SHA384", False),
        ("ALL:!AESGCM:!CHACHA20:!aNULL@SECLEVEL=0", False),
        ("aNULL:@SECLEVEL=0", False),
    ],
)
async def test_ciphers(
    authority: Authority, upstream: FaultUpstream, cipher: str, is_served: bool
) -> None:
    """In TLS 1.2, only ciphers with forward secrecy and authentication are spoken."""
    async with secure(upstream, authority.issue("a.test")) as gw:
        said = await openssl(gw.port, "-tls1_2", "-cipher", cipher)
        gw.log.lines.clear()
    assert ("Cipher is (NONE)" not in said) is is_served, said


async def test_what_a_handshake_agrees_on(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """ALPN is HTTP/1.1; there is no compression, and no renegotiation."""
    async with secure(upstream, authority.issue("a.test")) as gw:
        said = await openssl(
            *(gw.port, "-tls1_2", "-alpn", "h2,http/1.1", "-servername", "a.test"),
            *("-CAfile", authority.file, "-verify_hostname", "a.test"),
        )
        gw.log.lines.clear()
    assert "ALPN protocol: http/1.1" in said
    assert "Compression: NONE" in said
    assert "Verify return code: 0 (ok)" in said


@pytest.mark.parametrize(
    ("asked", "got"),
    {
        "a.test": "a.test",
        "b.test": "b.test",
        "x.b.test": "*.b.test",
        "x.y.b.test": "a.test",
        "other.test": "a.test",
        None: "a.test",
    }.items(),
)
async def test_a_certificate_is_chosen_by_name(
    authority: Authority, upstream: FaultUpstream, asked: str | None, got: str
) -> None:
    """The client gets the certificate with its name; a wildcard is one label.

    Without such a certificate, or without a name, it gets the first one.
    """
    pairs = [authority.issue(name) for name in ("a.test", "b.test", "*.b.test")]
    context = authority.client()
    context.check_hostname = False
    async with (
        secure(upstream, *pairs) as gw,
        over_tls(gw.port, context, asked or "") as wire,
    ):
        found = wire.writer.get_extra_info("ssl_object").getpeercert()
    assert found["subjectAltName"] == (("DNS", got),)


# --- clients with certificates ------------------------------------------------------

GONE = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
ALICE = ((NameOID.ORGANIZATION_NAME, "Example, Inc."), (NameOID.COMMON_NAME, "älice"))


def with_mode(mode: str, file: Path) -> dict[str, Any]:
    return {"client_auth": {"ca_file": str(file), "mode": mode}}


@pytest.mark.parametrize("mode", ["request", "require"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_subject_reaches_services(
    authority: Authority,
    upstream: FaultUpstream,
    tmp_path: Path,
    mode: str,
    version: ssl.TLSVersion,
) -> None:
    """X-Client-Subject is the verified certificate's, whatever the client sends."""
    clients = Authority(tmp_path, "clients")
    pair = clients.issue(subject=ALICE)
    context = authority.client(pair)
    context.minimum_version = context.maximum_version = version
    async with secure(
        upstream, authority.issue("a.test"), tls=with_mode(mode, clients.file)
    ) as gw:
        for _ in range(2):  # a resumed session shows its certificate, too
            reply = await get(
                gw,
                context,
                ("X-Client-Subject", "CN=root"),
                ("x_client_subject", "CN=root"),
            )
            assert reply.status == 200
    for received in upstream.requests:
        head = received.head
        assert b"\r\nX-Client-Subject: CN=%C3%A4lice,O=Example\\, Inc.\r\n" in head
        assert b"root" not in head


async def test_without_a_certificate_there_is_no_subject(
    authority: Authority, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """With `request`, a client may have none; it can't claim one then."""
    clients = Authority(tmp_path, "clients")
    tls = with_mode("request", clients.file)
    async with secure(upstream, authority.issue("a.test"), tls=tls) as gw:
        reply = await get(gw, authority.client(), ("X-Client-Subject", "CN=root"))
        assert reply.status == 200
    assert b"subject" not in upstream.requests[0].head.lower()


@pytest.mark.parametrize("why", ["none", "other authority", "expired", "server's own"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_without_a_good_certificate_are_refused(
    authority: Authority,
    upstream: FaultUpstream,
    tmp_path: Path,
    why: str,
    version: ssl.TLSVersion,
) -> None:
    """No request of theirs is read."""
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    pairs = {
        "other authority": others.issue(subject=ALICE),
        "expired": clients.issue(subject=ALICE, ends=-dt.timedelta(minutes=1)),
        "server's own": authority.issue("a.test"),
    }
    context = authority.client(pairs.get(why))
    context.minimum_version = context.maximum_version = version
    tls = with_mode("require", clients.file)
    async with secure(
        upstream, authority.issue("a.test"), tls=tls, log_expected=True
    ) as gw:
        with pytest.raises(
            (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
        ):
            await get(gw, context)
        assert "TLS handshakes failed on 127.0.0.1:0 because of" in gw.log.lines[0]
    assert not upstream.connections


# --- clients that don't speak it ------------------------------------------------------


async def test_plain_http_is_told_so(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """A request without TLS gets a 400 that says nothing of its own, and is logged."""
    async with secure(upstream, authority.issue("a.test")) as gw:
        reply = await gw.ask("GET", "/secret")
        record = await gw.record()
    assert (reply.status, reply.one("Connection")) == (400, "close")
    assert b"secret" not in reply.body
    assert (record.status, record.note) == (400, "plain HTTP where TLS is expected")
    assert not upstream.connections


@pytest.mark.parametrize(
    "data",
    {
        "nothing": b"",
        "noise": b"\x16" + bytes(range(255)) * 40,
        "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80",
        "a long record": b"\x16\x03\x01\xff\xff" + bytes(70_000),
        "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
        "data first": b"\x17\x03\x03\x00\x05hello",
    }.values(),
    ids=str,
)
async def test_noise_ends_the_connection(
    authority: Authority, upstream: FaultUpstream, data: bytes
) -> None:
    """Bytes that aren't a handshake end the connection, and leave nothing."""
    pair, settings = authority.issue("a.test"), {"limits": {"head_timeout": 0.5}}
    async with secure(upstream, pair, settings=settings, log_expected=True) as gw:
        async with gw.connect() as wire:
            await wire.send(data)
            if not data:
                wire.writer.write_eof()
            received = await until_cut(wire)
        assert not received.startswith(b"HTTP")
        assert (await get(gw, authority.client())).status == 200
        assert gw.listener.connections <= 1


async def test_a_handshake_has_a_deadline(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """It is `head_timeout`, from the connection on, whatever bytes arrive."""
    settings = {"limits": {"head_timeout": 0.2}}
    pair = authority.issue("a.test")
    async with secure(upstream, pair, settings=settings, log_expected=True) as gw:
        async with gw.connect() as wire:
            await wire.send(b"\x16\x03\x01\x02\x00")
            await until_cut(wire)
        assert "because of it took longer than gateway.limits" in gw.log.lines[0]


async def test_handshakes_count_as_connections(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """Connections without a finished handshake count against `max_connections`."""
    settings = {"limits": {"max_connections": 1}}
    pair = authority.issue("a.test")
    async with secure(upstream, pair, settings=settings, log_expected=True) as gw:
        async with gw.connect() as waiting:
            await waiting.send(b"\x16")
            await until(lambda: gw.listener.connections)
            with pytest.raises(GONE):
                await get(gw, authority.client())
        assert "gateway.limits.max_connections" in gw.log.lines[0]
    assert not upstream.connections


# --- the same rules as without TLS ----------------------------------------------------


async def big_reply(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    try:
        for _ in range(SIZE // 65536):
            await peer.send(b"x" * 65536)
    except ConnectionError:
        pass
    await peer.gone()


SIZE = 64 * 1024 * 1024


async def test_a_client_that_doesnt_read_holds_little(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """A reply waits at the service while its client doesn't read, and is cut."""
    upstream.behaviour = big_reply
    settings = {"limits": {"write_idle_timeout": 0.3}}
    pair = authority.issue("a.test")
    async with secure(upstream, pair, settings=settings, pace=OFTEN) as gw:
        sock = socket.create_connection(("127.0.0.1", gw.port))
        with authority.client().wrap_socket(
            sock, server_hostname="a.test", do_handshake_on_connect=False
        ) as client:
            await asyncio.to_thread(client.do_handshake)
            client.sendall(request("GET", "/a", host="a.test"))
            record = await gw.record()
        assert record.reason == "client_stalled"
        assert record.bytes_out < SIZE / 4


async def test_bodies_of_any_size_pass(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """A large body arrives as it was sent, both ways, in pieces of any size."""
    body = bytes(range(256)) * 20_000

    async def echo(peer: Peer) -> None:
        received = await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(received.body)
            + received.body
        )

    upstream.behaviour = echo
    async with (
        secure(upstream, authority.issue("a.test")) as gw,
        over_tls(gw.port, authority.client()) as wire,
    ):
        data = request("POST", "/a", body=body, host="a.test")
        for size in (1, 100, 20_000):
            wire.writer.write(data[:size])
            data = data[size:]
            await asyncio.sleep(0)
        await wire.send(data)
        assert (await wire.reply()).body == body


async def test_pipelined_requests_are_answered_in_order(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """Requests that arrive in one record are served one after the other."""
    async with (
        secure(upstream, authority.issue("a.test")) as gw,
        over_tls(gw.port, authority.client()) as wire,
    ):
        await wire.send(
            b"".join(request("GET", f"/{n}", host="a.test") for n in range(20))
        )
        for _ in range(20):
            assert (await wire.reply()).status == 200
    targets = [received.head.split()[1] for received in upstream.requests]
    assert targets == [b"/%d" % number for number in range(20)]


def ending(context: ssl.SSLContext, port: int, sent: bytes) -> tuple[bytes, bool]:
    """Send a request; return all that arrives, and whether close_notify came."""
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(
            sock, server_hostname="a.test", suppress_ragged_eofs=False
        ) as client,
    ):
        client.settimeout(DEADLINE_S)
        client.sendall(sent)
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except (ssl.SSLEOFError, ConnectionResetError):
            return received, False
        return received, True


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_truncated_reply_shows(
    authority: Authority, upstream: FaultUpstream, is_whole: bool
) -> None:
    """A whole reply ends with close_notify; one that was cut ends without it."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await peer.send(b"123456789" if is_whole else b"123")
        if not is_whole:
            peer.reset()

    upstream.behaviour = behaviour
    sent = request("GET", "/a", ("Connection", "close"), host="a.test")
    async with secure(upstream, authority.issue("a.test")) as gw:
        received, has_ended = await asyncio.to_thread(
            ending, authority.client(), gw.port, sent
        )
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert has_ended is is_whole


async def test_an_early_answer_can_be_read(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """A client that is still sending a refused body reads the answer, not a reset."""
    route = {"request": {"max_body_size": 10}}
    sent = request("POST", "/a", body=b"x" * 3_000_000, host="a.test")
    async with secure(upstream, authority.issue("a.test"), route=route) as gw:
        received, has_ended = await asyncio.to_thread(
            ending, authority.client(), gw.port, sent
        )
    assert received.startswith(b"HTTP/1.1 413 ")
    assert has_ended
    assert not upstream.requests


async def test_close_notify_of_the_client_ends_its_request(
    authority: Authority, upstream: FaultUpstream
) -> None:
    """As a FIN does: a client that has closed counts as gone."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    upstream.behaviour = behaviour
    async with secure(upstream, authority.issue("a.test")) as gw:
        async with over_tls(gw.port, authority.client()) as wire:
            await wire.send(request("GET", "/a", host="a.test"))
            await upstream.got_request.wait()
            wire.writer.close()
            assert (await gw.record()).status == 499
        await upstream.lost.wait()


class FullWire(asyncio.Transport):
    """A transport whose peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.held += len(data)

    def get_write_buffer_size(self) -> int:
        return self.held

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


async def test_new_keys_for_a_client_that_reads_nothing_have_a_bound() -> None:
    """TLS 1.3 lets a client ask for new keys at any time: each answer has 27 bytes."""
    wire = FullWire()
    transport = TlsTransport(
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        mock.Mock(),
        loop=asyncio.get_running_loop(),
        handshake_s=60,
        write_subject=str.encode,
        on_failure=lambda _: None,
    )
    transport.connection_made(wire)
    while not wire.is_aborted:
        transport._outgoing.write(bytes(27))
        transport._flush()
        assert wire.held < 70_000


# --- HSTS -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "value"),
    [
        ({"max_age": "365d"}, "max-age=31536000"),
        (
            {"max_age": "1h", "include_subdomains": True},
            "max-age=3600; includeSubDomains",
        ),
    ],
)
async def test_hsts_is_on_every_reply(
    authority: Authority,
    upstream: FaultUpstream,
    policy: dict[str, Any],
    value: str,
) -> None:
    """It replaces a service's own, and is on the gateway's own answers, too."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nstrict-transport-security: max-age=1\r\nX: y\r\n"
            b"Content-Length: 2\r\n\r\nok"
        )

    upstream.behaviour = behaviour
    name = "Strict-Transport-Security"
    async with secure(upstream, authority.issue("a.test"), tls={"hsts": policy}) as gw:
        reply = await get(gw, authority.client())
        assert (reply.one(name), reply.one("X"), reply.body) == (value, "y", b"ok")
        async with over_tls(gw.port, authority.client()) as wire:
            await wire.send(b"GET /a HTTP/1.1\r\nHost: a.test\r\nHost: b\r\n\r\n")
            refused = await wire.reply()
        assert (refused.status, refused.one(name)) == (400, value)
