"""The comparison of policies: whether one requires more than another.

test_routes_near_misses.py has each condition as a route; here is the order.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.identity import (
    CheckDatabase,
    ClaimRule,
    Protection,
    Requirements,
    SessionPolicy,
)
from gateway.routes.strictness import is_stricter

ITEMS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=2, unique=True).map(tuple)
ALTERNATIVES = st.lists(
    st.builds(Requirements, roles_any=ITEMS, permissions_all=ITEMS, tenants=ITEMS),
    min_size=1,
    max_size=2,
).map(tuple)
REQUIREMENTS = st.builds(
    Requirements,
    roles_any=ITEMS,
    roles_all=ITEMS,
    permissions_any=ITEMS,
    permissions_all=ITEMS,
    email_verified=st.booleans(),
    tenants=ITEMS,
    alternatives=st.lists(ALTERNATIVES, max_size=2).map(tuple),
)


def meets(needs: Requirements, roles: set[str], perms: set[str], tenant: str) -> bool:
    """Return whether such a session, its address verified, meets *needs*."""
    return (
        (not needs.roles_any or bool(roles & set(needs.roles_any)))
        and roles >= set(needs.roles_all)
        and (not needs.permissions_any or bool(perms & set(needs.permissions_any)))
        and perms >= set(needs.permissions_all)
        and (not needs.tenants or tenant in needs.tenants)
        and all(
            any(meets(item, roles, perms, tenant) for item in items)
            for items in needs.alternatives
        )
    )


SETS = st.sets(st.sampled_from(["a", "b", "c"]))


@settings(max_examples=1000)  # one in fifteen meets both conditions
@given(
    one=REQUIREMENTS,
    other=REQUIREMENTS,
    roles=SETS,
    permissions=SETS,
    tenant=st.sampled_from(["a", "b", "c"]),
)
def test_a_session_that_meets_a_policy_meets_all_laxer_ones(
    one: Requirements,
    other: Requirements,
    roles: set[str],
    permissions: set[str],
    tenant: str,
) -> None:
    """Fail closed: a session that meets a policy meets all that aren't stricter."""
    policies = SessionPolicy(requirements=one), SessionPolicy(requirements=other)
    if not is_stricter(*policies, "GET") and meets(other, roles, permissions, tenant):
        assert meets(one, roles, permissions, tenant)
        assert one.email_verified <= other.email_verified


@given(needs=REQUIREMENTS)
def test_no_policy_is_stricter_than_itself(needs: Requirements) -> None:
    """No policy is stricter than itself; a public one is not stricter than any."""
    policy = SessionPolicy(requirements=needs)
    assert not is_stricter(policy, SessionPolicy(requirements=needs), "POST")
    assert not is_stricter(SessionPolicy(protection=Protection.PUBLIC), policy, "POST")


@pytest.mark.parametrize(
    ("one", "other", "methods"),
    [
        (CheckDatabase.ALWAYS, CheckDatabase.ON_WRITE, {"GET"}),
        (CheckDatabase.ON_WRITE, CheckDatabase.NEVER, {"POST"}),
        (CheckDatabase.ON_WRITE, CheckDatabase.CACHED, {"POST"}),
        (CheckDatabase.CACHED, CheckDatabase.ON_WRITE, {"GET"}),
        (CheckDatabase.CACHED, CheckDatabase.ALWAYS, set()),
    ],
)
def test_core_checks_are_compared_by_method(
    one: CheckDatabase, other: CheckDatabase, methods: set[str]
) -> None:
    """Of two policies that call the core, either can be stricter, by method."""
    policies = SessionPolicy(check_database=one), SessionPolicy(check_database=other)
    assert {name for name in ("GET", "POST") if is_stricter(*policies, name)} == methods


def test_claims_are_compared_as_they_are_written() -> None:
    """Claims are compared literally: an equivalent condition counts as stricter."""
    plan = ClaimRule(path=("plan",), equals="x", has_equals=True)
    same = ClaimRule(path=("plan",), any_of=("x",))

    def policy(*rules: ClaimRule) -> SessionPolicy:
        return SessionPolicy(requirements=Requirements(claims=rules))

    assert not is_stricter(policy(plan), policy(same, plan), "GET")
    assert is_stricter(policy(plan), policy(same), "GET")


def test_one_alternative_is_enough() -> None:
    """Who must be an admin needn't be an admin or an editor, but not the reverse."""
    admin, editor = Requirements(roles_all=("admin",)), Requirements(mfa=True)
    either = SessionPolicy(requirements=Requirements(alternatives=((admin, editor),)))
    more = SessionPolicy(
        requirements=Requirements(alternatives=((admin, editor, Requirements()),))
    )
    assert not is_stricter(either, SessionPolicy(requirements=admin), "GET")
    assert is_stricter(SessionPolicy(requirements=admin), either, "GET")
    assert not is_stricter(more, either, "GET")
    assert is_stricter(either, more, "GET")
