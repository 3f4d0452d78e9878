"""A route's policy, compiled with the rules from the SDK's configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sessions_under_test import RULES

from gateway.identity import CheckDatabase, Protection, Requirements, SessionPolicy
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.rules import GlobalClaims, SessionRules

VERIFIED = replace(RULES, global_claims=GlobalClaims.EMAIL_VERIFIED)
OTHER = replace(RULES, global_claims=GlobalClaims.OTHER)


@pytest.mark.parametrize(
    ("policy", "rules", "is_simple", "needs_sdk"),
    [
        (SessionPolicy(), RULES, True, False),
        (SessionPolicy(protection=Protection.OPTIONAL), RULES, True, False),
        (SessionPolicy(check_database=CheckDatabase.CACHED), RULES, False, False),
        (SessionPolicy(requirements=Requirements(mfa=True)), RULES, False, False),
        (
            SessionPolicy(requirements=Requirements(validators=("a.b",))),
            RULES,
            False,
            True,
        ),
        (SessionPolicy(), VERIFIED, False, False),
        (SessionPolicy(), OTHER, False, True),
    ],
    ids=[
        "required",
        "optional",
        "check_database",
        "a requirement",
        "a validator",
        "a global claim",
        "a global claim of another kind",
    ],
)
def test_when_a_good_token_is_all_it_takes(
    policy: SessionPolicy, rules: SessionRules, is_simple: bool, needs_sdk: bool
) -> None:
    """A token suffices without checks, database look-ups and SDK-only validators."""
    compiled = CompiledPolicy(policy, rules)
    assert (compiled.is_simple, compiled.needs_sdk) == (is_simple, needs_sdk)
    assert compiled.is_required is (policy.protection is Protection.REQUIRED)


def test_the_sdks_own_check_isnt_listed_twice() -> None:
    """The SDK's global email verification check is not listed a second time."""
    policy = SessionPolicy(requirements=Requirements(roles_any=("admin",)))
    compiled = CompiledPolicy(policy, VERIFIED)
    assert [check.id for check in compiled.checks] == ["st-ev", "st-role"]
    assert [check.id for check in compiled.route_checks] == ["st-role"]


@pytest.mark.parametrize(
    ("when", "method", "age_s", "asks"),
    [
        (CheckDatabase.NEVER, "POST", float("inf"), False),
        (CheckDatabase.ON_WRITE, "GET", float("inf"), False),
        (CheckDatabase.ON_WRITE, "HEAD", float("inf"), False),
        (CheckDatabase.ON_WRITE, "OPTIONS", float("inf"), False),
        (CheckDatabase.ON_WRITE, "get", 0.0, True),
        (CheckDatabase.ON_WRITE, "DELETE", 0.0, True),
        (CheckDatabase.CACHED, "GET", 5.0, False),
        (CheckDatabase.CACHED, "GET", 5.1, True),
        (CheckDatabase.CACHED, "POST", 5.0, False),
        (CheckDatabase.CACHED, "GET", float("inf"), True),
        (CheckDatabase.ALWAYS, "GET", 0.0, True),
    ],
)
def test_when_the_core_must_confirm_the_session(
    when: CheckDatabase, method: str, age_s: float, asks: bool
) -> None:
    """`check_database` decides by the method and by the age of the last answer."""
    policy = SessionPolicy(check_database=when, max_age_s=5.0)
    assert CompiledPolicy(policy, RULES).asks_database(method, age_s) is asks
