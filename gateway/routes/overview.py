"""PURE. All that is in effect for each route, for `gateway routes --json`.

It has no value that may be a secret: of fields and query parameters, only the names.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gateway.config import Config, EffectiveRoute, effective_routes
from gateway.config.secret import shown
from gateway.identity import Requirements
from gateway.routes.labels import label
from gateway.routes.remarks import remarks
from gateway.routes.route import Route, Service
from gateway.routes.split import Split
from gateway.routes.table import RouteTable


def overview(settings: Config, table: RouteTable) -> list[dict[str, Any]]:
    """Return a mapping for each route, in the order of matching. Times are seconds."""
    effective = effective_routes(settings)
    notes: dict[Route, list[str]] = {}
    for remark in remarks(table):
        notes.setdefault(remark.route, []).append(str(remark))
    return [
        {
            "rank": number,
            "name": route.name,
            "label": label(route),
            "match": _match(route),
            "session": _session(route),
            "upstream": _upstream(route),
            "timeouts": asdict(route.timeouts),
            "retry": {
                "attempts": route.retry.attempts,
                "on": sorted(route.retry.on),
                "per_try": route.retry.per_try,
                "budget": route.retry.budget,
            },
            "limits": _limits(route),
            "websocket": shown(route.websocket),
            "clients": shown(effective[route.index].settings.clients),
            "cors": shown(settings.cors if route.cors is None else route.cors),
            "headers": _headers(route, effective[route.index]),
            "critical": route.critical,
            "notes": notes.get(route, []),
        }
        for number, route in enumerate(table.routes, start=1)
    ]


def _match(route: Route) -> dict[str, Any]:
    condition = route.condition
    return {
        "hosts": None if route.hosts is None else [*route.hosts],
        "form": route.form,
        "path": route.path,
        "methods": None if route.methods is None else [*route.methods],
        "headers": []
        if condition is None
        else [x.decode() for x, _ in condition.fields],
        "query": [] if condition is None else [str(x) for x, _ in condition.query],
    }


def _session(route: Route) -> dict[str, Any]:
    policy = route.session
    return {
        "protection": policy.protection.value,
        "require": _needs(policy.requirements),
        "check_database": policy.check_database.value,
        "max_age": policy.max_age_s
        if policy.check_database.value == "cached"
        else None,
        "close_streams": route.close_streams,
        "upstream_401": route.upstream_401,
    }


def _needs(needs: Requirements) -> dict[str, Any]:
    """Return what is required, without what isn't."""
    found: dict[str, Any] = {
        "roles": {"any": [*needs.roles_any], "all": [*needs.roles_all]},
        "permissions": {
            "any": [*needs.permissions_any],
            "all": [*needs.permissions_all],
        },
        "email_verified": needs.email_verified,
        "mfa": needs.mfa,
        "tenants": [*needs.tenants],
        "claims": [".".join(rule.path) for rule in needs.claims],
        "max_age": needs.max_age_s,
        "validators": [*needs.validators],
        "any": [[_needs(one) for one in group] for group in needs.alternatives],
    }
    for name in ("roles", "permissions"):
        found[name] = {key: names for key, names in found[name].items() if names}
    return {name: value for name, value in found.items() if value}


def _upstream(route: Route) -> dict[str, Any]:
    if route.answer is not None:
        return {"status": route.answer.status}
    rewrite = route.rewrite
    found = {
        **_service(route.service),
        "host_header": route.host_header,
        "rewrite": None
        if rewrite is None
        else {"strip_segments": rewrite.strip, "replacement": rewrite.replacement},
    }
    if isinstance(route.detour, Split):
        other = _service(route.detour.route.service)
        found["split"] = {**other, "weight": route.detour.weight}
    return found


def _service(service: Service) -> dict[str, Any]:
    return {
        "service": service.name,
        "targets": [str(target) for target in service.targets],
    }


def _limits(route: Route) -> dict[str, Any]:
    limits = route.limits
    uses = () if limits is None else (*limits.before, *limits.after)
    in_flight = route.service.limits
    return {
        "max_body_size": route.max_body_size,
        "buffer": route.buffer,
        "rate_limits": [{"policy": use.policy.name, "cost": use.cost} for use in uses],
        "in_flight": None if in_flight is None else in_flight.in_flight,
        "max_connections": route.service.max_connections or None,
    }


def _headers(route: Route, effective: EffectiveRoute) -> dict[str, Any]:
    return {
        "identity": sorted(effective.settings.identity.headers),
        "forward_credentials": route.headers.forward_credentials,
        "forward_authorization": route.headers.forward_authorization,
        "request_removed": sorted(map(_text, route.headers.edits.removed)),
        "request_added": [_text(name) for name, _ in route.headers.edits.fields],
        "response_removed": sorted(map(_text, route.reply_edits.removed)),
        "response_added": [_text(name) for name, _ in route.reply_edits.fields],
    }


def _text(name: bytes) -> str:
    return name.decode("latin-1")
