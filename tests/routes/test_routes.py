"""The order of matching, and the table's agreement with it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import config, routes
from gateway.config import Finding, InvalidConfig
from gateway.errors import BadTarget
from gateway.http import target
from gateway.identity import CheckDatabase, ClaimRule, Protection, Requirements
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Outcome,
    RouteTable,
)
from gateway.routes.route import Rewrite

PUBLIC: dict[str, Any] = {"protected": False}


def rule(
    form: str,
    path: str,
    *,
    methods: Sequence[str] | None = None,
    hosts: Sequence[str] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Return a route as it is written in the file."""
    match: dict[str, Any] = {"path": {form: path}}
    if methods is not None:
        match["methods"] = methods
    if hosts is not None:
        match["hosts"] = hosts
    return {"match": match, "upstream": "http://up", **keys}


def compiled(*rules: Mapping[str, Any], **sections: Any) -> RouteTable:
    """Return the table of these routes."""
    settings = config.parse({"version": 1, "routes": list(rules), **sections})
    return routes.compile(settings)


def refused(*rules: Mapping[str, Any], **sections: Any) -> tuple[Finding, ...]:
    """Return the errors for which these routes are refused."""
    with pytest.raises(InvalidConfig) as caught:
        compiled(*rules, **sections)
    return caught.value.findings


def index(outcome: Outcome | Conditional) -> int | tuple[str, ...] | None:
    """Return the route's index in the file, the allowed methods, or None."""
    match outcome:
        case Matched(route=route):
            return route.index
        case MethodNotAllowed(allow=allow):
            return allow
        case NoRoute():
            return None
        case NearMiss() | Conditional():
            raise AssertionError(outcome)


# --- paths ---


@pytest.mark.parametrize(
    ("form", "path", "request_path", "matches"),
    [
        ("prefix", "/orders", "/orders", True),
        ("prefix", "/orders", "/orders/", True),
        ("prefix", "/orders", "/orders/1/items", True),
        ("prefix", "/orders", "/ordersx", False),
        ("prefix", "/orders", "/orders..", False),
        ("prefix", "/orders", "/orders;v=1", False),
        ("prefix", "/orders", "/Orders", False),
        ("prefix", "/orders", "/order", False),
        ("prefix", "/orders", "/", False),
        ("prefix", "/orders/", "/orders", True),
        ("prefix", "/", "/", True),
        ("prefix", "/", "/anything/at/all", True),
        ("prefix", "/", "*", False),
        ("exact", "/orders", "/orders", True),
        ("exact", "/orders", "/orders/", False),
        ("exact", "/orders/", "/orders/", True),
        ("exact", "/", "/", True),
        ("exact", "/", "/a", False),
        ("template", "/orders/{id}", "/orders/1", True),
        ("template", "/orders/{id}", "/orders/", False),
        ("template", "/orders/{id}", "/orders", False),
        ("template", "/orders/{id}", "/orders/1/", False),
        ("template", "/orders/{id}", "/orders/1/2", False),
        ("template", "/orders/{id}/", "/orders/1/", True),
        ("template", "/{a}/b/{c}", "/x/b/y", True),
        ("template", "/{a}/b/{c}", "/x/c/y", False),
        ("regex", "/v[0-9]+/.*", "/v12/x/y", True),
        ("regex", "/v[0-9]+/status", "/v1/status/x", False),
        ("regex", "/v[0-9]+/status", "/x/v1/status", False),
        ("regex", "/a|/b", "/b", True),
        ("regex", "(/a)?/b", "/b", None),
    ],
)
def test_forms(form: str, path: str, request_path: str, matches: bool | None) -> None:
    """Prefixes end at segment borders; a regex must match the whole path."""
    if matches is None:
        assert refused_by_schema(form, path)
        return
    found = compiled(rule(form, path)).match("GET", "", request_path)
    assert isinstance(found, Matched) is matches


def refused_by_schema(form: str, path: str) -> bool:
    """Return whether the schema refuses this path."""
    with pytest.raises(InvalidConfig):
        compiled(rule(form, path))
    return True


# --- order ---

