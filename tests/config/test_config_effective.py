"""Groups, services and lists of paths, as the routes that take effect."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config
from gateway.config import EffectiveRoute, Finding, InvalidConfig

SERVICES: dict[str, Any] = {"app": {"targets": ["http://app"]}}


def parsed(**sections: Any) -> list[EffectiveRoute]:
    """Return the routes of a file with these sections."""
    data = {"version": 1, "services": SERVICES, **sections}
    return config.effective_routes(config.parse(data))


def findings(**sections: Any) -> list[Finding]:
    """Return the problems of a file with these sections."""
    with pytest.raises(InvalidConfig) as caught:
        parsed(**sections)
    return list(caught.value.findings)


def group(*routes: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Return a group of the service `app`."""
    return {"service": "app", "routes": list(routes), **keys}


@pytest.mark.parametrize(
    ("path", "forms"),
    [
        ("/a/", [("prefix", "/a")]),
        ({"exact": "/a/"}, [("exact", "/a/")]),
        (["/a", {"exact": "/b"}], [("prefix", "/a"), ("exact", "/b")]),
        ({"template": "/a/{x}/{rest...}"}, [("prefix", "/a/{x}")]),
        ({"template": "/{x}/b"}, [("template", "/{x}/b")]),
    ],
    ids=str,
)
def test_a_path_is_a_prefix_a_mapping_or_a_list(
    path: Any, forms: list[tuple[str, str]]
) -> None:
    """`path` and `match: {path: …}` take the same; each path is a route of its own."""
    for keys in ({"path": path}, {"match": {"path": path}}):
        found = parsed(routes=[{"service": "app", **keys}])
        assert [(one.form, one.path) for one in found] == forms
        assert {one.loc for one in found} == {("routes", 0)}


@pytest.mark.parametrize(
    ("before", "path", "form", "joined"),
    [
        ("/shop", "/cart", "prefix", "/shop/cart"),
        ("/shop/", "/cart/", "prefix", "/shop/cart"),
        ("/shop", "/", "prefix", "/shop"),
        ("/", "/cart", "prefix", "/cart"),
        ("/shop", {"exact": "/"}, "exact", "/shop/"),
        ("/shop", {"template": "/{id}/x"}, "template", "/shop/{id}/x"),
        ("/", {"regex": "/a[0-9]"}, "regex", "/a[0-9]"),
        ("/g", {"regex": "/a|/b"}, "regex", "/g(/a|/b)"),
        ("/v1.0", {"regex": "/a[0-9]"}, "regex", r"/v1\.0/a[0-9]"),
        ("/a%2A(b)", {"regex": "/.*"}, "regex", r"/a\%2A\(b\)/.*"),
        (None, {"regex": "/a[0-9]"}, "regex", "/a[0-9]"),
    ],
)
def test_the_path_of_a_group_stands_before_those_of_its_routes(
    before: str | None, path: Any, form: str, joined: str
) -> None:
    """The route of a group has the group's path and its own, joined by one slash."""
    keys = {} if before is None else {"path": before}
    (route,) = parsed(groups=[group({"path": path}, **keys)])
    assert (route.form, route.path) == (form, joined)
    assert route.loc == ("groups", 0, "routes", 0)
    assert route.name == f"0.0:{joined}"


def test_the_nearest_value_of_a_key_counts() -> None:
    """Route before group before service; mappings and nested keys join, too."""
    services = {
        "app": {
            "targets": ["http://app"],
            "host_header": "preserve",
            "timeouts": {"connect": 1, "response": 1, "idle": 1},
            "identity": {"headers": {"X-A": "{user_id}", "X-B": "{user_id}"}},
        }
    }
    one, other = parsed(
        services=services,
        groups=[
            group(
                {
                    "path": "/a",
                    "hosts": ["a.example.com"],
                    "timeouts": {"connect": 3},
                    "identity": {"headers": {"x-a": "{tenant_id}"}},
                },
                {"path": "/b", "host_header": "upstream"},
                hosts=["b.example.com"],
                timeouts={"connect": 2, "response": 2},
                identity={"headers": {"X-C": "{user_id}"}},
            )
        ],
    )
    times = one.settings.timeouts
    assert (times.connect, times.response, times.idle) == (3, 2, 1)
    assert (one.hosts, other.hosts) == (("a.example.com",), ("b.example.com",))
    assert one.settings.host_header == "preserve"
    assert other.settings.host_header == "upstream"
    assert one.settings.identity.headers == {
        "x-a": "{tenant_id}",
        "X-B": "{user_id}",
        "X-C": "{user_id}",
    }


