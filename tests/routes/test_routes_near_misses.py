"""Paths that a service may read as a stricter route's, and `services.paths`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import config, routes
from gateway.errors import BadTarget
from gateway.http import target
from gateway.identity import Protection, SessionPolicy
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Route,
    RouteTable,
)

EVERYTHING_ELSE = {"name": "broad", "path": "/", "protected": False}


def compiled(
    *rules: Mapping[str, Any],
    paths: object = None,
    gateway: Mapping[str, Any] | None = None,
    services: Mapping[str, Any] | None = None,
) -> RouteTable:
    """Return the table of *rules*; a rule without a service gets `app`."""
    app = {"targets": ["http://app"], **({} if paths is None else {"paths": paths})}
    settings = config.parse(
        {
            "version": 1,
            "gateway": gateway or {},
            "supertokens": {"recipes": {"userroles": {}, "emailverification": {}}},
            "services": {"app": app, **(services or {})},
            "routes": [{"service": "app", **rule} for rule in rules],
        }
    )
    return routes.compile(settings)


def exact(path: str, **keys: Any) -> dict[str, Any]:
    return {"match": {"path": {"exact": path}}, **keys}


def template(path: str, methods: list[str] | None = None, **keys: Any) -> Any:
    match: dict[str, Any] = {"path": {"template": path}}
    if methods:
        match["methods"] = methods
    return {"match": match, **keys}


def canonical(path: str) -> str:
    """Return the canonical form of the client's *path*, by which routes are matched."""
    return target.parse(path.encode(), method="GET", authority=b"h").path


def outcome(table: RouteTable, path: str, method: str = "GET", host: str = "") -> str:
    """Return the name of the route that takes a request, or why it is refused."""
    match table.match(method, host, canonical(path)):
        case Matched(route=route):
            return route.name
        case NearMiss(route=route, guard=guard):
            return f"{route.name} or {guard.name}"
        case MethodNotAllowed():
            return "405"
        case NoRoute():
            return "none"
        case Conditional():
            raise AssertionError("no route here has a condition")


# --- which paths are near misses ------------------------------------------------

ADMIN = {"name": "admin", "path": "/admin"}
SECRET = exact("/secret", name="secret")
REFUND = template(
    "/orders/{id}/refund",
    ["POST"],
    name="refund",
    require={"roles": {"any": ["admin"]}},
)
ORDERS = {"name": "orders", "path": "/orders"}

NEAR = {
    # services that read it as the guarded path (see tools/lenient.py)
    "parameters: Tomcat, Jetty, Spring": ("/admin;x", "admin"),
    "parameters within": ("/admin;x/users", "admin"),
    "parameters behind dots": ("/x/%2e%2e/admin;a=b/c", "admin"),
    "escaped parameters": ("/admin%3bx", "admin"),
    "final dot: IIS, Spring 1": ("/admin.", "admin"),
    "final dots": ("/admin..", "admin"),
    "final dot within": ("/admin./users", "admin"),
    "final space: IIS": ("/admin%20", "admin"),
    "a last segment of dots": ("/secret/...", "secret"),
    "a last segment of spaces": ("/secret/%20", "secret"),
    "capital: Express, Koa, ASP.NET": ("/Admin", "admin"),
    "capital beyond ASCII": ("/adm%C4%B1n", "admin"),
    "capitals within": ("/ADMIN/users", "admin"),
    "final slash: Express, Koa, Rails": ("/secret/", "secret"),
    "capitals of an exact path": ("/SECRET", "secret"),
    "extension: Rails": ("/secret.json", "secret"),
    "two extensions": ("/secret.tar.gz", "secret"),
    "extension and final slash: Rails": ("/secret.json/", "secret"),
    "all at once": ("/Admin.;x=1/Users/", "admin"),
}


@pytest.mark.parametrize(("path", "guard"), NEAR.values(), ids=NEAR)
def test_a_guard_holds_under_another_spelling(path: str, guard: str) -> None:
    """A laxer route forwards no path that the service may read as a guarded one."""
    table = compiled(EVERYTHING_ELSE, ADMIN, SECRET)
    assert outcome(table, path) == f"broad or {guard}"
    assert outcome(table, "/elsewhere") == "broad"


