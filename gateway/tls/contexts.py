"""edge. The TLS contexts of an address, made from its files; what is wrong with them.

`gateway check`, `gateway serve` and every later load use the same rules.

Facts
- A context's versions, ciphers and demands on clients count from the beginning of a
  handshake. Only the certificate can be chosen when the client's name is known.
- Tickets are encrypted with a key of the context. So no session outlives a change of
  the certificates or of the authorities.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.config import Finding, ListenConfig, ListenTlsConfig, Loc
from gateway.tls.certificates import (
    SOON_S,
    BadCertificate,
    BadKey,
    Certificate,
    by_name,
    index_for,
    read,
)

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325 §4.2).
OpenSSL's own list of TLS 1.3 has no others."""
_VERSIONS: Final = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


class BadTls(Exception):
    """An address can't be served with its files. The text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServerTls:
    """The TLS of one address, as its files were when they were read."""

    context: ssl.SSLContext
    """For all handshakes; it changes to another one by the client's name."""
    certificates: tuple[Certificate, ...]


def load(tls: ListenTlsConfig) -> ServerTls:
    """Return the TLS that the files of *tls* have now.

    Raises:
        BadTls: they can't be used.
    """
    for finding in _problems(tls):
        raise BadTls(f"{finding.path}: {finding.message}")
    try:
        certificates = tuple(
            read(Path(pair.cert).read_bytes(), Path(pair.key).read_bytes())
            for pair in tls.certificates
        )
    except (OSError, ValueError) as exc:  # they have just changed
        raise BadTls(f"a file can't be read: {exc}") from exc
    contexts = [_context(tls, pair.cert, pair.key) for pair in tls.certificates]
    names = by_name(certificates)

    def choose(tls_object: Any, asked: str | None, _context: ssl.SSLContext) -> None:
        index = index_for(asked, names) if asked else 0
        if index:
            tls_object.context = contexts[index]

    contexts[0].sni_callback = choose
    return ServerTls(context=contexts[0], certificates=certificates)


def _context(tls: ListenTlsConfig, cert: str, key: str) -> ssl.SSLContext:
    """Return a context with one certificate.

    Raises:
        BadTls: OpenSSL refuses a file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.set_ciphers(CIPHERS)
    # A client that offers only others gets no answer to its offer, and HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
        if tls.client_auth is not None:
            context.load_verify_locations(tls.client_auth.ca_file)
            context.verify_mode = (
                ssl.CERT_REQUIRED
                if tls.client_auth.mode == "require"
                else ssl.CERT_OPTIONAL
            )
            # A resumed session would not show the certificate again.
            context.num_tickets = 0
            context.options |= ssl.OP_NO_TICKET
    except (ssl.SSLError, OSError) as exc:
        raise BadTls(f"OpenSSL refuses {cert}: {_reason(exc)}") from exc
    return context


def _no_passphrase() -> str:
    """Return nothing, where OpenSSL would ask on the terminal."""
    return ""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").replace("_", " ").lower()
    return error.strerror or type(error).__name__


def findings(listens: Iterable[ListenConfig]) -> Iterator[Finding]:
    """Yield what is wrong with the files of *listens* now, with places in the file."""
    for index, listen in enumerate(listens):
        if listen.tls is not None:
            place = ("gateway", "listen", index, "tls")
            for finding in _problems(listen.tls):
                yield _moved(finding, place)


def warnings(listens: Iterable[ListenConfig]) -> Iterator[Finding]:
    """Yield what is doubtful about the files of *listens*, which can be used."""
    now = time.time()
    for index, listen in enumerate(listens):
        if listen.tls is not None:
            place = ("gateway", "listen", index, "tls")
            for finding in _doubts(listen.tls, now):
                yield _moved(finding, place)


def _moved(finding: Finding, place: Loc) -> Finding:
    return Finding(
        loc=(*place, *finding.loc), message=finding.message, hint=finding.hint
    )


def _problems(tls: ListenTlsConfig) -> Iterator[Finding]:
    """Yield what is wrong with the files, each with its place below `tls`."""
    now = time.time()
    is_good = True
    for index, pair in enumerate(tls.certificates):
        place = ("certificates", index)
        for finding in _pair_problems(place, pair.cert, pair.key, now):
            is_good = False
            yield finding
    if tls.client_auth is not None:
        for finding in _ca_problems(tls.client_auth.ca_file):
            is_good = False
            yield finding
    if is_good:
        for index, pair in enumerate(tls.certificates):
            try:
                _context(tls, pair.cert, pair.key)
            except BadTls as exc:
                yield Finding(loc=("certificates", index, "cert"), message=str(exc))


def _pair_problems(place: Loc, cert: str, key: str, now: float) -> Iterator[Finding]:
    contents = []
    for name, path in (("cert", cert), ("key", key)):
        try:
            contents.append(Path(path).read_bytes())
        except (OSError, ValueError) as exc:
            yield _unreadable((*place, name), exc)
    if len(contents) < len(("cert", "key")):
        return
    try:
        certificate = read(*contents)
    except BadKey as exc:
        hint = "Decrypt it: openssl pkey -in KEY -out NEW"
        if "passphrase" not in str(exc):
            hint = "Write the file with the key that the certificate was made with"
        yield Finding(loc=(*place, "key"), message=str(exc), hint=hint)
        return
    except BadCertificate as exc:
        yield Finding(
            loc=(*place, "cert"),
            message=str(exc),
            hint="It begins with -----BEGIN CERTIFICATE-----",
        )
        return
    if certificate.not_after <= now:
        yield Finding(
            loc=(*place, "cert"),
            message=f"the certificate has expired on {_day(certificate.not_after)}",
            hint="Renew it",
        )


def _ca_problems(path: str) -> Iterator[Finding]:
    place = ("client_auth", "ca_file")
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        yield _unreadable(place, exc)
        return
    trying = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        trying.load_verify_locations(cadata=data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        yield Finding(
            loc=place,
            message="there is no certificate of an authority in PEM form in it",
            hint="Write the file with the authority's certificate",
        )
        return
    if not trying.get_ca_certs():
        yield Finding(
            loc=place,
            message="this isn't the certificate of an authority",
            hint="Write the file with the certificate that the clients' are issued by",
        )


def _unreadable(place: Loc, error: Exception) -> Finding:
    reason = getattr(error, "strerror", None) or "not the name of a file"
    return Finding(
        loc=place,
        message=f"the file can't be read: {reason}",
        hint="Check the path, and that the gateway's user may read it",
    )


def _doubts(tls: ListenTlsConfig, now: float) -> Iterator[Finding]:
    for index, pair in enumerate(tls.certificates):
        place = ("certificates", index)
        certificate = read(Path(pair.cert).read_bytes(), Path(pair.key).read_bytes())
        if certificate.not_after - now < SOON_S:
            yield Finding(
                loc=(*place, "cert"),
                message=f"the certificate expires on {_day(certificate.not_after)}",
                hint="Renew it",
            )
        if certificate.not_before > now:
            yield Finding(
                loc=(*place, "cert"),
                message="the certificate isn't valid before"
                f" {_day(certificate.not_before)}",
                hint="Check the clock of this machine",
            )
        if index and not certificate.names:
            yield Finding(
                loc=(*place, "cert"),
                message="the certificate has no name, so no client gets it",
                hint="Have it issued with a subjectAltName",
            )
        if Path(pair.key).stat().st_mode & 0o004:
            yield Finding(
                loc=(*place, "key"),
                message="every user of this machine can read the key",
                hint="chmod o-r",
            )


def _day(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch))
