"""PURE. What of each route the tests in the file look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.identity import Protection
from gateway.routes import Route
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.rules import SessionRules

REACHED: Final = "reached"
"""A test is let through by the route."""
NO_SESSION: Final = "no session"
EXPIRED: Final = "expired"
REWRITE: Final = "rewrite"
"""A test says what its service gets."""


def met(check: str, *, is_met: bool) -> str:
    """Return the goal that a test meets a requirement, or doesn't."""
    return f"{check} {'met' if is_met else 'not met'}"


def goals(route: Route, rules: SessionRules) -> tuple[str, ...]:
    """Return what tests of *route* can look at."""
    policy = route.session
    found = [REACHED]
    if policy.protection is Protection.REQUIRED:
        found.append(NO_SESSION)
    if policy.protection is not Protection.PUBLIC:
        found.append(EXPIRED)
        compiled = CompiledPolicy(policy, rules)
        if not compiled.needs_sdk:  # otherwise no check is judged here
            for check in compiled.checks:
                found += (met(check.id, is_met=each) for each in (True, False))
    found += route.methods or ()
    if route.rewrite is not None and route.answer is None:
        found.append(REWRITE)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What tests look at, of all that they could."""

    goals: int
    missing: Mapping[str, tuple[str, ...]]
    """Route → what no test looks at; routes without any aren't there."""

    @property
    def covered(self) -> int:
        return self.goals - sum(map(len, self.missing.values()))

    @property
    def percent(self) -> float:
        return 100 * self.covered / self.goals if self.goals else 100.0


def coverage(
    routes: Iterable[Route],
    rules: SessionRules,
    covered: Iterable[tuple[str | None, frozenset[str]]],
) -> Coverage:
    """Return the coverage of *routes*; *covered* has the route of each test, and what
    the test looks at."""
    seen: dict[str | None, set[str]] = {}
    for name, some in covered:
        seen.setdefault(name, set()).update(some)
    missing: dict[str, tuple[str, ...]] = {}
    count = 0
    for route in routes:
        known = seen.get(route.name, set())
        wanted = goals(route, rules)
        count += len(wanted)
        rest = tuple(one for one in wanted if one not in known)
        if rest:
            missing[route.name] = (*missing.get(route.name, ()), *rest)
    return Coverage(goals=count, missing=missing)
