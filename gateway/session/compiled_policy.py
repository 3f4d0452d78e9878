"""PURE. A route's policy, compiled under the rules in force."""

from __future__ import annotations

from typing import assert_never

from gateway.identity import SAFE_METHODS, CheckDatabase, Protection, SessionPolicy
from gateway.session import requirements
from gateway.session.rules import GlobalClaims, SessionRules


class CompiledPolicy:
    """What a route's policy comes to under the present rules."""

    __slots__ = (
        "checks",
        "is_required",
        "is_simple",
        "max_age_s",
        "needs_sdk",
        "route_checks",
        "validators",
        "when",
        "withholds",
    )

    def __init__(self, policy: SessionPolicy, rules: SessionRules) -> None:
        self.is_required = policy.protection is Protection.REQUIRED
        self.when = policy.check_database
        self.max_age_s = policy.max_age_s
        self.withholds = policy.withholds
        globally_verified = rules.global_claims is GlobalClaims.EMAIL_VERIFIED
        self.checks = requirements.checks(
            policy.requirements, globally_verified=globally_verified
        )
        # The SDK adds its global one itself, and would list it twice.
        self.route_checks = self.checks[1:] if globally_verified else self.checks
        self.validators = policy.requirements.validators
        self.needs_sdk = bool(self.validators) or (
            rules.global_claims is GlobalClaims.OTHER
        )
        self.is_simple = (
            not self.checks and not self.needs_sdk and self.when is CheckDatabase.NEVER
        )
        """A good token is all it takes."""

    def asks_database(self, method: str, age_s: float) -> bool:
        """Return whether the core must confirm that the session exists.

        *age_s* is how long ago it last did.
        """
        match self.when:
            case CheckDatabase.NEVER:
                return False
            case CheckDatabase.ON_WRITE:
                return method not in SAFE_METHODS
            case CheckDatabase.CACHED:
                return age_s > self.max_age_s
            case CheckDatabase.ALWAYS:
                return True
            case never:
                assert_never(never)
