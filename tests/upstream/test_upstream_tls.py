"""U15: TLS to upstreams. Certificates are verified, and a bad one is 502."""

import datetime as dt
import ssl
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from compiled import timeouts_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from faults import FAULTS, OK, FaultUpstream, Peer, answer, answer_and_close

from gateway.config import TlsConfig
from gateway.errors import ConnectFailed, ConnectTimeout
from gateway.timeouts import Timeouts
from gateway.upstream import Upstreams, UpstreamTarget

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
NOW = dt.datetime.now(dt.UTC)
IS_STRICT = sys.version_info >= (3, 13)
"""From Python 3.13 on, `VERIFY_X509_STRICT` is set by default (RFC 5280)."""


class Authority:
    """A certificate authority, made for one test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.ca_file = str(folder / "ca.pem")
        certificate = (
            self._builder(self.name, self.name, self.key, NOW + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        Path(self.ca_file).write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )

    def server(
        self,
        *names: str,
        expired: bool = False,
        self_signed: bool = False,
        names_authority: bool = True,
    ) -> ssl.SSLContext:
        """Return a server's context with a certificate for *names*.

        Unless *names_authority*, it has no Authority Key Identifier.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        ends = NOW + dt.timedelta(days=-1 if expired else 1)
        alternatives: list[x509.GeneralName] = [
            x509.IPAddress(ip_address(name))
            if name[0].isdigit() or ":" in name
            else x509.DNSName(name)
            for name in names
        ]
        issuer = subject if self_signed else self.name
        signer = key if self_signed else self.key
        server_auth = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            self._builder(subject, issuer, key, ends)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(server_auth, critical=False)
        )
        if names_authority:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        certificate = builder.sign(signer, hashes.SHA256())
        file = self.folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def remove(self) -> None:
        """Remove the file of the authority's certificate."""
        Path(self.ca_file).unlink()

    def _builder(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        ends: dt.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=2))
            .not_valid_after(ends)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return a key's usage: to sign certificates and their revocation, or TLS."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(
    ("names", "server_name"),
    [
        pytest.param(("127.0.0.1",), None, id="by address"),
        pytest.param(("api.test",), "api.test", id="by server_name"),
        pytest.param(("::1",), "[::1]", id="by an IPv6 server_name"),
    ],
)
async def test_a_good_certificate(
    upstreams: Upstreams,
    timeouts: Timeouts,
    authority: Authority,
    names: tuple[str, ...],
    server_name: str | None,
) -> None:
    """A certificate is verified with `ca_file` and `server_name`, or the address.

    The connection is used again.
    """
    tls = TlsConfig(ca_file=authority.ca_file, server_name=server_name)
    async with FaultUpstream(FAULTS["echo"], tls=authority.server(*names)) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url, tls))
        big = b"x" * 1_000_000
        head = b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 1000000\r\n\r\n"
        for _ in range(2):
            reply = await pool.exchange(
                head, method="POST", timeouts=timeouts, body=big, content_length=10**6
            )
            body = b""
            while piece := await reply.read():
                body += piece
            assert body == big
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("names", "expired", "self_signed", "tls", "why"),
    [
        pytest.param(("127.0.0.1",), True, False, {}, "expired", id="expired"),
        pytest.param(("other.test",), False, False, {}, "match", id="wrong name"),
        pytest.param(
            ("127.0.0.1",),
            False,
            False,
            {"server_name": "api.test"},
            "match",
            id="wrong server_name",
        ),
        pytest.param(("127.0.0.1",), False, True, {}, "self", id="self-signed"),
        pytest.param(
            ("127.0.0.1",), False, False, {"ca_file": None}, "issuer", id="unknown CA"
        ),
    ],
)
async def test_u15_bad_certificates_are_502(
    upstreams: Upstreams,
    timeouts: Timeouts,
    authority: Authority,
    names: tuple[str, ...],
    expired: bool,
    self_signed: bool,
    tls: dict[str, Any],
    why: str,
) -> None:
    """A bad certificate is 502 with the reason, and the request isn't sent.

    With `verify: false`, it is.
    """
    server = authority.server(*names, expired=expired, self_signed=self_signed)
    options = {"ca_file": authority.ca_file, **tls}
    async with FaultUpstream(answer(OK), tls=server) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url, TlsConfig(**options)))
        with pytest.raises(ConnectFailed, match=why) as caught:
            await pool.exchange(GET, method="GET", timeouts=timeouts)
        assert (caught.value.status, caught.value.unsent) == (502, True)
        assert upstream.requests == []
        assert pool.open == 0
        blind = UpstreamTarget.parse(upstream.url, TlsConfig(verify=False, **options))
        reply = await upstreams.pool(blind).exchange(
            GET, method="GET", timeouts=timeouts
        )
        assert reply.read_now() == b"ok"


