"""PURE. Events of a pool's connections, for metrics."""

from __future__ import annotations

from typing import Protocol

from gateway.upstream.address import UpstreamTarget


class Events(Protocol):
    """Receives the events of all pools. An exception raised here fails the request."""

    def connected(self, target: UpstreamTarget, seconds: float) -> None:
        """Called when a connection was made; dialling took *seconds*."""
        ...

    def connect_failed(self, target: UpstreamTarget, error: BaseException) -> None:
        """Called when dialling failed.

        *error* is a CancelledError if the request was cancelled meanwhile.
        """
        ...

    def replayed(self, target: UpstreamTarget) -> None:
        """Called when a request is sent again, on a new connection."""
        ...

    def closed(self, target: UpstreamTarget, exchanges: int) -> None:
        """Called when a connection has closed; *exchanges* were begun on it."""
        ...


class NoEvents:
    """Ignores every event."""

    def connected(self, target: UpstreamTarget, seconds: float) -> None:
        """Do nothing, like all methods here."""

    def connect_failed(self, target: UpstreamTarget, error: BaseException) -> None: ...
    def replayed(self, target: UpstreamTarget) -> None: ...
    def closed(self, target: UpstreamTarget, exchanges: int) -> None: ...
