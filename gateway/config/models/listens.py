"""PURE. The keys below `gateway.listen`: one address, and how clients connect there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    Flag,
    ListenPlace,
    Seconds,
    SocketMode,
    SocketOwner,
    Text,
    TlsVersion,
    ToHttps,
    TrustedPeer,
)
from gateway.config.listens import ListenAddress, listen_address
from gateway.config.models.base import Model


class CertificateConfig(Model):
    """A certificate and its private key, in PEM files."""

    cert: Text
    """The certificate, followed by the intermediate ones that lead to an authority."""
    key: Text
    """Its private key, without a passphrase. Only the gateway's user should be able to
    read it."""


class ClientAuthConfig(Model):
    """Certificates of clients (mutual TLS)."""

    ca_file: Text
    """PEM bundle of the authorities that issue them. The system's don't count.

    Revoked certificates aren't recognised: have the authority issue short-lived ones.
    """
    mode: Literal["request", "require"]
    """`require`: a client without a certificate can't connect. `request`: it can. One
    with a certificate of another authority never can."""


class HstsConfig(Model):
    """Strict-Transport-Security, on all replies over this address."""

    max_age: Seconds
    """How long browsers use https only, such as `365d`.

    Risk: until then, browsers that have seen it don't reach the site over http.
    """
    include_subdomains: Flag = False
    """For all sub-domains of the host, too."""


class ListenTlsConfig(Model):
    """TLS 1.2 and 1.3 towards clients. Unset: plain HTTP."""

    certificates: Annotated[tuple[CertificateConfig, ...], Field(min_length=1)]
    """The client gets the first one with the name that it asks for, else the first.

    Names are those in the certificate (SAN); `*.example.com` is one label. The files
    are read again when they change.
    """
    min_version: TlsVersion = "1.2"
    """Lowest version of TLS, `"1.2"` or `"1.3"`."""
    client_auth: ClientAuthConfig | None = None
    """Unset: clients aren't asked for certificates.

    The subject of a client's certificate reaches services as `X-Client-Subject`.
    """
    hsts: HstsConfig | None = None
    """Unset: a service's own Strict-Transport-Security is passed on."""


class ListenConfig(Model):
    """One address. A bare address is short for it."""

    address: ListenPlace
    """`host:port`, `[::1]:8000` for IPv6, or `unix:/path/to.sock`. Port 0: any free
    one."""
    mode: SocketMode = "0660"
    """Permissions of a Unix socket's file, in quotes. To connect, a process needs the
    permission to write.

    Risk: with write permission for others, each user of the machine can connect.
    """
    owner: SocketOwner | None = None
    """`user:group`, `user` or `:group` of a Unix socket's file; unset: those of the
    gateway's process. Another user needs root."""
    tls: ListenTlsConfig | None = None
    proxy_protocol: tuple[TrustedPeer, ...] = ()
    """Networks of the proxies that begin each connection with a PROXY header, version 1
    or 2; `unix` for a Unix socket. Empty: none does.

    The address in the header counts as the client's. Connections of other peers, and
    those without a header, are closed.

    Risk: a client in one of these networks can claim any client address.
    """
    redirect_to_https: ToHttps = False
    """Answer every request with a redirect to https, and nothing else.

    True: to the port of the first address with TLS. A number: to that port, if clients
    reach another one than the gateway listens on.
    """

    @property
    def parsed(self) -> ListenAddress:
        """The address in its parts."""
        return listen_address(self.address)

    def __str__(self) -> str:
        return self.address

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each key that this kind of address doesn't have."""
        if self.tls is not None and self.redirect_to_https is not False:
            yield Finding(
                loc=("redirect_to_https",),
                message="clients of this address use https already",
                hint="Remove it, or tls",
            )
        if not self.parsed.is_unix:
            for name in self._keys_set("mode", "owner"):
                yield Finding(
                    loc=(name,),
                    message="only the file of a Unix socket has this",
                    hint="Remove it, or listen on unix:/path",
                )


def short_listens(value: object) -> object:
    """Return *value* as a list of mappings, if it is an address or has some."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return [{"address": item} if isinstance(item, str) else item for item in value]
