"""PURE. An OpenAPI document beside a route table: where the two disagree.

Each operation is looked up with an example of its path, by the table's own `match`. The
other way round, examples of the table's routes are looked for in the document.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from gateway.config import Loc
from gateway.identity import CheckDatabase, Protection, SessionPolicy
from gateway.openapi.operations import PARAMETER, Document, Operation, Site
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    Outcome,
    Route,
    RouteTable,
)
from gateway.routes.remarks import examples
from gateway.routes.strictness import ONE_OF_EACH, is_stricter


class DeviationKind(StrEnum):
    """How table and document disagree, the gravest first."""

    LAXER = "laxer"
    """The table lets requests pass that the document doesn't."""
    SHADOW = "shadow"
    """The table has what the document lacks."""
    MISSING = "missing"
    """The document has what the table refuses."""
    STRICTER = "stricter"
    """The table asks for more."""


_KINDS: Final = tuple(DeviationKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One disagreement, with an example."""

    kind: DeviationKind
    method: str
    host: str
    """Empty: any."""
    path: str
    route: str | None
    """The name of the table's route. None: it has none."""
    why: str
    """In words."""
    loc: Loc | None
    """The place in the document; None for what it lacks."""


def deviations(
    document: Document, table: RouteTable, services: Collection[str] = ()
) -> list[Deviation]:
    """Return where *table* and *document* disagree, the gravest kind first.

    What the document lacks is looked for among the routes to *services*; if there are
    none, among those to the services that its operations go to.
    """
    found: dict[tuple[object, ...], Deviation] = {}
    reached: set[str] = set()
    for operation in document.operations:
        for site in operation.sites:
            host, path = site.host or "", _example(site.prefix + operation.path)
            outcome = _outcome(table, operation.method, host, path)
            if isinstance(outcome, Matched):
                reached.update(one.name for one in outcome.route.services)
            for deviation in _of(operation, host, path, outcome):
                key = deviation.kind, operation.loc, deviation.route
                found.setdefault(key, deviation)
    shadows = _shadows(document, table, set(services) or reached)
    every = [*found.values(), *shadows]
    return sorted(every, key=lambda one: _KINDS.index(one.kind))


def _example(path: str) -> str:
    return PARAMETER.sub("x", path)


def _outcome(table: RouteTable, method: str, host: str, path: str) -> Outcome:
    outcome = table.match(method, host, path)
    return outcome.resolve((), b"") if isinstance(outcome, Conditional) else outcome


def _of(
    operation: Operation, host: str, path: str, outcome: Outcome
) -> Iterator[Deviation]:
    """Yield where the table's *outcome* isn't what the document says."""

    def deviation(kind: DeviationKind, route: str | None, why: str) -> Deviation:
        return Deviation(
            kind=kind,
            method=operation.method,
            host=host,
            path=path,
            route=route,
            why=why,
            loc=operation.loc,
        )

    if not isinstance(outcome, Matched):
        yield deviation(DeviationKind.MISSING, None, _refusal(outcome))
        return
    route = outcome.route
    wanted = SessionPolicy(
        protection=operation.protection, requirements=operation.requirements
    )
    # A document says nothing of how fresh the core's word must be.
    has = replace(
        route.session,
        check_database=CheckDatabase.NEVER,
        requirements=replace(route.session.requirements, max_age_s=None),
    )
    method = operation.method
    both = f"document: {_needs(wanted)}; table: {_needs(has)}"
    if is_stricter(wanted, has, method):
        yield deviation(DeviationKind.LAXER, route.name, both)
    if is_stricter(has, wanted, method) or route.clients is not None:
        if route.clients is not None:
            both += ", certain clients only"
        yield deviation(DeviationKind.STRICTER, route.name, both)


def _refusal(outcome: Outcome) -> str:
    match outcome:
        case MethodNotAllowed(allow=allow):
            return f"405, the path takes {', '.join(allow)}"
        case NearMiss(guard=guard):
            return f"404, a near miss of {guard.name}"
        case _:
            return "404, no route"


def _needs(policy: SessionPolicy) -> str:
    words = [policy.protection.value]
    needs = policy.requirements
    if needs.permissions_all:
        words.append(f"permissions {' '.join(needs.permissions_all)}")
    if needs.permissions_any:
        words.append(f"permissions any of {' '.join(needs.permissions_any)}")
    rest = replace(needs, permissions_all=(), permissions_any=())
    if rest:
        words.append("more")
    return ", ".join(words)


# --- what the document lacks ------------------------------------------------------


def _shadows(
    document: Document, table: RouteTable, services: Collection[str]
) -> Iterator[Deviation]:
    """Yield the first request of each route that no operation has."""
    known = [
        (operation.method, site, _pattern(site.prefix + operation.path))
        for operation in document.operations
        for site in operation.sites
    ]
    for route in table.routes:
        if not any(one.name in services for one in route.services):
            continue
        for method, host, path in _requests(route):
            outcome = _outcome(table, method, host, path)
            if not isinstance(outcome, Matched) or outcome.route is not route:
                continue
            if not any(
                _has(site, one, pattern, method, host, path)
                for one, site, pattern in known
            ):
                need = route.session.protection
                yield Deviation(
                    kind=DeviationKind.SHADOW,
                    method=method,
                    host=host,
                    path=path,
                    route=route.name,
                    why="everybody may call it"
                    if need is Protection.PUBLIC
                    else f"session {need.value}",
                    loc=None,
                )
                break


def _requests(route: Route) -> Iterator[tuple[str, str, str]]:
    """Yield examples of what *route* takes: its own path first, then one below."""
    for host, path in examples(route):
        below = f"{path.rstrip('/')}/x"
        for each in (path, below) if route.form == "prefix" else (path,):
            for method in route.methods or ONE_OF_EACH:
                yield method, host, each


def _pattern(path: str) -> re.Pattern[str]:
    pieces = map(re.escape, PARAMETER.split(path))
    return re.compile("[^/]+".join(pieces))


def _has(
    site: Site,
    operation: str,
    pattern: re.Pattern[str],
    method: str,
    host: str,
    path: str,
) -> bool:
    """Return whether an operation is one that the document has for a request."""
    is_method = method == operation or (method == "HEAD" and operation == "GET")
    is_host = site.host is None or not host or site.host == host
    return is_method and is_host and pattern.fullmatch(path) is not None