@pytest.mark.parametrize(
    "stricter",
    [
        pytest.param({"ca_file": None}, id="the system's bundle"),
        pytest.param({"ca_file": "other"}, id="another bundle"),
        pytest.param({"server_name": "other.test"}, id="another name"),
    ],
)
async def test_a_connection_is_shared_only_by_services_with_the_same_tls(
    upstreams: Upstreams,
    timeouts: Timeouts,
    authority: Authority,
    tmp_path: Path,
    stricter: dict[str, Any],
) -> None:
    """Two services with one address and different `tls` share no connection."""
    other = Authority(tmp_path).ca_file
    named = {"ca_file": authority.ca_file, **stricter}
    if named["ca_file"] == "other":
        named["ca_file"] = other
    server = authority.server("127.0.0.1")
    async with FaultUpstream(answer(OK), tls=server) as upstream:
        trusting = UpstreamTarget.parse(
            upstream.url, TlsConfig(ca_file=authority.ca_file)
        )
        wary = UpstreamTarget.parse(upstream.url, TlsConfig(**named))
        for _ in range(2):
            pool = upstreams.pool(trusting)
            reply = await pool.exchange(GET, method="GET", timeouts=timeouts)
            assert reply.read_now() == b"ok"
            with pytest.raises(ConnectFailed, match="certificate refused"):
                await upstreams.pool(wary).exchange(
                    GET, method="GET", timeouts=timeouts
                )
        assert len(upstream.requests) == 2


async def test_a_certificate_that_doesnt_name_its_authority(
    upstreams: Upstreams, timeouts: Timeouts, authority: Authority
) -> None:
    """From Python 3.13 on, it is refused with the missing extension as the reason.

    Source: RFC 5280 §4.2.1.1.
    """
    server = authority.server("127.0.0.1", names_authority=False)
    tls = TlsConfig(ca_file=authority.ca_file)
    async with FaultUpstream(answer(OK), tls=server) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url, tls))
        try:
            reply = await pool.exchange(GET, method="GET", timeouts=timeouts)
            outcome = bytes(reply.read_now()).decode()
        except ConnectFailed as exc:
            outcome = str(exc)
    assert ("Missing Authority Key Identifier" if IS_STRICT else "ok") in outcome


