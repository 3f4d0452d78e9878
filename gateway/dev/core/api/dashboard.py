"""edge. Endpoints of the dashboard: accounts, sign-in, and what it asks the core.

Source: core protocol CDI 5.4, dashboard; supertokens-python 0.31.4, recipe/dashboard.
"""

from __future__ import annotations

from typing import Final

from gateway.dev.core.accounts import normalised_email
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.api.user import hashed
from gateway.dev.core.dashboard import EmailTaken, is_email, weakness
from gateway.dev.core.http import Refusal
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.passwords import is_password

_USER: Final = "/recipe/dashboard/user"


async def add_user(call: Call) -> JsonObject:
    """Create an account for the dashboard."""
    email = normalised_email(call.body.filled("email"))
    password = call.body.filled("password")
    if (refusal := _refusal(email, password)) is not None:
        return refusal
    password_hash = await hashed(call, password)
    try:
        return ok(user=call.app.dashboard.add(email, password_hash).view())
    except EmailTaken:
        return failed("EMAIL_ALREADY_EXISTS_ERROR")


async def change_user(call: Call) -> JsonObject:
    """Change address or password of an account, and end its sessions."""
    email = call.body.filled("newEmail") if call.body.has("newEmail") else None
    email = None if email is None else normalised_email(email)
    password = call.body.filled("newPassword") if call.body.has("newPassword") else None
    if (refusal := _refusal(email, password)) is not None:
        return refusal
    user_id, address = _whom(
        call.body.text_or_none("userId"), call.body.text_or_none("email")
    )
    dashboard = call.app.dashboard
    person = dashboard.find(user_id=user_id, email=address)
    if person is None:
        return failed("UNKNOWN_USER_ERROR")
    password_hash = None if password is None else await hashed(call, password)
    try:
        changed = dashboard.change(person, email=email, password_hash=password_hash)
    except EmailTaken:
        return failed("EMAIL_ALREADY_EXISTS_ERROR")
    return ok(user=changed.view())


async def remove_user(call: Call) -> JsonObject:
    """Delete an account."""
    user_id, address = _whom(
        call.query.text_or_none("userId"), call.query.text_or_none("email")
    )
    dashboard = call.app.dashboard
    person = dashboard.find(user_id=user_id, email=address)
    if person is not None:
        dashboard.remove(person)
    return ok(didUserExist=person is not None)


async def list_users(call: Call) -> JsonObject:
    """List the accounts."""
    return ok(users=[person.view() for person in call.app.dashboard.all()])


async def sign_in(call: Call) -> JsonObject:
    """Begin a session. An unknown address is the same failure as a wrong password."""
    email = normalised_email(call.body.filled("email"))
    password = call.body.filled("password")
    person = call.app.dashboard.find(user_id=None, email=email)
    if person is None or not await is_password(password, stored=person.password_hash):
        return failed("INVALID_CREDENTIALS_ERROR")
    return ok(sessionId=call.app.dashboard.sign_in(person))


async def verify_session(call: Call) -> JsonObject:
    """Return the address of a session's account."""
    session_id = call.body.filled("sessionId")
    person = call.app.dashboard.whose(session_id)
    if person is None:
        return failed("INVALID_SESSION_ERROR")
    return ok(email=person.email)


async def sign_out(call: Call) -> JsonObject:
    """End a session."""
    session_id = call.query.text("sessionId")
    call.app.dashboard.sign_out(session_id)
    return ok()


async def search_tags(_: Call) -> JsonObject:
    """List what users can be searched by: the query fields of `/users`."""
    return ok(tags=["email", "phone", "provider"])


async def tenant_config(_: Call) -> JsonObject:
    """List the settings that a tenant can change: none, since none has an effect."""
    return ok(config=[])


def _refusal(email: str | None, password: str | None) -> JsonObject | None:
    """Return the answer to a bad address or a weak password, or None."""
    if email is not None and not is_email(email):
        return failed("INVALID_EMAIL_ERROR")
    if password is not None and (reason := weakness(password)) is not None:
        return failed("PASSWORD_WEAK_ERROR", message=reason)
    return None


def _whom(user_id: str | None, email: str | None) -> tuple[str | None, str | None]:
    """Return the id or the address of an account, the id if both are given.

    Raises:
        Refusal: 400, neither is given.
    """
    if user_id is None and email is None:
        raise Refusal(400, "Either field 'email' or 'userId' must be present")
    return user_id, None if email is None else normalised_email(email)


ENDPOINTS: Final = (
    *(
        Endpoint(method=method, path=path, handler=handler, scope=Scope.APP)
        for method, path, handler in (
            ("POST", _USER, add_user),
            ("PUT", _USER, change_user),
            ("DELETE", _USER, remove_user),
            ("GET", "/recipe/dashboard/users", list_users),
            ("POST", "/recipe/dashboard/signin", sign_in),
            ("POST", "/recipe/dashboard/session/verify", verify_session),
            ("DELETE", "/recipe/dashboard/session", sign_out),
            ("GET", "/user/search/tags", search_tags),
        )
    ),
    Endpoint(
        method="GET",
        path="/recipe/dashboard/tenant/core-config",
        handler=tenant_config,
    ),
)
