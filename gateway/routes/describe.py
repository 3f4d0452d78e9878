"""PURE. The route table as text, for `gateway routes`."""

from __future__ import annotations

from typing import NamedTuple

from gateway.identity import CheckDatabase, SessionPolicy
from gateway.routes.remarks import remarks
from gateway.routes.route import Route
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
            path=route.path if route.form == "prefix" else _path_and_form(route),
            methods=" ".join(route.methods or ("any",)),
            session=_session_words(route.session),
            upstream=", ".join(map(str, route.service.targets)),
            note="; ".join(notes.get(route, ())),
        )
        for number, route in enumerate(table.routes, start=1)
    ]


def _path_and_form(route: Route) -> str:
    return f"{route.path} ({route.form})"


def _session_words(policy: SessionPolicy) -> str:
    """Return what a route requires of the session, in words."""
    needs = policy.requirements
    lists = {
        "roles any of": needs.roles_any,
        "roles": needs.roles_all,
        "permissions any of": needs.permissions_any,
        "permissions": needs.permissions_all,
        "tenants": needs.tenants,
        "claims": tuple(".".join(rule.path) for rule in needs.claims),
        "validators": needs.validators,
    }
    words = [policy.protection.value]
    words += [f"{name} {' '.join(items)}" for name, items in lists.items() if items]
    words += ["email verified"] * needs.email_verified + ["mfa"] * needs.mfa
    if policy.check_database is not CheckDatabase.NEVER:
        words.append(f"core asked {policy.check_database.value.replace('_', ' ')}")
    return ", ".join(words)