@pytest.mark.parametrize(
    "path", ["/orders/1/refund/", "/orders/1/Refund", "/orders/1/./refund/."]
)
def test_a_role_holds_under_another_spelling(path: str) -> None:
    """The laxer route may require a session, but not the role."""
    table = compiled(ORDERS, REFUND)
    assert outcome(table, path, "POST") == "orders or refund"
    assert outcome(table, path, "GET") == "orders or refund", "the place refuses GET"
    assert outcome(table, "/orders/1/refund", "POST") == "refund"
    assert outcome(table, "/orders/1/refunds", "POST") == "orders"


@pytest.mark.parametrize(
    "path",
    [
        "/elsewhere/",
        "/Elsewhere",
        "/page.html",
        "/a;b=c/d",
        "/adminx",
        "/Admins",
        "/secret/x",
        "/secrets.json",
        "/x/admin.",
        "/%41dmi",
    ],
)
def test_other_paths_are_forwarded(path: str) -> None:
    """A path that no reader takes for a guarded one is forwarded."""
    assert outcome(compiled(EVERYTHING_ELSE, ADMIN, SECRET), path) == "broad"


def test_a_plain_path_may_be_read_as_that_of_a_route_with_capitals() -> None:
    """A route's own path with capitals may be the variant of a plain request path."""
    table = compiled(
        EVERYTHING_ELSE, exact("/Secret", name="s"), exact("/a/", name="a")
    )
    assert outcome(table, "/secret") == "broad or s"
    assert outcome(table, "/a") == "broad or a"
    assert outcome(table, "/Secret") == "s"
    assert outcome(table, "/b") == "broad"


def test_the_extension_of_a_route_is_its_own() -> None:
    """Only the request's extension may be ignored, never the route's own."""
    table = compiled(EVERYTHING_ELSE, exact("/report.json", name="report"))
    assert outcome(table, "/report.yaml") == "broad"
    assert outcome(table, "/report") == "broad"
    assert outcome(table, "/report.JSON") == "broad or report"
    assert outcome(table, "/report.json.gz") == "broad or report"


@pytest.mark.parametrize(
    ("text", "spelled"), [(":", "%3A"), ("@", "%40"), ("!", "%21")]
)
def test_an_escape_is_another_spelling(text: str, spelled: str) -> None:
    """An escaped character is another spelling, for exact and prefix routes."""
    guarded = exact(f"/things{text}lock", name="lock")
    for paths in (None, "exact"):
        table = compiled(EVERYTHING_ELSE, guarded, paths=paths)
        assert outcome(table, f"/things{spelled}lock") == "broad or lock"
        assert outcome(table, f"/things{text}lock") == "lock"


def test_a_regex_is_tried_on_the_folded_path() -> None:
    """A regex isn't folded: it is tried on the folded path.

    Its capitals match small letters, too.
    """
    pattern = {"match": {"path": {"regex": "/API/v[0-9]+/Keys"}}, "name": "keys"}
    table = compiled(EVERYTHING_ELSE, pattern)
    assert outcome(table, "/API/v1/Keys") == "keys"
    for path in ("/api/V1/keys", "/API/v1/Keys/", "/API/v1/Keys;x", "/Api/v22/KEYS"):
        assert outcome(table, path) == "broad or keys"
    assert outcome(table, "/api/v/keys") == "broad"


def test_two_routes_that_fold_to_one_path_hide_no_third() -> None:
    """`/SECRET` may be read as `/secret`, whatever the route for `/Secret` allows."""
    table = compiled(
        EVERYTHING_ELSE,
        exact("/Secret", name="capital", protected=False),
        {"name": "guard", "path": "/secret"},
    )
    assert outcome(table, "/SECRET") == "broad or guard"
    assert outcome(table, "/Secret") == "capital or guard"
    assert outcome(table, "/secret") == "guard"


def test_hosts_come_before_paths() -> None:
    """Only the guards of the request's own host count."""
    table = compiled(
        EVERYTHING_ELSE,
        {
            "name": "guard",
            "match": {
                "path": {"prefix": "/admin"},
                "hosts": ["a.example", "*.b.example"],
            },
        },
    )
    assert outcome(table, "/Admin", host="a.example") == "broad or guard"
    assert outcome(table, "/Admin", host="x.b.example") == "broad or guard"
    assert outcome(table, "/Admin", host="c.example") == "broad"


# --- which routes are stricter --------------------------------------------------

