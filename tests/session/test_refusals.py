"""Refusals, byte for byte as SuperTokens sends them."""

from __future__ import annotations

from dataclasses import replace

from sessions_under_test import (
    GOOD,
    JSON,
    MINT,
    RULES,
    world,
)

from gateway.identity import (
    ClaimRule,
    Denied,
    Requirements,
    SessionPolicy,
)
from gateway.session.refusals import Refusals


async def test_the_configured_statuses_are_used() -> None:
    """The SDK's `session_expired_status_code` and `invalid_claim_status_code`."""
    rules = replace(RULES, session_expired_status=440, invalid_claim_status=499)
    here = world(rules)
    rule = ClaimRule(path=("x",), equals=1, has_equals=True)
    policy = SessionPolicy(requirements=Requirements(claims=(rule,)))
    statuses = [
        getattr(await here.ask(token, policy), "status", None)
        for token in (None, MINT.token(exp=1), GOOD)
    ]
    assert statuses == [440, 440, 499]


def test_the_bodies_are_supertokens_own() -> None:
    """The bodies are SuperTokens' own: frontend SDKs decide by them."""
    refusals = Refusals(RULES)
    for found, message, why in (
        (refusals.unauthorised, b"unauthorised", "unauthorised"),
        (refusals.session_ended, b"unauthorised", "session_ended"),
        (refusals.try_refresh("token_expired"), b"try refresh token", "token_expired"),
    ):
        body = b'{"message":"%b"}' % message
        assert found == Denied(status=401, body=body, fields=JSON, reason=why)
    missing = {"id": "st-role", "reason": {"message": "value does not exist"}}
    assert refusals.invalid_claims([missing]) == Denied(
        status=403,
        body=b'{"message":"invalid claim","claimValidationErrors":[{"id":"st-role",'
        b'"reason":{"message":"value does not exist"}}]}',
        fields=JSON,
        reason="invalid_claim",
    )