ORDER = {
    "exact before prefix": (
        [rule("prefix", "/a"), rule("exact", "/a")],
        {"/a": 1, "/a/": 0},
    ),
    "exact before template": (
        [rule("template", "/a/{x}"), rule("exact", "/a/b")],
        {"/a/b": 1, "/a/c": 0},
    ),
    "longest prefix": (
        [rule("prefix", "/"), rule("prefix", "/a"), rule("prefix", "/a/b")],
        {"/": 0, "/ab": 0, "/a": 1, "/a/bc": 1, "/a/b": 2, "/a/b/c": 2},
    ),
    "template before the prefix that it continues": (
        [rule("prefix", "/a"), rule("template", "/a/{x}")],
        {"/a/1": 1, "/a": 0, "/a/": 0, "/a/1/2": 0},
    ),
    "literal before name": (
        [rule("template", "/a/{x}/c"), rule("prefix", "/a/b")],
        {"/a/b/c": 1, "/a/x/c": 0},
    ),
    "back to the name when the literal leads nowhere": (
        [rule("template", "/a/{x}/c"), rule("template", "/a/b/{y}/d")],
        {"/a/b/c": 0, "/a/b/c/d": 1},
    ),
    "first differing segment decides, not the number of literals": (
        [rule("template", "/{x}/b/c/d"), rule("template", "/a/{y}/{z}/{w}")],
        {"/a/b/c/d": 1, "/x/b/c/d": 0},
    ),
    "regex before the prefix where it begins": (
        [rule("prefix", "/api"), rule("regex", "/api/v[0-9]+/admin")],
        {"/api/v1/admin": 1, "/api/v1": 0},
    ),
    "literal segments before regex": (
        [rule("regex", "/api/.*"), rule("prefix", "/api/v1")],
        {"/api/v1/x": 1, "/api/v2": 0},
    ),
    "name before regex": (
        [rule("regex", "/api/.*"), rule("template", "/api/{x}")],
        {"/api/1": 1, "/api/1/2": 0},
    ),
    "regex with the longer literal beginning": (
        [rule("regex", "/a/.*"), rule("regex", "/a/bc.*"), rule("regex", "/a/b.*")],
        {"/a/bcd": 1, "/a/bd": 2, "/a/d": 0},
    ),
    "regexes of equal beginnings in the file's order": (
        [rule("regex", "/a/[0-9]+"), rule("regex", "/a/[0-9a-z]+")],
        {"/a/1": 0, "/a/z": 1},
    ),
    "regexes in the file's order, whatever their methods": (
        [rule("regex", "/[^/]+"), rule("regex", "/.*", methods=["GET"])],
        {"/a": 0, "/a/b": 1},
    ),
    "regex that begins anyhow, before the prefix /": (
        [rule("prefix", "/"), rule("regex", "/(a|b)/c"), rule("regex", "/.*x|/y")],
        {"/b/c": 1, "/b/d": 0, "/q/x": 2, "/y": 2},
    ),
}


@pytest.mark.parametrize(("rules", "expected"), ORDER.values(), ids=ORDER)
def test_order_of_paths(rules: list[Any], expected: dict[str, int]) -> None:
    """An exact path comes first, then the longest.

    The order in the file is irrelevant.
    """
    table = compiled(*rules)
    assert {path: index(table.match("GET", "", path)) for path in expected} == expected
    for path, number in expected.items():
        shown = [
            route.index
            for route in table.routes
            if index(compiled(rules[route.index]).match("GET", "", path)) == 0
        ]
        assert shown[0] == number, "the rows stand in another order"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.example.com", 0),
        ("x.api.example.com", 1),
        ("x.y.api.example.com", 1),
        ("www.example.com", 2),
        ("a.b.example.com", 2),
        ("example.com", 3),
        ("notexample.com", 3),
        ("other.org", 3),
        ("", 3),
        ("a." * 5000 + "example.com", 3),
    ],
    ids=lambda value: str(value)[:24],
)
def test_order_of_hosts(host: str, expected: int) -> None:
    """The full host comes first, then the longest wildcard, then none.

    A wildcard stands for at least one label.
    """
    table = compiled(
        rule("prefix", "/", hosts=["api.example.com"]),
        rule("prefix", "/", hosts=["*.api.example.com"]),
        rule("prefix", "/", hosts=["*.example.com"]),
        rule("exact", "/a"),
    )
    assert index(table.match("GET", host, "/a")) == expected


@pytest.mark.parametrize(
    "field", [b"GW", b"gw.", b"gw:80", b"Gw.:8000"], ids=lambda value: value.decode()
)
def test_hosts_are_compared_in_canonical_form(field: bytes) -> None:
    """B19: a host matches in any spelling that the client uses."""
    table = compiled(rule("prefix", "/", hosts=["Gw."]), rule("prefix", "/"))
    asked = target.parse(b"/", method="GET", authority=field)
    assert index(table.match("GET", asked.host, asked.path)) == 0


def test_a_wider_host_is_tried_if_the_path_is_not_found() -> None:
    """If the narrower host has no such path, routes of a wider host are tried."""
    table = compiled(
        rule("prefix", "/a", hosts=["h.example.com", "[::1]"]),
        rule("prefix", "/b", hosts=["*.example.com"]),
        rule("prefix", "/c"),
    )
    found = [index(table.match("GET", "h.example.com", f"/{p}")) for p in "abcd"]
    assert found == [0, 1, 2, None]
    assert index(table.match("GET", "[::1]", "/a")) == 0


# --- methods ---


def test_listed_methods_come_before_unlisted() -> None:
    """A route that lists the method precedes one that lists none, in any file order."""
    table = compiled(
        rule("prefix", "/a"),
        rule("prefix", "/a", methods=["post", "PUT"]),
        rule("prefix", "/a", methods=["PUT", "PATCH"]),
    )
    found = {
        method: index(table.match(method, "", "/a/1"))
        for method in ("GET", "POST", "PUT", "PATCH", "M-SEARCH")
    }
    assert found == {"GET": 0, "POST": 1, "PUT": 1, "PATCH": 2, "M-SEARCH": 0}


def test_get_includes_head() -> None:
    """HEAD goes to the route for GET, unless a route for the same place lists HEAD."""
    assert (
        index(compiled(rule("prefix", "/", methods=["GET"])).match("HEAD", "", "/"))
        == 0
    )
    table = compiled(
        rule("prefix", "/", methods=["GET"]), rule("prefix", "/", methods=["HEAD"])
    )
    assert index(table.match("HEAD", "", "/")) == 1
    assert index(table.match("get", "", "/")) == ("GET", "HEAD")


