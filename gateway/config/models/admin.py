"""PURE. The keys below `gateway.admin`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.findings import Finding
from gateway.config.forms import ListenPlace, Text
from gateway.config.listens import listen_address
from gateway.config.models.base import Model


class AdminConfig(Model):
    """Where operators look into the gateway and act on it; see docs/operations.md."""

    listen: ListenPlace | None = None
    """`host:port` of its own, or `unix:/path`, a socket for the gateway's user only
    (mode 0600); unset: nowhere.

    Risk: whoever may use it can sign users out, stop the gateway and read its routes.
    On a loopback address without `token_file`, that is every process of this machine.
    """
    token_file: Text | None = None
    """File with the token that requests show as `Authorization: Bearer`: 32 or more
    printable ASCII characters in one line, readable by the gateway's user only. It is
    read for each request. Needed unless `listen` is a loopback address or a socket.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if the network can reach it without a token."""
        if self.listen is None or self.token_file is not None:
            return
        place = listen_address(self.listen)
        if not (place.is_unix or place.is_loopback):
            yield Finding(
                loc=("listen",),
                message="without token_file, only a loopback address or a Unix socket"
                " is allowed",
                hint="Set token_file, or listen on 127.0.0.1 or unix:/path",
            )
