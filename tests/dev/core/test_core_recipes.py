"""Roles and permissions, e-mail verification, user metadata."""

from __future__ import annotations

import pytest
from dev.core.core_client import CoreClient, Json, unique, unique_email

_UNKNOWN_ROLE = {"status": "UNKNOWN_ROLE_ERROR"}


async def test_role_is_created_once_and_gains_permissions(core: CoreClient) -> None:
    """A second PUT of a role adds permissions and removes none."""
    role = unique("role")
    response = await core.put(
        "/recipe/role", {"role": f" {role} ", "permissions": ["r"]}
    )
    assert response == {"status": "OK", "createdNewRole": True}
    response = await core.put(
        "/recipe/role", {"role": role, "permissions": ["w", " r "]}
    )
    assert response == {"status": "OK", "createdNewRole": False}
    assert (await core.put("/recipe/role", {"role": role}))["createdNewRole"] is False
    response = await core.get("/recipe/role/permissions", role=role)
    assert sorted(response["permissions"]) == ["r", "w"]
    assert role in (await core.get("/recipe/roles"))["roles"]


async def test_permissions_are_removed_by_name_or_all(core: CoreClient) -> None:
    """Without a list all permissions are removed; the role stays."""
    role, permission = unique("role"), unique("permission")
    body: Json = {"role": role, "permissions": [permission, "b", "c"]}
    await core.put("/recipe/role", body)
    response = await core.get("/recipe/permission/roles", permission=permission)
    assert response == {"status": "OK", "roles": [role]}
    path = "/recipe/role/permissions/remove"
    body = {"role": role, "permissions": ["b"]}
    assert await core.post(path, body) == {"status": "OK"}
    response = await core.get("/recipe/role/permissions", role=role)
    assert sorted(response["permissions"]) == sorted([permission, "c"])
    assert await core.post(path, {"role": role}) == {"status": "OK"}
    response = await core.get("/recipe/role/permissions", role=role)
    assert response["permissions"] == []


async def test_role_is_added_to_a_user_and_removed(core: CoreClient) -> None:
    """Both responses say whether anything changed; the user needn't exist."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    body = {"userId": user_id, "role": role}
    for already in (False, True):
        response = await core.put("/public/recipe/user/role", body)
        assert response == {"status": "OK", "didUserAlreadyHaveRole": already}
    response = await core.get("/public/recipe/user/roles", userId=user_id)
    assert response == {"status": "OK", "roles": [role]}
    response = await core.get("/public/recipe/role/users", role=role)
    assert response == {"status": "OK", "users": [user_id]}
    for had in (True, False):
        response = await core.post("/public/recipe/user/role/remove", body)
        assert response == {"status": "OK", "didUserHaveRole": had}


async def test_removed_role_is_removed_from_its_users(core: CoreClient) -> None:
    """The response says whether the role existed; no user has it any more."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    await core.put("/public/recipe/user/role", {"userId": user_id, "role": role})
    for existed in (True, False):
        response = await core.post("/recipe/role/remove", {"role": role})
        assert response == {"status": "OK", "didRoleExist": existed}
    assert (await core.get("/public/recipe/user/roles", userId=user_id))["roles"] == []


async def test_unknown_role_is_an_error_status(core: CoreClient) -> None:
    """These five calls report UNKNOWN_ROLE_ERROR."""
    role = unique("nope")
    body = {"userId": "u", "role": role}
    assert await core.get("/recipe/role/permissions", role=role) == _UNKNOWN_ROLE
    assert await core.get("/public/recipe/role/users", role=role) == _UNKNOWN_ROLE
    for path in ("/recipe/role/permissions/remove", "/public/recipe/user/role/remove"):
        assert await core.post(path, body) == _UNKNOWN_ROLE
    assert await core.put("/public/recipe/user/role", body) == _UNKNOWN_ROLE


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/recipe/role", {"role": " "}),
        ("PUT", "/recipe/role", {"role": "r", "permissions": ["a", " "]}),
        ("PUT", "/recipe/role", {"role": "r", "permissions": "a"}),
        ("POST", "/recipe/role/remove", {"role": ""}),
        ("PUT", "/public/recipe/user/role", {"userId": "u", "role": ""}),
    ],
)
async def test_blank_roles_are_400(
    core: CoreClient, method: str, path: str, body: Json
) -> None:
    """A role or permission with a blank name is 400."""
    assert (await core.call(method, path, body)).status == 400


