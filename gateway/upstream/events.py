"""PURE. What a pool tells of its connections, for metrics."""

from __future__ import annotations

from typing import Protocol

from gateway.upstream.address import UpstreamTarget


class Events(Protocol):
    """Hears of the connections of all pools. What it raises fails the request."""

    def connected(self, target: UpstreamTarget, seconds: float) -> None:
        """A connection was made, *seconds* after it was asked for."""
        ...

    def connect_failed(self, target: UpstreamTarget, error: BaseException) -> None:
        """None was made. *error* is a CancelledError when nobody waits any more."""
        ...

    def replayed(self, target: UpstreamTarget) -> None:
        """A request was sent again: its first connection was closed meanwhile."""
        ...

    def closed(self, target: UpstreamTarget, exchanges: int) -> None:
        """A connection is gone, after so many *exchanges*."""
        ...


class NoEvents:
    """Hears nothing."""

    def connected(self, target: UpstreamTarget, seconds: float) -> None:
        """Do nothing; nor do the others."""

    def connect_failed(self, target: UpstreamTarget, error: BaseException) -> None: ...
    def replayed(self, target: UpstreamTarget) -> None: ...
    def closed(self, target: UpstreamTarget, exchanges: int) -> None: ...
