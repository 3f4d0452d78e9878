"""PURE. Paths with slashes that only some routes take: `%2F`, and empty segments.

A path is read in each way that a route may want, with the most slashes kept first. A
reading counts only if the route that it leads to wants just that reading, so that one
and the same path is matched, guarded and forwarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gateway.errors import BadTarget
from gateway.http import target
from gateway.http.target import NO_SLASHES, Slashes, Target
from gateway.routes.route import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Route,
)

T = TypeVar("T")


def readings(routes: Iterable[Route]) -> tuple[Slashes, ...]:
    """Return what routes keep, the most first; empty if none keeps anything."""
    kept = {route.slashes for route in routes} - {NO_SLASHES}
    return tuple(sorted(kept, reverse=True))


def find(
    raw: bytes,
    method: str,
    host: bytes | None,
    kept: Iterable[Slashes],
    match: Callable[[str, Target], T],
) -> tuple[Target, T | NoRoute]:
    """Return a request's target, and what *match* returns for a method and it.

    *kept* are the `readings` of the table.

    Raises:
        BadTarget: no route takes such a path.
    """
    paths: set[str | None] = set()
    for slashes in kept:
        try:
            request_target = target.parse(raw, method, host, slashes)
        except BadTarget:
            paths.add(None)
            continue
        paths.add(request_target.path)
        outcome = match(method, request_target)
        routes = _routes(outcome, request_target, match)
        if routes and all(route.slashes == slashes for route in routes):
            return request_target, outcome
    request_target = target.parse(raw, method, host)
    outcome = match(method, request_target)
    if paths != {request_target.path} and any(
        route.slashes.repeated for route in _routes(outcome, request_target, match)
    ):
        # The route wants this path with its empty segments, which lead elsewhere.
        return request_target, NoRoute()
    return request_target, outcome


def _routes(
    outcome: object, request_target: Target, match: Callable[[str, Target], object]
) -> list[Route]:
    """Return the routes that *outcome* may lead to.

    For a method that isn't allowed, they are those of the other methods: a preflight
    asks for one of them.
    """
    if isinstance(outcome, Matched | NearMiss):
        return [outcome.route]
    outcomes: list[object] = []
    if isinstance(outcome, Conditional):
        outcomes = [*(one for _, one in outcome.options), outcome.otherwise]
    elif isinstance(outcome, MethodNotAllowed):
        outcomes = [match(method, request_target) for method in outcome.allow]
    return [
        route
        for one in outcomes
        if not isinstance(one, MethodNotAllowed)
        for route in _routes(one, request_target, match)
    ]