STRICTER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "optional than public": ({"protected": "optional"}, {"protected": False}),
    "required than public": ({}, {"protected": False}),
    "required than optional": ({}, {"protected": "optional"}),
    "a role": ({"require": {"roles": {"any": ["a"]}}}, {}),
    "one of fewer roles": (
        {"require": {"roles": {"any": ["a"]}}},
        {"require": {"roles": {"any": ["a", "b"]}}},
    ),
    "all roles than one of them": (
        {"require": {"roles": {"all": ["a", "b"]}}},
        {"require": {"roles": {"any": ["a", "b"]}}},
    ),
    "another role": (
        {"require": {"roles": {"all": ["a"]}}},
        {"require": {"roles": {"all": ["b"]}}},
    ),
    "a permission": ({"require": {"permissions": {"all": ["a"]}}}, {}),
    "a verified address": ({"require": {"email_verified": True}}, {}),
    "a tenant": ({"require": {"tenants": ["a"]}}, {"require": {"tenants": ["a", "b"]}}),
    "a claim": ({"require": {"claims": [{"path": "plan", "equals": "x"}]}}, {}),
    "a younger claim": (
        {"require": {"roles": {"any": ["a"]}, "max_age": "1s"}},
        {"require": {"roles": {"any": ["a"]}, "max_age": "2s"}},
    ),
    "the core always": (
        {"session": {"check_database": "always"}},
        {"session": {"check_database": "cached"}},
    ),
    "the core, more recently": (
        {"session": {"check_database": "cached", "max_age": "1s"}},
        {"session": {"check_database": "cached", "max_age": "2s"}},
    ),
}


@pytest.mark.parametrize(("strict", "lax"), STRICTER.values(), ids=STRICTER)
def test_every_requirement_of_a_guard_holds(
    strict: dict[str, Any], lax: dict[str, Any]
) -> None:
    """A route is laxer if the guard requires anything that the route doesn't."""
    broad = {"name": "broad", "path": "/"}
    guard = {"name": "guard", "path": "/guarded"}
    table = compiled({**broad, **lax}, {**guard, **strict})
    assert outcome(table, "/Guarded/x") == "broad or guard"
    table = compiled({**broad, **strict}, {**guard, **strict})
    assert outcome(table, "/Guarded/x") == "broad", "it asks for as much"


def test_a_laxer_route_is_no_guard() -> None:
    """A route that requires less than the wider one is no guard against it."""
    table = compiled({"name": "broad", "path": "/"}, {**ADMIN, "protected": False})
    assert outcome(table, "/Admin") == "broad"


def test_core_checks_depend_on_the_method() -> None:
    """`on_write` is stricter than `never` for methods that write."""
    table = compiled(
        {"name": "broad", "path": "/"},
        {**ADMIN, "session": {"check_database": "on_write"}},
    )
    assert outcome(table, "/Admin", "GET") == "broad"
    assert outcome(table, "/Admin", "POST") == "broad or admin"


def test_a_refused_method_is_a_guard() -> None:
    """A path whose method gets 405 is not forwarded in another spelling."""
    listed = {"match": {"path": {"prefix": "/items"}, "methods": ["GET"]}}
    table = compiled(EVERYTHING_ELSE, {"name": "items", "protected": False, **listed})
    assert outcome(table, "/items", "DELETE") == "405"
    assert outcome(table, "/Items", "DELETE") == "broad or items"
    assert outcome(table, "/Items", "GET") == "broad"
    assert outcome(table, "/Items", "HEAD") == "broad", "GET includes HEAD"


def test_a_route_that_refuses_is_a_guard() -> None:
    """A path that the gateway keeps from services isn't forwarded in another spelling.

    The gateway's other answers, such as 200, keep nothing from anybody.
    """
    kept, open_to_all = "broad or gone", "broad"
    for status, expected in ((400, kept), (403, kept), (200, open_to_all)):
        gone = {
            "name": "gone",
            "path": "/gone",
            "protected": False,
            "service": None,
            "respond": {"status": status},
        }
        table = compiled(EVERYTHING_ELSE, gone)
        assert outcome(table, "/gone") == "gone"
        assert outcome(table, "/Gone") == expected
        # One whose own path isn't in the folded form is found by that form, too.
        table = compiled(EVERYTHING_ELSE, {**gone, "path": "/Gone"})
        assert outcome(table, "/GONE") == expected


