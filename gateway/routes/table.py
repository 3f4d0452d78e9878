"""PURE. Routes, the places where they stand, and the look-up among them.

The order is stated in `gateway.routes`. Paths stand in a tree with a node for each
segment; a look-up goes down it and back up to the last node where something matches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from gateway import config
from gateway.config import Address, Finding, InvalidConfig
from gateway.headers import HeaderPolicy
from gateway.identity import CheckDatabase, SessionPolicy
from gateway.pattern import Pattern

Form = Literal["exact", "prefix", "template", "regex"]

_MAX_HOST = 253
"""Characters of a DNS name (RFC 1035 §2.3.4); a longer host has no route of its own."""


# --- what a route says ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """An upstream. Routes that name the same one share this object."""

    name: str
    """From `services`; the URL for a route's own `upstream`. Unique."""
    targets: tuple[Address, ...]
    tls: config.Tls
    max_connections: int
    """Per target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """How the path changes on its way."""

    strip: int
    """How many characters are taken off the beginning."""
    replacement: str
    """What stands in their place: empty, or a path without final slash."""

    def __call__(self, path: str) -> str:
        """Return what the upstream gets for *path*, which the route has matched.

        The prefix ends at a segment border, so that what is left is empty or begins
        with a slash; canonical paths have no dot segments and no `//`, so that
        nothing in it can climb out of the replacement.
        """
        return (self.replacement + path[self.strip :]) or "/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One route, with all defaults filled in."""

    index: int
    """Its place in the file, from zero."""
    name: str
    form: Form
    path: str
    """Prefix, template, … as the file has it, in canonical form."""
    methods: tuple[str, ...] | None
    hosts: tuple[str, ...] | None
    service: Service
    session: SessionPolicy
    headers: HeaderPolicy
    timeouts: config.Timeouts
    rewrite: Rewrite | None
    host_header: str
    """`upstream`, `preserve`, or a literal."""
    upstream_401: Literal["pass", "403", "502"]
    websocket: config.WebSocket
    max_body_size: int
    """In bytes."""
    retry: config.Retry

    def upstream_path(self, path: str) -> str:
        """Return the path that the upstream gets for the canonical *path*."""
        return path if self.rewrite is None else self.rewrite(path)


# --- what a match says ------------------------------------------------------

_NO_PARAMS: Mapping[str, str] = MappingProxyType({})


class Matched(NamedTuple):
    """The request takes this route.

    A NamedTuple and not a frozen dataclass: templates make one for each request.
    """

    route: Route
    params: Mapping[str, str] = _NO_PARAMS
    """A template's names and the segments they stand for, percent-encoded as sent."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No route's host and path match: 404."""


@dataclass(frozen=True, slots=True)
class MethodNotAllowed:
    """The place that decides has no route for this method: 405."""

    allow: tuple[str, ...]
    """What it has routes for, sorted."""


Outcome = Matched | NoRoute | MethodNotAllowed

_NO_ROUTE = NoRoute()


class Row(NamedTuple):
    """A route as `gateway routes` shows it."""

    number: int
    """Its rank in the order of matching, from one."""
    name: str
    hosts: str
    path: str
    methods: str
    session: str
    upstream: str


# --- the table --------------------------------------------------------------


class _Place:
    """The routes with one host and one path: methods choose among them."""

    __slots__ = ("_allow", "_any", "_by_method", "_names")

    def __init__(self, path: str = "") -> None:
        self._by_method: dict[str, Matched] = {}
        self._any: Matched | None = None
        self._allow = MethodNotAllowed(())
        # The names may differ between routes of one place; segments don't.
        self._names: dict[Route, tuple[tuple[str, int], ...]] = {}

    def add(self, route: Route) -> Route | None:
        """Take *route* in; return the one before it that leaves it nothing, if so."""
        matched = Matched(route)
        if route.form == "template":
            self._names[route] = _names(route.path)
        if route.methods is None:
            if self._any is not None:
                return self._any.route
            self._any = matched
            return None
        free = [method for method in route.methods if method not in self._by_method]
        if not free:
            return self._by_method[route.methods[0]].route
        self._by_method.update(dict.fromkeys(free, matched))
        return None

    def close(self) -> None:
        """Fill in what follows from all routes of the place."""
        if "GET" in self._by_method:
            self._by_method.setdefault("HEAD", self._by_method["GET"])
        self._allow = MethodNotAllowed(tuple(sorted(self._by_method)))

    def choose(self, method: str, path: str) -> Outcome:
        matched = self._by_method.get(method, self._any)
        if matched is None:
            return self._allow
        if not self._names:
            return matched
        segments = path.split("/")
        names = self._names[matched.route]
        return Matched(matched.route, {name: segments[at] for name, at in names})


