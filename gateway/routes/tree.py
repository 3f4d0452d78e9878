"""PURE. The look-up: paths in a tree with a node for each segment, hosts before them.

The order is stated in `gateway.routes`. A look-up goes down the tree and back up to the
last node where something matches, so that its cost doesn't grow with the table.
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
    Outcome,
    Route,
)

_MAX_HOST = 253
"""Characters of a DNS name (RFC 1035 §2.3.4); a longer host has no route of its own."""


Rank = tuple[object, ...]
"""What places are sorted by: of two that match a path, the lower one decides."""

T = TypeVar("T")


class Place:
    """The routes with one host and one path: methods choose among them."""

    __slots__ = (
        "_allow",
        "_any",
        "_by_method",
        "has_guard",
        "has_plain_guard",
        "rank",
        "routes",
    )

    def __init__(self, rank: Rank = ()) -> None:
        self.rank = rank
        self.routes: list[Route] = []
        self.has_guard = False
        """For a path that isn't plain, another route may be meant."""
        self.has_plain_guard = False
        """For a plain path, too."""
        self._by_method: dict[str, Matched] = {}
        self._any: Matched | None = None
        self._allow = MethodNotAllowed(())

    def add(self, route: Route) -> Route | None:
        """Take *route* in; return the one before it that leaves it nothing, if so."""
        matched = Matched(route)
        if route.methods is None:
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
        """Fill in what follows from all routes of the place."""
        if "GET" in self._by_method:
            self._by_method.setdefault("HEAD", self._by_method["GET"])
        self._allow = MethodNotAllowed(tuple(sorted(self._by_method)))

    def choose(self, method: str) -> Outcome:
        """Return the route for *method*, or that there is none."""
        return self._by_method.get(method, self._any) or self._allow


def rank(form: Form, path: str, index: int) -> Rank:
    """Return what decides between places whose paths match the same request.

    *index* is that of the first route in the place. It decides between regexes only:
    other paths that match the same requests differ before it.
    """
    if form == "exact":
        return (0,)
    if form == "regex":
        prefix = Pattern(path).literal_prefix
        return (1, (*[0] * (prefix.count("/") - 1), 2), -len(prefix), index)
    segments = [] if path == "/" else path.split("/")[1:]
    ranks = [int(segment.startswith("{")) for segment in segments]
    return (1, (*ranks, 3) if form == "prefix" else tuple(ranks))


class _Node(Generic[T]):
    """What the routes say after the same beginning, a node for each segment."""

    __slots__ = ("end", "literal", "named", "prefix", "regexes")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[T]] = {}
        self.named: _Node[T] | None = None
        self.end: T | None = None
        """Of templates that end here."""
        self.regexes: list[tuple[Pattern, T]] = []
        self.prefix: T | None = None

    def find(self, segments: Sequence[str], index: int, path: str) -> T | None:
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

    def find_all(self, segments: Sequence[str], index: int, path: str) -> Iterator[T]:
        """Yield all places that match, the one that decides first."""
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
        """Yield all places from here on."""
        yield from (place for place in (self.end, self.prefix) if place is not None)
        yield from (place for _, place in self.regexes)
        for child in (*self.literal.values(), *filter(None, (self.named,))):
            yield from child.places()


class Tree(Generic[T]):
    """All paths of one host."""

    __slots__ = ("_depth", "_exact", "_root")

    def __init__(self) -> None:
        self._exact: dict[str, T] = {}
        self._root: _Node[T] = _Node()
        self._depth = 0

    def find(self, path: str) -> T | None:
        """Return the place that decides for *path*, or None."""
        place = self._exact.get(path)
        if place is not None:
            return place
        # One piece more than the tree is deep: a client can't choose what this costs.
        segments = path.split("/", self._depth + 1)
        if segments[0]:
            return None  # `*`, which is no path
        return self._root.find(segments, 1, path)

    def find_all(self, path: str) -> Iterator[T]:
        """Yield all places that match *path*, the one that decides first."""
        if path in self._exact:
            yield self._exact[path]
        segments = path.split("/", self._depth + 1)
        if not segments[0]:
            yield from self._root.find_all(segments, 1, path)

    def place(
        self, form: Form, path: str, make: Callable[[], T], reading: Reading = EXACT
    ) -> T:
        """Return the place of *path*, from *make* if it is new.

        With a *reading*, the path's literals stand in their folded form. A regex stays
        as it is, but in place of a capital it takes the small letter, too, if case is
        folded: what it is asked about is a folded path.
        """
        if form == "regex":
            return self._regex(Pattern(path, lower=reading.case), make, reading)
        if reading != EXACT:
            path = fold(path, reading)
        if form == "exact":
            return self._exact.setdefault(path, make())
        node = self._node([] if path == "/" else path.split("/")[1:])
        if form == "template":
            node.end = place = node.end or make()
        else:
            node.prefix = place = node.prefix or make()
        return place

    def _regex(self, pattern: Pattern, make: Callable[[], T], reading: Reading) -> T:
        # Only whole segments lead to a node: the last piece may go on.
        segments = pattern.literal_prefix.split("/")[1:-1]
        if reading != EXACT:
            segments = [fold_segment(segment, reading) for segment in segments]
        node = self._node(segments)
        for known, place in node.regexes:
            if known == pattern:
                return place
        place = make()
        node.regexes.append((pattern, place))
        # Stable, so that the file's order stays for those of equal length.
        node.regexes.sort(key=lambda regex: -len(regex[0].literal_prefix))
        return place

    def _node(self, segments: Sequence[str]) -> _Node[T]:
        self._depth = max(self._depth, len(segments))
        node = self._root
        for segment in segments:
            if segment.startswith("{"):
                node.named = node = node.named or _Node()
            else:
                node = node.literal.setdefault(segment, _Node())
        return node

    def places(self) -> Iterator[T]:
        """Yield all places."""
        yield from self._exact.values()
        yield from self._root.places()


class Forest(Generic[T]):
    """The trees of all hosts."""

    __slots__ = ("_any_host", "_trees")

    def __init__(self) -> None:
        self._any_host: Tree[T] = Tree()
        self._trees: dict[str, Tree[T]] = {}
        """By `api.example.com`, or by `.example.com` for the wildcard."""

    def tree(self, host: str | None) -> Tree[T]:
        """Return the tree of a route's host, made if it is new."""
        if host is None:
            return self._any_host
        return self._trees.setdefault(host.removeprefix("*"), Tree())

    def levels(self, host: str) -> Iterator[Tree[T] | None]:
        """Yield the trees for a request's *host*, the most specific name first.

        None where no route names this host or this wildcard.
        """
        yield self._trees.get(host)
        dot = host.find(".") if len(host) <= _MAX_HOST else -1
        while dot >= 0:
            yield self._trees.get(host[dot:])
            dot = host.find(".", dot + 1)
        yield self._any_host

    def find(self, host: str, path: str) -> T | None:
        """Return the place that decides, or None."""
        if not self._trees:
            return self._any_host.find(path)
        for tree in self.levels(host):
            if tree is not None:
                place = tree.find(path)
                if place is not None:
                    return place
        return None

    def find_all(self, host: str, path: str) -> Iterator[T]:
        """Yield all places that match, the one that decides first."""
        for tree in self.levels(host):
            if tree is not None:
                yield from tree.find_all(path)

    def places(self) -> Iterator[T]:
        """Yield all places."""
        for tree in (self._any_host, *self._trees.values()):
            yield from tree.places()
