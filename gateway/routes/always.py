"""PURE. What holds for every request (`tests.always`), decided over the whole table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.config import AlwaysConfig, Config
from gateway.identity import Protection, Requirements
from gateway.routes.build import requirements_of
from gateway.routes.describe import needs_words
from gateway.routes.path_classes import TooManyPaths
from gateway.routes.remarks import spellings
from gateway.routes.route import Route
from gateway.routes.strictness import is_implied
from gateway.routes.table import RouteTable
from gateway.routes.ways import Way, Ways, ways

_MOST_SHOWN: Final = 5
"""Routes that break one property, named one by one."""
_PUBLIC: Final = "public"
_NO_EXAMPLE: Final = "no example was found, but it isn't ruled out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Whether one property holds."""

    number: int
    """Its place in the list, from zero."""
    title: str
    reasons: tuple[str, ...]
    """Why it doesn't hold; empty: it does."""


def decided(settings: Config, table: RouteTable) -> Iterator[Decided]:
    """Yield for each property of `tests.always` whether it holds for all requests."""
    always = () if settings.tests is None else settings.tests.always
    if not always:
        return
    below = dict.fromkeys(one.below for one in always if one.below is not None)
    methods = dict.fromkeys(name for one in always for name in one.methods or ())
    found: Ways | None = None
    with contextlib.suppress(TooManyPaths):
        found = ways(settings, table, tuple(below), tuple(methods))
    for number, one in enumerate(always):
        reasons = [*_unknown(one, table)]
        if one.near_misses is not None:
            reasons += _near_misses(table)
        elif found is None:
            reasons.append("the table is too large: this can't be decided")
        else:
            reasons += _broken(one, table, found)
        yield Decided(number=number, title=_title(one), reasons=tuple(reasons))


def _title(one: AlwaysConfig) -> str:
    if one.public is not None:
        return "always: public only " + (", ".join(one.public.only) or "nothing")
    if one.near_misses is not None:
        return "always: near misses are safe"
    if one.reaches_only is not None:
        return f"always: role {one.role} reaches only {', '.join(one.reaches_only)}"
    assert one.needs is not None, "see AlwaysConfig.conflicts"
    words = ["always:", *(one.methods or ())]
    if one.below is not None:
        words.append(f"below {one.below}")
    needs = ", ".join(needs_words(requirements_of(one.needs)))
    return f"{' '.join(words)} needs {needs or 'session'}"


def _unknown(one: AlwaysConfig, table: RouteTable) -> Iterator[str]:
    """Yield a reason for each name that is no route's: it would hide a mistake."""
    known = {route.name for route in table.routes}
    if one.reaches_only is not None:
        known.add(_PUBLIC)
    only = () if one.public is None else one.public.only
    for name in (*only, *one.except_for, *(one.reaches_only or ())):
        if name not in known:
            yield f"no route is called {name}"


def _broken(one: AlwaysConfig, table: RouteTable, found: Ways) -> Iterator[str]:
    """Yield a reason for each route that lets a request through against *one*."""
    is_broken, why = _rule(one)
    by_route: dict[Route, list[Way]] = {}
    for (route, method, places), examples in found.items():
        if one.methods is not None and method not in one.methods:
            continue
        if one.below is not None and one.below not in places:
            continue
        if is_broken(route):
            by_route.setdefault(route, []).extend(examples)
    for number, (route, examples) in enumerate(by_route.items()):
        if number == _MOST_SHOWN:
            yield f"{len(by_route) - number} more routes"
            return
        taken = next((way for way in examples if way.is_taken(table)), None)
        if taken is not None:
            yield f"{taken}: {route.name} {why(route)}"
        else:
            yield f"{route.name} {why(route)}; {_NO_EXAMPLE}"


def _rule(
    one: AlwaysConfig,
) -> tuple[Callable[[Route], bool], Callable[[Route], str]]:
    """Return what a route must not be, and how that is said of it."""
    if one.public is not None:
        only = one.public.only
        return (
            lambda route: _needs_none(route) and route.name not in only,
            lambda _: "needs no session, and isn't listed",
        )
    if one.needs is not None:
        needs = requirements_of(one.needs)
        return (
            lambda route: (
                route.name not in one.except_for
                and (
                    _needs_none(route)
                    or not is_implied(needs, route.session.requirements)
                )
            ),
            _lets_through,
        )
    names = one.reaches_only or ()
    roles = (one.role or "",)
    return (
        lambda route: (
            route.name not in names
            and not (_PUBLIC in names and _needs_none(route))
            and (
                _needs_none(route)
                or _may_meet(route.session.requirements, roles, one.permissions)
            )
        ),
        lambda _: f"lets the role {one.role} through",
    )


def _needs_none(route: Route) -> bool:
    return route.session.protection is not Protection.REQUIRED


def _lets_through(route: Route) -> str:
    if _needs_none(route):
        return f"needs no session ({route.session.protection.value})"
    needs = ", ".join(needs_words(route.session.requirements))
    return f"needs {needs or 'only a session'}"


def _may_meet(
    needs: Requirements, roles: Sequence[str], permissions: Sequence[str] | None
) -> bool:
    """Return whether a session of just these *roles* may meet *needs*.

    Whatever else it must have is taken as had, and permissions are if they are None.
    """
    open_needs = replace(needs, alternatives=())
    if not _has(open_needs.roles_any, open_needs.roles_all, roles):
        return False
    if permissions is not None and not _has(
        open_needs.permissions_any, open_needs.permissions_all, permissions
    ):
        return False
    return all(
        any(_may_meet(item, roles, permissions) for item in group)
        for group in needs.alternatives
    )


def _has(some: Sequence[str], every: Sequence[str], names: Sequence[str]) -> bool:
    return (not some or not set(some).isdisjoint(names)) and set(every) <= set(names)


def _near_misses(table: RouteTable) -> Iterator[str]:
    """Yield a reason if a near miss may be forwarded."""
    if table.refuses_near_misses or not table.guarded_services():
        return
    miss = next(spellings(table), None)
    if miss is None:
        yield (
            "gateway.near_misses is forward, and routes to the same targets differ in"
            f" what they ask for; {_NO_EXAMPLE}"
        )
        return
    other = "" if miss.other is None else miss.other.name
    yield (
        f"{miss.path}: its service may read it as a path of {miss.route.name}, but"
        f" {other} forwards it. Remove gateway.near_misses: forward"
    )
