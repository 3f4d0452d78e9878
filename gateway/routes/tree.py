"""PURE. The look-up: a tree of paths for each host, with a node for each segment.

`gateway.routes` states the order. A look-up descends the tree and returns to the last
node with a match, so that its cost doesn't grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from gateway.http.path_pattern import Pattern
from gateway.routes.folding import EXACT, Reading, fold, fold_segment
from gateway.routes.route import (
    Form,
    Matched,
    MethodNotAllowed,
    Route,
)

_MAX_HOST = 253
"""Characters of a DNS name (RFC 1035 §2.3.4); a longer host has no route of its own."""


Rank = tuple[object, ...]
"""The sort key of places: of two that match a path, the lower one decides."""

T = TypeVar("T")


class Place:
    """The routes with one host and one path; the method chooses among them."""

    __slots__ = (
        "_allow",
        "_any",
        "_by_method",
        "conditional",
        "has_guard",
        "has_plain_guard",
        "rank",
        "routes",
    )

    def __init__(self, rank: Rank = ()) -> None:
        self.rank = rank
        self.routes: list[Route] = []
        self.conditional: list[Route] = []
        """Those with a condition, in the order in which they are tried."""
        self.has_guard = False
        """A path that isn't plain may be a near miss here."""
        self.has_plain_guard = False
        """A plain path may be one, too."""
        self._by_method: dict[str, Matched] = {}
        self._any: Matched | None = None
        self._allow = MethodNotAllowed(())

    def add(self, route: Route) -> Route | None:
        """Add *route*; return the earlier route that takes all its methods, or None."""
        matched = Matched(route)
        if route.condition is not None:
            for other in self.conditional:
                if other.condition == route.condition and (
                    other.methods is None
                    or set(route.methods or ("any",)) <= {*with_head(other.methods)}
                ):
                    return other
            self.conditional.append(route)
        elif route.methods is None:
            if self._any is not None:
                return self._any.route
            self._any = matched
        else:
            free = [name for name in route.methods if name not in self._by_method]
            if not free:
                return self._by_method[route.methods[0]].route
            self._by_method.update(dict.fromkeys(free, matched))
        self.routes.append(route)
        return None

    def close(self) -> None:
        """Complete the place after its last route: HEAD, and the methods for 405."""
        if "GET" in self._by_method:
            self._by_method.setdefault("HEAD", self._by_method["GET"])
        self._allow = MethodNotAllowed(tuple(sorted(self._by_method)))

    def choose(self, method: str) -> Matched | MethodNotAllowed:
        """Return the route without condition for *method*, or `MethodNotAllowed`."""
        return self._by_method.get(method, self._any) or self._allow

    def choices(self, method: str) -> Iterator[Route]:
        """Yield the routes with a condition for *method*, in order."""
        for route in self.conditional:
            if route.methods is None or method in with_head(route.methods):
                yield route

    @property
    def is_conditional(self) -> bool:
        """Whether all of its routes have a condition: other places may decide."""
        return len(self.conditional) == len(self.routes)


def with_head(methods: Sequence[str]) -> Sequence[str]:
    """Return *methods*, and HEAD with GET."""
    return (*methods, "HEAD") if "GET" in methods else methods


def rank(form: Form, path: str, index: int) -> Rank:
    """Return the sort key of a place among those that match the same path.

    *index* is that of the place's first route. It decides only between regexes: the
    keys of other places that match the same path differ before it.
    """
    if form == "exact":
        return (0,)
    if form == "regex":
        prefix = Pattern(path).literal_prefix
        return (1, (*[0] * (prefix.count("/") - 1), 2), -len(prefix), index)
    segments = [] if path == "/" else path.split("/")[1:]
    ranks = [int(segment.startswith("{")) for segment in segments]
    return (1, (*ranks, 3) if form == "prefix" else tuple(ranks))


class PathNode(Generic[T]):
    """The routes after the same leading segments, with a child for each next one."""

    __slots__ = ("end", "literal", "named", "prefix", "regexes")

    def __init__(self) -> None:
        self.literal: dict[str, PathNode[T]] = {}
        self.named: PathNode[T] | None = None
        self.end: T | None = None
        """The place of the templates that end here."""
        self.regexes: list[tuple[Pattern, T]] = []
        self.prefix: T | None = None

    def find(self, segments: Sequence[str], index: int, path: str) -> T | None:
        """Return the deciding place for *segments* from *index* on, or None."""
        if index == len(segments):
            if self.end is not None:
                return self.end
        else:
            segment = segments[index]
            child = self.literal.get(segment)
            if child is not None:
                place_below = child.find(segments, index + 1, path)
                if place_below is not None:
                    return place_below
            if self.named is not None and segment:
                place_below = self.named.find(segments, index + 1, path)
                if place_below is not None:
                    return place_below
        for pattern, place in self.regexes:
            if pattern.matches(path):
                return place
        return self.prefix

    def find_all(self, segments: Sequence[str], index: int, path: str) -> Iterator[T]:
        """Yield all matching places, the deciding one first."""
        if index == len(segments):
            if self.end is not None:
                yield self.end
        else:
            segment = segments[index]
            if segment in self.literal:
                yield from self.literal[segment].find_all(segments, index + 1, path)
            if self.named is not None and segment:
                yield from self.named.find_all(segments, index + 1, path)
        yield from (place for pattern, place in self.regexes if pattern.matches(path))
        if self.prefix is not None:
            yield self.prefix

    def places(self) -> Iterator[T]:
        """Yield all places of this node and below it."""
        yield from (place for place in (self.end, self.prefix) if place is not None)
        yield from (place for _, place in self.regexes)
        for child in (*self.literal.values(), *filter(None, (self.named,))):
            yield from child.places()


