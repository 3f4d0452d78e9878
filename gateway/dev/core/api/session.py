"""edge. Endpoints of the session recipe. Source: core protocol CDI 5.4."""

from __future__ import annotations

from typing import Final, assert_never

from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.http import Refusal
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.outcomes import (
    Issued,
    Session,
    Theft,
    Token,
    TryRefresh,
    Unauthorised,
    Verified,
)
from gateway.dev.core.sessions import ProtectedClaim
from gateway.dev.core.settings import PUBLIC

_NO_SESSION: Final = "Session does not exist."


async def create(call: Call) -> JsonObject:
    """Start a session and return its first pair of tokens."""
    user_id = call.body.text("userId")
    payload = call.body.object("userDataInJWT")
    data = call.body.object("userDataInDatabase")
    anti_csrf = call.body.flag("enableAntiCsrf")
    static_key = not call.body.flag_or("useDynamicSigningKey", True)
    try:
        issued = call.app.sessions.create(
            call.tenant_id,
            user_id,
            payload=payload,
            data=data,
            anti_csrf=anti_csrf,
            static_key=static_key,
        )
    except ProtectedClaim as exc:
        raise Refusal(400, str(exc)) from exc
    call.app.users.seen(user_id)
    return _issued(issued)


async def refresh(call: Call) -> JsonObject:
    """Return a new pair of tokens for a refresh token."""
    token = call.body.text("refreshToken")
    anti_csrf = call.body.text_or_none("antiCsrfToken")
    enabled = call.body.flag("enableAntiCsrf")
    static_key = not call.body.flag("useDynamicSigningKey")
    outcome = call.app.sessions.refresh(
        token, anti_csrf=anti_csrf, enable_anti_csrf=enabled, static_key=static_key
    )
    match outcome:
        case Issued():
            call.app.users.seen(outcome.session.user_id)
            return _issued(outcome)
        case Unauthorised(message=message):
            return failed("UNAUTHORISED", message=message)
        case Theft():
            return failed(
                "TOKEN_THEFT_DETECTED",
                session={
                    "handle": outcome.handle,
                    "userId": outcome.user_id,
                    "recipeUserId": outcome.user_id,
                },
            )
        case _:
            assert_never(outcome)


async def verify(call: Call) -> JsonObject:
    """Verify an access token."""
    token = call.body.text("accessToken")
    anti_csrf = call.body.text_or_none("antiCsrfToken")
    enabled = call.body.flag("enableAntiCsrf")
    checked = call.body.flag("doAntiCsrfCheck")
    check_database = call.body.flag("checkDatabase")
    outcome = call.app.sessions.verify(
        token,
        anti_csrf=anti_csrf,
        check_anti_csrf=checked and enabled,
        check_database=check_database,
    )
    match outcome:
        case Verified():
            return _verified(outcome)
        case Unauthorised(message=message):
            return failed("UNAUTHORISED", message=message)
        case TryRefresh(message=message):
            return failed("TRY_REFRESH_TOKEN", message=message)
        case _:
            assert_never(outcome)


async def regenerate(call: Call) -> JsonObject:
    """Return the access token with a new payload."""
    token = call.body.text("accessToken")
    payload = call.body.object_or_none("userDataInJWT")
    try:
        outcome = call.app.sessions.regenerate(token, payload)
    except ProtectedClaim as exc:
        raise Refusal(400, str(exc)) from exc
    match outcome:
        case Verified():
            return _verified(outcome)
        case Unauthorised(message=message):
            return failed("UNAUTHORISED", message=message)
        case _:
            assert_never(outcome)


async def get(call: Call) -> JsonObject:
    """Return a session."""
    handle = call.query.text("sessionHandle")
    stored = call.app.sessions.get(handle)
    if stored is None:
        return failed("UNAUTHORISED", message=_NO_SESSION)
    return ok(
        sessionHandle=stored.session.handle,
        userId=stored.session.user_id,
        recipeUserId=stored.session.user_id,
        userDataInDatabase=stored.data,
        userDataInJWT=stored.session.payload,
        expiry=stored.expires_ms,
        timeCreated=stored.created_ms,
        tenantId=stored.session.tenant_id,
    )


