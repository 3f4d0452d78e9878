"""PURE. Certificates: what one says, whether a key is its own, which one to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

MAX_SUBJECT_BYTES: Final = 2048
"""The longest subject of a client's certificate: it becomes a header field."""


SOON_S: Final = 14 * 86400
"""A certificate that expires within two weeks should have been renewed."""


class BadCertificate(ValueError):
    """A certificate or a key can't be used. The text is the reason."""


class BadKey(BadCertificate):
    """A private key can't be read, or is that of another certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says. Times are in seconds since the epoch."""

    names: tuple[str, ...]
    """DNS names and IP addresses (SAN), in lower case."""
    not_before: float
    not_after: float

    @property
    def name(self) -> str:
        """A name to call it by: its first one."""
        return self.names[0] if self.names else "no name"


def read(cert: bytes, key: bytes) -> Certificate:
    """Return what the first certificate in the PEM *cert* says; *key* is its key.

    Raises:
        BadKey: *key* isn't an unencrypted private key, or not this certificate's.
        BadCertificate: *cert* has no certificate that can be read.
    """
    try:
        found = x509.load_pem_x509_certificates(cert)[0]
        public = found.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        result = Certificate(
            names=_names(found),
            not_before=found.not_valid_before_utc.timestamp(),
            not_after=found.not_valid_after_utc.timestamp(),
        )
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadCertificate("there is no certificate in PEM form in it") from exc
    if b"ENCRYPTED" in key:
        raise BadKey("the key has a passphrase")
    try:
        own = load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadKey("there is no private key in PEM form in it") from exc
    if (
        own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        != public
    ):
        raise BadKey("this isn't the certificate's key")
    return result


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return ()
    names = extension.value
    addresses = names.get_values_for_type(x509.IPAddress)
    return (
        *(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        *(str(address) for address in addresses),
    )


def by_name(certificates: Sequence[Certificate]) -> Mapping[str, int]:
    """Return the index of the certificate for each name: the first one that has it."""
    found: dict[str, int] = {}
    for index, certificate in enumerate(certificates):
        for name in certificate.names:
            found.setdefault(name, index)
    return found


def index_for(asked: str, names: Mapping[str, int]) -> int:
    """Return the index of the certificate for the name *asked*, 0 if none has it.

    *names* are those of `by_name`. A wildcard is one label: `*.example.com` isn't
    `example.com` and isn't `a.b.example.com`.

    Source: RFC 9525 §6.3, RFC 6066 §3.
    """
    name = asked.lower().removesuffix(".")
    exact = names.get(name)
    if exact is not None:
        return exact
    return names.get(f"*.{name.partition('.')[2]}", 0)


def subject_of(der: bytes) -> str:
    """Return the subject of a client's certificate, empty if it has none.

    The certificate must have been verified before.

    Raises:
        BadCertificate: it can't be written as text, or is too long.
    Source: RFC 4514.
    """
    try:
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
        size = len(subject.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadCertificate("its subject can't be read") from exc
    if size > MAX_SUBJECT_BYTES:
        raise BadCertificate(f"its subject has more than {MAX_SUBJECT_BYTES} bytes")
    return subject
