"""edge. Endpoints of e-mail verification. Source: core protocol CDI 5.4."""

from __future__ import annotations

from typing import Final

from gateway.dev.core.accounts import normalised_email
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.email_tokens import Purpose
from gateway.dev.core.http import Refusal
from gateway.dev.core.jws import JsonObject


async def create_token(call: Call) -> JsonObject:
    """Return a token for a link to the address; it proves that the user reads it."""
    user_id = call.body.text("userId")
    email = normalised_email(call.body.text("email"))
    if call.app.users.is_verified(user_id, email):
        return failed("EMAIL_ALREADY_VERIFIED_ERROR")
    token = call.app.email_tokens.issue(Purpose.VERIFY, call.tenant_id, user_id, email)
    return ok(token=token)


async def verify(call: Call) -> JsonObject:
    """Consume a token and mark its address as verified."""
    token = call.body.text("token")
    if call.body.text("method") != "token":
        raise Refusal(400, "Unsupported method for email verification")
    proof = call.app.email_tokens.verify(call.tenant_id, token)
    if proof is None:
        return failed("EMAIL_VERIFICATION_INVALID_TOKEN_ERROR")
    return ok(userId=proof.user_id, email=proof.email)


async def is_verified(call: Call) -> JsonObject:
    """Return whether an address is verified, compared without normalisation."""
    user_id, email = call.query.text("userId"), call.query.text("email")
    return ok(isVerified=call.app.users.is_verified(user_id, email))


async def unverify(call: Call) -> JsonObject:
    """Mark an address as unverified."""
    user_id = call.body.text("userId")
    email = normalised_email(call.body.text("email"))
    call.app.email_tokens.unverify(user_id, email)
    return ok()


async def revoke_tokens(call: Call) -> JsonObject:
    """Delete a user's tokens for an address."""
    user_id = call.body.text("userId")
    email = normalised_email(call.body.text("email"))
    call.app.email_tokens.revoke(call.tenant_id, user_id, email)
    return ok()


ENDPOINTS: Final = (
    Endpoint(
        method="POST", path="/recipe/user/email/verify/token", handler=create_token
    ),
    Endpoint(method="POST", path="/recipe/user/email/verify", handler=verify),
    Endpoint(
        method="GET",
        path="/recipe/user/email/verify",
        handler=is_verified,
        scope=Scope.APP,
    ),
    Endpoint(
        method="POST",
        path="/recipe/user/email/verify/remove",
        handler=unverify,
        scope=Scope.APP,
    ),
    Endpoint(
        method="POST",
        path="/recipe/user/email/verify/token/remove",
        handler=revoke_tokens,
    ),
)
