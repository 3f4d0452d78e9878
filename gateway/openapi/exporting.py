"""PURE. A route table → an OpenAPI document, as far as one can say the same.

Exact paths and templates become paths. A prefix becomes its own path: OpenAPI has no
way to say "and all below". Patterns, WebSockets and conditions on fields can't be said.
Permissions become scopes; what else is required of a session is listed in words.

Source: OpenAPI Specification 3.1.1, §4.8.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from gateway.identity import Protection, Requirements, SessionPolicy
from gateway.openapi.operations import OPERATION_KEYS, PARAMETER
from gateway.routes import Route, RouteTable
from gateway.routes.describe import needs_words

_SCHEMES: Final = {
    "sessionHeader": {
        "type": "http",
        "scheme": "bearer",
        "description": "The access token of a SuperTokens session",
    },
    "sessionCookie": {"type": "apiKey", "in": "cookie", "name": "sAccessToken"},
}
_ANY_METHOD: Final = ("get", "put", "post", "delete", "patch")
"""Written for a route that takes every method."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A document, and what isn't in it."""

    document: dict[str, Any]
    left_out: tuple[str, ...]
    """Routes that it can't have, each with the reason."""


def exported(table: RouteTable, title: str, services: Collection[str] = ()) -> Exported:
    """Return the document of the routes to *services*; none: of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    for route in sorted(table.routes, key=lambda one: one.index):
        if services and not any(one.name in services for one in route.services):
            continue
        reason = _reason(route)
        if reason is not None:
            left_out.append(f"{route.name}: {reason}")
            continue
        item = paths.setdefault(route.path, {})
        methods = [method.lower() for method in route.methods or ()] or _ANY_METHOD
        for method in methods:
            if method not in OPERATION_KEYS:
                left_out.append(f"{route.name}: the method {method.upper()}")
            elif method in item:
                left_out.append(f"{route.name}: its path and method are there already")
            else:
                item[method] = _operation(route)
    return Exported(
        {
            "openapi": "3.1.1",
            "info": {"title": title, "version": "1"},
            "paths": {path: item for path, item in paths.items() if item},
            "components": {"securitySchemes": _SCHEMES},
        },
        tuple(left_out),
    )


def _reason(route: Route) -> str | None:
    if route.form == "regex":
        return "a pattern"
    if route.condition is not None:
        return "a condition on fields or query"
    return None


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {"tags": [one.name for one in route.services]}
    if route.form == "prefix":
        operation["description"] = "All paths below are forwarded, too."
    if names := [name[1:-1] for name in PARAMETER.findall(route.path)]:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    hosts = [host for host in route.hosts or () if not host.startswith("*")]
    if hosts:
        operation["servers"] = [{"url": f"//{host}"} for host in hosts]
    operation["security"] = _security(route.session)
    words = [*needs_words(_beyond_scopes(route.session.requirements))]
    if words and route.session.protection is not Protection.PUBLIC:
        operation["x-gateway-require"] = words
    operation["responses"] = {"default": {"description": "The service's response"}}
    return operation


def _security(policy: SessionPolicy) -> list[dict[str, list[str]]]:
    if policy.protection is Protection.PUBLIC:
        return []
    needs = policy.requirements
    every = [*needs.permissions_all]
    scopes = [[*every, one] for one in needs.permissions_any] or [every]
    found = [{scheme: each} for each in scopes for scheme in _SCHEMES]
    return [*found, {}] if policy.protection is Protection.OPTIONAL else found


def _beyond_scopes(needs: Requirements) -> Requirements:
    """Return what isn't said by scopes."""
    return Requirements(
        roles_any=needs.roles_any,
        roles_all=needs.roles_all,
        email_verified=needs.email_verified,
        mfa=needs.mfa,
        tenants=needs.tenants,
        claims=needs.claims,
        validators=needs.validators,
        alternatives=needs.alternatives,
    )