@pytest.mark.parametrize(
    ("shorter", "path"),
    [
        (rule("prefix", "/", **PUBLIC), "/admin/x"),
        (rule("template", "/{any}", **PUBLIC), "/admin"),
        (rule("regex", "/.*", **PUBLIC), "/admin/x"),
        (rule("prefix", "/admin", **PUBLIC), "/admin"),
    ],
    ids=["prefix", "template", "regex", "wider host"],
)
def test_wrong_method_is_not_caught_by_a_shorter_path(
    shorter: dict[str, Any], path: str
) -> None:
    """B18: a public route must not serve what a longer, protected path refuses."""
    table = compiled(
        shorter, rule("prefix", "/admin", methods=["GET"], hosts=["h.example"])
    )
    assert index(table.match("GET", "h.example", path)) == 1
    assert index(table.match("POST", "h.example", path)) == ("GET", "HEAD")
    assert index(table.match("POST", "other.example", path)) == 0


# --- comparison with a naive reference ---

SEGMENTS = st.sampled_from(["a", "b", "ab", "c"])
PREFIXES = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
TEMPLATES = (
    st.lists(SEGMENTS | st.sampled_from(["{x}", "{y}"]), min_size=1, max_size=3)
    .filter(lambda parts: any("{" in part for part in parts))
    .filter(lambda parts: parts.count("{x}") < 2 and parts.count("{y}") < 2)
    .map(lambda parts: "/" + "/".join(parts))
)
REGEXES = st.sampled_from(
    ["/.*", "/a/.*", "/a/b?.*", "/(a|b)/c", "/a.*", "/[^/]+", "/a/b/c*", "/a|/b/.*"]
)
METHODS = st.none() | st.lists(
    st.sampled_from(["GET", "POST", "HEAD"]), min_size=1, max_size=2, unique=True
)
HOSTS = st.none() | st.lists(
    st.sampled_from(["h.ex", "*.ex", "*.h.ex", "other.org"]),
    min_size=1,
    max_size=2,
    unique=True,
)
RULES = st.one_of(
    *(
        st.builds(
            lambda path, methods, hosts, form=form: rule(
                form, path, methods=methods, hosts=hosts
            ),
            paths,
            METHODS,
            HOSTS,
        )
        for form, paths in (
            ("exact", PREFIXES),
            ("prefix", PREFIXES),
            ("template", TEMPLATES),
            ("regex", REGEXES),
        )
    )
)
REQUEST_PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "/" + "/".join(parts))


@dataclass(frozen=True)
class Candidate:
    """A route that matches host and path, with its criteria of precedence."""

    rank: tuple[Any, ...]
    """The lower rank has precedence; routes for one place have equal ranks."""
    number: int
    methods: Sequence[str] | None


def literal_beginning(regex: str) -> str:
    """Return the literal prefix of one of `REGEXES`."""
    if "|" in regex and "(" not in regex:
        return "/"
    plain = re.match(r"[a-z/]*", regex)
    assert plain is not None
    text = plain[0]
    return text[:-1] if regex[len(text) :][:1] in ("?", "*") else text


def host_rank(pattern: str | None, host: str) -> tuple[int, int] | None:
    """Return how specific a host pattern is, None if it doesn't match."""
    if pattern is None:
        return (2, 0)
    if pattern.startswith("*."):
        return (1, -len(pattern)) if host.endswith(pattern[1:]) else None
    return (0, 0) if host == pattern else None


def path_rank(form: str, pattern: str, path: str) -> tuple[Any, ...] | None:
    """Return how specific a path is, by the order in the docstring of `routes`."""
    pieces = pattern.split("/")[1:] if pattern != "/" else []
    if form == "exact":
        return (0,) if path == pattern else None
    if form == "prefix":
        inside = pattern == "/" or path == pattern or path.startswith(pattern + "/")
        return (1, *([0] * len(pieces)), 3) if inside else None
    if form == "template":
        segments = path.split("/")[1:]
        fits = len(pieces) == len(segments) and all(
            part == segment or (part.startswith("{") and segment)
            for part, segment in zip(pieces, segments, strict=True)
        )
        ranks = [1 if part.startswith("{") else 0 for part in pieces]
        return (1, *ranks) if fits else None
    if not re.fullmatch(pattern, path):
        return None
    beginning = literal_beginning(pattern)
    return (1, *([0] * (beginning.count("/") - 1)), 2, -len(beginning))


def reference(rules: Sequence[Any], method: str, host: str, path: str) -> object:
    """Return the outcome of a linear search through all routes."""
    found: list[Candidate] = []
    for number, given_rule in enumerate(rules):
        match = given_rule["match"]
        ((form, pattern),) = match["path"].items()
        hosts = match.get("hosts") or [None]
        ranks = [
            (rank, one) for one in hosts if (rank := host_rank(one, host)) is not None
        ]
        by_path = path_rank(form, pattern, path)
        if ranks and by_path is not None:
            host_is, named = min(ranks, key=lambda pair: pair[0])
            # Different regexes are different places, in the file's order.
            turn = first_with(rules, named, pattern) if form == "regex" else 0
            ranked = (host_is, by_path, turn)
            found.append(Candidate(ranked, number, match.get("methods")))
    if not found:
        return None
    best = min(candidate.rank for candidate in found)
    place = [candidate for candidate in found if candidate.rank == best]
    listed = [one for one in place if one.methods and method in one.methods]
    if not listed and method == "HEAD":
        listed = [one for one in place if one.methods and "GET" in one.methods]
    listed = listed or [one for one in place if one.methods is None]
    if listed:
        return min(one.number for one in listed)
    allow = {name for one in place for name in one.methods or ()}
    return tuple(sorted(allow | ({"HEAD"} if "GET" in allow else set())))


