"""PURE. Near misses: requests whose service may read the path of a stricter route.

For the route table, `/Admin` isn't `/admin`; for Express it is. So a path that isn't
its own folded form is looked up a second time, among the folded paths of all routes to
the same targets. If one of these routes requires more than the matched route, or
refuses the method, the request is refused: the gateway can't know whether the service
would serve what that route guards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from gateway import config
from gateway.http.target import NO_SLASHES
from gateway.routes.folding import Reading, fold, folded, possible
from gateway.routes.route import (
    Matched,
    Route,
    Service,
    shape,
)
from gateway.routes.strictness import ONE_OF_EACH, is_stricter
from gateway.routes.tree import Forest, Place


class _FoldedPlace:
    """The places whose paths fold to the same one."""

    __slots__ = ("by_shape",)

    def __init__(self) -> None:
        self.by_shape: dict[str, Place] = {}


class Guards:
    """The routes to the same targets, by their folded paths."""

    __slots__ = ("_forest", "_reading", "has_folded", "services")

    def __init__(
        self, services: frozenset[Service], routes: Iterable[Route], reading: Reading
    ) -> None:
        self.services = services
        """Those whose targets the routes lead to."""
        self._reading = reading
        self._forest: Forest[_FoldedPlace] = Forest()
        self.has_folded = False
        """A route's path isn't its folded form, which a plain path may be."""
        for route in routes:
            if route.form != "regex" and fold(route.path, reading) != route.path:
                self.has_folded = True
            for host in dict.fromkeys(route.hosts or (None,)):
                tree = self._forest.tree(host)
                place = tree.place(route.form, route.path, _FoldedPlace, reading)
                place.by_shape.setdefault(shape(route.form, route.path), Place()).add(
                    route
                )
        for place in self._forest.places():
            for one in place.by_shape.values():
                one.close()

    def forms(self, path: str) -> tuple[str, ...]:
        """Return the folded forms of *path* to look up; mostly none."""
        forms = folded(path, self._reading)
        return (path,) if self.has_folded and not forms else forms

    def find(self, method: str, host: str, form: str, route: Route) -> Route | None:
        """Return a route at the folded *form* that is stricter than *route*, if any."""
        place = self._forest.find(host, form)
        if place is None:
            return None
        for one in place.by_shape.values():
            guard = self.stricter(method, one, route)
            if guard is not None:
                return guard
        return None

    def stricter(self, method: str, place: Place, route: Route) -> Route | None:
        """Return a route of *place* that is stricter than *route*, or None.

        It requires more, or refuses *method*. Only routes to the same targets count.
        """
        others = list(place.choices(method))  # whatever their conditions are
        outcome = place.choose(method)
        if isinstance(outcome, Matched):
            others.append(outcome.route)
        elif not place.is_conditional:
            others += place.routes
            ours = (x for x in others if x.service in self.services or _refuses(x))
            return next(ours, None)
        for other in others:
            if _refuses(other) or (
                other.service in self.services
                and is_stricter(other.session, route.session, method)
            ):
                return other
        return None


def by_route(routes: Sequence[Route]) -> dict[Route, Guards]:
    """Return the guards of each route that is laxer than another to its targets.

    A route whose own answer refuses keeps its paths from all services.
    """
    guards: dict[Route, Guards] = {}
    refusing = [route for route in routes if _refuses(route)]
    for services in _same_targets(route.services for route in routes):
        ours = [route for route in routes if route.service in services]
        laxer = tuple(ours if refusing else _laxer(ours))
        ours += refusing
        made: dict[Reading, Guards] = {}
        for route in laxer:
            reading = possible(route.service.paths)._replace(
                slashes=route.slashes != NO_SLASHES
            )
            if reading not in made:
                made[reading] = Guards(services, ours, reading)
            guards[route] = made[reading]
    return guards


def _refuses(route: Route) -> bool:
    return route.answer is not None and route.answer.refuses


def _laxer(routes: Sequence[Route]) -> Iterator[Route]:
    """Yield the routes that may be laxer than another one."""
    policies = {repr(route.session): route.session for route in routes}.values()
    # A prefix and an exact path of one shape are two places: each has its methods.
    limited = {_place(route) for route in routes if route.methods is not None}
    for route in routes:
        if not limited <= {_place(route)} or any(
            is_stricter(policy, route.session, method)
            for policy in policies
            for method in ONE_OF_EACH
        ):
            yield route


def _place(route: Route) -> tuple[str, str]:
    return route.form, shape(route.form, route.path)


def _same_targets(
    services_of: Iterable[tuple[Service, ...]],
) -> list[frozenset[Service]]:
    """Return groups of services that share a target, directly or through others.

    *services_of* has the services of each route. Those of one route count as sharing a
    target, and so do those of which one gets copies of the other's requests: guards
    must hold for both.
    """
    groups: dict[Service, set[Service]] = {}
    by_target: dict[object, list[Service]] = defaultdict(list)
    splits = dict.fromkeys(services_of)
    for service in dict.fromkeys(one for services in splits for one in services):
        groups[service] = {service}
        for target in service.targets:
            key = (config.same_host(target.host), target.port, target.socket_path)
            by_target[key].append(service)
    by_name = {service.name: service for service in groups}
    mirrors = [
        (one, by_name[one.mirror.service])
        for one in groups
        if one.mirror is not None and one.mirror.service in by_name
    ]
    for sharing in (*by_target.values(), *filter(None, splits), *mirrors):
        whole = set().union(*(groups[service] for service in sharing))
        for service in whole:
            groups[service] = whole
    return [frozenset(group) for group in {id(g): g for g in groups.values()}.values()]