def test_parameter_names_make_no_other_place() -> None:
    """Templates that differ in parameter names only are one place, with one 405."""
    table = compiled(
        template("/t/{x}", ["GET"], name="x"), template("/t/{y}", ["POST"], name="y")
    )
    assert outcome(table, "/t/A", "GET") == "x"
    assert outcome(table, "/t/A", "POST") == "y"


# --- which services are the same ------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "same"),
    [
        (["http://app"], True),
        (["http://app:80"], True),
        (["http://other", "http://app"], True),
        (["http://other"], False),
        (["http://app:81"], False),
    ],
)
def test_only_routes_to_the_same_targets_count(targets: list[str], same: bool) -> None:
    """Guards count only for the same target; one target may have two service names."""
    table = compiled(
        EVERYTHING_ELSE,
        {**ADMIN, "service": "admin"},
        services={"admin": {"targets": targets}},
    )
    assert outcome(table, "/Admin") == ("broad or admin" if same else "broad")


def test_localhost_and_its_address_are_one_target() -> None:
    """localhost and 127.0.0.1 are one target."""
    table = compiled(
        {**EVERYTHING_ELSE, "service": "a"},
        {**ADMIN, "service": "b"},
        services={
            "a": {"targets": ["http://localhost:1"]},
            "b": {"targets": ["http://127.0.0.1:1"]},
        },
    )
    assert outcome(table, "/Admin") == "broad or admin"


# --- settings -------------------------------------------------------------------


def test_near_misses_may_be_forwarded() -> None:
    """With `near_misses: forward`, the laxer route forwards such paths unchanged."""
    table = compiled(EVERYTHING_ELSE, ADMIN, gateway={"near_misses": "forward"})
    assert outcome(table, "/Admin") == "broad"
    found = table.near_miss("GET", "", "/Admin")
    assert found is not None
    assert found.guard.name == "admin"


@pytest.mark.parametrize(
    ("paths", "path"),
    [
        ({"case": "sensitive"}, "/Admin"),
        ({"parameters": "kept"}, "/admin;x"),
        ({"final_slash": "significant"}, "/secret/"),
        ({"extension": "kept"}, "/secret.json"),
        ({"final_dots": "kept", "extension": "kept"}, "/secret."),
        ("exact", "/Admin;x/.json/"),
    ],
    ids=str,
)
def test_a_difference_that_the_service_sees_is_no_spelling(
    paths: Mapping[str, str] | str, path: str
) -> None:
    """Differences that the service sees by `paths` are no near misses.

    The others are.
    """
    table = compiled(EVERYTHING_ELSE, ADMIN, SECRET, paths=paths)
    assert outcome(table, path) == "broad"
    other = "/admin;x" if "case" in paths else "/ADMIN"
    assert outcome(table, other) == ("broad" if paths == "exact" else "broad or admin")


@pytest.mark.parametrize(
    ("paths", "path"),
    [
        ({"case": "insensitive"}, "/Orders/1/Refund"),
        ({"case": "insensitive"}, "/orders/ABC/REFUND"),
        ({"final_slash": "ignored"}, "/orders/1/refund/"),
        ({"parameters": "cut"}, "/orders;a/1;b/refund;c=d"),
        ({"extension": "cut"}, "/orders/1/refund.json"),
        ({"final_dots": "cut"}, "/orders./1/refund.."),
    ],
    ids=str,
)
def test_routes_match_as_their_service_reads(paths: dict[str, str], path: str) -> None:
    """As on Express, `/Orders/1/Refund` takes the refund route and its role."""
    table = compiled(ORDERS, REFUND, paths=paths)
    assert outcome(table, path, "POST") == "refund"
    assert outcome(table, path, "GET") == "405"


def test_a_route_with_capitals_matches_as_its_service_reads() -> None:
    """The route's own spelling is folded as the client's is."""
    table = compiled(
        exact("/Secret", name="s"),
        {"match": {"path": {"regex": "/API/.*"}}, "name": "r"},
        paths={"case": "insensitive"},
    )
    found = [
        outcome(table, path) for path in ("/secret", "/SECRET", "/Secret", "/api/x")
    ]
    assert found == ["s", "s", "s", "r"]
    assert outcome(table, "/Api/X") == "r"