def first_with(rules: Sequence[Any], host: str | None, pattern: str) -> int:
    """Return the index of the first route with this host and this regex."""
    return next(
        number
        for number, one in enumerate(rules)
        if one["match"]["path"] == {"regex": pattern}
        and host in (one["match"].get("hosts") or [None])
    )


@hypothesis_settings(max_examples=250, deadline=None)
@given(
    rules=st.lists(RULES, min_size=1, max_size=8),
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
            st.sampled_from(["", "h.ex", "x.ex", "a.h.ex", "other.org", "ex"]),
            REQUEST_PATHS,
        ),
        min_size=1,
        max_size=12,
    ),
)
# The same regex under another host is another place: its earlier position in the file
# doesn't matter here.
@example(
    rules=[
        rule("regex", "/[^/]+", hosts=["h.ex"]),
        rule("regex", "/.*"),
        rule("regex", "/[^/]+"),
    ],
    requests=[("GET", "", "/a")],
)
def test_table_agrees_with_the_stated_order(
    rules: list[Any], requests: list[tuple[str, str, str]]
) -> None:
    """The tree, dictionaries and automata decide as a linear search does."""
    rules, table = without_dead(rules)
    for method, host, path in requests:
        expected = reference(rules, method, host, path)
        assert index(table.match(method, host, path)) == expected


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    rules=st.lists(RULES, min_size=2, max_size=6),
    method=st.sampled_from(["GET", "POST"]),
    path=REQUEST_PATHS,
)
# Two regexes are two places: the earlier one takes the request, although only the later
# one lists its method.
@example(
    rules=[rule("regex", "/[^/]+"), rule("regex", "/.*", methods=["POST"])],
    method="POST",
    path="/a",
)
def test_rows_are_in_the_order_of_matching(
    rules: list[Any], method: str, path: str
) -> None:
    """`gateway routes` lists the routes in the order of precedence."""
    _, table = without_dead([rule_without_hosts(one) for one in rules])
    found = table.match(method, "", path)
    if isinstance(found, Matched):
        matching = [
            route
            for route in table.routes
            if path_rank(route.form, route.path, path) is not None
            and (route.methods is None or method in route.methods)
        ]
        assert matching[0] is found.route


def without_dead(rules: list[Any]) -> tuple[list[Any], RouteTable]:
    """Return the routes without the unreachable ones, and their table."""
    try:
        return rules, compiled(*rules)
    except InvalidConfig as exc:
        dead = {finding.loc[1] for finding in exc.findings}
    kept = [one for number, one in enumerate(rules) if number not in dead]
    return kept, compiled(*kept)


def rule_without_hosts(given_rule: dict[str, Any]) -> dict[str, Any]:
    """Return the same route for all hosts."""
    match = {key: part for key, part in given_rule["match"].items() if key != "hosts"}
    return {**given_rule, "match": match}


# --- refused tables ---


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (rule("prefix", "/a"), rule("prefix", "/a/")),
        (rule("exact", "/a"), rule("exact", "/a", **PUBLIC)),
        (rule("template", "/a/{x}"), rule("template", "/a/{y}")),
        (rule("regex", "/a.*"), rule("regex", "/a.*")),
        (
            rule("exact", "/a", methods=["GET", "POST"]),
            rule("exact", "/a", methods=["POST"]),
        ),
        (
            rule("exact", "/a", hosts=["a.b", "c.d"]),
            rule("exact", "/a", hosts=["C.D.", "a.b"]),
        ),
        (rule("exact", "/a", hosts=["*.a.b"]), rule("exact", "/a", hosts=["*.a.b"])),
    ],
    ids=["prefix", "exact", "template", "regex", "methods", "hosts", "wildcard"],
)
def test_route_that_can_never_match(first: Any, second: Any) -> None:
    """B18: an unreachable route is an error that names both routes."""
    (found,) = refused({**first, "name": "before"}, second)
    assert found.loc == ("routes", 1)
    assert found.see == ("routes", 0)
    assert "can never match: before takes all of it" in found.message


def test_methods_taken_by_several_routes() -> None:
    """A route is unreachable, too, when several others together take its methods."""
    rules = [rule("exact", "/a", methods=[method]) for method in ("GET", "PUT")]
    (found,) = refused(*rules, rule("exact", "/a", methods=["PUT", "GET"]))
    assert found.loc == ("routes", 2)


@pytest.mark.parametrize(
    ("host_header", "expected"),
    [
        ("upstream", {("up", None)}),
        ("preserve", {("up", None)}),
        ("in.example", {("up", None), ("in.example", None)}),
    ],
)
def test_a_literal_host_is_an_origin_of_the_service(
    host_header: str, expected: set[tuple[str, None]]
) -> None:
    """Redirects to it are mapped, as those to the service's targets."""
    entry = {
        **rule("prefix", "/a"),
        "upstream": "http://up",
        "host_header": host_header,
    }
    (route,) = compiled(entry).routes
    assert {*route.mapping.authorities} == expected
    assert route.mapping.is_host_kept is (host_header == "preserve")


