"""PURE. Remarks on routes that can be served but may be mistakes.

Each is found by matching an example path with the table itself. `gateway routes` prints
the remarks, and `gateway check` warns of guards that another spelling could pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from gateway.http.path_pattern import Pattern
from gateway.identity import Protection
from gateway.routes.route import Matched, Route
from gateway.routes.strictness import ONE_OF_EACH, is_stricter
from gateway.routes.table import RouteTable


class Kind(StrEnum):
    """The kinds of remarks."""

    SPELLING = "spelling"
    """Its service may read a path of *other*, which requires less, as its own:
    only `gateway.near_misses` guards it."""
    OPEN_BELOW_GUARD = "open_below_guard"
    """It requires no session, although *other*, which encloses it, requires one."""
    ASKS_LESS = "asks_less"
    """It requires a session, but less than *other*, which encloses it."""
    ASKS_OTHER = "asks_other"
    """Both require a session, and each something that the other doesn't."""
    PUBLIC_BY_DEFAULT = "public_by_default"
    """It is public because of `defaults` alone."""
    LOST_METHODS = "lost_methods"
    """Its place refuses a method that *other*, which encloses it, would take."""
    OTHER_HOST = "other_host"
    """It takes requests for a host that *other* names in full, at paths that *other*
    doesn't match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One remark on one route."""

    kind: Kind
    route: Route
    other: Route | None = None
    path: str = ""
    """An example path."""
    method: str = ""
    """For `LOST_METHODS`, the method."""

    def __str__(self) -> str:
        """Return the remark in words, without the name of its route."""
        other = "" if self.other is None else self.other.name
        match self.kind:
            case Kind.SPELLING:
                return f"another spelling, {self.path}, would go to {other}"
            case Kind.OPEN_BELOW_GUARD:
                return f"open, below {other}"
            case Kind.ASKS_LESS:
                return f"asks for less than {other}"
            case Kind.ASKS_OTHER:
                return f"asks for something else than {other}"
            case Kind.PUBLIC_BY_DEFAULT:
                return "public by defaults only"
            case Kind.LOST_METHODS:
                return f"{self.method} is 405, though {other} would take it"
            case Kind.OTHER_HOST:
                return f"takes {self.path} of {other}'s host"


def remarks(table: RouteTable) -> list[Remark]:
    """Return all remarks, in the order of the file.

    Each has the path with which it was found. For a template or a regex, one example is
    tried: every remark is true, but some may be missing.
    """
    result = [
        *spellings(table),
        *_below(table),
        *_by_default(table),
        *lost_methods(table),
        *_other_hosts(table),
    ]
    return sorted(result, key=lambda one: (one.route.index, one.kind))


def spellings(table: RouteTable) -> Iterator[Remark]:
    """Yield a remark for each guard that a laxer route lets another spelling pass."""
    services = table.guarded_services()
    for guard in table.routes:
        if guard.service not in services:
            continue
        seen: set[Route] = set()
        for host, path in examples(guard):
            for spelling in _spellings(path, guard):
                for method in dict.fromkeys((*(guard.methods or ()), *ONE_OF_EACH)):
                    miss = table.near_miss(method, host, spelling)
                    if miss is None or miss.guard is not guard:
                        continue
                    if miss.route not in seen:
                        seen.add(miss.route)
                        yield Remark(
                            kind=Kind.SPELLING,
                            route=guard,
                            other=miss.route,
                            path=spelling,
                        )


def _below(table: RouteTable) -> Iterator[Remark]:
    for route in table.routes:
        for host, path in examples(route):
            enclosing = _enclosing(table, route, host, path)
            if enclosing is None:
                continue
            for method in route.methods or ONE_OF_EACH:
                if is_stricter(enclosing.session, route.session, method):
                    yield Remark(
                        kind=_laxity(enclosing, route, method),
                        route=route,
                        other=enclosing,
                        path=path,
                    )
                    break
            else:
                continue
            break


