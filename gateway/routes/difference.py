"""PURE. What a new route table does with requests that an old one does otherwise.

Examples of each route of both tables are looked up in both, so every difference is
real, but one that no example meets is missing. Requests are without the fields and
parameters that conditions ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.identity import Protection
from gateway.routes.remarks import examples
from gateway.routes.route import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    Outcome,
    Route,
)
from gateway.routes.strictness import ONE_OF_EACH, is_stricter
from gateway.routes.table import RouteTable


class DifferenceKind(StrEnum):
    """The kinds of differences, the gravest first."""

    PUBLIC = "becomes public"
    LESS = "asks for less"
    OTHER = "asks for something else"
    OPENED = "is let through"
    """It was refused: no route took it."""
    MORE = "asks for more"
    GONE = "is refused"
    MOVED = "goes elsewhere"
    """With the same requirements, to another service, or with another path."""


LAXER: Final = frozenset(
    {
        DifferenceKind.PUBLIC,
        DifferenceKind.LESS,
        DifferenceKind.OTHER,
        DifferenceKind.OPENED,
    }
)
"""After these, some request may pass that didn't before."""
_KINDS: Final = tuple(DifferenceKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way in which two tables differ, with an example."""

    kind: DifferenceKind
    old: Route | None
    """None: the old table refuses the request, as `was` says."""
    new: Route | None
    method: str
    host: str
    """Empty: the request may have any."""
    path: str
    was: str
    """What the old table does, in words."""
    now: str


def differences(old: RouteTable, new: RouteTable) -> list[Difference]:
    """Return the differences, the gravest kind first; one for each pair of routes."""
    found: dict[tuple[object, ...], Difference] = {}
    for method, host, path in _requests(old, new):
        before, after = (
            _outcome(old, method, host, path),
            _outcome(new, method, host, path),
        )
        kind = _kind(before, after, method, path)
        if kind is None:
            continue
        one, other = _route(before), _route(after)
        found.setdefault(
            (kind, one, other),
            Difference(
                kind=kind,
                old=one,
                new=other,
                method=method,
                host=host,
                path=path,
                was=_words(before, path),
                now=_words(after, path),
            ),
        )
    return sorted(found.values(), key=lambda one: _KINDS.index(one.kind))


def _requests(old: RouteTable, new: RouteTable) -> Iterator[tuple[str, str, str]]:
    """Yield examples for both tables: each route's own paths, and one below."""
    seen: set[tuple[str, str, str]] = set()
    for table in (old, new):
        for route in table.routes:
            for host, path in examples(route):
                paths = [path]
                if route.form == "prefix":
                    paths.append(f"{path.rstrip('/')}/x")
                for each in paths:
                    for method in dict.fromkeys((*(route.methods or ()), *ONE_OF_EACH)):
                        request = method, host, each
                        if request not in seen:
                            seen.add(request)
                            yield request


def _outcome(table: RouteTable, method: str, host: str, path: str) -> Outcome:
    outcome = table.match(method, host, path)
    return outcome.resolve((), b"") if isinstance(outcome, Conditional) else outcome


def _route(outcome: Outcome) -> Route | None:
    return outcome.route if isinstance(outcome, Matched) else None


def _kind(
    before: Outcome, after: Outcome, method: str, path: str
) -> DifferenceKind | None:
    """Return how *after* differs from *before*; None: in nothing that is compared."""
    old, new = _route(before), _route(after)
    if new is None:
        return None if old is None else DifferenceKind.GONE
    if old is None:
        return DifferenceKind.OPENED
    is_less = is_stricter(old.session, new.session, method)
    is_more = is_stricter(new.session, old.session, method)
    was = None if old.clients is None else old.clients.written
    now = None if new.clients is None else new.clients.written
    if was != now:
        is_less |= was is not None
        is_more |= now is not None
    if is_less and new.session.protection is Protection.PUBLIC and new.clients is None:
        return DifferenceKind.PUBLIC
    if is_less:
        return DifferenceKind.OTHER if is_more else DifferenceKind.LESS
    if is_more:
        return DifferenceKind.MORE
    if _destination(old, path) != _destination(new, path):
        return DifferenceKind.MOVED
    return None


def _destination(route: Route, path: str) -> tuple[object, ...]:
    """Return where *route* sends a request for *path*."""
    if route.answer is not None:
        return route.answer.status, route.answer.body
    targets = tuple(sorted(map(str, route.service.targets)))
    return targets, route.upstream_path(path)


def _words(outcome: Outcome, path: str) -> str:
    match outcome:
        case Matched(route=route):
            if route.answer is not None:
                where = f"answered with {route.answer.status}"
            else:
                where = f"to {route.service.name} as {route.upstream_path(path)}"
            return f"{route.session.protection.value} by {route.name}, {where}"
        case MethodNotAllowed():
            return "405"
        case NearMiss(guard=guard):
            return f"404, a near miss of {guard.name}"
        case _:
            return "404, no route"
