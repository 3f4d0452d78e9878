"""Tenants: their own users, sessions and roles, and whom a path may name."""

from __future__ import annotations

import pytest
from dev.core.core_client import (
    CoreClient,
    Json,
    access,
    claims,
    refresh,
    unique,
    unique_email,
)


@pytest.fixture
async def tenant(core: CoreClient) -> str:
    """Return a new tenant."""
    tenant_id: str = unique("t")
    answer = await core.put(
        "/recipe/multitenancy/tenant/v2", {"tenantId": tenant_id.upper()}
    )
    assert answer == {"status": "OK", "createdNew": True}
    return tenant_id


async def test_default_tenant_has_no_first_factors(core: CoreClient) -> None:
    """Absent means that every recipe is welcome; providers and config are there."""
    got = await core.get("/public/recipe/multitenancy/tenant/v2")
    assert got == {
        "status": "OK",
        "tenantId": "public",
        "thirdParty": {"providers": []},
        "coreConfig": {},
    }


async def test_unknown_tenant_is_an_expected_failure_here_only(
    core: CoreClient,
) -> None:
    """The tenant's own description says so with 200, unlike any other call."""
    got = await core.get("/nope/recipe/multitenancy/tenant/v2")
    assert got == {"status": "TENANT_NOT_FOUND_ERROR"}


async def test_tenant_is_changed_listed_and_removed(
    core: CoreClient, tenant: str
) -> None:
    """Settings stay until changed; null is the default again."""
    path = "/recipe/multitenancy/tenant/v2"
    update: Json = {
        "tenantId": tenant,
        "firstFactors": ["emailpassword"],
        "requiredSecondaryFactors": None,
        "coreConfig": {"k": 1},
    }
    answer = await core.put(path, update)
    assert answer == {"status": "OK", "createdNew": False}
    got = await core.get(f"/{tenant}{path}")
    assert got["firstFactors"] == ["emailpassword"]
    assert got["coreConfig"] == {"k": 1}
    await core.put(path, {"tenantId": tenant, "firstFactors": None})
    assert "firstFactors" not in await core.get(f"/{tenant}{path}")
    listed = (await core.get("/recipe/multitenancy/tenant/list/v2"))["tenants"]
    assert {"public", tenant} <= {view["tenantId"] for view in listed}
    for existed in (True, False):
        answer = await core.post(
            "/recipe/multitenancy/tenant/remove", {"tenantId": tenant}
        )
        assert answer == {"status": "OK", "didExist": existed}


@pytest.mark.parametrize("tenant_id", ["recipe", "users", "a_b", "appid-x"])
async def test_a_tenant_needs_a_name_that_a_path_can_carry(
    core: CoreClient, tenant_id: str
) -> None:
    """Stop words and other letters are refused."""
    answer = await core.call(
        "PUT", "/recipe/multitenancy/tenant/v2", {"tenantId": tenant_id}
    )
    assert answer.status == 400


async def test_public_tenant_stays(core: CoreClient) -> None:
    """It can't be removed."""
    body = {"tenantId": "public"}
    path = "/recipe/multitenancy/tenant/remove"
    assert (await core.call("POST", path, body)).status == 403


async def test_tenants_have_their_own_users(core: CoreClient, tenant: str) -> None:
    """One address can be two users; neither signs in at the other's tenant."""
    email = unique_email()
    public_id = await core.sign_up(email, "public1")
    answer = await core.post(
        f"/{tenant}/recipe/signup", {"email": email, "password": "tenant1"}
    )
    tenant_user = answer["user"]
    assert tenant_user["tenantIds"] == [tenant]
    assert tenant_user["id"] != public_id
    body = {"email": email, "password": "public1"}
    signed = await core.post(f"/{tenant}/recipe/signin", body)
    assert signed["status"] == "WRONG_CREDENTIALS_ERROR"
    path = f"/{tenant}/users/count"
    assert (await core.get(path))["count"] == 1
    everywhere = await core.call("GET", path, query={"includeAllTenants": "true"})
    assert everywhere.status == 403


async def test_session_handle_names_its_tenant(core: CoreClient, tenant: str) -> None:
    """Calls without a tenant find the session by what follows the `_`."""
    created = await core.create(tenant=tenant)
    handle = created["session"]["handle"]
    assert handle.endswith(f"_{tenant}")
    assert created["session"]["tenantId"] == tenant
    assert claims(access(created))["tId"] == tenant
    child = await core.refresh(refresh(created))
    assert child["session"]["tenantId"] == tenant
    assert (await core.verify(access(child)))["session"]["tenantId"] == tenant
    got = await core.get("/recipe/session", sessionHandle=handle)
    assert got["tenantId"] == tenant
    assert await core.revoke(handle) == [handle]


