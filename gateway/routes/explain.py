"""PURE. Why a route takes a request, and why each other one doesn't.

The places are those that `RouteTable.match` looks at, so there is no second matcher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.http.fields import Fields
from gateway.routes.route import (
    Conditional,
    Matched,
    NearMiss,
    Outcome,
    Route,
)
from gateway.routes.table import RouteTable
from gateway.routes.tree import Place, Rank, with_head

_KINDS: Final = (
    "a literal segment",
    "a {name}",
    "a regex",
    "a prefix that ends there",
)
"""The kinds of segments in `tree.rank`, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A route, and how it relates to one request."""

    number: int
    """Its rank in the order of matching, from one, as `gateway routes` has it."""
    route: Route
    has_host: bool
    has_path: bool
    """As its service reads paths; False too if it isn't looked at for the host."""
    has_method: bool
    has_condition: bool
    """It has none, or its fields and its query are there."""
    lost: str | None
    """Why it doesn't take the request, in words; None: it does."""

    @property
    def is_near(self) -> bool:
        """Whether it has the request's host and path."""
        return self.has_host and self.has_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a route table makes of one request."""

    outcome: Outcome
    candidates: tuple[Candidate, ...]
    """All routes, in the order of matching."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    fields: Fields
    query: bytes


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a route's place is among those that match."""

    level: int
    place: Place


def explain(
    table: RouteTable, method: str, host: str, path: str, fields: Fields, query: bytes
) -> Explanation:
    """Return the outcome of a request, with the reason for each route.

    *host* and *path* are canonical, as for `RouteTable.match`; *query* begins with `?`
    or is empty.
    """
    outcome = table.match(method, host, path)
    if isinstance(outcome, Conditional):
        outcome = outcome.resolve(fields, query)
    winner = outcome.route if isinstance(outcome, Matched | NearMiss) else None
    standings: dict[Route, _Standing] = {}
    deciding: _Standing | None = None
    for level, places in table.ranked(host, path):
        for place in places:
            standing = _Standing(level, place)
            for route in place.routes:
                standings.setdefault(route, standing)
            if deciding is None and winner is None and not place.is_conditional:
                deciding = standing
    if winner is not None:
        deciding = standings[winner]
    request = _Request(method, fields, query)
    return Explanation(
        outcome=outcome,
        candidates=tuple(
            _candidate(
                number,
                route,
                request,
                table.takes_host(route, host),
                standings.get(route),
                deciding,
                winner,
            )
            for number, route in enumerate(table.routes, start=1)
        ),
    )


def _candidate(
    number: int,
    route: Route,
    request: _Request,
    has_host: bool,
    standing: _Standing | None,
    deciding: _Standing | None,
    winner: Route | None,
) -> Candidate:
    methods, condition = route.methods, route.condition
    has_method = methods is None or request.method in with_head(methods)
    has_condition = condition is None or condition.holds(request.fields, request.query)
    reasons: list[str] = []
    if standing is None:
        reasons.append("another path" if has_host else "another host")
    elif route is not winner:
        reasons += _reasons(
            route, standing, deciding, winner, has_method, has_condition
        )
    return Candidate(
        number=number,
        route=route,
        has_host=has_host,
        has_path=standing is not None,
        has_method=has_method,
        has_condition=has_condition,
        lost=reasons[0] if reasons else None,
    )


def _reasons(
    route: Route,
    standing: _Standing,
    deciding: _Standing | None,
    winner: Route | None,
    has_method: bool,
    has_condition: bool,
) -> Iterator[str]:
    """Yield why a route of a place that matches loses, the first reason first."""
    if deciding is not None:
        here = deciding.level, deciding.place.rank
        there = standing.level, standing.place.rank
        if here[0] < there[0]:
            yield "a more specific host comes first"
        elif here < there:
            yield _comes_first(deciding.place.rank, standing.place.rank)
    if not has_method:
        if winner is None and deciding is not None and not route.condition:
            yield "another method, and its place decides"
        yield "another method"
    if not has_condition:
        yield "its fields or query aren't there"
    if winner is not None and winner.condition and not route.condition:
        yield "a route with a condition comes first"
    if winner is not None and winner.methods and not route.methods:
        yield "a route that lists the method comes first"
    yield "a route earlier in the file comes first"


def _comes_first(first: Rank, later: Rank) -> str:
    """Return in words why a place of rank *first* comes before one of rank *later*."""
    if first[0] != later[0]:
        return "an exact path comes first"
    one, other = first[1], later[1]
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    for kind, later_kind in zip(one, other, strict=False):
        if kind != later_kind:
            return f"{_KINDS[kind]} comes before {_KINDS[later_kind]}"
    if first[2] != later[2]:
        return "a regex with a longer literal beginning comes first"
    return "a regex earlier in the file comes first"