@pytest.mark.parametrize(
    ("host_header", "sent"),
    [
        ("upstream", b"up:8080"),
        ("preserve", b"a.example:81"),
        ("in.example", b"in.example"),
    ],
)
def test_the_host_that_a_service_gets(host_header: str, sent: bytes) -> None:
    """The target's, the client's with its port, or a literal one."""
    (route,) = compiled(rule("prefix", "/a", host_header=host_header)).routes
    asked = target.parse(b"/a?b", method="GET", authority=b"a.example:81")
    head = route.upstream_head("GET", asked, b"up:8080", b"X-A: 1\r\n")
    assert head == b"GET /a?b HTTP/1.1\r\nHost: %b\r\nX-A: 1\r\n\r\n" % sent


@pytest.mark.parametrize(
    ("strip", "replacement", "path", "expected"),
    [
        (2, "/v2", "/api/v2/x", b"/api"),
        (1, "/v2", "/v2x/y", b""),
        (1, "", "/api/x", b"/api"),
        (0, "", "/x", b""),
    ],
)
def test_what_is_before_the_services_path(
    strip: int, replacement: str, path: str, expected: bytes
) -> None:
    """The removed beginning, if the rest with the replacement is still its end."""
    rewrite = Rewrite(strip=strip, replacement=replacement)
    assert rewrite.public_prefix(path) == expected


def test_partly_covered_route_is_a_warning() -> None:
    """A route that keeps a host or a method can match: no error, only a warning."""
    rules = [
        rule("exact", "/a", methods=["GET"], hosts=["a.b"]),
        rule("exact", "/a", methods=["GET"], hosts=["a.b", "c.d"]),
        rule("template", "/t/{x}", methods=["GET", "PUT"]),
        rule("template", "/t/{y}", methods=["PUT", "POST"]),
        rule("template", "/t/{z}", methods=["GET", "POST", "DELETE"]),
    ]
    assert index(compiled(*rules).match("GET", "c.d", "/a")) == 1
    settings = config.parse({"version": 1, "supertokens": {}, "routes": rules})
    found = routes.warnings(settings, routes.compile(settings))
    assert [(one.loc, one.see) for one in found] == [
        (("routes", 1), ("routes", 0)),
        (("routes", 3), ("routes", 2)),
        (("routes", 4), ("routes", 3)),
    ]


@pytest.mark.parametrize(
    ("recipes", "places"),
    [
        (["emailpassword"], ["roles", "permissions", "email_verified", "mfa"]),
        (["userroles"], ["email_verified", "mfa"]),
        (["emailverification"], ["roles", "permissions", "mfa"]),
    ],
    ids=str,
)
def test_requirement_without_its_recipe(recipes: list[str], places: list[str]) -> None:
    """A required claim whose recipe is off is an error: no token has that claim."""
    given: dict[str, Any] = {name: {} for name in recipes}
    required = {
        "roles": {"any": ["x"]},
        "permissions": {"all": ["x"]},
        "email_verified": True,
        "mfa": True,
        "tenants": ["t"],
    }
    found = refused(
        rule("prefix", "/a", require=required),
        rule("prefix", "/b", require={"email_verified": False, "mfa": False}),
        supertokens={"recipes": given},
    )
    assert [finding.path for finding in found] == [
        f"routes[0].require.{place}" for place in places
    ]


@pytest.mark.parametrize(
    ("given_rule", "dead"),
    [
        (rule("prefix", "/auth"), True),
        (rule("prefix", "/auth/signin"), True),
        (rule("exact", "/auth"), True),
        (rule("template", "/auth/{x}"), True),
        (rule("regex", "/auth/.*"), True),
        (rule("exact", "/user"), True),
        (rule("prefix", "/authors"), False),
        (rule("prefix", "/user"), False),
        (rule("prefix", "/"), False),
        (rule("regex", "/auth.*"), False),
    ],
)
def test_own_paths(given_rule: Any, dead: bool) -> None:
    """A route is refused if the gateway itself answers all of its paths."""
    if dead:
        (found,) = refused(given_rule)
        assert "the gateway answers this path" in found.message
    else:
        assert compiled(given_rule).routes


def test_user_path_below_the_auth_path() -> None:
    """`user_path` can't be below the auth path, which would hide it."""
    (found,) = refused(gateway={"user_path": "/auth/user"})
    assert found.loc == ("gateway", "user_path")
    assert found.see == ("supertokens", "api_base_path")


@pytest.mark.parametrize(
    ("core", "upstream", "same"),
    [
        ("http://core:3567", "http://core:3567", True),
        ("http://core:3567/base", "http://CORE:3567/", True),
        ("http://a:1;http://core:3567", "http://core:3567", True),
        ("http://localhost:3567", "http://127.0.0.1:3567", True),
        ("http://[::1]:3567", "http://localhost:3567", True),
        ("https://core", "https://core:443", True),
        ("http://core:3567", "http://core:3568", False),
        ("http://core:3567", "http://other:3567", False),
        ("http://core:3567", "unix:/run/core.sock", False),
    ],
)
def test_route_to_the_core(core: str, upstream: str, same: bool) -> None:
    """I12: a route to the core is refused: any client could make sessions there."""
    sections = {"supertokens": {"connection_uri": core}}
    if not same:
        assert compiled(rule("prefix", "/", upstream=upstream), **sections).routes
        return
    (found,) = refused(rule("prefix", "/", upstream=upstream), **sections)
    assert found.loc == ("routes", 0, "upstream")
    (found,) = refused(services={"s": {"targets": [upstream]}}, **sections)
    assert found.loc == ("services", "s", "targets", 0, "url")