async def test_sessions_are_listed_across_tenants_from_public_only(
    core: CoreClient, tenant: str
) -> None:
    """Elsewhere the call must name one tenant, else 403."""
    user_id = unique("user")
    here = (await core.create(user_id, tenant=tenant))["session"]["handle"]
    there = (await core.create(user_id))["session"]["handle"]
    path = "/recipe/session/user"
    everywhere = await core.get(path, userId=user_id)
    assert sorted(everywhere["sessionHandles"]) == sorted([here, there])
    only = await core.get(
        f"/{tenant}{path}", userId=user_id, fetchAcrossAllTenants="false"
    )
    assert only["sessionHandles"] == [here]
    only = await core.get(
        f"/public{path}", userId=user_id, fetchAcrossAllTenants="false"
    )
    assert only["sessionHandles"] == [there]
    refused = await core.call("GET", f"/{tenant}{path}", query={"userId": user_id})
    assert refused.status == 403
    remove = f"/{tenant}/recipe/session/remove"
    assert (await core.call("POST", remove, {"userId": user_id})).status == 403
    gone = await core.post(remove, {"userId": user_id, "revokeAcrossAllTenants": False})
    assert gone["sessionHandlesRevoked"] == [here]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/user/id"),
        ("PUT", "/recipe/role"),
        ("POST", "/recipe/session/verify"),
        ("POST", "/recipe/session/refresh"),
        ("GET", "/recipe/user/email/verify"),
        ("GET", "/recipe/multitenancy/tenant/list/v2"),
        ("POST", "/user/remove"),
    ],
)
async def test_app_wide_calls_are_403_in_a_tenant(
    core: CoreClient, tenant: str, method: str, path: str
) -> None:
    """They belong to the public tenant."""
    answer = await core.call(method, f"/{tenant}{path}", {})
    assert answer.status == 403
    assert answer.headers["content-type"] == "text/html; charset=UTF-8"


async def test_roles_are_held_per_tenant(core: CoreClient, tenant: str) -> None:
    """The role is the app's, who has it is the tenant's."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    await core.put(f"/{tenant}/recipe/user/role", {"userId": user_id, "role": role})
    for place, roles in ((tenant, [role]), ("public", [])):
        got = await core.get(f"/{place}/recipe/user/roles", userId=user_id)
        assert got["roles"] == roles


async def test_user_joins_and_leaves_a_tenant(core: CoreClient, tenant: str) -> None:
    """A user of two tenants signs in at both; leaving ends its sessions there."""
    email = unique_email()
    user_id = await core.sign_up(email, "both1")
    path = f"/{tenant}/recipe/multitenancy/tenant/user"
    for already in (False, True):
        answer = await core.post(path, {"recipeUserId": user_id})
        assert answer == {"status": "OK", "wasAlreadyAssociated": already}
    body = {"email": email, "password": "both1"}
    signed = await core.post(f"/{tenant}/recipe/signin", body)
    assert sorted(signed["user"]["tenantIds"]) == sorted(["public", tenant])
    session = await core.create(user_id, tenant=tenant)
    for was in (True, False):
        answer = await core.post(f"{path}/remove", {"recipeUserId": user_id})
        assert answer == {"status": "OK", "wasAssociated": was}
    verified = await core.verify(access(session), check_database=True)
    assert verified["status"] == "UNAUTHORISED"


async def test_joining_refuses_nobody_and_a_taken_email(
    core: CoreClient, tenant: str
) -> None:
    """The address must be free in the tenant."""
    path = f"/{tenant}/recipe/multitenancy/tenant/user"
    answer = await core.post(path, {"recipeUserId": "nobody"})
    assert answer == {"status": "UNKNOWN_USER_ID_ERROR"}
    email = unique_email()
    user_id = await core.sign_up(email)
    await core.post(f"/{tenant}/recipe/signup", {"email": email, "password": "x1"})
    answer = await core.post(path, {"recipeUserId": user_id})
    assert answer == {"status": "EMAIL_ALREADY_EXISTS_ERROR"}


async def test_removed_tenant_ends_its_sessions(core: CoreClient, tenant: str) -> None:
    """Nothing of it is left behind."""
    created = await core.create(tenant=tenant)
    await core.post("/recipe/multitenancy/tenant/remove", {"tenantId": tenant})
    refreshed = await core.refresh(refresh(created))
    assert refreshed["status"] == "UNAUTHORISED"
