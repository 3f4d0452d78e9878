"""edge. Endpoints of roles and permissions. Source: core protocol CDI 5.4."""

from __future__ import annotations

from typing import Final

from gateway.dev.core.api.endpoint import Call, Endpoint, Handler, Scope, failed, ok
from gateway.dev.core.http import Refusal, Reply
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.roles import UnknownRole


async def put(call: Call) -> JsonObject:
    """Create a role, or add permissions to one."""
    role = call.body.filled("role")
    added = _permissions(call) or []
    created = call.app.roles.put(role, added)
    return ok(createdNewRole=created)


async def list_all(call: Call) -> JsonObject:
    """List the roles."""
    return ok(roles=call.app.roles.all())


async def permissions(call: Call) -> JsonObject:
    """List a role's permissions."""
    role = call.query.text("role").strip()
    return ok(permissions=call.app.roles.permissions(role))


async def take_permissions(call: Call) -> JsonObject:
    """Remove permissions from a role; without a list, all of them."""
    role, removed = call.body.filled("role"), _permissions(call)
    call.app.roles.take_permissions(role, removed)
    return ok()


async def with_permission(call: Call) -> JsonObject:
    """List the roles with a permission."""
    permission = call.query.text("permission").strip()
    return ok(roles=call.app.roles.with_permission(permission))


async def remove(call: Call) -> JsonObject:
    """Delete a role."""
    role = call.body.filled("role")
    return ok(didRoleExist=call.app.roles.remove(role))


async def give(call: Call) -> JsonObject:
    """Give a user a role."""
    user_id, role = call.body.text("userId"), call.body.filled("role")
    new = call.app.roles.give(call.tenant_id, user_id, role)
    return ok(didUserAlreadyHaveRole=not new)


async def take(call: Call) -> JsonObject:
    """Remove a role from a user."""
    user_id, role = call.body.text("userId"), call.body.filled("role")
    return ok(didUserHaveRole=call.app.roles.take(call.tenant_id, user_id, role))


async def of_user(call: Call) -> JsonObject:
    """List a user's roles."""
    user_id = call.query.text("userId")
    return ok(roles=call.app.roles.of_user(call.tenant_id, user_id))


async def holders(call: Call) -> JsonObject:
    """List the users with a role."""
    role = call.query.text("role").strip()
    return ok(users=call.app.roles.holders(call.tenant_id, role))


def _permissions(call: Call) -> list[str] | None:
    names = call.body.texts_or_none("permissions")
    if names is None:
        return None
    stripped = [name.strip() for name in names]
    if not all(stripped):
        raise Refusal(400, "Field name 'permissions' cannot contain an empty string")
    return stripped


def _known(handler: Handler) -> Handler:
    """Return a handler that answers `UNKNOWN_ROLE_ERROR` for an unknown role."""

    async def answer(call: Call) -> JsonObject | Reply:
        try:
            return await handler(call)
        except UnknownRole:
            return failed("UNKNOWN_ROLE_ERROR")

    return answer


ENDPOINTS: Final = tuple(
    Endpoint(method=method, path=path, handler=_known(handler), scope=scope)
    for method, path, handler, scope in (
        ("PUT", "/recipe/role", put, Scope.APP),
        ("GET", "/recipe/roles", list_all, Scope.APP),
        ("GET", "/recipe/role/permissions", permissions, Scope.APP),
        ("POST", "/recipe/role/permissions/remove", take_permissions, Scope.APP),
        ("GET", "/recipe/permission/roles", with_permission, Scope.APP),
        ("POST", "/recipe/role/remove", remove, Scope.APP),
        ("PUT", "/recipe/user/role", give, Scope.TENANT),
        ("POST", "/recipe/user/role/remove", take, Scope.TENANT),
        ("GET", "/recipe/user/roles", of_user, Scope.TENANT),
        ("GET", "/recipe/role/users", holders, Scope.TENANT),
    )
)
