"""What holds for every request is decided over the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_routes import REQUEST_PATHS, RULES

from gateway import config, routes
from gateway.config import Config, InvalidConfig
from gateway.identity import Protection
from gateway.routes import (
    Conditional,
    Matched,
    Outcome,
    Route,
    RouteTable,
    path_classes,
)
from gateway.routes.always import Decided, decided

SERVICES = {
    "up": {"targets": ["http://up"]},
    "loose": {
        "targets": ["http://loose"],
        "paths": {
            "case": "insensitive",
            "final_slash": "ignored",
            "parameters": "cut",
            "extension": "cut",
            "final_dots": "cut",
        },
    },
}


def loaded(
    rules: Sequence[Any], always: Sequence[Any], **gateway: Any
) -> tuple[Config, RouteTable]:
    """Return a table, without the routes that can never match."""
    given_rules = [
        {"service": "up", "name": f"r{n}", **one} for n, one in enumerate(rules)
    ]
    for _ in range(2):
        made = config.parse(
            {
                "version": 1,
                "services": SERVICES,
                "gateway": gateway,
                "routes": given_rules,
                "tests": {"always": always},
            }
        )
        try:
            return made, routes.compile(made)
        except InvalidConfig as error:
            dead = {finding.loc[1] for finding in error.findings}
            given_rules = [x for n, x in enumerate(given_rules) if n not in dead]
    raise AssertionError("the rest can match")


def decide(rules: Sequence[Any], item: Any, **gateway: Any) -> Decided:
    (one,) = decided(*loaded(rules, [item], **gateway))
    return one


ADMIN = {"require": {"roles": {"any": ["admin"]}}}
STAFF = {"require": {"roles": {"any": ["admin", "staff"]}}}
PUBLIC = {"protected": False}
NEEDS_ADMIN = {"below": "/admin", "needs": {"roles": {"any": ["admin"]}}}


def at(kind: str, path: str, **more: Any) -> dict[str, Any]:
    match = {
        key: more.pop(key) for key in ("methods", "hosts", "headers") if key in more
    }
    return {"match": {"path": {kind: path}, **match}, **more}


GUARDED = [at("prefix", "/", **PUBLIC), at("prefix", "/admin", **ADMIN)]

HOLD: dict[str, tuple[Sequence[Any], Any]] = {
    "a guard below a public prefix": (GUARDED, NEEDS_ADMIN),
    "a looser regex that comes after": (
        [at("regex", "/.*", **PUBLIC), *GUARDED[1:]],
        NEEDS_ADMIN,
    ),
    "a regex of a shorter place": (
        [at("regex", "/(admin|user)/[0-9]+", **PUBLIC), *GUARDED[1:]],
        NEEDS_ADMIN,
    ),
    "the route is excepted": (
        [*GUARDED, at("exact", "/admin/health", **PUBLIC)],
        {**NEEDS_ADMIN, "except": ["r2"]},
    ),
    "a method of its own place is 405": (
        [at("prefix", "/", **PUBLIC), at("prefix", "/admin", methods=["GET"], **ADMIN)],
        NEEDS_ADMIN,
    ),
    "a route that refuses": (
        [*GUARDED, at("prefix", "/admin/x", service=None, respond={"status": 404})],
        NEEDS_ADMIN,
    ),
    "a stricter requirement": (
        [at("prefix", "/admin", require={"roles": {"all": ["admin", "root"]}})],
        NEEDS_ADMIN,
    ),
    "a longer name isn't below": ([*GUARDED, at("prefix", "/administer")], NEEDS_ADMIN),
    "a method that needs a session": (
        [at("prefix", "/", **PUBLIC, methods=["GET"]), at("prefix", "/a")],
        {"methods": ["DELETE"], "needs": "session"},
    ),
    "public routes are listed": (GUARDED, {"public": {"only": ["r0"]}}),
    "a role is kept out": (GUARDED, {"role": "x", "reaches_only": ["public"]}),
    "a permission is kept out": (
        [at("prefix", "/", require={"permissions": {"all": ["w"]}})],
        {"role": "x", "permissions": ["r"], "reaches_only": []},
    ),
    "no alternative is for the role": (
        [
            at(
                "prefix",
                "/",
                require={"any": [{"roles": {"any": ["b"]}}, ADMIN["require"]]},
            )
        ],
        {"role": "x", "reaches_only": []},
    ),
    "near misses are refused": (GUARDED, {"near_misses": "safe"}),
    "a gateway's own path": (
        [at("regex", "/auth.*", **PUBLIC)],
        {"below": "/auth", "needs": "session"},
    ),
    "a condition that never decides": (
        [
            at("prefix", "/admin", headers={"x-a": "*"}, **ADMIN),
            at("prefix", "/admin", headers={"x-a": "1"}, **PUBLIC),
            at("prefix", "/admin", **ADMIN),
        ],
        NEEDS_ADMIN,
    ),
}


@pytest.mark.parametrize(("rules", "item"), HOLD.values(), ids=HOLD)
def test_what_holds(rules: Sequence[Any], item: Any) -> None:
    """Whatever could break it is decided elsewhere, or not at all."""
    assert decide(rules, item).reasons == ()


BREAK: dict[str, tuple[Sequence[Any], Any, str]] = {
    "a public route below": (
        [*GUARDED, at("exact", "/admin/health", **PUBLIC)],
        NEEDS_ADMIN,
        "GET /admin/health: r2 needs no session (public)",
    ),
    "a laxer role below a name": (
        [*GUARDED, at("template", "/admin/{id}/notes", **STAFF)],
        NEEDS_ADMIN,
        "GET /admin/x/notes: r2 needs roles any of admin staff",
    ),
    "a regex with a way below": (
        [at("regex", "/admin/[0-9]+/a"), *GUARDED],
        NEEDS_ADMIN,
        "GET /admin/0/a: r0 needs only a session",
    ),
    "a name that may be the path": (
        [at("template", "/{any}/x", **PUBLIC), at("prefix", "/admin/x/y", **ADMIN)],
        NEEDS_ADMIN,
        "GET /admin/x: r0 needs no session (public)",
    ),
    "a host of its own": (
        [*GUARDED, at("prefix", "/", hosts=["*.ex"], **PUBLIC)],
        NEEDS_ADMIN,
        "GET http://x.ex/admin: r2 needs no session (public)",
    ),
    "a condition": (
        [*GUARDED, at("prefix", "/admin", headers={"x-a": "1"}, **PUBLIC)],
        NEEDS_ADMIN,
        "GET /admin -H 'x-a: 1': r2 needs no session (public)",
    ),
    "no guard at all": (
        [at("prefix", "/", **PUBLIC)],
        NEEDS_ADMIN,
        "GET /admin: r0 needs no session (public)",
    ),
    "a method": (
        [at("prefix", "/", **PUBLIC), at("prefix", "/a")],
        {"methods": ["DELETE"], "needs": "session"},
        "DELETE /: r0 needs no session (public)",
    ),
    "an optional session": (
        [at("prefix", "/", protected="optional")],
        {"public": {"only": []}},
        "GET /: r0 needs no session, and isn't listed",
    ),
    "a role reaches more": (
        [at("prefix", "/", **STAFF)],
        {"role": "staff", "reaches_only": ["public"]},
        "GET /: r0 lets the role staff through",
    ),
    "a name that is no route's": (
        GUARDED,
        {"public": {"only": ["r0", "gone"]}},
        "no route is called gone",
    ),
    "a service that folds case": (
        [
            at("prefix", "/admin", **ADMIN),
            at("prefix", "/Admin/open", service="loose", **PUBLIC),
        ],
        NEEDS_ADMIN,
        "GET /admin/open: r1 needs no session (public)",
    ),
}


@pytest.mark.parametrize(("rules", "item", "reason"), BREAK.values(), ids=BREAK)
def test_what_is_broken(rules: Sequence[Any], item: Any, reason: str) -> None:
    """The reason has a request that the table lets through."""
    assert decide(rules, item).reasons[0] == reason


def test_near_misses_that_are_forwarded() -> None:
    """Only the switch makes them unsafe, and only where routes differ."""
    item = {"near_misses": "safe"}
    (reason,) = decide(GUARDED, item, near_misses="forward").reasons
    assert reason.startswith("/ADMIN: its service may read it as a path of r1, but r0")
    assert decide(GUARDED[:1], item, near_misses="forward").reasons == ()


def test_a_table_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk is bounded, and what can't be decided doesn't hold."""
    monkeypatch.setattr(path_classes.path_classes, "__defaults__", ((), (), 3))
    assert decide(GUARDED, NEEDS_ADMIN).reasons == (
        "the table is too large: this can't be decided",
    )


