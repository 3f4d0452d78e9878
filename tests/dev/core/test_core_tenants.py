"""Tenants: their users, sessions and roles, and the calls allowed in each."""

from __future__ import annotations

from typing import Any

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
    """Create a tenant and return its id."""
    tenant_id: str = unique("t")
    response = await core.put(
        "/recipe/multitenancy/tenant/v2", {"tenantId": tenant_id.upper()}
    )
    assert response == {"status": "OK", "createdNew": True}
    return tenant_id


async def test_default_tenant_has_no_first_factors(core: CoreClient) -> None:
    """`firstFactors` is absent, which allows every recipe."""
    response = await core.get("/public/recipe/multitenancy/tenant/v2")
    assert response == {
        "status": "OK",
        "tenantId": "public",
        "thirdParty": {"providers": []},
        "coreConfig": {},
    }


async def test_reading_an_unknown_tenant_is_an_error_status(
    core: CoreClient,
) -> None:
    """Reading a tenant answers 200 with an error status; other calls get a 400."""
    response = await core.get("/nope/recipe/multitenancy/tenant/v2")
    assert response == {"status": "TENANT_NOT_FOUND_ERROR"}


async def test_tenant_is_changed_listed_and_removed(
    core: CoreClient, tenant: str
) -> None:
    """Settings can be changed; null restores the default."""
    path = "/recipe/multitenancy/tenant/v2"
    update: Json = {
        "tenantId": tenant,
        "firstFactors": ["emailpassword"],
        "requiredSecondaryFactors": None,
        "coreConfig": {"access_token_validity": 600},
    }
    response = await core.put(path, update)
    assert response == {"status": "OK", "createdNew": False}
    response = await core.get(f"/{tenant}{path}")
    assert response["firstFactors"] == ["emailpassword"]
    assert response["coreConfig"] == {"access_token_validity": 600}
    await core.put(path, {"tenantId": tenant, "firstFactors": None})
    assert "firstFactors" not in await core.get(f"/{tenant}{path}")
    listed = (await core.get("/recipe/multitenancy/tenant/list/v2"))["tenants"]
    assert {"public", tenant} <= {view["tenantId"] for view in listed}
    for existed in (True, False):
        response = await core.post(
            "/recipe/multitenancy/tenant/remove", {"tenantId": tenant}
        )
        assert response == {"status": "OK", "didExist": existed}


async def test_no_first_factor_is_not_every_first_factor(
    core: CoreClient, tenant: str
) -> None:
    """An empty list of factors is kept. It isn't the default, which has no list."""
    path = "/recipe/multitenancy/tenant/v2"
    await core.put(path, {"tenantId": tenant, "firstFactors": []})
    assert (await core.get(f"/{tenant}{path}"))["firstFactors"] == []


async def test_unknown_settings_of_a_tenant_are_400(
    core: CoreClient, tenant: str
) -> None:
    """A setting that no core has is refused, and the tenant keeps its settings."""
    path = "/recipe/multitenancy/tenant/v2"
    body = {"tenantId": tenant, "coreConfig": {"nope": 1}}
    assert (await core.call("PUT", path, body)).status == 400
    assert (await core.get(f"/{tenant}{path}"))["coreConfig"] == {}


@pytest.mark.parametrize("tenant_id", ["recipe", "users", "a_b", "appid-x"])
async def test_bad_tenant_ids_are_400(core: CoreClient, tenant_id: str) -> None:
    """Reserved words and characters that a path can't use are 400."""
    response = await core.call(
        "PUT", "/recipe/multitenancy/tenant/v2", {"tenantId": tenant_id}
    )
    assert response.status == 400


async def test_public_tenant_can_not_be_removed(core: CoreClient) -> None:
    """Removing the public tenant is 403."""
    body = {"tenantId": "public"}
    path = "/recipe/multitenancy/tenant/remove"
    assert (await core.call("POST", path, body)).status == 403


async def test_tenants_have_their_own_users(core: CoreClient, tenant: str) -> None:
    """One address can be two users, each with its own password and tenant."""
    email = unique_email()
    public_id = await core.sign_up(email, "public1")
    response = await core.post(
        f"/{tenant}/recipe/signup", {"email": email, "password": "tenant1"}
    )
    tenant_user = response["user"]
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
    """Calls without a tenant find the session by the tenant after `_` in its handle."""
    created = await core.create(tenant=tenant)
    handle = created["session"]["handle"]
    assert handle.endswith(f"_{tenant}")
    assert created["session"]["tenantId"] == tenant
    assert claims(access(created))["tId"] == tenant
    child = await core.refresh(refresh(created))
    assert child["session"]["tenantId"] == tenant
    assert (await core.verify(access(child)))["session"]["tenantId"] == tenant
    response = await core.get("/recipe/session", sessionHandle=handle)
    assert response["tenantId"] == tenant
    assert await core.revoke(handle) == [handle]