async def test_email_verification(core: CoreClient) -> None:
    """A token works once, voids the other tokens and marks the address as verified."""
    email = unique_email()
    user_id = await core.sign_up(email)
    base = "/public/recipe/user/email/verify"
    body = {"userId": user_id, "email": email.upper()}
    tokens = [(await core.post(f"{base}/token", body))["token"] for _ in range(2)]
    state = await core.get("/recipe/user/email/verify", userId=user_id, email=email)
    assert state == {"status": "OK", "isVerified": False}
    used = await core.post(base, {"method": "token", "token": tokens[0]})
    assert used == {"status": "OK", "userId": user_id, "email": email}
    for token in tokens:
        response = await core.post(base, {"method": "token", "token": token})
        assert response == {"status": "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"}
    again = await core.post(f"{base}/token", body)
    assert again == {"status": "EMAIL_ALREADY_VERIFIED_ERROR"}
    response = await core.get("/user/id", userId=user_id)
    assert response["user"]["loginMethods"][0]["verified"] is True
    # The query's address is compared as sent: its case isn't normalised.
    upper = await core.get(
        "/recipe/user/email/verify", userId=user_id, email=email.upper()
    )
    assert upper["isVerified"] is False
    assert await core.post(
        "/recipe/user/email/verify/remove", {"userId": user_id, "email": email}
    ) == {"status": "OK"}
    state = await core.get("/recipe/user/email/verify", userId=user_id, email=email)
    assert state["isVerified"] is False


async def test_verification_tokens_can_be_revoked(core: CoreClient) -> None:
    """A revoked token is invalid."""
    body = {"userId": unique("user"), "email": unique_email()}
    base = "/public/recipe/user/email/verify"
    token = (await core.post(f"{base}/token", body))["token"]
    assert await core.post(f"{base}/token/remove", body) == {"status": "OK"}
    response = await core.post(base, {"method": "token", "token": token})
    assert response["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"


async def test_a_reset_token_does_not_verify_an_address(core: CoreClient) -> None:
    """A password reset token is invalid for verification and still resets."""
    email = unique_email()
    user_id = await core.sign_up(email)
    body = {"userId": user_id, "email": email}
    reset = await core.post("/public/recipe/user/password/reset/token", body)
    response = await core.post(
        "/public/recipe/user/email/verify",
        {"method": "token", "token": reset["token"]},
    )
    assert response["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"
    response = await core.post(
        "/public/recipe/user/password/reset/token/consume", {"token": reset["token"]}
    )
    assert response["status"] == "OK"


async def test_other_verification_methods_are_400(core: CoreClient) -> None:
    """The only verification method is `token`."""
    body = {"method": "magic", "token": "x"}
    response = await core.call("POST", "/public/recipe/user/email/verify", body)
    assert response.status == 400


async def test_metadata_is_merged_at_the_top_level(core: CoreClient) -> None:
    """A top-level key is replaced whole, null deletes it, other keys stay."""
    user_id = unique("user")
    path = "/recipe/user/metadata"
    assert await core.get(path, userId=user_id) == {"status": "OK", "metadata": {}}
    merged: Json = {}
    for update, merged in (
        ({"a": {"x": 1}, "b": "ü\ud83d"}, {"a": {"x": 1}, "b": "ü\ud83d"}),
        ({"a": {"y": [None]}, "b": None, "c": None}, {"a": {"y": [None]}}),
        ({"d": 1.5}, {"a": {"y": [None]}, "d": 1.5}),
    ):
        response = await core.put(path, {"userId": user_id, "metadataUpdate": update})
        assert response == {"status": "OK", "metadata": merged}
    assert (await core.get(path, userId=user_id))["metadata"] == merged
    assert await core.post(f"{path}/remove", {"userId": user_id}) == {"status": "OK"}
    assert (await core.get(path, userId=user_id))["metadata"] == {}