class Tree(Generic[T]):
    """All paths of one host."""

    __slots__ = ("_depth", "exact", "root")

    def __init__(self) -> None:
        self.exact: dict[str, T] = {}
        """The places of exact paths, which come before all others."""
        self.root: PathNode[T] = PathNode()
        self._depth = 0

    def find(self, path: str) -> T | None:
        """Return the deciding place for *path*, or None."""
        place = self.exact.get(path)
        if place is not None:
            return place
        # One segment more than the tree is deep: a client can't raise the cost.
        segments = path.split("/", self._depth + 1)
        if segments[0]:
            return None  # `*` isn't a path
        return self.root.find(segments, 1, path)

    def find_all(self, path: str) -> Iterator[T]:
        """Yield all places that match *path*, the deciding one first."""
        if path in self.exact:
            yield self.exact[path]
        segments = path.split("/", self._depth + 1)
        if not segments[0]:
            yield from self.root.find_all(segments, 1, path)

    def place(
        self, form: Form, path: str, make: Callable[[], T], reading: Reading = EXACT
    ) -> T:
        """Return the place of *path*; *make* creates it if it is new.

        With a *reading*, literal segments are stored in their folded form. A regex is
        stored unchanged, but if case is folded, its capitals also match small letters,
        because it is matched with folded paths.
        """
        if form == "regex":
            return self._regex(Pattern(path, lower=reading.case), make, reading)
        if reading != EXACT:
            path = fold(path, reading)
        if form == "exact":
            return self.exact.setdefault(path, make())
        node = self._node([] if path == "/" else path.split("/")[1:])
        if form == "template":
            node.end = place = node.end or make()
        else:
            node.prefix = place = node.prefix or make()
        return place

    def _regex(self, pattern: Pattern, make: Callable[[], T], reading: Reading) -> T:
        # Only whole segments have nodes: the last piece may be part of a longer one.
        segments = pattern.literal_prefix.split("/")[1:-1]
        if reading != EXACT:
            segments = [fold_segment(segment, reading) for segment in segments]
        node = self._node(segments)
        for known, place in node.regexes:
            if known == pattern:
                return place
        place = make()
        node.regexes.append((pattern, place))
        # The sort is stable: regexes of equal length keep the file's order.
        node.regexes.sort(key=lambda regex: -len(regex[0].literal_prefix))
        return place

    def _node(self, segments: Sequence[str]) -> PathNode[T]:
        self._depth = max(self._depth, len(segments))
        node = self.root
        for segment in segments:
            if segment.startswith("{"):
                node.named = node = node.named or PathNode()
            else:
                node = node.literal.setdefault(segment, PathNode())
        return node

    def places(self) -> Iterator[T]:
        """Yield all places."""
        yield from self.exact.values()
        yield from self.root.places()


class Forest(Generic[T]):
    """The trees of all hosts."""

    __slots__ = ("_any_host", "_trees")

    def __init__(self) -> None:
        self._any_host: Tree[T] = Tree()
        self._trees: dict[str, Tree[T]] = {}
        """By `api.example.com`, or by `.example.com` for the wildcard."""

    def tree(self, host: str | None) -> Tree[T]:
        """Return the tree of a route's host, which is created if it is new."""
        if host is None:
            return self._any_host
        return self._trees.setdefault(host.removeprefix("*"), Tree())

    def names(self) -> Iterator[str]:
        """Yield the hosts that have a tree; `.example.com` is the wildcard's."""
        yield from self._trees

    def levels(self, host: str) -> Iterator[Tree[T] | None]:
        """Yield the trees for a request's *host*, the most specific name first.

        It yields None if no route has the host or the wildcard.
        """
        yield self._trees.get(host)
        dot = host.find(".") if len(host) <= _MAX_HOST else -1
        while dot >= 0:
            yield self._trees.get(host[dot:])
            dot = host.find(".", dot + 1)
        yield self._any_host

    def find(self, host: str, path: str) -> T | None:
        """Return the deciding place, or None."""
        if not self._trees:
            return self._any_host.find(path)
        for tree in self.levels(host):
            if tree is not None:
                place = tree.find(path)
                if place is not None:
                    return place
        return None

    def find_all(self, host: str, path: str) -> Iterator[T]:
        """Yield all matching places, the deciding one first."""
        for tree in self.levels(host):
            if tree is not None:
                yield from tree.find_all(path)

    def places(self) -> Iterator[T]:
        """Yield all places."""
        for tree in (self._any_host, *self._trees.values()):
            yield from tree.places()
