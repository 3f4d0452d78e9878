"""PURE. Which routes may let which requests through, decided over a whole table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Final
from urllib.parse import quote

from gateway.config import Config
from gateway.errors import BadTarget
from gateway.http import target
from gateway.http.fields import Fields
from gateway.http.methods import METHODS
from gateway.routes.assertion_lint import jwks_path
from gateway.routes.condition import Condition
from gateway.routes.path_classes import PathClass, path_classes
from gateway.routes.route import Conditional, Matched, Outcome, Route
from gateway.routes.table import RouteTable

_COMMON: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_MOST_EXAMPLES: Final = 8
"""Kept for each route and method: the first ones may be refused as near misses."""
_MOST_FIELDS: Final = 256
"""Tried to meet one condition without those before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A request that a route may let through."""

    route: Route
    method: str
    host: str
    path: str
    fields: Fields = ()
    query: bytes = b""

    def is_taken(self, table: RouteTable) -> bool:
        """Return whether *table* has the route take just this request.

        It doesn't if the request is refused as a near miss, for instance.
        """
        raw, host = self.path.encode(), self.host.encode() or None
        try:
            if self.route.slashes == target.NO_SLASHES:
                parsed = target.parse(raw, self.method, host)
            else:
                parsed = target.parse(raw, self.method, host, self.route.slashes)
        except BadTarget:
            return False
        outcome = table.match(self.method, self.host, self.path)
        if isinstance(outcome, Conditional):
            outcome = outcome.resolve(self.fields, self.query)
        taken = isinstance(outcome, Matched) and outcome.route is self.route
        return taken and parsed.path == self.path

    def __str__(self) -> str:
        """Return it as a person would ask `gateway explain`."""
        host = f"http://{self.host}" if self.host else ""
        text = f"{self.method} {host}{self.path}{self.query.decode()}"
        return text + "".join(
            f" -H '{name.decode()}: {value.decode('latin-1')}'"
            for name, value in self.fields
        )


Ways = Mapping[tuple[Route, str, frozenset[str]], list[Way]]
"""Route, method, and those of the paths that were asked for which the request's path is
below → examples."""


def ways(
    settings: Config,
    table: RouteTable,
    below: Collection[str] = (),
    methods: Iterable[str] = (),
) -> Ways:
    """Return every way through *table*, with some examples.

    A way that no request takes may be included, but none is missing, so what holds for
    all of them holds for all requests. Those that the gateway answers itself are left
    out, and so are routes that refuse.

    Raises:
        TooManyPaths: the table is too large for it.
    """
    own = [
        settings.gateway.user_path,
        settings.gateway.access_path,
        jwks_path(settings),
    ]
    own_paths = [path for path in own if path is not None]
    auth = settings.supertokens.api_base_path
    tried = _methods(table, methods)
    found: dict[tuple[Route, str, frozenset[str]], list[Way]] = defaultdict(list)
    for one in path_classes(table, (*below, auth), own_paths):
        if one.path in own_paths or is_below(one.path, auth):
            continue
        places = frozenset(place for place in below if is_below(one.path, place))
        for method in tried:
            for way in _ways(table, one, method):
                known = found[way.route, method, places]
                if len(known) < _MOST_EXAMPLES:
                    known.append(way)
    return found


def is_below(path: str, place: str) -> bool:
    """Return whether *path* is *place*, a path without final slash, or below it."""
    return place == "/" or path == place or path.startswith(f"{place}/")


def _methods(table: RouteTable, methods: Iterable[str]) -> list[str]:
    """Return methods that stand for all."""
    listed = chain.from_iterable(route.methods or () for route in table.routes)
    known = dict.fromkeys((*_COMMON, *listed, *methods))
    others = (name for name in sorted(METHODS) if name not in known)
    return [*known, *islice(others, 1)]


def _ways(table: RouteTable, one: PathClass, method: str) -> Iterator[Way]:
    outcome: Outcome | Conditional
    if len(one.forms) == 1:
        outcome = table.decide(method, one.host, one.path)
    else:
        outcome = table.decide_read(method, one.host, one.forms)
    for route, fields, query in _possible(outcome):
        if route.answer is not None and route.answer.refuses:
            continue
        if ("//" in one.path and not route.slashes.repeated) or (
            "%2f" in one.path.lower() and not route.slashes.encoded
        ):
            continue  # it is matched without these slashes
        yield Way(
            route=route,
            method=method,
            host=one.host,
            path=one.path,
            fields=fields,
            query=query,
        )


def _possible(
    outcome: Outcome | Conditional,
) -> Iterator[tuple[Route, Fields, bytes]]:
    """Yield the routes that *outcome* may lead to, with fields and query for each."""
    if not isinstance(outcome, Conditional):
        if isinstance(outcome, Matched):
            yield outcome.route, (), b""
        return
    before: list[Condition] = []
    for condition, one in outcome.options:
        if isinstance(one, Matched):
            met = _met(condition, before)
            if met is not None:
                yield one.route, *met
        before.append(condition)
    if isinstance(outcome.otherwise, Matched):
        yield outcome.otherwise.route, (), b""


def _met(condition: Condition, before: list[Condition]) -> tuple[Fields, bytes] | None:
    """Return fields and a query that meet *condition* and none of *before*.

    The result is None if there are none. A parameter has all of its values at once, as
    each more makes it harder for the others to hold.
    """
    listed = {
        value
        for one in (condition, *before)
        for _, values in one.fields
        for value in values or ()
    }
    words = {
        value.decode()
        for one in before
        for _, values in one.query
        for value in values or ()
    }
    pairs = [
        (name, value.decode())
        for name, values in condition.query
        for value in (sorted(values) if values else [_other(words).encode()])
    ]
    text = "&".join(
        f"{quote(name, safe='')}={quote(one, safe='')}" for name, one in pairs
    )
    query = f"?{text}".encode() if pairs else b""
    other = _other({value.decode("latin-1") for value in listed}).encode()
    choices = [
        [(name, value) for value in (sorted(values) if values else [other])]
        for name, values in condition.fields
    ]
    first: tuple[Fields, bytes] | None = None
    for number, chosen in enumerate(product(*choices)):
        first = first or (chosen, query)
        if number >= _MOST_FIELDS:
            return first  # it may be met, as far as is known
        if not any(one.holds(chosen, query) for one in before):
            return chosen, query
    return None


def _other(words: set[str]) -> str:
    """Return a value that isn't one of *words*."""
    number = 0
    while (text := f"x{number or ''}") in words:
        number += 1
    return text
