"""What a changed route table does with requests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_routes import RULES, without_dead

from gateway import config, routes
from gateway.identity import Protection
from gateway.routes import Conditional, Matched, RouteTable
from gateway.routes.difference import LAXER, DifferenceKind, differences


def table(*rules: dict[str, Any]) -> RouteTable:
    services = {name: {"targets": [f"http://{name}"]} for name in ("up", "other")}
    return routes.compile(
        config.parse(
            {
                "version": 1,
                "services": services,
                "routes": [{"service": "up", **rule} for rule in rules],
            }
        )
    )


ADMIN = {"require": {"roles": {"any": ["admin"]}}}
STAFF = {"require": {"roles": {"any": ["admin", "staff"]}}}
TENANT = {"require": {"tenants": ["shop"]}}
PRIVATE = {"path": "/a"}
PUBLIC = {"path": "/a", "protected": False}
INSIDE = {"clients": {"allow": ["10.0.0.0/8"]}}

CHANGES: dict[str, tuple[Any, Any, DifferenceKind | None]] = {
    "nothing": (PRIVATE, PRIVATE, None),
    "another name": (PRIVATE, PRIVATE | {"name": "b"}, None),
    "no session needed": (PRIVATE, PUBLIC, DifferenceKind.PUBLIC),
    "a session optional": (
        PRIVATE,
        PRIVATE | {"protected": "optional"},
        DifferenceKind.LESS,
    ),
    "a session needed": (PUBLIC, PRIVATE, DifferenceKind.MORE),
    "a role needed": (PRIVATE, PRIVATE | ADMIN, DifferenceKind.MORE),
    "a role more that is enough": (
        PRIVATE | ADMIN,
        PRIVATE | STAFF,
        DifferenceKind.LESS,
    ),
    "a tenant in place of a role": (
        PRIVATE | ADMIN,
        PRIVATE | TENANT,
        DifferenceKind.OTHER,
    ),
    "the core not asked": (
        PRIVATE | {"session": {"check_database": "always"}},
        PRIVATE,
        DifferenceKind.LESS,
    ),
    "the core asked of writes": (
        PRIVATE,
        PRIVATE | {"session": {"check_database": "on_write"}},
        DifferenceKind.MORE,
    ),
    "any address": (PUBLIC | INSIDE, PUBLIC, DifferenceKind.PUBLIC),
    "any address, with a session": (PRIVATE | INSIDE, PRIVATE, DifferenceKind.LESS),
    "some addresses": (PUBLIC, PUBLIC | INSIDE, DifferenceKind.MORE),
    "another service": (PRIVATE, PRIVATE | {"service": "other"}, DifferenceKind.MOVED),
    "another path": (
        PRIVATE,
        PRIVATE | {"rewrite": {"strip_prefix": "/a"}},
        DifferenceKind.MOVED,
    ),
}


@pytest.mark.parametrize(("old", "new", "kind"), CHANGES.values(), ids=CHANGES)
def test_kinds(old: Any, new: Any, kind: DifferenceKind | None) -> None:
    """Of the same path. The other way round, less becomes more."""
    found = differences(table(old), table(new))
    assert {one.kind for one in found} == (set() if kind is None else {kind})
    back = differences(table(new), table(old))
    if kind is DifferenceKind.MOVED or kind is None:
        assert {one.kind for one in back} == {one.kind for one in found}
    else:
        assert (kind in LAXER) is (
            kind is DifferenceKind.OTHER
            or {one.kind for one in back} == {DifferenceKind.MORE}
        )


def test_a_route_that_is_gone_or_new() -> None:
    """What another route takes instead is compared with it; else it is refused."""
    both = {"path": "/a/b", **ADMIN}
    (gone,) = differences(table(PRIVATE, both), table(PRIVATE))
    assert (gone.kind, gone.path) == (DifferenceKind.LESS, "/a/b")
    assert (gone.was, gone.now) == (
        "required by 1:/a/b, to up as /a/b",
        "required by 0:/a, to up as /a/b",
    )
    (opened,) = differences(table(both), table(both, {"path": "/c"}))
    assert (opened.kind, opened.was) == (DifferenceKind.OPENED, "404, no route")
    (refused,) = differences(table(both, {"path": "/c"}), table(both))
    assert (refused.kind, refused.now) == (DifferenceKind.GONE, "404, no route")


def test_a_route_that_is_hidden_by_a_new_one() -> None:
    """A public prefix that is longer takes part of a protected one."""
    new = table(PRIVATE, {"path": "/a/x", "protected": False})
    (found,) = differences(table(PRIVATE), new)
    assert (found.kind, found.path) == (DifferenceKind.PUBLIC, "/a/x")


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    old=st.lists(RULES, min_size=1, max_size=5),
    new=st.lists(RULES, min_size=1, max_size=5),
)
def test_every_difference_is_real(old: list[Any], new: list[Any]) -> None:
    """Its example is decided as it says, and a table differs in nothing from itself."""
    _, before = without_dead(old)
    _, after = without_dead(new)
    assert differences(before, before) == []
    for one in differences(before, after):
        for table_of, route in ((before, one.old), (after, one.new)):
            outcome = table_of.match(one.method, one.host, one.path)
            if isinstance(outcome, Conditional):
                outcome = outcome.resolve((), b"")
            taken = outcome.route if isinstance(outcome, Matched) else None
            assert taken is route
        if one.kind is DifferenceKind.PUBLIC:
            assert one.new is not None
            assert one.new.session.protection is Protection.PUBLIC