def _names(template: str) -> tuple[tuple[str, int], ...]:
    """Return the names of a template, and the numbers of their segments."""
    return tuple(
        (segment[1:-1], number)
        for number, segment in enumerate(template.split("/"))
        if segment.startswith("{")
    )


class _Node:
    """What the routes say after the same beginning, a node for each segment."""

    __slots__ = ("end", "literal", "named", "prefix", "regexes")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.named: _Node | None = None
        self.end: _Place | None = None
        """Of templates that end here."""
        self.regexes: list[tuple[Pattern, _Place]] = []
        self.prefix: _Place | None = None

    def find(self, segments: Sequence[str], index: int, path: str) -> _Place | None:
        """Return the place that decides for *segments* from *index* on."""
        if index == len(segments):
            if self.end is not None:
                return self.end
        else:
            segment = segments[index]
            child = self.literal.get(segment)
            if child is not None:
                found = child.find(segments, index + 1, path)
                if found is not None:
                    return found
            if self.named is not None and segment:
                found = self.named.find(segments, index + 1, path)
                if found is not None:
                    return found
        for pattern, place in self.regexes:
            if pattern.matches(path):
                return place
        return self.prefix

    def places(self) -> Iterator[_Place]:
        """Yield all places from here on."""
        yield from (place for place in (self.end, self.prefix) if place is not None)
        yield from (place for _, place in self.regexes)
        for child in (*self.literal.values(), *filter(None, (self.named,))):
            yield from child.places()


