"""Roles and permissions, e-mail verification, metadata."""

from __future__ import annotations

import pytest
from dev.core.core_client import CoreClient, Json, unique, unique_email

_UNKNOWN_ROLE = {"status": "UNKNOWN_ROLE_ERROR"}


async def test_role_is_created_once_and_gains_permissions(core: CoreClient) -> None:
    """Putting a role again adds permissions and never removes any."""
    role = unique("role")
    answer = await core.put("/recipe/role", {"role": f" {role} ", "permissions": ["r"]})
    assert answer == {"status": "OK", "createdNewRole": True}
    answer = await core.put("/recipe/role", {"role": role, "permissions": ["w", " r "]})
    assert answer == {"status": "OK", "createdNewRole": False}
    assert (await core.put("/recipe/role", {"role": role}))["createdNewRole"] is False
    got = await core.get("/recipe/role/permissions", role=role)
    assert sorted(got["permissions"]) == ["r", "w"]
    assert role in (await core.get("/recipe/roles"))["roles"]


async def test_permissions_are_taken_by_name_or_all(core: CoreClient) -> None:
    """Without a list all go; the role stays."""
    role, permission = unique("role"), unique("permission")
    body: Json = {"role": role, "permissions": [permission, "b", "c"]}
    await core.put("/recipe/role", body)
    got = await core.get("/recipe/permission/roles", permission=permission)
    assert got == {"status": "OK", "roles": [role]}
    path = "/recipe/role/permissions/remove"
    body = {"role": role, "permissions": ["b"]}
    assert await core.post(path, body) == {"status": "OK"}
    got = await core.get("/recipe/role/permissions", role=role)
    assert sorted(got["permissions"]) == sorted([permission, "c"])
    assert await core.post(path, {"role": role}) == {"status": "OK"}
    got = await core.get("/recipe/role/permissions", role=role)
    assert got["permissions"] == []


async def test_role_is_given_and_taken(core: CoreClient) -> None:
    """Both say whether anything changed; users needn't exist."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    body = {"userId": user_id, "role": role}
    for already in (False, True):
        answer = await core.put("/public/recipe/user/role", body)
        assert answer == {"status": "OK", "didUserAlreadyHaveRole": already}
    got = await core.get("/public/recipe/user/roles", userId=user_id)
    assert got == {"status": "OK", "roles": [role]}
    got = await core.get("/public/recipe/role/users", role=role)
    assert got == {"status": "OK", "users": [user_id]}
    for had in (True, False):
        answer = await core.post("/public/recipe/user/role/remove", body)
        assert answer == {"status": "OK", "didUserHaveRole": had}


async def test_removed_role_leaves_its_holders(core: CoreClient) -> None:
    """Deleting says whether there was one, and takes it from everybody."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    await core.put("/public/recipe/user/role", {"userId": user_id, "role": role})
    for existed in (True, False):
        answer = await core.post("/recipe/role/remove", {"role": role})
        assert answer == {"status": "OK", "didRoleExist": existed}
    assert (await core.get("/public/recipe/user/roles", userId=user_id))["roles"] == []


async def test_unknown_role_is_an_expected_failure(core: CoreClient) -> None:
    """Five calls know that answer."""
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
    """A role or permission without a name can't be."""
    assert (await core.call(method, path, body)).status == 400


async def test_email_verification(core: CoreClient) -> None:
    """A token works once and marks its address in the user, too."""
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
        answer = await core.post(base, {"method": "token", "token": token})
        assert answer == {"status": "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"}
    again = await core.post(f"{base}/token", body)
    assert again == {"status": "EMAIL_ALREADY_VERIFIED_ERROR"}
    got = await core.get("/user/id", userId=user_id)
    assert got["user"]["loginMethods"][0]["verified"] is True
    # Compared as given: the question isn't normalised.
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
    """Revoked tokens are as good as none."""
    body = {"userId": unique("user"), "email": unique_email()}
    base = "/public/recipe/user/email/verify"
    token = (await core.post(f"{base}/token", body))["token"]
    assert await core.post(f"{base}/token/remove", body) == {"status": "OK"}
    answer = await core.post(base, {"method": "token", "token": token})
    assert answer["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"


async def test_a_reset_token_verifies_nothing(core: CoreClient) -> None:
    """Tokens of one purpose are void for the other."""
    email = unique_email()
    user_id = await core.sign_up(email)
    body = {"userId": user_id, "email": email}
    reset = await core.post("/public/recipe/user/password/reset/token", body)
    answer = await core.post(
        "/public/recipe/user/email/verify",
        {"method": "token", "token": reset["token"]},
    )
    assert answer["status"] == "EMAIL_VERIFICATION_INVALID_TOKEN_ERROR"
    answer = await core.post(
        "/public/recipe/user/password/reset/token/consume", {"token": reset["token"]}
    )
    assert answer["status"] == "OK"


async def test_other_verification_methods_are_400(core: CoreClient) -> None:
    """Only tokens are known."""
    body = {"method": "magic", "token": "x"}
    answer = await core.call("POST", "/public/recipe/user/email/verify", body)
    assert answer.status == 400


async def test_metadata_is_merged_at_the_top(core: CoreClient) -> None:
    """Keys are replaced whole, null deletes, the rest stays."""
    user_id = unique("user")
    path = "/recipe/user/metadata"
    assert await core.get(path, userId=user_id) == {"status": "OK", "metadata": {}}
    merged: Json = {}
    for update, merged in (
        ({"a": {"x": 1}, "b": "ü\ud83d"}, {"a": {"x": 1}, "b": "ü\ud83d"}),
        ({"a": {"y": [None]}, "b": None, "c": None}, {"a": {"y": [None]}}),
        ({"d": 1.5}, {"a": {"y": [None]}, "d": 1.5}),
    ):
        answer = await core.put(path, {"userId": user_id, "metadataUpdate": update})
        assert answer == {"status": "OK", "metadata": merged}
    assert (await core.get(path, userId=user_id))["metadata"] == merged
    assert await core.post(f"{path}/remove", {"userId": user_id}) == {"status": "OK"}
    assert (await core.get(path, userId=user_id))["metadata"] == {}
