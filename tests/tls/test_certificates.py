"""What certificates say, which keys are theirs, and which of them a client gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID
from tls_rig import Authority

from gateway.tls.certificates import (
    BadCertificate,
    BadKey,
    Certificate,
    by_name,
    index_for,
    read,
    subject_of,
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def named(*names: str) -> Certificate:
    return Certificate(names=names, not_before=0, not_after=1)


def test_reads_names_and_times(authority: Authority) -> None:
    """Names are those of the SAN, in lower case; the subject's aren't."""
    pair = authority.issue(
        "A.test", "*.B.test", "192.0.2.1", subject=((NameOID.COMMON_NAME, "cn.test"),)
    )
    found = read(pair.cert.read_bytes(), pair.key.read_bytes())
    assert found.names == ("a.test", "*.b.test", "192.0.2.1")
    assert found.name == "a.test"
    assert 90 * 86400 < found.not_after - found.not_before < 91 * 86400


def test_reads_a_chain(authority: Authority) -> None:
    """The first certificate of a file counts; intermediate ones follow it."""
    pair = authority.issue("a.test")
    chain = pair.cert.read_bytes() + authority.file.read_bytes()
    assert read(chain, pair.key.read_bytes()).names == ("a.test",)


@pytest.mark.parametrize("what", ["", "nothing", "-----BEGIN CERTIFICATE-----\nx\n"])
def test_a_bad_certificate(authority: Authority, what: str) -> None:
    """A file without a certificate is told from one without a key."""
    key = authority.issue("a.test").key.read_bytes()
    with pytest.raises(BadCertificate, match="no certificate in PEM form"):
        read(what.encode(), key)


def test_bad_keys(authority: Authority) -> None:
    """The key must be there, readable without a passphrase, and the certificate's."""
    pair, other = authority.issue("a.test"), authority.issue("a.test")
    cert = pair.cert.read_bytes()
    with pytest.raises(BadKey, match="isn't the certificate's key"):
        read(cert, other.key.read_bytes())
    with pytest.raises(BadKey, match="no private key"):
        read(cert, cert)
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    with pytest.raises(BadKey, match="has a passphrase"):
        read(cert, locked)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("a.test", 0),
        ("b.test", 1),
        ("B.TEST.", 1),
        ("x.b.test", 2),
        ("y.x.b.test", 0),
        (".b.test", 2),
        ("c.test", 3),
        ("nothing.test", 0),
        ("test", 0),
        ("*.b.test", 2),
        ("", 0),
    ],
)
def test_the_name_chooses(asked: str, index: int) -> None:
    """An exact name comes before a wildcard of one label; the default is the first."""
    certificates = [
        named("a.test"),
        named("b.test"),
        named("*.b.test", "b.test"),
        named("c.test"),
        named("c.test"),
    ]
    assert index_for(asked, by_name(certificates)) == index


def der(authority: Authority, *parts: tuple[object, str]) -> bytes:
    pair = authority.issue(subject=parts)  # type: ignore[arg-type] # OIDs of the tests
    return load_pem_x509_certificate(pair.cert.read_bytes()).public_bytes(
        serialization.Encoding.DER
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), ""),
        (((NameOID.COMMON_NAME, "alice"),), "CN=alice"),
        (
            ((NameOID.ORGANIZATION_NAME, "O"), (NameOID.COMMON_NAME, "a,b=c+d")),
            "CN=a\\,b=c\\+d,O=O",
        ),
        (((NameOID.COMMON_NAME, "x\r\nX-User-Id: evil"),), "CN=x\r\nX-User-Id: evil"),
    ],
)
def test_subjects(
    authority: Authority, parts: tuple[tuple[object, str], ...], text: str
) -> None:
    """The last part comes first, and special characters are escaped (RFC 4514)."""
    assert subject_of(der(authority, *parts)) == text


def test_a_subject_is_bounded(authority: Authority) -> None:
    """Services never get a part of a subject: the connection is refused."""
    parts = [(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 60)] * 40
    with pytest.raises(BadCertificate, match="more than 2048 bytes"):
        subject_of(der(authority, *parts))
    with pytest.raises(BadCertificate, match="can't be read"):
        subject_of(b"not DER")