async def of_user(call: Call) -> JsonObject:
    """List a user's live sessions."""
    user_id = call.query.text("userId")
    tenant_id = _one_tenant(
        call, across=call.query.flag_or("fetchAcrossAllTenants", True)
    )
    handles = call.app.sessions.handles_of(user_id, tenant_id)
    return ok(sessionHandles=handles)


async def remove(call: Call) -> JsonObject:
    """End sessions, by handle or by user."""
    handles = call.body.texts_or_none("sessionHandles")
    user_id = call.body.text_or_none("userId")
    across = call.body.flag_or("revokeAcrossAllTenants", True)
    # This core links no accounts, but a field of the wrong type is refused.
    call.body.flag_or("revokeSessionsForLinkedAccounts", True)
    if (handles is None) == (user_id is None):
        raise Refusal(400, "Invalid Json Input: use one of userId or sessionHandles")
    if handles is not None and (
        call.body.has("revokeAcrossAllTenants")
        or call.body.has("revokeSessionsForLinkedAccounts")
    ):
        raise Refusal(400, "Invalid Json Input: these flags need a userId")
    if user_id is not None:
        tenant_id = _one_tenant(call, across=across)
        handles = call.app.sessions.handles_of(user_id, tenant_id)
    return ok(sessionHandlesRevoked=call.app.sessions.revoke(handles or []))


async def set_data(call: Call) -> JsonObject:
    """Replace the data that is stored with a session."""
    handle = call.body.text("sessionHandle")
    data = call.body.object("userDataInDatabase")
    return _changed(call.app.sessions.set_data(handle, data))


async def set_payload(call: Call) -> JsonObject:
    """Replace the payload of a session's future access tokens."""
    handle = call.body.text("sessionHandle")
    payload = call.body.object("userDataInJWT")
    try:
        exists = call.app.sessions.set_payload(handle, payload)
    except ProtectedClaim as exc:
        raise Refusal(400, str(exc)) from exc
    return _changed(exists)


def _one_tenant(call: Call, *, across: bool) -> str | None:
    """Return the call's tenant, or None if it is *across* all tenants.

    Raises:
        Refusal: 403, *across* is only for the public tenant.
    """
    if not across:
        return call.tenant_id
    if call.tenant_id != PUBLIC:
        raise Refusal(403, "Only public tenantId can call this app specific API")
    return None


def _changed(exists: bool) -> JsonObject:
    return ok() if exists else failed("UNAUTHORISED", message=_NO_SESSION)


def _issued(issued: Issued) -> JsonObject:
    answer = ok(
        session=_session(issued.session),
        accessToken=_token(issued.access),
        refreshToken=_token(issued.refresh),
    )
    if issued.anti_csrf is not None:
        answer["antiCsrfToken"] = issued.anti_csrf
    return answer


def _verified(verified: Verified) -> JsonObject:
    answer = ok(session=_session(verified.session))
    if verified.access is not None:
        answer["accessToken"] = _token(verified.access)
    return answer


def _session(session: Session) -> JsonObject:
    return {
        "handle": session.handle,
        "userId": session.user_id,
        "recipeUserId": session.user_id,
        "userDataInJWT": session.payload,
        "tenantId": session.tenant_id,
    }


def _token(token: Token) -> JsonObject:
    return {
        "token": token.text,
        "expiry": token.expires_ms,
        "createdTime": token.created_ms,
    }


ENDPOINTS: Final = (
    Endpoint(method="POST", path="/recipe/session", handler=create),
    Endpoint(method="GET", path="/recipe/session", handler=get, scope=Scope.APP),
    Endpoint(
        method="POST", path="/recipe/session/verify", handler=verify, scope=Scope.APP
    ),
    Endpoint(
        method="POST", path="/recipe/session/refresh", handler=refresh, scope=Scope.APP
    ),
    Endpoint(
        method="POST",
        path="/recipe/session/regenerate",
        handler=regenerate,
        scope=Scope.APP,
    ),
    Endpoint(method="GET", path="/recipe/session/user", handler=of_user),
    Endpoint(method="POST", path="/recipe/session/remove", handler=remove),
    Endpoint(
        method="PUT", path="/recipe/session/data", handler=set_data, scope=Scope.APP
    ),
    Endpoint(
        method="PUT", path="/recipe/jwt/data", handler=set_payload, scope=Scope.APP
    ),
)
