"""PURE. Judges a session that is given as claims, by the rules of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.identity import (
    ABSENT,
    Absent,
    Allowed,
    CheckDatabase,
    Pending,
    Principal,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.session import requirements, tokens
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.refusals import Refusals
from gateway.session.rules import SessionRules

_VERSION = 5
"""Of access tokens, as the core issues them now."""
_WHY = "only the SDK can judge this session"
_UNKNOWN = Undecided(reason="internal_error", note=_WHY)


@dataclass(frozen=True, slots=True)
class Judged:
    """One requirement, and whether the session meets it."""

    id: str
    reason: Mapping[str, Any] | None
    """As in the refusal; None: it is met."""
    is_stale: bool
    """The core would be asked for the claim first."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A session whose access token has expired."""


Given = Mapping[str, Any] | Expired | None
"""The payload of an access token. None: the request shows no session."""


@dataclass(slots=True)
class GivenSession:
    """Takes the place of `SessionAuthenticator`, and notes what it has judged."""

    rules: SessionRules
    given: Given
    now: float
    """In seconds since the epoch."""
    judged: list[Judged] = field(default_factory=list)
    asks_core: CheckDatabase = CheckDatabase.NEVER
    """When the route has the core confirm that the session exists."""
    is_unknown: bool = False
    """Only the SDK can judge: a validator or an override of the operator's own."""

    def judge(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | Absent | Pending:
        """Return the verdict on the session that is given."""
        refusals = Refusals(self.rules)
        compiled = CompiledPolicy(policy, self.rules)
        self.asks_core = compiled.when
        if self.given is None:
            return ABSENT
        if isinstance(self.given, Expired):
            return refusals.try_refresh(tokens.Flaw.EXPIRED)
        if compiled.needs_sdk or self.rules.is_sdk_only:
            self.is_unknown = True
            return _UNKNOWN
        payload = self.given
        for check in compiled.checks:
            stale = check.is_stale(payload, self.now)
            self.judged.append(Judged(check.id, check.reason(payload), stale))
        if failed := requirements.refusals(compiled.checks, payload):
            return refusals.invalid_claims(failed)
        principal = tokens.identity_of(payload, _VERSION)
        return Allowed(principal=principal, reason="local")

    def has_ended(self, principal: Principal) -> bool:
        """Return False: it is given as one that hasn't."""
        return False
