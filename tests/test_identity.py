"""The types that verification and the proxy share."""

from __future__ import annotations

from gateway.identity import ClaimRule, Requirements, SessionIdentity


def test_requirements_are_true_when_they_demand_something() -> None:
    """`Requirements` without any condition is false, so `if requirements:` skips it."""
    assert not Requirements()
    assert Requirements(email_verified=True)
    assert Requirements(claims=(ClaimRule(path=("plan",), any_of=("pro",)),))


def test_identity_is_compared_by_identity() -> None:
    """Two identities with equal values are different, and share no mutable state."""

    def make() -> SessionIdentity:
        return SessionIdentity(
            user_id="u",
            recipe_user_id="u",
            session_handle="h",
            tenant_id="public",
            claims={},
            expires_at=0.0,
        )

    one, other = make(), make()
    assert one != other
    assert one.written is not other.written
