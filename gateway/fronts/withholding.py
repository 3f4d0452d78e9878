"""PURE. Verification for fronts that can't give clients new tokens.

A client goes on with its token until it refreshes. Without this, each request with a
token from a refresh would ask the core, which makes a new token each time.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.identity import (
    Principal,
    SessionPolicy,
    SessionRequest,
    Verdict,
    Verifier,
)


class Withholding:
    """An `identity.Verifier` that asks another one, and gives out no new tokens."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._policies: dict[SessionPolicy, SessionPolicy] = {}

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        return await self._verifier.verify(request, self._withheld(policy))

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        return self._verifier.verify_now(request, self._withheld(policy))

    def has_ended(self, principal: Principal) -> bool:
        return self._verifier.has_ended(principal)

    def _withheld(self, policy: SessionPolicy) -> SessionPolicy:
        """Return *policy* without new tokens: one object for each, since policies are
        compared by identity."""
        found = self._policies.get(policy)
        if found is None:
            found = self._policies[policy] = replace(policy, withholds=True)
        return found
