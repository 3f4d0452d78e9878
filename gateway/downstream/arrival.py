"""edge. How a connection has come in, as far as its bytes don't show it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gateway.downstream.exchange import Exchange

Handler = Callable[["Exchange"], Coroutine[Any, Any, None]]
"""Serves one request. The response is written when the coroutine ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What the address that a client has connected to says about its connection."""

    address: str = ""
    """The client's address according to a PROXY header; empty: the socket's peer."""
    handler: Handler | None = None
    """Serves its requests; None: the listener's."""
    hsts: bytes = b""
    """The line of Strict-Transport-Security for all replies, with CRLF; or empty."""
    extra_bytes: int = 0
    """What the connection takes besides `memory.CONNECTION_BYTES`."""


DIRECT: Final = Arrival()
