"""PURE. How long children drain, and which workers keep WebSockets meanwhile.

A worker that a reload has replaced keeps its WebSockets for `gateway.websocket_drain`.
A further reload doesn't shorten that, unless too many generations keep some.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.process.messages import Drain
from gateway.process.plan_state import Child, ChildState, WorkerChild

MAX_DRAINING: Final = 4
"""Generations that keep WebSockets at a time, each with workers of its own. The oldest
one beyond that closes them."""


def begin(child: Child, now: float, websockets_s: float = 0.0) -> Drain:
    """Note that *child* drains from *now* on; return what it is told.

    *websockets_s* is how long a worker may keep WebSockets.
    """
    child.state = ChildState.ENDING
    child.since = now
    if isinstance(child, WorkerChild):
        child.websockets_s = websockets_s
    return Drain(websockets_s)


def is_overdue(child: Child, now: float) -> bool:
    """Return whether *child* drains, and should have exited by *now*."""
    kept_s = child.websockets_s if isinstance(child, WorkerChild) else 0.0
    return (
        child.state is ChildState.ENDING and now > child.since + kept_s + child.drain_s
    )


def keeping(children: Iterable[Child], now: float) -> list[WorkerChild]:
    """Return the workers that may keep WebSockets after *now* although they drain."""
    return [
        child
        for child in children
        if isinstance(child, WorkerChild)
        and child.state is ChildState.ENDING
        and not child.is_killed
        and now < child.since + child.websockets_s
    ]


def beyond_bound(children: Iterable[Child], now: float) -> list[WorkerChild]:
    """Return those of `keeping` of the oldest generations, beyond `MAX_DRAINING`."""
    workers = keeping(children, now)
    numbers = sorted({worker.generation.config.generation for worker in workers})
    older = numbers[:-MAX_DRAINING]
    return [
        worker for worker in workers if worker.generation.config.generation in older
    ]
