"""PURE. Rules, what they read, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from gateway.config import Config, EffectiveRoute, Finding, Loc, effective_routes
from gateway.routes import Remark, Route, RouteTable, remarks


class AuditSeverity(StrEnum):
    """How grave a finding is."""

    HIGH = "high"
    """Somebody may get in, or read what isn't theirs."""
    MEDIUM = "medium"
    """A protection is weaker than it looks."""
    LOW = "low"
    """A default that should be a decision, or something superfluous."""

    def is_at_least(self, other: AuditSeverity) -> bool:
        """Return whether it is as grave as *other*."""
        return _ORDER.index(self) <= _ORDER.index(other)


_ORDER: Final = tuple(AuditSeverity)


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What the rules read. `remarks` and `routes` are made once, at first use."""

    config: Config
    table: RouteTable
    is_written: Callable[[Loc], bool]
    """Whether the file itself has the value at a place, and no variable has."""
    site: Callable[[str], object]
    """The site of an origin: two origins of one site have equal ones."""

    @cached_property
    def remarks(self) -> Sequence[Remark]:
        """The remarks of `gateway routes`."""
        return remarks(self.table)

    @cached_property
    def routes(self) -> Sequence[tuple[Route, EffectiveRoute]]:
        """Each route in the order of the file, with the keys that hold for it."""
        found = effective_routes(self.config)
        in_file = sorted(self.table.routes, key=lambda route: route.index)
        return [(route, found[route.index]) for route in in_file]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a rule has found, without its place."""

    loc: Loc
    message: str
    remedy: str
    route: Route | None = None
    """The route that it is about."""
    counterpart: str = ""
    """What else it is about: the label of a route, a service, a role, an origin."""
    see: Loc | None = None
    """The place of the counterpart."""
    severity: AuditSeverity | None = None
    """None: the rule's."""

    @classmethod
    def of(cls, finding: Finding, counterpart: str = "") -> Hit:
        """Return what `gateway check` warns of."""
        return cls(
            loc=finding.loc,
            message=finding.message,
            remedy=finding.hint,
            counterpart=counterpart,
            see=finding.see,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRule:
    """One rule of `gateway audit`."""

    id: str
    severity: AuditSeverity
    """The gravest that it reports."""
    title: str
    """What it finds, in a few words."""
    find: Callable[[Audited], Iterable[Hit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFinding:
    """A hit with its place."""

    rule: str
    severity: AuditSeverity
    route: str
    """The label of the route; empty if it is about none."""
    counterpart: str
    """What else it is about; empty: nothing."""
    file: str
    line: int
    column: int
    path: str
    """The place as keys: `routes[2]`."""
    message: str
    remedy: str
    see: str
    """The other place; empty: none."""
    fingerprint: str
    """Of rule, route and counterpart: 16 hex digits. It stays when lines move."""
