"""PURE. What is noted of a request whose spans are exported."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError

_MAX_NOTES: Final = 64
"""Tries, and calls to the core, that are noted of one request."""


class Try:
    """One time that a request was sent to a target."""

    __slots__ = ("begun", "ended", "error", "path", "span_id", "status", "target")

    def __init__(self, span_id: str, target: str, path: str, begun: float) -> None:
        self.span_id = span_id
        """The parent id that the service got."""
        self.target = target
        self.path = path
        """As it was sent, without the query."""
        self.begun = begun
        """As `Record.started`."""
        self.ended = 0.0
        """When the head of the reply had arrived, or it failed."""
        self.status: int | None = None
        self.error = ""
        """The failure's code; empty: there is a reply."""


class NotedCall(NamedTuple):
    """A call to the core."""

    path: str
    outcome: str
    """The status of the reply, or why there is none."""
    begun: float
    ended: float


class Recording:
    """What is noted of one request, besides its record."""

    __slots__ = ("core_calls", "parent_id", "server_id", "tries")

    def __init__(self, server_id: str, parent_id: str) -> None:
        """*server_id* is that of the gateway's span; *parent_id* is empty if none."""
        self.server_id = server_id
        self.parent_id = parent_id
        self.tries: list[Try] = []
        self.core_calls: list[NotedCall] = []

    def core_called(self, path: str, outcome: str, took_s: float, now: float) -> None:
        """Note a call to the core that has ended *now*."""
        if len(self.core_calls) < _MAX_NOTES:
            self.core_calls.append(NotedCall(path, outcome, now - took_s, now))


current: ContextVar[Recording | None] = ContextVar("recording", default=None)
"""That of the request for which the core is called; None: it isn't recorded."""


async def recorded(
    exchange: Coroutine[Any, Any, Any],
    recording: Recording,
    a_try: Try,
    clock: Callable[[], float],
) -> Any:
    """Return the reply of *exchange*, and note it as *a_try*.

    Raises:
        BaseException: what *exchange* raises.
    """
    if len(recording.tries) < _MAX_NOTES:
        recording.tries.append(a_try)
    a_try.error = "cancelled"
    try:
        reply = await exchange
    except GatewayError as error:
        a_try.error = error.code
        raise
    else:
        a_try.status, a_try.error = reply.head.status, ""
        return reply
    finally:
        a_try.ended = clock()
