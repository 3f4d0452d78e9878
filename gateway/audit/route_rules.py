"""PURE. Rules about routes: what they let through, and to where."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from gateway import config
from gateway.audit.findings import Audited, Hit
from gateway.config import EffectiveRoute, Loc
from gateway.identity import (
    SAFE_METHODS,
    CheckDatabase,
    Protection,
    Requirements,
)
from gateway.routes import Kind, Remark, Route
from gateway.routes.labels import is_named, label
from gateway.routes.remarks import spellings

_MAX_UNNAMED: Final = 10
"""More routes without a name make logs and metrics hard to read."""


def open_below_guard(audited: Audited) -> Iterator[Hit]:
    """GW001: a route without a session below one that requires a session."""
    yield from _remarked(
        audited,
        Kind.OPEN_BELOW_GUARD,
        "{path} needs no session, although {other}, which encloses it, requires one",
        "Protect it, or accept it with the reason why everybody may call it",
    )


def asks_less(audited: Audited) -> Iterator[Hit]:
    """GW002: a more specific route that requires less."""
    yield from _remarked(
        audited,
        Kind.ASKS_LESS,
        "{path} requires less than {other}, which encloses it",
        "Require the same and more: put it into a group, or repeat the keys",
    )


def asks_other(audited: Audited) -> Iterator[Hit]:
    """GW003: a more specific route that requires something else."""
    yield from _remarked(
        audited,
        Kind.ASKS_OTHER,
        "{path} doesn't require all that {other}, which encloses it, requires, but"
        " something else",
        "Require that, too, unless the two are for different people",
    )


def public_by_default(audited: Audited) -> Iterator[Hit]:
    """GW004: a route that is public because of `defaults` alone."""
    yield from _remarked(
        audited,
        Kind.PUBLIC_BY_DEFAULT,
        "this route is public only because of defaults.protected: false",
        "Write protected: false on it if that is meant, or protected: true",
    )


def other_host(audited: Audited) -> Iterator[Hit]:
    """GW021: a wildcard's route that takes requests for a host that others name."""
    yield from _remarked(
        audited,
        Kind.OTHER_HOST,
        "this wildcard takes {path} of the host of {other}",
        "Add a route for / to that host, or name the hosts of this route",
    )


def _remarked(audited: Audited, kind: Kind, message: str, remedy: str) -> Iterator[Hit]:
    for remark in audited.remarks:
        if remark.kind is kind:
            yield _hit(remark, message, remedy)


def _hit(remark: Remark, message: str, remedy: str) -> Hit:
    other = remark.other
    return Hit(
        loc=remark.route.loc,
        message=message.format(
            path=remark.path, other="" if other is None else label(other)
        ),
        remedy=remedy,
        route=remark.route,
        counterpart="" if other is None else label(other),
        see=None if other is None else other.loc,
    )


def public_writes(audited: Audited) -> Iterator[Hit]:
    """GW005: a public route that takes writes as large as the default."""
    if "max_body_size" in audited.config.gateway.limits.model_fields_set:
        return
    for route, effective in audited.routes:
        is_open = route.session.protection is Protection.PUBLIC
        if is_open and route.answer is None and _writes(route):
            if effective.settings.request.max_body_size is not None:
                continue
            yield Hit(
                loc=route.loc,
                message="everybody may send bodies of"
                f" {route.max_body_size // 1024**2} MiB, the default, to this route",
                remedy="Set request.max_body_size, or list the methods that it takes",
                route=route,
            )


def forwarded_near_misses(audited: Audited) -> Iterator[Hit]:
    """GW012: a guard that another spelling of its path passes."""
    if audited.table.refuses_near_misses:
        return
    for remark in spellings(audited.table):
        yield _hit(
            remark,
            "{path} is forwarded by {other}, and the service may read it as this"
            " route's path",
            "Remove gateway.near_misses: forward, or declare how the service reads"
            " paths",
        )


def no_max_age(audited: Audited) -> Iterator[Hit]:
    """GW013: a role or permission that holds until the token ends."""
    for route, _ in audited.routes:
        if any(map(_is_ageless, _parts(route.session.requirements))):
            yield Hit(
                loc=(*route.loc, "require"),
                message="a role or permission that is taken away still counts until the"
                " access token expires",
                remedy="Set require.max_age, such as 60s",
                route=route,
            )


def _parts(needs: Requirements) -> Iterator[Requirements]:
    yield needs
    for group in needs.alternatives:
        yield from group


def _is_ageless(needs: Requirements) -> bool:
    return needs.max_age_s is None and bool(
        needs.roles_any
        or needs.roles_all
        or needs.permissions_any
        or needs.permissions_all
    )


def unasked_core(audited: Audited) -> Iterator[Hit]:
    """GW014: writes of sessions that have ended elsewhere."""
    for route, _ in audited.routes:
        policy = route.session
        if (
            policy.protection is Protection.REQUIRED
            and policy.check_database is CheckDatabase.NEVER
            and route.answer is None
            and _writes(route)
        ):
            yield Hit(
                loc=route.loc,
                message="the core is never asked, so a session that was revoked"
                " elsewhere can write until its token expires",
                remedy="Set session.check_database: on_write",
                route=route,
            )


def _writes(route: Route) -> bool:
    return route.methods is None or not SAFE_METHODS.issuperset(route.methods)