SESSIONS = st.sampled_from([{}, PUBLIC, {"protected": "optional"}, ADMIN, STAFF])
CONDITIONS = st.sampled_from(
    [{}, {}, {}, {"headers": {"x-a": "*"}}, {"query": {"q": ["1", "2"]}}]
)


def merged(rule: dict[str, Any], session: Any, condition: Any, service: str) -> Any:
    match = {**rule["match"], **condition}
    kept = {key: rule[key] for key in rule.keys() - {"upstream"}}
    return {**kept, "match": match, **session, "service": service}


TABLES = st.lists(
    st.builds(merged, RULES, SESSIONS, CONDITIONS, st.sampled_from(["up", "loose"])),
    min_size=1,
    max_size=6,
)
SPELLINGS = st.sampled_from(["", "/", "/%20", ".json", ";x", "."])
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["GET", "POST", "HEAD", "DELETE"]),
        st.sampled_from(["", "h.ex", "x.ex", "a.h.ex", "other.org", "ex"]),
        st.builds(
            lambda path, end, upper: (path.upper() if upper else path) + end,
            REQUEST_PATHS,
            SPELLINGS,
            st.booleans(),
        ),
        st.sampled_from([(), ((b"X-A", b"1"),)]),
        st.sampled_from([b"", b"?q=1", b"?q=2&q=1", b"?q=3"]),
    ),
    min_size=1,
    max_size=15,
)
ITEMS = [
    {"public": {"only": ["r0"]}},
    {"below": "/a", "needs": "session", "except": ["r1"]},
    {"below": "/a/b", "needs": {"roles": {"any": ["admin"]}}},
    {"methods": ["DELETE", "POST"], "needs": {"roles": {"any": ["admin"]}}},
    {"role": "staff", "reaches_only": ["r2", "public"]},
]