def test_upstream_and_service_replace_each_other() -> None:
    """The nearest of the two counts, and leaves nothing of what it replaces."""
    services = {**SERVICES, "other": {"targets": ["http://x"], "protected": False}}
    own, inherited = parsed(
        services=services,
        groups=[
            group(
                {"path": "/a", "upstream": "http://a"}, {"path": "/b"}, service="other"
            )
        ],
    )
    assert (own.settings.upstream, own.settings.service) == ("http://a", None)
    assert own.protected is True, "the replaced service says nothing of this route"
    assert inherited.settings.service == "other"
    assert inherited.protected is False


@pytest.mark.parametrize(
    ("service", "of_group", "route", "protected", "roles"),
    [
        ({}, {}, {}, True, []),
        ({"protected": False}, {}, {}, False, []),
        ({"protected": False}, {"protected": True}, {}, True, []),
        ({}, {"protected": True}, {"protected": "optional"}, "optional", []),
        ({"require": "s"}, {"require": "g"}, {"require": "r"}, True, ["r", "g", "s"]),
        # Whoever opens a route drops what stands above it.
        ({"require": "s"}, {"require": "g"}, {"protected": False}, False, []),
        ({"require": "s"}, {"protected": False}, {"protected": True}, True, ["s"]),
    ],
)
def test_requirements_add_up(
    service: dict[str, Any],
    of_group: dict[str, Any],
    route: dict[str, Any],
    protected: bool | str,
    roles: list[str],
) -> None:
    """What route, group and service require holds together; `protected` is nearest."""

    def filled(keys: dict[str, Any]) -> dict[str, Any]:
        if "require" not in keys:
            return keys
        return {**keys, "require": {"roles": {"all": [keys["require"]]}}}

    (one,) = parsed(
        services={"app": {"targets": ["http://app"], **filled(service)}},
        groups=[group({"path": "/a", **filled(route)}, **filled(of_group))],
    )
    assert one.protected == protected
    assert [require.roles.all[0] for require in one.requires] == roles


@pytest.mark.parametrize(
    ("sections", "loc"),
    [
        (
            {
                "routes": [
                    {
                        "path": "/a",
                        "service": "app",
                        "protected": False,
                        "require": {"mfa": True},
                    }
                ]
            },
            ("routes", 0, "require"),
        ),
        (
            {
                "groups": [
                    group({"path": "/a", "require": {"mfa": True}}, protected=False)
                ]
            },
            ("groups", 0, "routes", 0, "require"),
        ),
        (
            {"groups": [group({"path": "/a"}, protected=False, require={"mfa": True})]},
            ("groups", 0, "require"),
        ),
        (
            {
                "defaults": {"protected": False},
                "services": {
                    "app": {"targets": ["http://a"], "require": {"mfa": True}}
                },
                "routes": [{"path": "/a", "service": "app"}],
            },
            ("services", "app", "require"),
        ),
    ],
)
def test_an_open_route_requires_nothing(sections: dict[str, Any], loc: Any) -> None:
    """A requirement that stands no farther than what opens the route is a mistake."""
    (finding,) = findings(**sections)
    assert finding.loc == loc
    assert "needs no session" in finding.message


@pytest.mark.parametrize(
    ("of_group", "route", "strip", "replacement"),
    [
        ({}, {"path": "/a/b", "rewrite": "strip"}, "/a/b", None),
        ({}, {"path": {"exact": "/a"}, "rewrite": "strip"}, "/a", None),
        (
            {},
            {"path": {"template": "/a/{x}/{rest...}"}, "rewrite": "strip"},
            "/a/{x}",
            None,
        ),
        ({"path": "/g", "rewrite": "strip"}, {"path": "/a"}, "/g", None),
        (
            {"path": "/g", "rewrite": "strip"},
            {"path": {"template": "/{x}"}},
            "/g",
            None,
        ),
        (
            {"path": "/g", "rewrite": {"replace_prefix": "/n"}},
            {"path": "/a"},
            "/g",
            "/n",
        ),
        (
            {"path": "/g", "rewrite": "strip"},
            {"path": "/a", "rewrite": "strip"},
            "/g/a",
            None,
        ),
        (
            {"path": "/g", "rewrite": "strip"},
            {"path": "/a", "rewrite": {"replace_prefix": "/n"}},
            "/g/a",
            "/n",
        ),
        ({"path": "/g"}, {"path": "/a", "rewrite": {"strip_prefix": "/g"}}, "/g", None),
        ({"path": "/g"}, {"path": "/a"}, None, None),
    ],
)
def test_rewrites(
    of_group: dict[str, Any],
    route: dict[str, Any],
    strip: str | None,
    replacement: str | None,
) -> None:
    """`strip` removes the path of the route or group on which it stands."""
    (one,) = parsed(groups=[group(route, **of_group)])
    assert one.strip == strip
    assert one.settings.rewrite.replace_prefix == replacement


