"""edge. An address that clients connect to: makes the protocols of its connections."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from gateway.config import ListenConfig
from gateway.downstream import hsts
from gateway.downstream.arrival import Arrival, Handler
from gateway.downstream.listener import Listener
from gateway.downstream.proxy_preface import ProxyPreface
from gateway.downstream.rejections import Rejections
from gateway.downstream.tls_transport import TLS_BYTES, TlsTransport
from gateway.headers import Networks, escaped
from gateway.tls import CertificateStore

_QUIET_S: Final = 60.0
"""The shortest time between two messages about failed handshakes: a port that the
internet reaches meets scanners all day."""


class EntryPoint:
    """One item of `gateway.listen`. Used as the protocol factory of its servers."""

    def __init__(
        self,
        listener: Listener,
        listen: ListenConfig,
        store: CertificateStore | None = None,
        handler: Handler | None = None,
    ) -> None:
        """*store* has the certificates; None: plain HTTP. *handler* serves the requests
        in place of the listener's."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._failures = Rejections(
            _QUIET_S, f"TLS handshakes failed on {listen.address}"
        )
        policy = None if listen.tls is None else listen.tls.hsts
        self._proxies = Networks(listen.proxy_protocol)
        self._waiting: dict[ProxyPreface, None] = {}
        self._arrival = Arrival(
            handler=handler,
            hsts=b"" if policy is None else hsts.line(policy),
            extra_bytes=0 if store is None else TLS_BYTES,
        )

    def __call__(self) -> asyncio.Protocol:
        if self._proxies:
            return ProxyPreface(
                self._listener, self._proxies, self._waiting, self._begin
            )
        return self._begin("")

    def close(self) -> None:
        """Close the connections whose client isn't known yet."""
        for preface in tuple(self._waiting):
            preface.abort()

    def _begin(self, address: str) -> asyncio.Protocol:
        """Return the protocol of a client at *address*; empty: the peer's own."""
        arrival = self._arrival
        if address:
            arrival = replace(arrival, address=address)
        connection = self._listener.connection(arrival)
        if self._store is None:
            return connection

        def failed(reason: str) -> None:
            self._failures.add(reason, connection.address, self._loop.time())

        return TlsTransport(
            self._store.current.context,
            connection,
            loop=self._loop,
            handshake_s=self._listener.limits.head_timeout,
            write_subject=_field_value,
            on_failure=failed,
        )


def _field_value(subject: str) -> bytes:
    return escaped(subject).encode("ascii")
