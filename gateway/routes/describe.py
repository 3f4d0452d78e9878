"""PURE. The route table as text, for `gateway routes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.identity import CheckDatabase, Requirements, SessionPolicy
from gateway.routes.labels import condition_words
from gateway.routes.remarks import remarks
from gateway.routes.route import Route
from gateway.routes.split import Split
from gateway.routes.table import RouteTable


class Row(NamedTuple):
    """A route as `gateway routes` shows it."""

    number: int
    """Its rank in the order of matching, from one."""
    name: str
    hosts: str
    path: str
    methods: str
    session: str
    upstream: str
    note: str
    """Its remarks; empty for most routes."""


def rows(table: RouteTable) -> list[Row]:
    """Return the routes in the order of matching."""
    notes: dict[Route, list[str]] = {}
    for remark in remarks(table):
        notes.setdefault(remark.route, []).append(str(remark))
    return [
        Row(
            number=number,
            name=route.name,
            hosts=" ".join(route.hosts or ("any",)),
            path=_path_and_form(route) + condition_words(route),
            methods=" ".join(route.methods or ("any",)),
            session=_session_words(route.session),
            upstream=_upstream(route),
            note="; ".join(notes.get(route, ())),
        )
        for number, route in enumerate(table.routes, start=1)
    ]


def _upstream(route: Route) -> str:
    if route.answer is None:
        shown = ", ".join(map(str, route.service.targets))
        if isinstance(route.detour, Split):
            other = ", ".join(map(str, route.detour.route.service.targets))
            shown += f"; {route.detour.weight:.4g} to {other}"
        return shown
    verb = "responds" if route.answer.location is None else "redirects"
    return f"({verb} with {route.answer.status})"


def _path_and_form(route: Route) -> str:
    return route.path if route.form == "prefix" else f"{route.path} ({route.form})"


def _session_words(policy: SessionPolicy) -> str:
    """Return what a route requires of the session, in words."""
    words = [policy.protection.value, *needs_words(policy.requirements)]
    if policy.check_database is not CheckDatabase.NEVER:
        words.append(f"core asked {policy.check_database.value.replace('_', ' ')}")
    return ", ".join(words)


def needs_words(needs: Requirements) -> Iterator[str]:
    """Yield what is required, in words."""
    lists = {
        "roles any of": needs.roles_any,
        "roles": needs.roles_all,
        "permissions any of": needs.permissions_any,
        "permissions": needs.permissions_all,
        "tenants": needs.tenants,
        "claims": tuple(".".join(rule.path) for rule in needs.claims),
        "validators": needs.validators,
    }
    yield from (f"{name} {' '.join(items)}" for name, items in lists.items() if items)
    yield from ["email verified"] * needs.email_verified + ["mfa"] * needs.mfa
    for group in needs.alternatives:
        yield " or ".join(f"({', '.join(needs_words(item))})" for item in group)