class _Paths:
    """All paths of one host."""

    __slots__ = ("_depth", "_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, _Place] = {}
        self._root = _Node()
        self._depth = 0

    def find(self, path: str) -> _Place | None:
        place = self._exact.get(path)
        if place is not None:
            return place
        # One piece more than the tree is deep: a client can't choose what this costs.
        segments = path.split("/", self._depth + 1)
        if segments[0]:
            return None  # `*`, which is no path
        return self._root.find(segments, 1, path)

    def place(self, form: Form, path: str) -> _Place:
        """Return the place of *path*, made if it is new."""
        if form == "exact":
            return self._exact.setdefault(path, _Place())
        if form == "regex":
            return self._regex(Pattern(path))
        node = self._node([] if path == "/" else path.split("/")[1:])
        if form == "template":
            node.end = place = node.end or _Place()
        else:
            node.prefix = place = node.prefix or _Place()
        return place

    def _regex(self, pattern: Pattern) -> _Place:
        # Only whole segments lead to a node: the last piece may go on.
        node = self._node(pattern.literal_prefix.split("/")[1:-1])
        for known, place in node.regexes:
            if known == pattern:
                return place
        place = _Place()
        node.regexes.append((pattern, place))
        # Stable, so that the file's order stays for those of equal length.
        node.regexes.sort(key=lambda regex: -len(regex[0].literal_prefix))
        return place

    def _node(self, segments: Sequence[str]) -> _Node:
        self._depth = max(self._depth, len(segments))
        node = self._root
        for segment in segments:
            if segment.startswith("{"):
                node.named = node = node.named or _Node()
            else:
                node = node.literal.setdefault(segment, _Node())
        return node

    def close(self) -> None:
        for place in (*self._exact.values(), *self._root.places()):
            place.close()


class RouteTable:
    """The compiled routes. Made by `compile`; nothing in it changes afterwards."""

    __slots__ = ("_any_host", "_exact_hosts", "_wildcards", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        """
        Raises:
            InvalidConfig: there are routes that no request can reach.
        """
        self._any_host = _Paths()
        self._exact_hosts: dict[str, _Paths] = {}
        self._wildcards: dict[str, _Paths] = {}
        findings = [finding for route in routes for finding in self._add(route)]
        if findings:
            raise InvalidConfig(findings)
        for paths in self._all_paths():
            paths.close()
        self.routes = tuple(sorted(routes, key=_rank))
        """In the order of matching."""

    def match(self, method: str, host: str, path: str) -> Outcome:
        """Return the route for a request, or why there is none.

        *host* and *path* are canonical, as `target.parse` gives them: the host in
        lower case, without port and final dot; empty when there is none.
        """
        if self._exact_hosts or self._wildcards:
            for paths in self._of_host(host):
                place = paths.find(path)
                if place is not None:
                    return place.choose(method, path)
        place = self._any_host.find(path)
        return _NO_ROUTE if place is None else place.choose(method, path)

    def services(self) -> tuple[Service, ...]:
        """Return each service that a route leads to, once."""
        return tuple(dict.fromkeys(route.service for route in self.routes))

    def describe(self) -> list[Row]:
        """Return the routes in the order of matching, for people to read."""
        return [
            Row(
                number=number,
                name=route.name,
                hosts=" ".join(route.hosts or ("any",)),
                path=route.path if route.form == "prefix" else _shown(route),
                methods=" ".join(route.methods or ("any",)),
                session=_demand(route.session),
                upstream=", ".join(map(str, route.service.targets)),
            )
            for number, route in enumerate(self.routes, start=1)
        ]

    def _of_host(self, host: str) -> Iterator[_Paths]:
        """Yield the paths for *host*, the most specific name first."""
        paths = self._exact_hosts.get(host)
        if paths is not None:
            yield paths
        if len(host) <= _MAX_HOST:
            _, dot, parent = host.partition(".")
            while dot:
                paths = self._wildcards.get(parent)
                if paths is not None:
                    yield paths
                _, dot, parent = parent.partition(".")

    def _paths(self, host: str | None) -> _Paths:
        if host is None:
            return self._any_host
        if host.startswith("*."):
            return self._wildcards.setdefault(host[2:], _Paths())
        return self._exact_hosts.setdefault(host, _Paths())

    def _all_paths(self) -> Iterator[_Paths]:
        yield self._any_host
        yield from self._exact_hosts.values()
        yield from self._wildcards.values()

    def _add(self, route: Route) -> Iterator[Finding]:
        """Put *route* where it belongs; tell when all of it is taken already."""
        takers = [
            self._paths(host).place(route.form, route.path).add(route)
            for host in dict.fromkeys(route.hosts or (None,))
        ]
        if None not in takers and takers[0] is not None:
            yield Finding(
                loc=("routes", route.index),
                message=f"this route can never match: {takers[0].name} takes all of it",
                hint="Change its path, hosts or methods, or remove one of the two",
                see=("routes", takers[0].index),
            )


def _rank(route: Route) -> tuple[object, ...]:
    """Return what routes are sorted by: of two that match, the lower one decides."""
    host = min(map(_host_rank, route.hosts or (None,)))
    methods = route.methods is None
    if route.form == "exact":
        return (host, 0, (), 0, methods, route.index)
    literal = 0
    if route.form == "regex":
        prefix = Pattern(route.path).literal_prefix
        ranks = [0] * (prefix.count("/") - 1) + [2]
        literal = -len(prefix)
    else:
        segments = [] if route.path == "/" else route.path.split("/")[1:]
        ranks = [int(segment.startswith("{")) for segment in segments]
        if route.form == "prefix":
            ranks.append(3)
    return (host, 1, tuple(ranks), literal, methods, route.index)


def _host_rank(host: str | None) -> tuple[int, int]:
    if host is None:
        return (2, 0)
    return (1, -len(host)) if host.startswith("*.") else (0, 0)


def _shown(route: Route) -> str:
    return f"{route.path} ({route.form})"


def _demand(policy: SessionPolicy) -> str:
    """Return what a route demands of the session, in words."""
    needs = policy.requirements
    lists = {
        "roles any of": needs.roles_any,
        "roles": needs.roles_all,
        "permissions any of": needs.permissions_any,
        "permissions": needs.permissions_all,
        "tenants": needs.tenants,
        "claims": tuple(".".join(rule.path) for rule in needs.claims),
        "validators": needs.validators,
    }
    words = [policy.protection.value]
    words += [f"{name} {' '.join(items)}" for name, items in lists.items() if items]
    words += ["email verified"] * needs.email_verified + ["mfa"] * needs.mfa
    if policy.check_database is not CheckDatabase.NEVER:
        words.append(f"core asked {policy.check_database.value.replace('_', ' ')}")
    return ", ".join(words)