def contradicts(item: Any, method: str, path: str, route: Route) -> bool:
    """Return whether a request against *item* gets through, as documented."""
    is_open = route.session.protection is not Protection.REQUIRED
    roles = set(route.session.requirements.roles_any)
    if "public" in item:
        return is_open and route.name not in item["public"]["only"]
    if "role" in item:
        reached = is_open or not roles or item["role"] in roles
        return reached and not is_open and route.name not in item["reaches_only"]
    if method not in item.get("methods", [method]) or route.name in item.get(
        "except", ()
    ):
        return False
    if "below" in item and not f"{path}/".startswith(item["below"] + "/"):
        return False
    return is_open or (item["needs"] != "session" and roles != {"admin"})


def outcome_of(table: RouteTable, request: Any) -> Outcome:
    method, host, path, fields, query = request
    outcome = table.match(method, host, path)
    return (
        outcome.resolve(fields, query) if isinstance(outcome, Conditional) else outcome
    )


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    rules=TABLES, requests=REQUESTS, near_misses=st.sampled_from(["refuse", "forward"])
)
@example(
    rules=[at("regex", "/a.*", **PUBLIC), at("prefix", "/a", **ADMIN)],
    requests=[("GET", "", "/a", (), b"")],
    near_misses="refuse",
)
def test_no_request_contradicts_what_holds(
    rules: Any, requests: Any, near_misses: str
) -> None:
    """Whatever the table, and however services read its paths."""
    settings, table = loaded(rules, ITEMS, near_misses=near_misses)
    results = [
        {one for one in each.reasons if not one.startswith("no route is called")}
        for each in decided(settings, table)
    ]
    for request in requests:
        outcome = outcome_of(table, request)
        if isinstance(outcome, Matched):
            for item, reasons in zip(ITEMS, results, strict=True):
                if contradicts(item, request[0], request[2], outcome.route):
                    assert reasons, (item, request)
