"""The types that verification and the proxy share."""

from __future__ import annotations

from gateway.identity import ClaimRule, Requirements, SessionIdentity, together


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


def test_requirements_of_several_levels() -> None:
    """Together they demand all that each of them demands, and nothing else."""
    rule = ClaimRule(path=("plan",), any_of=("pro",))
    one = Requirements(roles_any=("a", "b"), tenants=("t1", "t2"), max_age_s=60)
    other = Requirements(
        roles_any=("c", "d"),
        roles_all=("e",),
        permissions_any=("p",),
        email_verified=True,
        tenants=("t2", "t3"),
        claims=(rule,),
        max_age_s=5,
        validators=("v",),
    )
    assert together([one, other]) == Requirements(
        roles_any=("a", "b"),
        roles_all=("e",),
        permissions_any=("p",),
        email_verified=True,
        tenants=("t2",),
        claims=(rule,),
        max_age_s=5,
        validators=("v",),
        alternatives=((Requirements(roles_any=("c", "d"), max_age_s=5),),),
    )
    assert together([]) == Requirements()
    assert together([one]) == one
    assert together([Requirements(), one]) == one