def test_a_route_to_another_service_matches_as_that_one_reads() -> None:
    """Each route is compared by the rules of its own service; the longer path wins."""
    table = compiled(
        {"name": "app", "path": "/shop"},
        {"name": "strict", "path": "/Shop/Cart", "service": "strict"},
        {"name": "broad", "path": "/", "service": "strict", "protected": False},
        paths={"case": "insensitive"},
        services={"strict": {"targets": ["http://strict"], "paths": "exact"}},
    )
    request_paths = (
        "/shop/x",
        "/Shop/X",
        "/SHOP",
        "/Shop/Cart",
        "/Shop/Cart/1",
        "/other",
    )
    assert [outcome(table, path) for path in request_paths] == [
        *("app", "app", "app"),
        *("strict", "strict", "broad"),
    ]


def test_methods_of_one_place_may_have_services_with_other_rules() -> None:
    """Each method of a place is matched by the rules of the service that serves it."""
    table = compiled(
        {"name": "write", "match": {"path": {"exact": "/a"}, "methods": ["POST"]}},
        {
            "name": "read",
            "match": {"path": {"exact": "/a"}, "methods": ["GET"]},
            "service": "strict",
        },
        paths={"case": "insensitive"},
        services={"strict": {"targets": ["http://strict"]}},
    )
    assert [outcome(table, "/a", one) for one in ("GET", "POST")] == ["read", "write"]
    assert [outcome(table, "/A", one) for one in ("GET", "POST")] == ["405", "write"]


def test_the_path_is_forwarded_as_it_was_sent() -> None:
    """A prefix matched in another spelling is stripped by segments.

    The rest is unchanged.
    """
    table = compiled(
        {"path": "/Shop/v1", "rewrite": {"strip_prefix": "/Shop/v1"}},
        paths={"case": "insensitive", "parameters": "cut"},
    )
    (route,) = table.routes
    for path, sent in {
        "/sHOP/V1/Cart": "/Cart",
        "/shop;a=1/v1;b/Cart;c": "/Cart;c",
        "/Shop/v1": "/",
        "/Shop/v1/": "/",
    }.items():
        assert isinstance(table.match("GET", "", path), Matched)
        assert route.upstream_path(path) == sent


def test_an_unreachable_route_in_another_spelling_is_an_error() -> None:
    """For a service that ignores case, `/A` and `/a` are one place: an error."""
    with pytest.raises(config.InvalidConfig) as caught:
        compiled(exact("/a"), exact("/A"), paths={"case": "insensitive"})
    (found,) = caught.value.findings
    assert found.loc == ("routes", 1)


# --- the property ---------------------------------------------------------------

SEGMENTS = ["a", "b", "Ab", "c.d"]
POLICIES: list[dict[str, Any]] = [
    {"protected": False},
    {"protected": "optional"},
    {},
    {"require": {"roles": {"any": ["x"]}}},
    {"session": {"check_database": "always"}},
]


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """A route over few segments, so that paths often coincide."""
    segments = draw(st.lists(st.sampled_from(SEGMENTS), max_size=3))
    form = draw(st.sampled_from(["exact", "prefix", "template"]))
    if form == "template":
        segments.insert(draw(st.integers(0, len(segments))), "{x}")
    path = "/" + "/".join(segments)
    if form == "exact" and segments and draw(st.booleans()):
        path += "/"
    match: dict[str, Any] = {"path": {form: path}}
    if draw(st.booleans()):
        match["methods"] = [draw(st.sampled_from(["GET", "POST"]))]
    service = draw(st.sampled_from(["app", "app", "twin", "other"]))
    return {"match": match, "service": service, **draw(st.sampled_from(POLICIES))}


SPELLINGS: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        str,
        str.upper,
        str.lower,
        lambda text: f"{text};x",
        lambda text: f"{text}.",
        lambda text: f"{text}%20",
        lambda text: f"{text}.json",
        lambda text: text.replace("a", "%61"),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], str]:
    """Routes with a catch-all, and with another spelling of one route's path."""
    broad = {"path": "/", **draw(st.sampled_from(POLICIES))}
    some_rules = draw(st.lists(rules(), min_size=1, max_size=6))
    ((_, path),) = draw(st.sampled_from(some_rules))["match"]["path"].items()
    segments = [*path.split("/")[1:], *draw(st.sampled_from([[], [], ["z"]]))]
    spelled = [
        draw(SPELLINGS)(segment.replace("{x}", "z")) if segment else ""
        for segment in segments
    ]
    return [broad, *some_rules], "/" + "/".join([*spelled, *[""] * draw(st.booleans())])