async def test_a_refused_certificate_isnt_tried_at_the_next_address(
    timeouts: Timeouts, authority: Authority
) -> None:
    """A refused certificate ends the dial: the next address would hide the reason."""

    async def lookup(host: str, port: int) -> list[Any]:
        return [
            (2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")
        ]

    tls = TlsConfig(ca_file=authority.ca_file)
    upstreams = Upstreams(lookup=lookup)
    async with FaultUpstream(answer(OK), tls=authority.server("b.test")) as upstream:
        url = f"https://a.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url, tls))
        with pytest.raises(ConnectFailed, match="certificate refused"):
            await pool.exchange(GET, method="GET", timeouts=timeouts)
    await upstreams.close()


@pytest.mark.parametrize("certificate", ["a.test", "b.test"])
async def test_the_certificate_at_one_address_of_a_name_is_the_names(
    timeouts: Timeouts, tmp_path: Path, certificate: str
) -> None:
    """With `resolve: each`. The CA file isn't read again for each address."""
    authority = Authority(tmp_path)
    upstreams = Upstreams()
    async with FaultUpstream(
        answer(OK), tls=authority.server(certificate), host="127.0.0.2"
    ) as upstream:
        url, tls = (
            f"https://a.test:{upstream.port}",
            TlsConfig(ca_file=authority.ca_file),
        )
        named = upstreams.pool(UpstreamTarget.parse(url, tls))
        authority.remove()
        pool = upstreams.pool_at(named, "127.0.0.2")
        assert pool.authority == named.authority
        if certificate == "a.test":
            reply = await pool.exchange(GET, method="GET", timeouts=timeouts)
            assert reply.read_now() == b"ok"
        else:
            with pytest.raises(ConnectFailed, match="certificate refused"):
                await pool.exchange(GET, method="GET", timeouts=timeouts)
    await upstreams.close()


async def test_tls_to_a_server_that_speaks_none(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A server at `https://` that speaks plain HTTP is `ConnectFailed`."""

    async def plain(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with FaultUpstream(plain) as upstream:
        url = upstream.url.replace("http:", "https:")
        pool = upstreams.pool(UpstreamTarget.parse(url))
        with pytest.raises(ConnectFailed):
            await pool.exchange(GET, method="GET", timeouts=timeouts)
        assert pool.open == 0


async def test_a_handshake_that_hangs_ends_with_the_connect_timeout(
    upstreams: Upstreams,
) -> None:
    """A handshake without an answer is `ConnectTimeout`, and its socket is closed."""

    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with FaultUpstream(silent) as upstream:
        url = upstream.url.replace("http:", "https:")
        pool = upstreams.pool(UpstreamTarget.parse(url))
        with pytest.raises(ConnectTimeout):
            await pool.exchange(GET, method="GET", timeouts=timeouts_of(connect=0.1))
        await upstream.lost.wait()


async def test_a_body_until_close_over_tls(
    upstreams: Upstreams, timeouts: Timeouts, authority: Authority
) -> None:
    """A body that the TLS close ends is complete."""
    server = authority.server("127.0.0.1")
    behaviour = answer_and_close(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    async with FaultUpstream(behaviour, tls=server) as upstream:
        tls = TlsConfig(ca_file=authority.ca_file)
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url, tls))
        reply = await pool.exchange(GET, method="GET", timeouts=timeouts)
        body = b""
        while piece := await reply.read():
            body += piece
        assert (body, reply.complete) == (b"all of it", True)


async def test_a_tunnel_over_tls(
    upstreams: Upstreams, timeouts: Timeouts, authority: Authority
) -> None:
    """An upgraded TLS connection carries bytes both ways; our EOF closes it.

    TLS has no half-close.
    """
    server = authority.server("127.0.0.1")
    async with FaultUpstream(FAULTS["upgrade echo"], tls=server) as upstream:
        tls = TlsConfig(ca_file=authority.ca_file)
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url, tls))
        reply = await pool.exchange(GET, method="GET", timeouts=timeouts, upgrade=True)
        tunnel = reply.upgrade()
        assert await tunnel.read() == b"hello"
        tunnel.write(b"more")
        assert await tunnel.read() == b"more"
        tunnel.write_eof()
        assert await tunnel.read() == b""
        await upstream.lost.wait()
        tunnel.close()


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_bundle_that_cant_be_read_is_an_error_at_load(
    tmp_path: Path, content: str | None
) -> None:
    """A missing or invalid `ca_file` is an error when its pool is made."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    target = UpstreamTarget.parse("https://api", TlsConfig(ca_file=str(file)))
    with pytest.raises(ValueError, match=r"ca\.pem"):
        Upstreams().pool(target)
