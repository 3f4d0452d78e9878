"""PURE. Who may reach what: a mark for each route and each role, permission or tenant.

A mark is about a session of which one thing is known: its only role, its only
permission, or its tenant. The route's checks are those that requests are judged by.
What a check asks besides is unknown, so a mark is certain or says that it isn't.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from gateway.identity import Protection, Requirements
from gateway.routes import Route
from gateway.session import requirements
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.requirements import Alternative, Check, Includes, Payload, TenantIn
from gateway.session.rules import SessionRules

By = Literal["role", "permission", "tenant"]
_CLAIM: Final[Mapping[By, str]] = {
    "role": requirements.ROLES,
    "permission": requirements.PERMISSIONS,
    "tenant": requirements.TENANT,
}


class Mark(StrEnum):
    """Whether a route lets a session through."""

    MET = "✓"
    """It meets what the route requires."""
    ANY = "(✓)"
    """Any session does."""
    PUBLIC = "○"
    """No session is needed."""
    REFUSED = "·"
    UNKNOWN = "?"
    """It depends on what the column doesn't say."""


MEANINGS: Final[Mapping[Mark, str]] = {
    Mark.MET: "let through, since it meets what the route requires",
    Mark.ANY: "let through, as any session is",
    Mark.PUBLIC: "let through, since no session is needed",
    Mark.REFUSED: "refused",
    Mark.UNKNOWN: "can't be known: it depends on what the column doesn't say",
}
UNKNOWABLE: Final = (
    "Users, the permissions of roles, and members of tenants: the core has them.",
    "Whether a session still exists. A route may ask the core, for new claims, too.",
    "What validators and overrides in Python decide: these are marked with ?.",
    "Which requests are refused before: near misses, rate limits, bodies, addresses.",
    "Which route a request with certain fields or a certain query takes.",
    "What services check themselves, and who reaches them past the gateway.",
    "The paths that the gateway answers itself, such as /auth/*, aren't listed.",
)


@dataclass(frozen=True, slots=True)
class Column:
    """A session of which one thing is known."""

    title: str
    payload: Payload | None
    """The claim that is known; None: there is no session."""
    claim: str | None
    """Its name; None: nothing is known of the session."""


NOBODY: Final = Column("no session", None, None)
SOMEBODY: Final = Column("a session", {}, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRow:
    """A route, and the marks of all columns."""

    number: int
    """Its rank in the order of matching, from one."""
    route: Route
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Who may reach what."""

    by: By
    columns: tuple[Column, ...]
    rows: tuple[AccessRow, ...]


def matrix(
    routes: Sequence[Route],
    rules: SessionRules,
    by: By,
    only: Iterable[Route] | None = None,
) -> Matrix:
    """Return the marks of *routes*, which are in the order of matching.

    There is a column for each name that a route asks for. *only*: the rows of these.
    """
    names = dict.fromkeys(
        name for route in routes for name in _names(route.session.requirements, by)
    )
    columns = (NOBODY, SOMEBODY, *(column(by, name) for name in names))
    chosen = set(routes if only is None else only)
    return Matrix(
        by=by,
        columns=columns,
        rows=tuple(
            AccessRow(
                number=number,
                route=route,
                marks=tuple(mark(route, rules, one) for one in columns),
            )
            for number, route in enumerate(routes, start=1)
            if route in chosen
        ),
    )


def column(by: By, name: str) -> Column:
    """Return the column of sessions with this role, permission or tenant alone."""
    claim = _CLAIM[by]
    payload = {claim: name if by == "tenant" else {"v": [name]}}
    return Column(name, payload, claim)


def _names(needs: Requirements, by: By) -> Iterator[str]:
    match by:
        case "role":
            yield from (*needs.roles_any, *needs.roles_all)
        case "permission":
            yield from (*needs.permissions_any, *needs.permissions_all)
        case "tenant":
            yield from needs.tenants
    for group in needs.alternatives:
        for item in group:
            yield from _names(item, by)


def mark(route: Route, rules: SessionRules, of: Column) -> Mark:
    """Return whether *route* lets the sessions of a column through."""
    protection = route.session.protection
    if route.answer is not None and route.answer.refuses:
        return Mark.REFUSED
    if protection is Protection.PUBLIC:
        return Mark.PUBLIC
    is_optional = protection is Protection.OPTIONAL
    if of.payload is None:
        return Mark.PUBLIC if is_optional else Mark.REFUSED
    policy = CompiledPolicy(route.session, rules)
    if policy.needs_sdk or rules.is_sdk_only:
        return Mark.UNKNOWN
    if not policy.checks:
        return Mark.PUBLIC if is_optional else Mark.ANY
    match _all(_is_met(check, of) for check in policy.checks):
        case True:
            return Mark.MET
        case False:
            return Mark.REFUSED
        case _:
            return Mark.UNKNOWN


def _is_met(check: Check, of: Column) -> bool | None:
    """Return whether all sessions of a column meet *check*, or none; else None."""
    match check:
        case Alternative(groups=groups):
            return _any(_all(_is_met(one, of) for one in group) for group in groups)
        case Includes() | TenantIn() if check.id == of.claim:
            assert of.payload is not None, "the caller has looked"
            return check.reason(of.payload) is None
        case _:
            return None


def _all(facts: Iterable[bool | None]) -> bool | None:
    found = set(facts)
    if False in found:
        return False
    return None if None in found else True


def _any(facts: Iterable[bool | None]) -> bool | None:
    found = set(facts)
    if True in found:
        return True
    return None if None in found else False
