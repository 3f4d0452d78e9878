"""The accounts of the dashboard, their sign-in and sessions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
from dev.core.core_client import CoreClient, Json, unique_email

_USER = "/recipe/dashboard/user"
_PASSWORD = "correct-horse-1"


@pytest.fixture
async def email(core: CoreClient) -> AsyncIterator[str]:
    """Create an account and return its address; remove it after the test.

    Without a licence a real core has three accounts at most.
    """
    address = unique_email()
    body = {"email": f" {address.upper()} ", "password": _PASSWORD}
    created = await core.post(_USER, body)
    assert created["status"] == "OK"
    assert created["user"]["email"] == address
    yield address
    await core.ask("DELETE", _USER, query={"email": address})


async def _sign_in(core: CoreClient, email: str, password: str = _PASSWORD) -> Json:
    body = {"email": email, "password": password}
    return await core.post("/recipe/dashboard/signin", body)


async def _verify(core: CoreClient, session_id: str) -> Json:
    return await core.post(
        "/recipe/dashboard/session/verify", {"sessionId": session_id}
    )


async def test_sign_in_and_out(core: CoreClient, email: str) -> None:
    """A session names the address of its account until sign-out."""
    signed = await _sign_in(core, email.upper())
    assert signed["status"] == "OK"
    session_id = signed["sessionId"]
    assert await _verify(core, session_id) == {"status": "OK", "email": email}
    for _ in range(2):
        out = await core.ask(
            "DELETE", "/recipe/dashboard/session", query={"sessionId": session_id}
        )
        assert out == {"status": "OK"}
    assert await _verify(core, session_id) == {"status": "INVALID_SESSION_ERROR"}


async def test_wrong_credentials(core: CoreClient, email: str) -> None:
    """A wrong password and an unknown address get the same answer."""
    for address, password in ((email, "wrong-horse-1"), (unique_email(), _PASSWORD)):
        refused = await _sign_in(core, address, password)
        assert refused == {"status": "INVALID_CREDENTIALS_ERROR"}
    unknown = await _verify(core, str(uuid.uuid4()))
    assert unknown == {"status": "INVALID_SESSION_ERROR"}


async def test_an_account_of_the_app_is_none_of_the_dashboard(
    core: CoreClient,
) -> None:
    """A user who has signed up at the app can't sign in to the dashboard."""
    email = unique_email()
    await core.sign_up(email, _PASSWORD)
    assert await _sign_in(core, email) == {"status": "INVALID_CREDENTIALS_ERROR"}


@pytest.mark.parametrize("by", ["userId", "email"])
async def test_a_changed_account_signs_in_again(
    core: CoreClient, email: str, by: str
) -> None:
    """A new password or address ends the sessions; the old password is wrong then."""
    users = (await core.get("/recipe/dashboard/users"))["users"]
    (listed,) = [user for user in users if user["email"] == email]
    session_id = (await _sign_in(core, email))["sessionId"]
    body = {by: listed[by], "newPassword": "another-horse-2"}
    assert (await core.put(_USER, body))["user"]["email"] == email
    assert await _verify(core, session_id) == {"status": "INVALID_SESSION_ERROR"}
    refused = await _sign_in(core, email)
    assert refused == {"status": "INVALID_CREDENTIALS_ERROR"}
    assert (await _sign_in(core, email, "another-horse-2"))["status"] == "OK"
    moved = unique_email()
    changed = await core.put(_USER, {by: listed[by], "newEmail": moved.upper()})
    assert changed["user"]["email"] == moved
    assert (await _sign_in(core, moved, "another-horse-2"))["status"] == "OK"
    await core.put(_USER, {"userId": listed["userId"], "newEmail": email})


async def test_a_removed_account_has_no_session(core: CoreClient) -> None:
    """Removal ends the sessions of the account; an unknown account didn't exist."""
    email = unique_email()
    created = await core.post(_USER, {"email": email, "password": _PASSWORD})
    session_id = (await _sign_in(core, email))["sessionId"]
    for existed in (True, False):
        removed = await core.ask(
            "DELETE", _USER, query={"userId": created["user"]["userId"]}
        )
        assert removed == {"status": "OK", "didUserExist": existed}
    assert await _verify(core, session_id) == {"status": "INVALID_SESSION_ERROR"}
    unknown = await core.put(_USER, {"email": email, "newPassword": _PASSWORD})
    assert unknown == {"status": "UNKNOWN_USER_ERROR"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"email": "ann"}, "INVALID_EMAIL_ERROR"),
        ({"password": "short-1"}, "PASSWORD_WEAK_ERROR"),
        ({"password": "1" * 12}, "PASSWORD_WEAK_ERROR"),
        ({"password": "a" * 12}, "PASSWORD_WEAK_ERROR"),
        ({"password": "a1" * 50}, "PASSWORD_WEAK_ERROR"),
    ],
)
async def test_bad_address_and_weak_password(
    core: CoreClient, change: Json, status: str
) -> None:
    """An address without a domain and a password that is easy to guess are refused."""
    body = {"email": unique_email(), "password": _PASSWORD, **change}
    assert (await core.post(_USER, body))["status"] == status


async def test_an_address_is_used_once(core: CoreClient, email: str) -> None:
    """Neither a new account nor a changed one takes the address of another."""
    taken = {"status": "EMAIL_ALREADY_EXISTS_ERROR"}
    body = {"email": email.upper(), "password": _PASSWORD}
    assert await core.post(_USER, body) == taken
    other = unique_email()
    await core.post(_USER, {"email": other, "password": _PASSWORD})
    assert await core.put(_USER, {"email": other, "newEmail": email}) == taken
    assert (await _sign_in(core, other))["status"] == "OK"
    await core.ask("DELETE", _USER, query={"email": other})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", _USER, {"email": " ", "password": _PASSWORD}),
        ("POST", _USER, {"email": "ann@example.com"}),
        ("PUT", _USER, {"newPassword": _PASSWORD}),
        ("DELETE", _USER, None),
        ("POST", "/recipe/dashboard/signin", {"email": "ann@example.com"}),
        ("POST", "/recipe/dashboard/session/verify", {}),
        ("DELETE", "/recipe/dashboard/session", None),
    ],
)
async def test_missing_fields_are_400(
    core: CoreClient, method: str, path: str, body: Json | None
) -> None:
    """A call without a required field is 400."""
    assert (await core.call(method, path, body)).status == 400


async def test_what_the_dashboard_reads(core: CoreClient) -> None:
    """Users are searched by three tags; the settings of a tenant are a list."""
    tags = (await core.get("/user/search/tags"))["tags"]
    assert {"email", "phone", "provider"} <= set(tags)
    response = await core.get("/public/recipe/dashboard/tenant/core-config")
    assert isinstance(response["config"], list)