def test_all_findings_at_once() -> None:
    """All problems of a file are reported at once."""
    found = refused(
        rule("prefix", "/auth"),
        rule("prefix", "/a"),
        rule("exact", "/b"),
        rule("exact", "/b"),
        rule("exact", "/c", upstream="http://localhost:3567"),
    )
    assert {one.path for one in found} == {
        "routes[0]",
        "routes[3]",
        "routes[4].upstream",
    }


# --- rewriting ---


@pytest.mark.parametrize(
    ("form", "path", "rewrite", "expected"),
    [
        ("prefix", "/api", {}, {"/api": "/api", "/api/": "/api/"}),
        (
            "prefix",
            "/api",
            {"strip_prefix": "/api"},
            {"/api": "/", "/api/": "/", "/api/x": "/x", "/api/x/": "/x/"},
        ),
        (
            "prefix",
            "/api/v1",
            {"strip_prefix": "/api"},
            {"/api/v1": "/v1", "/api/v1/": "/v1/"},
        ),
        (
            "prefix",
            "/api",
            {"replace_prefix": "/v2/"},
            {"/api": "/v2", "/api/": "/v2/", "/api/x": "/v2/x"},
        ),
        (
            "prefix",
            "/api/v1",
            {"strip_prefix": "/api", "replace_prefix": "/x"},
            {"/api/v1": "/x/v1"},
        ),
        ("prefix", "/", {"replace_prefix": "/x"}, {"/": "/x/", "/a": "/x/a"}),
        ("prefix", "/", {"strip_prefix": "/"}, {"/": "/", "/a/": "/a/"}),
        ("prefix", "/api", {"replace_prefix": "/"}, {"/api": "/", "/api/x": "/x"}),
        ("exact", "/a", {"replace_prefix": "/b/c"}, {"/a": "/b/c"}),
        ("exact", "/a/", {"replace_prefix": "/b"}, {"/a/": "/b/"}),
        ("exact", "/a/b", {"strip_prefix": "/a"}, {"/a/b": "/b"}),
        ("template", "/a/{x}", {"strip_prefix": "/a"}, {"/a/1": "/1"}),
        (
            "regex",
            "/a(/.*)?",
            {"strip_prefix": "/a", "replace_prefix": "/b"},
            {"/a": "/b", "/a/x": "/b/x"},
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_rewrite(
    form: str, path: str, rewrite: dict[str, str], expected: dict[str, str]
) -> None:
    """B16: a prefix is stripped up to a segment border; a final slash is kept."""
    table = compiled(rule(form, path, rewrite=rewrite))
    (route,) = table.routes
    for asked, sent in expected.items():
        assert isinstance(table.match("GET", "", asked), Matched)
        assert route.upstream_path(asked) == sent


@given(
    prefix=PREFIXES,
    replacement=st.none() | PREFIXES,
    rest=st.text(alphabet="ab/.%2eEfF;", max_size=12),
)
def test_rewritten_paths_are_canonical(
    prefix: str, replacement: str | None, rest: str
) -> None:
    """B16: a client's path never leads out of the replacement."""
    rewrite = {"strip_prefix": prefix}
    if replacement is not None:
        rewrite["replace_prefix"] = replacement
    table = compiled(rule("prefix", prefix, rewrite=rewrite))
    raw = f"{prefix}{rest}".encode()
    try:
        path = target.parse(raw, method="GET", authority=b"h").path
    except BadTarget:
        return
    found = table.match("GET", "", path)
    if isinstance(found, Matched):
        sent = found.route.upstream_path(path)
        assert target.canonical_path(sent) == sent
        inside = (replacement or "/").rstrip("/")
        assert sent == inside or sent.startswith(f"{inside}/")


# --- compiled routes ---


def test_timeouts_are_filled_in() -> None:
    """A timeout comes from the route, else from the service, else from the defaults."""
    table = compiled(
        {"path": "/a", "service": "s", "timeouts": {"response": "1s"}},
        {"path": "/b", "service": "s"},
        rule("prefix", "/c"),
        defaults={"timeouts": {"connect": "9s"}},
        services={
            "s": {"targets": ["http://s"], "timeouts": {"response": 2, "idle": 3}}
        },
    )
    found = {
        route.index: (
            route.timeouts.connect,
            route.timeouts.response,
            route.timeouts.idle,
            route.timeouts.total,
        )
        for route in table.routes
    }
    assert found == {
        0: (9.0, 1.0, 3.0, None),
        1: (9.0, 2.0, 3.0, None),
        2: (9.0, 60.0, 60.0, None),
    }


def test_services_are_shared() -> None:
    """Routes to one service share one service object and its connections."""
    table = compiled(
        {"path": "/a", "service": "s"},
        {"path": "/b", "service": "s", "host_header": "preserve"},
        {"path": "/c", "upstream": "http://x:1"},
        {"path": "/d", "upstream": "http://x:1"},
        services={"s": {"targets": ["http://s"], "host_header": "Shop.example"}},
    )
    a, b, c, d = sorted(table.routes, key=lambda route: route.index)
    assert a.service is b.service
    assert c.service is d.service
    assert [service.name for service in table.services()] == ["s", "http://x:1"]
    assert (a.host_header, b.host_header, c.host_header) == (
        "shop.example",
        "preserve",
        "upstream",
    )


def test_defaults_of_a_route() -> None:
    """What a route doesn't set comes from `defaults` and the limits."""
    plain, own = compiled(
        rule("prefix", "/a", name="plain"),
        rule(
            "prefix",
            "/b",
            protected=True,
            upstream_401="pass",
            forward_credentials=False,
            request={"max_body_size": 0, "allow_field_names": ["x_odd"]},
            session={"check_database": "always"},
        ),
        defaults={
            "protected": "optional",
            "upstream_401": 502,
            "forward_credentials": True,
            "session": {"check_database": "cached", "max_age": "9s"},
        },
        gateway={"limits": {"max_body_size": 7}},
    ).routes
    assert (plain.name, own.name) == ("plain", "1:/b")
    assert plain.session.protection is Protection.OPTIONAL
    assert own.session.protection is Protection.REQUIRED
    assert plain.session.check_database is CheckDatabase.CACHED
    assert plain.session.max_age_s == 9.0
    assert own.session.check_database is CheckDatabase.ALWAYS
    assert (plain.upstream_401, own.upstream_401) == ("502", "pass")
    assert (plain.headers.forward_credentials, own.headers.forward_credentials) == (
        True,
        False,
    )
    assert (plain.max_body_size, own.max_body_size) == (7, 0)
    public = compiled(rule("prefix", "/a", **PUBLIC)).routes[0]
    assert public.session.protection is Protection.PUBLIC
    assert not public.session.requirements


def test_a_route_that_sets_one_key_of_session_keeps_the_others() -> None:
    """A route that sets `max_age` alone keeps the check that `defaults` set."""
    (route,) = compiled(
        rule("prefix", "/a", session={"max_age": "2s"}),
        defaults={"session": {"check_database": "cached", "max_age": "9s"}},
    ).routes
    assert route.session.check_database is CheckDatabase.CACHED
    assert route.session.max_age_s == 2.0


@pytest.mark.parametrize(
    ("defaults", "own", "closes"),
    [
        ({}, {}, True),
        ({"close_streams": False}, {}, False),
        ({"close_streams": False}, {"close_streams": True}, True),
        ({}, {"close_streams": False}, False),
    ],
)
def test_streams_end_with_their_session_unless_told(
    defaults: dict[str, Any], own: dict[str, Any], closes: bool
) -> None:
    """The route's `session.close_streams` counts, then that of `defaults`."""
    route = compiled(
        rule("prefix", "/a", session=own), defaults={"session": defaults}
    ).routes[0]
    assert route.close_streams is closes


MODULE = {"config_module": "a.b"}
"""An SDK with recipes of its own: any required claim may exist."""

FULL = {
    "roles": {"any": ["a", "b"], "all": ["c"]},
    "permissions": {"any": ["d"], "all": ["e"]},
    "email_verified": True,
    "mfa": True,
    "tenants": ["t"],
    "claims": [
        {"path": "plan.level", "in": [1, 2]},
        {"path": "flag", "equals": None},
        {"path": "list", "contains": "x"},
    ],
    "max_age": "5m",
    "validators": ["p.m.v"],
}


def test_requirements() -> None:
    """`require` is passed on completely; null is a value to compare with."""
    (route,) = compiled(rule("prefix", "/a", require=FULL), supertokens=MODULE).routes
    assert route.session.requirements == Requirements(
        roles_any=("a", "b"),
        roles_all=("c",),
        permissions_any=("d",),
        permissions_all=("e",),
        email_verified=True,
        mfa=True,
        tenants=("t",),
        claims=(
            ClaimRule(path=("plan", "level"), any_of=(1, 2)),
            ClaimRule(path=("flag",), equals=None, has_equals=True),
            ClaimRule(path=("list",), contains="x", has_contains=True),
        ),
        max_age_s=300.0,
        validators=("p.m.v",),
    )


def test_describe() -> None:
    """`gateway routes` describes the table in the order of matching."""
    table = compiled(
        rule("prefix", "/", **PUBLIC),
        rule(
            "template",
            "/a/{x}",
            methods=["GET"],
            hosts=["h.ex"],
            name="one",
            require=FULL,
            session={"check_database": "on_write"},
        ),
        supertokens=MODULE,
    )
    assert [tuple(row) for row in routes.rows(table)] == [
        (
            1,
            "one",
            "h.ex",
            "/a/{x} (template)",
            "GET",
            (
                "required, roles any of a b, roles c, permissions any of d,"
                " permissions e, tenants t, claims plan.level flag list,"
                " validators p.m.v,"
                " email verified, mfa, core asked on write"
            ),
            "http://up:80",
            (
                "POST is 405, though 0:/ would take it;"
                " another spelling, /a/x/, would go to 0:/"
            ),
        ),
        (2, "0:/", "any", "/", "any", "public", "http://up:80", ""),
    ]


# --- warnings ---


@pytest.mark.parametrize(
    ("sections", "places"),
    [
        ({}, []),
        (
            {
                "supertokens": {
                    "anti_csrf": "NONE",
                    "cookie": {"same_site": "none"},
                    "api_domain": "https://a.b",
                }
            },
            ["supertokens.anti_csrf"],
        ),
        (
            {
                "supertokens": {
                    "cookie": {"same_site": "none", "secure": False},
                    "api_domain": "https://a.b",
                }
            },
            ["supertokens.cookie.secure"],
        ),
        (
            {
                "supertokens": {
                    "cookie": {"same_site": "lax", "secure": True},
                    "anti_csrf": "NONE",
                }
            },
            ["supertokens.cookie.secure"],
        ),
        ({"supertokens": {"api_domain": "http://a.b"}}, ["supertokens.api_domain"]),
        ({"supertokens": {"api_domain": "https://a.b"}}, []),
        # An origin is for browsers, so it needs no service.
        (
            {"supertokens": {"api_domain": "http://0.0.0.0:8000"}},
            ["supertokens.api_domain"],
        ),
        ({"supertokens": {"api_domain": "https://169.254.1.1:0"}}, []),
        ({"services": {"s": {"targets": ["http://s"]}}}, ["services.s"]),
        (
            {
                "services": {"s": {"targets": ["https://s"], "tls": {"verify": False}}},
                "routes": [{"path": "/a", "service": "s"}],
            },
            ["services.s.tls.verify"],
        ),
        (
            {"routes": [{"path": "/a", "upstream": "http://localhost:8000"}]},
            ["routes[0].upstream"],
        ),
        (
            {
                "gateway": {"listen": "0.0.0.0:80"},
                "routes": [{"path": "/a", "upstream": "http://127.0.0.1"}],
            },
            ["routes[0].upstream"],
        ),
        (
            {
                "gateway": {"listen": "0.0.0.0:80"},
                "routes": [{"path": "/a", "upstream": "http://other"}],
            },
            [],
        ),
        (
            {
                "routes": [
                    rule("prefix", "/a", methods=["GET"]),
                    rule("prefix", "/a"),
                    rule("exact", "/a"),
                    rule("regex", "/a/.*"),
                ]
            },
            [],
        ),
        # What the gateway answers never reaches a service, unless all goes there.
        ({"routes": [rule("prefix", "/user")]}, ["routes[0]"]),
        ({"routes": [rule("template", "/{x}", hosts=["*.a.b"])]}, ["routes[0]"]),
        ({"routes": [rule("prefix", "/")]}, []),
        ({"routes": [rule("prefix", "/user/1")]}, []),
        (
            {
                "gateway": {"user_path": "/me"},
                "routes": [rule("prefix", "/user"), rule("prefix", "/me/x")],
            },
            [],
        ),
        # A name in the log is that of a route, also one of the gateway's own.
        (
            {
                "log": {
                    "exclude": [{"route": "b"}, {"route": "a"}, {"route": "/user"}]
                },
                "routes": [rule("exact", "/x", name="a")],
            },
            ["log.exclude[0].route"],
        ),
        # A route of one method hides the other methods of its path.
        (
            {
                "services": {"s": {"targets": ["http://s"], "paths": "exact"}},
                "routes": [
                    {"path": "/a", "service": "s"},
                    {"path": {"exact": "/a/b"}, "service": "s", "methods": ["GET"]},
                ],
            },
            ["routes[1]"],
        ),
        (
            {
                "routes": [
                    rule("prefix", "/a", methods=["GET"]),
                    rule("exact", "/a/b", methods=["GET", "PUT"]),
                ]
            },
            [],
        ),
        (  # a guard
            {
                "services": {"s": {"targets": ["http://s"], "paths": "exact"}},
                "routes": [
                    {"path": "/a", "service": "s", "protected": False},
                    {"path": "/a/b", "service": "s", "methods": ["POST"]},
                ],
            },
            [],
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_warnings(sections: dict[str, Any], places: list[str]) -> None:
    """Each suspicious setting that can be served gets its warning, and no other."""
    settings = config.parse({"version": 1, "supertokens": {}, **sections})
    found = routes.warnings(settings, routes.compile(settings))
    assert [one.path for one in found] == places


def test_sessions_without_a_core_are_a_warning() -> None:
    """A file without a supertokens section trusts the sessions of a default core."""
    settings = config.parse({"version": 1, "routes": [rule("prefix", "/a")]})
    (warning,) = routes.warnings(settings, routes.compile(settings))
    assert "no supertokens section" in warning.message
    public = config.parse({"version": 1, "routes": [rule("prefix", "/a", **PUBLIC)]})
    assert routes.warnings(public, routes.compile(public)) == []


# --- cost ---


def test_cost_does_not_grow_with_the_number_of_routes() -> None:
    """A match takes as many steps with ten thousand routes as with ten."""

    def steps(count: int) -> int:
        table = compiled(
            *(
                rule("prefix", f"/api/v{number % 5}/s{number}")
                for number in range(count)
            ),
            *(rule("template", f"/t/s{number}/{{x}}") for number in range(count)),
            *(rule("exact", f"/e{number}") for number in range(count)),
            *(
                rule("prefix", "/h", hosts=[f"h{number}.example.com"])
                for number in range(count)
            ),
        )
        calls = 0

        def count_call(*_: object) -> None:
            nonlocal calls
            calls += 1

        sys.setprofile(count_call)
        try:
            for path in ("/api/v2/s2/orders/1", "/t/s3/x", "/e4", "/none"):
                table.match("GET", "h5.example.com", path)
        finally:
            sys.setprofile(None)
        return calls

    assert steps(300) == steps(10)
