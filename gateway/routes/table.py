"""PURE. The route table: returns the route of a request, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal

from gateway.config import Finding, InvalidConfig
from gateway.routes import guards
from gateway.routes.condition import Condition
from gateway.routes.folding import EXACT, Reading, folded, is_plain, known
from gateway.routes.route import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Outcome,
    Route,
    Service,
)
from gateway.routes.tree import Forest, Place, Tree, rank

_NO_ROUTE = NoRoute()

Forms = tuple[tuple[str, ...], ...]
"""A path as it is sent, then as it is read for each looser reading of services."""


class RouteTable:
    """The compiled routes. `compile` makes it; it never changes afterwards."""

    __slots__ = (
        "_as_read",
        "_as_sent",
        "_guards",
        "_services",
        "refuses_near_misses",
        "routes",
    )

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        near_misses: Literal["refuse", "forward"] = "refuse",
        shadows: Iterable[Service] = (),
    ) -> None:
        """*shadows* are services that get copies of requests.

        Raises:
            InvalidConfig: no request can reach one of the routes.
        """
        self._as_sent: Forest[Place] = Forest()
        """All routes, for a request's path byte for byte. The routes of a service that
        reads more loosely are under their folded paths."""
        self._as_read: dict[Reading, Forest[Place]] = {}
        """The routes of such services alone, for folded forms of a request's path."""
        findings = [finding for route in routes for finding in self._add(route)]
        if findings:
            raise InvalidConfig(findings)
        for forest in (self._as_sent, *self._as_read.values()):
            for place in forest.places():
                place.close()
        self.routes = tuple(sorted(routes, key=self._order))
        """In the order of matching."""
        services = [one for route in self.routes for one in route.services]
        self._services = tuple(dict.fromkeys((*services, *shadows)))
        self._guards = guards.by_route(routes)
        self.refuses_near_misses = near_misses == "refuse"
        if self.refuses_near_misses:
            for forest in (self._as_sent, *self._as_read.values()):
                for place in forest.places():
                    route_guards = [self._guards.get(route) for route in place.routes]
                    place.has_guard = any(route_guards)
                    place.has_plain_guard = any(
                        one and one.has_folded for one in route_guards
                    )

    def match(self, method: str, host: str, path: str) -> Outcome | Conditional:
        """Return the route for a request, or why there is none.

        *host* and *path* are canonical, as `target.parse` gives them: the host in
        lower case, without port and final dot; empty when there is none.
        """
        if self._as_read:
            outcome = self._decide_as_read(method, host, self._forms(path))
            if not self.refuses_near_misses:
                return outcome
        else:
            place = self._as_sent.find(host, path)
            if place is None:
                return _NO_ROUTE
            if place.conditional:
                outcome = self._decide_by_condition(method, host, ((path,),))
            else:
                outcome = place.choose(method)
                if not place.has_guard or (
                    not place.has_plain_guard and is_plain(path)
                ):
                    return outcome
        return self._refused(method, host, path, outcome)

    def near_miss(self, method: str, host: str, path: str) -> NearMiss | None:
        """Return the near miss that a request is, if any, even if none is refused.

        For a request whose route depends on conditions, it is the first near miss.
        """
        decided = self.decide(method, host, path)
        outcomes: list[Outcome] = (
            [*(one for _, one in decided.options), decided.otherwise]
            if isinstance(decided, Conditional)
            else [decided]
        )
        misses = (self._near_miss(method, host, path, one) for one in outcomes)
        return next(filter(None, misses), None)

    def guarded_services(self) -> frozenset[Service]:
        """Return the services with routes of different strictness."""
        all_guards = set(self._guards.values())
        return frozenset(
            service for guards in all_guards for service in guards.services
        )

    def decide(self, method: str, host: str, path: str) -> Outcome | Conditional:
        """Return the outcome of `match` before near misses are refused."""
        if self._as_read:
            return self._decide_as_read(method, host, self._forms(path))
        place = self._as_sent.find(host, path)
        if place is None:
            return _NO_ROUTE
        if place.conditional:
            return self._decide_by_condition(method, host, ((path,),))
        return place.choose(method)

    def decide_read(
        self, method: str, host: str, forms: Forms
    ) -> Outcome | Conditional:
        """Return the outcome of `decide` for a path that is read in these *forms*."""
        return self._decide_as_read(method, host, forms)

    def candidates(self, host: str, path: str) -> Iterator[Place]:
        """Yield all matching places, the deciding one first.

        They match the path byte for byte: looser readings (`services.<name>.paths`)
        aren't tried.
        """
        return self._as_sent.find_all(host, path)

    def takes_host(self, route: Route, host: str) -> bool:
        """Return whether *route* is looked at for requests to the canonical *host*."""
        trees = [tree for tree in self._as_sent.levels(host) if tree is not None]
        return any(self._as_sent.tree(one) in trees for one in route.hosts or (None,))

    def forests(self) -> tuple[tuple[Reading, Forest[Place]], ...]:
        """Return all routes for a path as sent, then those of each looser reading."""
        return ((EXACT, self._as_sent), *self._as_read.items())

    def ranked(self, host: str, path: str) -> Iterator[tuple[int, list[Place]]]:
        """Yield all places for *path* as services read it, the deciding ones first.

        Equal ones come together, with the number of their host's name: the most
        specific one is 0.
        """
        return self._ranked(host, self._forms(path))

    def _ranked(self, host: str, forms: Forms) -> Iterator[tuple[int, list[Place]]]:
        for number, level in enumerate(self._levels(host, forms)):
            places = [place for tree, form in level for place in tree.find_all(form)]
            places.sort(key=lambda place: place.rank)
            for _, equal in groupby(places, key=lambda place: place.rank):
                yield number, list(equal)

    def services(self) -> tuple[Service, ...]:
        """Return each service that gets requests or copies of them, once."""
        return self._services

    def _refused(
        self, method: str, host: str, path: str, outcome: Outcome | Conditional
    ) -> Outcome | Conditional:
        """Return *outcome* with near misses in place of routes."""
        if not isinstance(outcome, Conditional):
            return self._near_miss(method, host, path, outcome) or outcome
        return Conditional(
            tuple(
                (condition, self._near_miss(method, host, path, one) or one)
                for condition, one in outcome.options
            ),
            self._near_miss(method, host, path, outcome.otherwise) or outcome.otherwise,
        )

    def _decide_by_condition(
        self, method: str, host: str, forms: Forms
    ) -> Outcome | Conditional:
        """Return the outcome if the deciding place has routes with conditions.

        A route whose condition doesn't hold doesn't match: the next one is tried, also
        in the next place. A place with a route without condition decides.
        """
        options: list[tuple[Condition, Outcome]] = []
        otherwise: Outcome | None = None
        for _, places in self._ranked(host, forms):
            for place in places:
                for route in place.choices(method):
                    assert route.condition is not None, "see Place.add"
                    options.append((route.condition, Matched(route)))
            deciding = [one for one in places if not one.is_conditional]
            if deciding:
                otherwise = _first_match(one.choose(method) for one in deciding)
                break
        if otherwise is None:
            otherwise = _NO_ROUTE
        return Conditional(tuple(options), otherwise) if options else otherwise

    def _forms(self, path: str) -> Forms:
        readings = (folded(path, reading) for reading in self._as_read)
        return ((path,), *readings)

    def _levels(
        self, host: str, forms: Forms
    ) -> Iterator[list[tuple[Tree[Place], str]]]:
        """Yield the trees for *host*, the most specific name first.

        Each comes with the form of the path to look up in it: as sent, or as folded.
        """
        forests = (self._as_sent, *self._as_read.values())
        for trees in zip(*(forest.levels(host) for forest in forests), strict=True):
            yield [
                (tree, form)
                for tree, each in zip(trees, forms, strict=True)
                if tree is not None
                for form in each
            ]

    def _decide_as_read(
        self, method: str, host: str, forms: Forms
    ) -> Outcome | Conditional:
        """Return the outcome if some services ignore differences between paths.

        The path as sent and each of its folded forms lead to a place. The first place
        in the order of matching decides; of equal ones, the first with the method.
        """
        for level in self._levels(host, forms):
            found = (tree.find(form) for tree, form in level)
            places = [place for place in found if place is not None]
            if places:
                best = min(place.rank for place in places)
                if any(one.conditional for one in places if one.rank == best):
                    return self._decide_by_condition(method, host, forms)
                return _first_match(
                    one.choose(method) for one in places if one.rank == best
                )
        return _NO_ROUTE

    def _near_miss(
        self, method: str, host: str, path: str, outcome: Outcome
    ) -> NearMiss | None:
        """Return the near miss if *path* may pass a guard by *outcome*, else None."""
        if not isinstance(outcome, Matched):
            return None
        route = outcome.route
        guards_of_route = self._guards.get(route)
        if guards_of_route is None:
            return None
        for form in guards_of_route.forms(path):
            guard = guards_of_route.find(method, host, form, route)
            if guard is None:
                # Two routes may fold to one path and hide a third: look the folded
                # path up as if it had been sent.
                place = self._as_sent.find(host, form)
                if place is not None:
                    guard = guards_of_route.stricter(method, place, route)
            if guard is not None:
                return NearMiss(route, guard)
        return None

    def _add(self, route: Route) -> Iterator[Finding]:
        """Add *route* to its places; yield a finding if no request is left for it."""
        reading = known(route.service.paths)
        forests = [self._as_sent]
        if reading != EXACT:
            forests.append(self._as_read.setdefault(reading, Forest()))

        def make() -> Place:
            return Place(rank(route.form, route.path, route.index))

        takers = [
            forest.tree(host).place(route.form, route.path, make, reading).add(route)
            for forest in forests
            for host in dict.fromkeys(route.hosts or (None,))
        ]
        if None not in takers and takers[0] is not None:
            yield Finding(
                loc=route.loc,
                message=f"this route can never match: {takers[0].name} takes all of it",
                hint="Change its path, hosts or methods, or remove one of the two",
                see=takers[0].loc,
            )

    def _order(self, route: Route) -> tuple[object, ...]:
        """Return the sort key of *route*: of two that match, the lower one decides."""
        host = min(route.hosts or (None,), key=_host_rank)
        place = self._as_sent.tree(host).place(
            route.form, route.path, Place, known(route.service.paths)
        )
        return (
            _host_rank(host),
            place.rank,
            route.condition is None,
            route.condition is None and route.methods is None,
            route.index,
        )


def _first_match(
    outcomes: Iterable[Matched | MethodNotAllowed],
) -> Matched | MethodNotAllowed:
    """Return the first of *outcomes* that is a route, else the first."""
    some = list(outcomes)
    return next((one for one in some if isinstance(one, Matched)), some[0])


def _host_rank(host: str | None) -> tuple[int, int]:
    if host is None:
        return (2, 0)
    return (1, -len(host)) if host.startswith("*.") else (0, 0)