def _laxity(enclosing: Route, route: Route, method: str) -> Kind:
    """Return how *route* is laxer than *enclosing*, which is known."""
    if route.session.protection is not Protection.REQUIRED:
        return Kind.OPEN_BELOW_GUARD
    if is_stricter(route.session, enclosing.session, method):
        return Kind.ASKS_OTHER
    return Kind.ASKS_LESS


def _enclosing(table: RouteTable, route: Route, host: str, path: str) -> Route | None:
    """Return the route that would take *path* without the place of *route*, or None."""
    method = (route.methods or ONE_OF_EACH)[0]
    places = table.candidates(host, path)
    for place in places:
        if route in place.routes:
            break
    for place in places:
        outcome = place.choose(method)
        return outcome.route if isinstance(outcome, Matched) else None
    return None


_COMMON_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def lost_methods(table: RouteTable) -> Iterator[Remark]:
    """Yield a remark for each place that refuses what an enclosing route would take.

    A guard for one method is often meant to guard the path for all of them.
    """
    seen: set[int] = set()
    for route in table.routes:
        for host, path in examples(route):
            places = table.candidates(host, path)
            own = next((place for place in places if route in place.routes), None)
            if own is None or id(own) in seen or own.is_conditional:
                continue
            seen.add(id(own))
            after = next((place for place in places if not place.is_conditional), None)
            if after is None:
                continue
            for method in _COMMON_METHODS:
                taken = after.choose(method)
                refused = not isinstance(own.choose(method), Matched)
                if refused and isinstance(taken, Matched):
                    yield Remark(
                        kind=Kind.LOST_METHODS,
                        route=route,
                        other=taken.route,
                        path=path,
                        method=method,
                    )
                    break


def _by_default(table: RouteTable) -> Iterator[Remark]:
    for route in table.routes:
        if route.session.protection is Protection.PUBLIC and not route.says_protected:
            yield Remark(kind=Kind.PUBLIC_BY_DEFAULT, route=route, path=route.path)


def _other_hosts(table: RouteTable) -> Iterator[Remark]:
    named: dict[str, Route] = {}
    for route in table.routes:
        for host in route.hosts or ():
            if not host.startswith("*."):
                named.setdefault(host, route)
    for route in table.routes:
        wildcards = [host[1:] for host in route.hosts or () if host.startswith("*.")]
        path = next((path for _, path in examples(route)), None)
        if not wildcards or path is None:
            continue
        for host, other in named.items():
            if any(map(host.endswith, wildcards)) and other is not route:
                method = (route.methods or ONE_OF_EACH)[0]
                outcome = table.decide(method, host, path)
                if isinstance(outcome, Matched) and outcome.route is route:
                    yield Remark(
                        kind=Kind.OTHER_HOST, route=route, other=other, path=path
                    )


# --- examples -----------------------------------------------------------------


def examples(route: Route) -> Iterator[tuple[str, str]]:
    """Yield a host and a path that the route matches, for each of its hosts."""
    path: str | None = route.path
    if route.form == "regex":
        path = Pattern(route.path).example()
    else:
        segments = route.path.split("/")
        path = "/".join("x" if one.startswith("{") else one for one in segments)
    if path is not None:
        for host in route.hosts or ("",):
            yield (f"x{host[1:]}" if host.startswith("*.") else host), path


def _spellings(path: str, route: Route) -> Iterable[str]:
    """Yield other spellings of *path*, each with one difference.

    The table decides which of them the service may read as *path*.
    """
    segments = path.split("/")
    if segments[-1]:
        yield f"{path}/"
    else:
        segments.pop()
        yield "/".join(segments) or "/"
    names = route.path.split("/") if route.form != "regex" else []
    for at in reversed(range(1, len(segments))):
        segment = segments[at]
        if at < len(names) and names[at].startswith("{"):
            continue
        for spelled in (
            segment.upper(),
            segment.lower(),
            f"{segment};x",
            f"{segment}.",
        ):
            if segment and spelled != segment:
                yield "/".join([*segments[:at], spelled, *segments[at + 1 :]])
    if len(segments) > 1 and segments[-1]:
        yield f"{'/'.join(segments)}.json"
