"""PURE. Findings with places and fingerprints, without those that are accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, Protocol

from gateway.audit.findings import Audited, AuditFinding, AuditRule, AuditSeverity, Hit
from gateway.audit.rules import RULES
from gateway.config import AcceptanceConfig, Finding, Loc
from gateway.routes.labels import label

_FINGERPRINT_DIGITS: Final = 16
ACCEPTANCE: Final = AuditRule(
    id="GW025",
    severity=AuditSeverity.LOW,
    title="an acceptance that has ended, or accepts nothing",
    find=lambda _: (),
)
"""What `audit.accept` itself can be wrong about. It can't be accepted."""


class Located(Protocol):
    """A finding of `gateway check` with its place (`settings.Problem`)."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def see(self) -> str: ...


Locate = Callable[[Finding], Located]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A finding that the file accepts."""

    finding: AuditFinding
    why: str
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit."""

    findings: tuple[AuditFinding, ...]
    """Those that are reported, the gravest first."""
    accepted: tuple[Known, ...]
    """Those that the file accepts."""
    in_baseline: int
    """How many more there are, which the baseline has."""

    def fails(self, least: AuditSeverity | None) -> bool:
        """Return whether a reported finding is at least as grave; None: never."""
        return least is not None and any(
            one.severity.is_at_least(least) for one in self.findings
        )


def audit(
    audited: Audited,
    locate: Locate,
    today: str,
    baseline: Collection[str] = (),
) -> Audit:
    """Return what all rules find.

    *today* is the day in UTC, as in `audit.accept[].until`. *baseline* are the
    fingerprints of findings that were reported before.
    """
    accepting = _Accepting(audited.config.audit.accept, today)
    reported: list[AuditFinding] = []
    accepted: list[Known] = []
    for finding in _all(audited, locate):
        accept = accepting.take(finding)
        if accept is None:
            reported.append(finding)
        else:
            known = Known(finding=finding, why=accept.why, until=accept.until)
            accepted.append(known)
    doubtful = accepting.doubtful()
    reported += (_located(ACCEPTANCE, hit, locate) for hit in doubtful)
    new = [one for one in reported if one.fingerprint not in baseline]
    return Audit(
        findings=tuple(sorted(new, key=_order)),
        accepted=tuple(accepted),
        in_baseline=len(reported) - len(new),
    )


def _all(audited: Audited, locate: Locate) -> Iterator[AuditFinding]:
    """Yield what the rules find. Findings that would be equal get a number each."""
    for rule in RULES:
        places: dict[tuple[str, str], dict[Loc, None]] = {}
        for hit in rule.find(audited):
            route = "" if hit.route is None else label(hit.route)
            same = places.setdefault((route, hit.counterpart), {})
            if hit.loc in same:
                continue  # another path of the same route
            same[hit.loc] = None
            number = f" ({len(same)})" if len(same) > 1 else ""
            numbered = replace(hit, counterpart=f"{hit.counterpart}{number}".lstrip())
            yield _located(rule, numbered, locate)


class _Accepting:
    """What the file accepts, and which of it is of use."""

    def __init__(self, accepts: Sequence[AcceptanceConfig], today: str) -> None:
        self._accepts = accepts
        self._today = today
        self._used: set[int] = set()
        self._by_key: dict[tuple[str, str], list[int]] = {}
        for number, one in enumerate(accepts):
            self._by_key.setdefault((one.rule, one.route or ""), []).append(number)

    def take(self, finding: AuditFinding) -> AcceptanceConfig | None:
        """Return what accepts *finding*; None: nothing that hasn't ended."""
        holding = None
        for number in self._by_key.get((finding.rule, finding.route), ()):
            accept = self._accepts[number]
            if accept.counterpart in (None, finding.counterpart):
                self._used.add(number)
                if holding is None and accept.until >= self._today:
                    holding = accept
        return holding

    def doubtful(self) -> Iterator[Hit]:
        """Yield a hit for each acceptance that has ended, or hasn't been taken."""
        for number, accept in enumerate(self._accepts):
            if number not in self._used:
                message = f"this accepts nothing: {accept.rule} has no such finding"
                remedy = "Remove it, or write the route as the audit prints it"
            elif accept.until < self._today:
                message = f"this ended on {accept.until}, so its findings are reported"
                remedy = "Mend them, or decide again and write a later day"
            else:
                continue
            about = (accept.rule, accept.route, accept.counterpart)
            yield Hit(
                loc=("audit", "accept", number),
                message=message,
                remedy=remedy,
                counterpart=" ".join(filter(None, about)),
            )


def _order(finding: AuditFinding) -> tuple[object, ...]:
    grave = list(AuditSeverity).index(finding.severity)
    return grave, finding.rule, finding.file, finding.line, finding.column


def _located(rule: AuditRule, hit: Hit, locate: Locate) -> AuditFinding:
    place = locate(
        Finding(loc=hit.loc, message=hit.message, hint=hit.remedy, see=hit.see)
    )
    route = "" if hit.route is None else label(hit.route)
    return AuditFinding(
        rule=rule.id,
        severity=hit.severity or rule.severity,
        route=route,
        counterpart=hit.counterpart,
        file=place.file,
        line=place.line,
        column=place.column,
        path=place.path,
        message=hit.message,
        remedy=hit.remedy,
        see=place.see,
        fingerprint=fingerprint(rule.id, route, hit.counterpart),
    )


def fingerprint(rule: str, route: str, counterpart: str) -> str:
    """Return the fingerprint of a finding: 16 hex digits."""
    text = json.dumps([rule, route, counterpart])
    return sha256(text.encode()).hexdigest()[:_FINGERPRINT_DIGITS]