TWINS = {
    "twin": {"targets": ["http://app", "http://elsewhere"]},
    "other": {"targets": ["http://other"]},
}


def table_of(some_rules: Sequence[Mapping[str, Any]]) -> RouteTable:
    """Return the table without the unreachable routes."""
    try:
        return compiled(*some_rules, services=TWINS)
    except config.InvalidConfig as exc:
        dead = {finding.loc[1] for finding in exc.findings}
    kept = [one for number, one in enumerate(some_rules) if number not in dead]
    return compiled(*kept, services=TWINS)


def naive(path: str) -> str:
    """Return the path as the most lenient service reads it, computed independently."""
    path = re.sub(r"(;|%3B)[^/]*", "", path)
    path = re.sub(r"(\.|%20)+(?=/|$)", "", path)
    return path.lower().rstrip("/") or "/"


def readings(path: str) -> Iterator[str]:
    yield naive(path)
    yield re.sub(r"\.[^/]*$", "", naive(path))
    yield re.sub(r"\.[^/.]*$", "", naive(path))


def covers(route: Route, path: str) -> bool:
    """Return whether the route's path, read leniently, is *path* or its prefix."""
    own = naive(route.path)
    if route.form == "prefix":
        return own == "/" or path == own or path.startswith(f"{own}/")
    if route.form == "exact":
        return path == own
    pattern = re.sub(r"\\\{x\\\}", "[^/]+", re.escape(own))
    return re.fullmatch(pattern, path) is not None


def weight(policy: SessionPolicy) -> int:
    """Return how strict a policy of `POLICIES` is; the last two are equally strict."""
    extra = bool(policy.requirements) or policy.check_database.value == "always"
    order = (Protection.PUBLIC, Protection.OPTIONAL, Protection.REQUIRED)
    return order.index(policy.protection) + extra


def specificity(route: Route) -> tuple[object, ...]:
    """Return the precedence among matching routes; the lowest is chosen."""
    if route.form == "exact":
        return (0,)
    pieces = naive(route.path).split("/")[1:] if naive(route.path) != "/" else []
    ranks = [int(piece == "{x}") for piece in pieces]
    return (1, *ranks, *([3] if route.form == "prefix" else []))


@hypothesis_settings(max_examples=500, deadline=None)
@given(given_table=tables(), method=st.sampled_from(["GET", "POST"]))
@example(
    given_table=(
        [
            {"match": {"path": {"prefix": "/a"}}, "service": "app", "protected": False},
            {
                "match": {"path": {"exact": "/a"}, "methods": ["POST"]},
                "service": "app",
                "protected": False,
            },
        ],
        "/a/",
    ),
    method="GET",
)
def test_no_spelling_of_a_guarded_path_is_forwarded_by_a_laxer_route(
    given_table: tuple[list[dict[str, Any]], str], method: str
) -> None:
    """P-g: a path that a lenient reader gives to a stricter route is refused.

    Of the routes to the same targets whose paths match leniently, the one with the
    highest precedence owns the path.
    """
    some_rules, spelled = given_table
    try:
        path = canonical(spelled)
    except BadTarget:
        return
    table = table_of(some_rules)
    result = table.match(method, "", path)
    if not isinstance(result, Matched):
        return
    taker = result.route
    group = {"app", "twin"} if taker.service.name != "other" else {"other"}
    ours = [route for route in table.routes if route.service.name in group]
    for reading in readings(path):
        matching = [route for route in ours if covers(route, reading)]
        if not matching:
            continue
        best = min(map(specificity, matching))
        place = [route for route in matching if specificity(route) == best]
        by_path: dict[str, list[Route]] = {}
        for route in place:
            by_path.setdefault(route.path, []).append(route)
        for routes_there in by_path.values():
            listed = [one for one in routes_there if method in (one.methods or ())]
            deciding = listed or [one for one in routes_there if one.methods is None]
            assert deciding, f"{path} is {taker.name}, and {reading} refuses {method}"
            for one in deciding[:1]:
                assert weight(one.session) <= weight(taker.session) or one is taker, (
                    f"{path} is {taker.name}, and {reading} is {one.name}"
                )