@pytest.mark.parametrize(
    ("of_group", "route", "place", "message"),
    [
        (
            {"path": "/" + "g" * 200},
            {"path": {"regex": "/" + "a" * 350 + ".*"}},
            "routes[0].path",
            "behind its group's path",
        ),
        ({"rewrite": "strip"}, {"path": "/a"}, "rewrite", "no path to strip"),
        (
            {},
            {"path": {"regex": "/a.*"}, "rewrite": "strip"},
            "routes[0].rewrite.strip",
            "no prefix to strip",
        ),
        (
            {"path": "/g"},
            {"path": "/a", "rewrite": {"strip_prefix": "/a"}},
            "routes[0].rewrite.strip_prefix",
            "don't all begin",
        ),
        (
            {},
            {"path": "/a", "rewrite": "cut"},
            "routes[0].rewrite",
            "expected strip, or keys",
        ),
        (
            {},
            {"path": "/a", "rewrite": {"strip": True, "strip_prefix": "/a"}},
            "routes[0].rewrite.strip",
            "at most one",
        ),
        (
            {"upstream": "http://u"},
            {"path": "/a"},
            "",
            "exactly one of upstream and service",
        ),
        (
            {},
            {"path": "/a", "service": "no"},
            "routes[0].service",
            "no service of this name",
        ),
        (
            {},
            {"path": "/a", "methods": ["GET"], "match": {"methods": ["GET"]}},
            "routes[0].methods",
            "match has methods, too",
        ),
        (
            {"path": "/a" * 40},
            {"path": "/a" * 40},
            "routes[0].path",
            "at most 64 segments",
        ),
        ({}, {"path": []}, "routes[0].path", "at least one item"),
        ({}, {"path": ["/a", "b"]}, "routes[0].path[1]", "a path begins with /"),
        ({}, {"path": "b"}, "routes[0].path", "a path begins with /"),
        (
            {},
            {"path": {"template": "/{rest...}"}},
            "routes[0].path.template",
            "this is a prefix",
        ),
        (
            {},
            {"path": {"template": "/{a...}/{b}"}},
            "routes[0].path.template",
            "ends the template",
        ),
        (
            {},
            {"path": "/a", "match": {"headers": {"X-User-Id": "1"}}},
            "routes[0].match.headers.X-User-Id",
            "may forge it",
        ),
        (
            {},
            {"path": "/a", "match": {"headers": {"Cookie": "1"}}},
            "routes[0].match.headers.Cookie",
            "a meaning of its own",
        ),
        (
            {},
            {"path": "/a", "match": {"query": {"v": True}}},
            "routes[0].match.query.v",
            "a value is text",
        ),
        (
            {"require": {"roles": "admin"}},
            {"path": "/a"},
            "require.roles",
            "expected a mapping",
        ),
        ({}, {"path": "/a", "methods": "post"}, "routes[0].methods", "expected a list"),
    ],
)
def test_mistakes(
    of_group: dict[str, Any], route: dict[str, Any], place: str, message: str
) -> None:
    """A mistake is reported at its place in the file, in the file's own form."""
    finding = findings(groups=[group(route, **of_group)])[0]
    assert finding.path == f"groups[0].{place}".rstrip(".")
    assert message in finding.message


def test_lists_without_brackets_have_a_remedy() -> None:
    """`methods: post` and `roles: admin` are refused with what to write."""
    finding = findings(groups=[group({"path": "/a", "methods": "post"})])[0]
    assert finding.hint == "Put it in brackets: methods: […]"
    finding = findings(groups=[group({"path": "/a"}, require={"roles": "admin"})])[0]
    assert finding.hint == "Its keys are any, all"


def test_a_group_makes_its_routes_critical() -> None:
    """A route's own value counts before its group's; without both it is false."""
    found = parsed(
        groups=[
            group({"path": "/a"}, {"path": "/b", "critical": False}, critical=True)
        ],
        routes=[{"service": "app", "path": "/c"}],
    )
    critical = {one.path: one.settings.critical for one in found}
    assert critical == {"/a": True, "/b": False, "/c": False}