def endless_websockets(audited: Audited) -> Iterator[Hit]:
    """GW016: a route that is meant for WebSockets, which have no end."""
    for route, effective in audited.routes:
        websocket = route.websocket
        if (
            effective.settings.websocket.model_fields_set
            and websocket.enabled
            and websocket.max_lifetime is None
        ):
            yield Hit(
                loc=(*route.loc, "websocket"),
                message="a WebSocket of this route may last for ever",
                remedy="Set websocket.max_lifetime, such as 12h",
                route=route,
            )


_LITERAL: Final = r"(?:[A-Za-z0-9/_~%!,;:@&='-]|\\[^A-Za-z0-9])"
_PLAIN: Final = re.compile(rf"{_LITERAL}+")
_PREFIX: Final = re.compile(rf"({_LITERAL}+?)\((?:\?:)?/\.\*\)\?")
_TEMPLATE: Final = re.compile(rf"(?:/{_LITERAL.replace('/', '', 1)}+|/\[\^/\]\+)+")


def needless_regex(audited: Audited) -> Iterator[Hit]:
    """GW018: a regex that another form says more simply."""
    for route, effective in audited.routes:
        form, path = _simpler(effective)
        if form:
            # In a group, the regex in the file is only the end of this path.
            is_whole = len(route.loc) == len(("routes", 0))
            instead = f"{form}: {path}" if is_whole else f"{form} in its place"
            yield Hit(
                loc=(*route.loc, "match" if effective.match.path else "path"),
                message="this regex matches what a simpler form does",
                remedy=f"Write {instead}",
                route=route,
            )


def _simpler(effective: EffectiveRoute) -> tuple[str, str]:
    """Return the form that can replace the route's regex, and its path, or nothing.

    `gateway check` refuses a regex without any sign.
    """
    if effective.form != "regex":
        return "", ""
    path = effective.path
    if _PLAIN.fullmatch(path):
        return "exact", _unescaped(path)
    if (prefix := _PREFIX.fullmatch(path)) is not None:
        return "prefix", _unescaped(prefix[1])
    if _TEMPLATE.fullmatch(path):
        names = iter("abcdefghijklmnopqrstuvwxyz")
        if path.count("[^/]+") > 26:
            return "", ""
        named = re.sub(r"\[\^/\]\+", lambda _: f"{{{next(names)}}}", path)
        return "template", f'"{_unescaped(named)}"'
    return "", ""


def _unescaped(path: str) -> str:
    return re.sub(r"\\(.)", r"\1", path)


def passed_401(audited: Audited) -> Iterator[Hit]:
    """GW019: a service's 401 that sends frontends into a loop."""
    for route, _ in audited.routes:
        if (
            route.upstream_401 == "pass"
            and route.session.protection is not Protection.PUBLIC
            and route.answer is None
        ):
            yield Hit(
                loc=(*route.loc, "upstream_401"),
                message="frontends take the service's own 401 for an expired session,"
                " refresh it, and ask again, without end",
                remedy="Remove upstream_401: pass, so that they get 403",
                route=route,
            )


def many_unnamed(audited: Audited) -> Iterator[Hit]:
    """GW024: many routes without a name."""
    first: dict[Loc, Route] = {}
    for route, _ in audited.routes:
        if not is_named(route):
            first.setdefault(route.loc, route)
    if len(first) > _MAX_UNNAMED:
        loc = next(iter(first))
        yield Hit(
            loc=loc,
            message=f"{len(first)} routes have no name, so logs and metrics name them"
            " by their number in the file, which changes with it",
            remedy="Give them a name",
        )


# --- names that are nearly the same -------------------------------------------

_MIN_LENGTH: Final = 4
"""Of shorter names, many are one edit apart."""


def similar_names(audited: Audited) -> Iterator[Hit]:
    """GW011: a role or permission that is one edit from another."""
    for key in ("roles", "permissions"):
        uses: list[tuple[str, Route]] = []
        for route, effective in audited.routes:
            uses += [(name, route) for name in dict.fromkeys(_names(effective, key))]
        counts = Counter(name for name, _ in uses)
        places = dict(reversed(uses))  # the first route with each name
        names = sorted(counts, key=lambda name: (-counts[name], places[name].index))
        for number, name in enumerate(names):
            near = next((x for x in names[:number] if is_one_edit(name, x)), None)
            if near is not None:
                route = places[name]
                kind = key.removesuffix("s")
                yield Hit(
                    loc=(*route.loc, "require"),
                    message=f"the {kind} '{name}' is nearly '{near}', which other"
                    " requirements name",
                    remedy="Correct it, or accept it if both exist",
                    route=route,
                    counterpart=f"{name} {near}",
                    see=(*places[near].loc, "require"),
                )


def _names(effective: EffectiveRoute, key: str) -> Iterator[str]:
    for require in effective.requires:
        for part in (require, *require.any):
            wanted: config.AnyAll = getattr(part, key)
            yield from (*wanted.any, *wanted.all)


def is_one_edit(one: str, other: str) -> bool:
    """Return whether a slip of the keyboard makes *one* of *other*.

    That is a character too many, missing, other or exchanged with the next, or capitals
    in place of small letters. Numbers tell names apart: `tier1` isn't `tier2`.
    """
    if min(len(one), len(other)) < _MIN_LENGTH or one == other:
        return False
    if one.lower() == other.lower():
        return True
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1:
        return False
    start = 0
    while start < len(one) and one[start] == other[start]:
        start += 1
    a, b = one[start:], other[start:]
    if len(a) < len(b):
        return a == b[1:] and not b[0].isdigit()
    if a[1:] == b[1:]:
        return not (a[0].isdigit() or b[0].isdigit())
    return a[:2] == b[1::-1] and a[2:] == b[2:]