async def test_sessions_are_listed_across_tenants_from_public_only(
    core: CoreClient, tenant: str
) -> None:
    """In another tenant a call across all tenants is 403."""
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
    revoked = await core.post(
        remove, {"userId": user_id, "revokeAcrossAllTenants": False}
    )
    assert revoked["sessionHandlesRevoked"] == [here]


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("GET", "/user/id", {"userId": "u"}, {}),
        ("PUT", "/recipe/role", {}, {"role": "r"}),
        (
            "POST",
            "/recipe/session/refresh",
            {},
            {
                "refreshToken": "t",
                "enableAntiCsrf": False,
                "useDynamicSigningKey": True,
            },
        ),
        ("GET", "/recipe/user/email/verify", {"userId": "u", "email": "a@b.co"}, {}),
        ("GET", "/recipe/multitenancy/tenant/list/v2", {}, {}),
        ("POST", "/user/remove", {}, {"userId": "u"}),
    ],
)
async def test_app_wide_calls_are_403_in_a_tenant(
    core: CoreClient, tenant: str, method: str, path: str, query: Json, body: Json
) -> None:
    """Calls of the whole app are allowed in the public tenant only.

    A missing field is reported first.
    """
    response = await core.call(method, f"/{tenant}{path}", body, query=query)
    assert response.status == 403
    assert response.headers["content-type"] == "text/html;charset=UTF-8"


async def test_roles_are_held_per_tenant(core: CoreClient, tenant: str) -> None:
    """A role exists in the whole app, but a user has it in one tenant."""
    role, user_id = unique("role"), unique("user")
    await core.put("/recipe/role", {"role": role})
    await core.put(f"/{tenant}/recipe/user/role", {"userId": user_id, "role": role})
    for place, roles in ((tenant, [role]), ("public", [])):
        response = await core.get(f"/{place}/recipe/user/roles", userId=user_id)
        assert response["roles"] == roles


async def test_user_joins_and_leaves_a_tenant(core: CoreClient, tenant: str) -> None:
    """A user of two tenants signs in at both; leaving one ends its sessions there."""
    email = unique_email()
    user_id = await core.sign_up(email, "both1")
    path = f"/{tenant}/recipe/multitenancy/tenant/user"
    for already in (False, True):
        response = await core.post(path, {"recipeUserId": user_id})
        assert response == {"status": "OK", "wasAlreadyAssociated": already}
    body = {"email": email, "password": "both1"}
    signed = await core.post(f"/{tenant}/recipe/signin", body)
    assert sorted(signed["user"]["tenantIds"]) == sorted(["public", tenant])
    session = await core.create(user_id, tenant=tenant)
    for was in (True, False):
        response = await core.post(f"{path}/remove", {"recipeUserId": user_id})
        assert response == {"status": "OK", "wasAssociated": was}
    verified = await core.verify(access(session), check_database=True)
    assert verified["status"] == "UNAUTHORISED"


async def test_joining_needs_a_known_user_and_a_free_email(
    core: CoreClient, tenant: str
) -> None:
    """An unknown user, or an address that the tenant already has, is refused."""
    path = f"/{tenant}/recipe/multitenancy/tenant/user"
    response = await core.post(path, {"recipeUserId": "nobody"})
    assert response == {"status": "UNKNOWN_USER_ID_ERROR"}
    email = unique_email()
    user_id = await core.sign_up(email)
    await core.post(f"/{tenant}/recipe/signup", {"email": email, "password": "x1"})
    response = await core.post(path, {"recipeUserId": user_id})
    assert response == {"status": "EMAIL_ALREADY_EXISTS_ERROR"}


async def test_calls_about_sessions_of_a_removed_tenant_are_400(
    core: CoreClient, tenant: str
) -> None:
    """Such a session is no ended one: the answer says that the tenant isn't there."""
    created = await core.create(tenant=tenant)
    handle = created["session"]["handle"]
    await core.post("/recipe/multitenancy/tenant/remove", {"tenantId": tenant})
    csrf = {"enableAntiCsrf": False, "doAntiCsrfCheck": False}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "verify", {**csrf, "accessToken": access(created)}),
        ("POST", "refresh", {**csrf, "refreshToken": refresh(created)}),
        ("POST", "regenerate", {"accessToken": access(created)}),
        ("POST", "remove", {"sessionHandles": [handle]}),
        ("PUT", "data", {"sessionHandle": handle, "userDataInDatabase": {}}),
    ]
    for method, name, body in calls:
        body |= {"checkDatabase": True, "useDynamicSigningKey": True}
        refused = await core.call(method, f"/recipe/session/{name}", body)
        assert (name, refused.status) == (name, 400)
        assert refused.text.startswith("AppId or tenantId not found => ")
        assert f"public, {tenant})" in refused.text
    asked = await core.call("GET", "/recipe/session", query={"sessionHandle": handle})
    assert asked.status == 400
    changed = await core.call(
        "PUT", "/recipe/jwt/data", {"sessionHandle": handle, "userDataInJWT": {}}
    )
    assert changed.status == 400
