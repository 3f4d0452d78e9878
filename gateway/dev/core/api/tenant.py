"""edge. Endpoints about tenants. Source: core protocol CDI 5.4, multitenancy."""

from __future__ import annotations

from typing import Final

from gateway.dev.core.accounts import Kind, Taken
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.http import Refusal
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.settings import PUBLIC, TENANT_SETTINGS
from gateway.dev.core.tenants import is_tenant_id

_FACTORS: Final = ("firstFactors", "requiredSecondaryFactors")

_TAKEN: Final = {
    Kind.EMAIL: "EMAIL_ALREADY_EXISTS_ERROR",
    Kind.PHONE: "PHONE_NUMBER_ALREADY_EXISTS_ERROR",
    Kind.ACCOUNT: "THIRD_PARTY_USER_ALREADY_EXISTS_ERROR",
}


async def get_tenant(call: Call) -> JsonObject:
    """Return a tenant."""
    view = call.app.tenants.view(call.tenant_id)
    return failed("TENANT_NOT_FOUND_ERROR") if view is None else ok(**view)


async def put_tenant(call: Call) -> JsonObject:
    """Create or change a tenant; null resets a list of factors to its default.

    `coreConfig` is kept, but has no effect in this core.
    """
    tenant_id = (call.body.text_or_none("tenantId") or PUBLIC).strip().lower()
    if not is_tenant_id(tenant_id):
        raise Refusal(400, "tenantId can only contain letters, numbers and hyphens")
    update: JsonObject = {
        name: None if call.body.is_null(name) else call.body.texts(name)
        for name in _FACTORS
        if call.body.has(name)
    }
    core_config = call.body.object_or_none("coreConfig")
    if core_config is not None:
        for name in core_config:
            if name not in TENANT_SETTINGS:
                raise Refusal(400, f"Invalid core config: unknown field '{name}'")
        update["coreConfig"] = core_config
    return ok(createdNew=call.app.tenants.put(tenant_id, update))


async def list_tenants(call: Call) -> JsonObject:
    """List the tenants."""
    return ok(tenants=call.app.tenants.all())


async def remove_tenant(call: Call) -> JsonObject:
    """Delete a tenant."""
    tenant_id = call.body.filled("tenantId").lower()
    if tenant_id == PUBLIC:
        raise Refusal(403, "Cannot delete public tenant, use remove app API instead")
    return ok(didExist=call.app.tenants.remove(tenant_id))


async def add_user(call: Call) -> JsonObject:
    """Add a user to a tenant."""
    user_id = call.body.text("recipeUserId")
    if not call.app.users.exists(user_id):
        return failed("UNKNOWN_USER_ID_ERROR")
    try:
        already = call.app.users.join_tenant(call.tenant_id, user_id)
    except Taken as taken:
        return failed(_TAKEN[taken.kind])
    return ok(wasAlreadyAssociated=already)


async def remove_user(call: Call) -> JsonObject:
    """Remove a user from a tenant."""
    user_id = call.body.text("recipeUserId")
    return ok(wasAssociated=call.app.users.leave_tenant(call.tenant_id, user_id))


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/recipe/multitenancy/tenant/v2",
        handler=get_tenant,
        scope=Scope.OPEN,
    ),
    Endpoint(
        method="PUT",
        path="/recipe/multitenancy/tenant/v2",
        handler=put_tenant,
        scope=Scope.APP,
    ),
    Endpoint(
        method="GET",
        path="/recipe/multitenancy/tenant/list/v2",
        handler=list_tenants,
        scope=Scope.APP,
    ),
    Endpoint(
        method="POST",
        path="/recipe/multitenancy/tenant/remove",
        handler=remove_tenant,
        scope=Scope.APP,
    ),
    Endpoint(method="POST", path="/recipe/multitenancy/tenant/user", handler=add_user),
    Endpoint(
        method="POST",
        path="/recipe/multitenancy/tenant/user/remove",
        handler=remove_user,
    ),
)
