"""Rate limits that can't work are refused; probable mistakes are warnings."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes
from gateway.config import Config, Finding, InvalidConfig
from gateway.routes.rate_lint import rate_warnings

LIMITS = {
    "clients": {"rate": "100/s"},
    "users": {"rate": "100/s", "key": "user"},
    "accounts": {"rate": "10/m", "key": "email"},
    "all": {"rate": "10/m", "key": "route"},
}


def parse(limits: dict[str, Any] = LIMITS, **sections: Any) -> Config:
    return config.parse({"version": 1, "rate_limits": limits, **sections})


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://up:80", **keys}


def warned(found: list[Finding]) -> list[tuple[str, str]]:
    """Return the warnings but those about unused limits."""
    return [
        (one.path, one.message)
        for one in found
        if one.message != "nothing has this limit"
    ]


@pytest.mark.parametrize(
    ("sections", "place", "message"),
    [
        pytest.param(
            {"routes": [route(rate_limit="accounts")]},
            "routes[0].rate_limit[0]",
            "accounts counts by the account in a form, which only SuperTokens' API has",
            id="no form",
        ),
        pytest.param(
            {"routes": [route(rate_limit={"policy": "clients", "cost": 101})]},
            "routes[0].rate_limit[0]",
            "no request can cost 101: the burst of clients is 100",
            id="too dear",
        ),
        pytest.param(
            {"groups": [{"rate_limit": "accounts", "routes": [route()]}]},
            "groups[0].rate_limit[0]",
            "accounts counts by the account in a form, which only SuperTokens' API has",
            id="in a group",
        ),
        pytest.param(
            {"supertokens": {"rate_limits": {"sign_in": "users"}}},
            "supertokens.rate_limits.sign_in[0]",
            "users counts by user, and no session is verified before this call",
            id="no session",
        ),
        pytest.param(
            {"supertokens": {"rate_limits": {"refresh": "accounts"}}},
            "supertokens.rate_limits.refresh[0]",
            "accounts counts by the account in a form, and this call has none",
            id="no account",
        ),
    ],
)
def test_limits_that_cant_count_are_refused(
    sections: dict[str, Any], place: str, message: str
) -> None:
    """`check` and `serve` alike say where, why, and what to do."""
    with pytest.raises(InvalidConfig) as caught:
        routes.compile(parse(**sections))
    (found,) = caught.value.findings
    assert (found.path, found.message) == (place, message)
    assert found.hint


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        pytest.param(
            {"routes": [route(rate_limit="users", protected=False)]},
            [
                (
                    "routes[0]",
                    (
                        "users counts by user, but this route reads no session:"
                        " it counts by the client's address"
                    ),
                )
            ],
            id="a user on a public route",
        ),
        pytest.param(
            {"routes": [route(rate_limit="users", protected="optional")]},
            [],
            id="a user on an optional route",
        ),
        pytest.param(
            {"supertokens": {"rate_limits": {"refresh": "sign-in"}}},
            [
                (
                    "supertokens.rate_limits.refresh[0]",
                    (
                        "sign-in can lock users out of refreshing: all users behind one"
                        " address share it"
                    ),
                )
            ],
            id="a narrow refresh",
        ),
        pytest.param(
            {
                "supertokens": {
                    "rate_limits": {"refresh": "clients", "other": "clients"}
                }
            },
            [
                (
                    "supertokens.rate_limits.refresh[0]",
                    "clients also limits other, which can lock users out of refreshing",
                )
            ],
            id="a shared refresh",
        ),
        pytest.param(
            {
                "supertokens": {"rate_limits": {"refresh": "clients"}},
                "routes": [route(rate_limit="clients")],
            },
            [
                (
                    "supertokens.rate_limits.refresh[0]",
                    (
                        "clients also limits a route, which can lock users out of"
                        " refreshing"
                    ),
                )
            ],
            id="shared with a route",
        ),
        pytest.param(
            {"supertokens": {"rate_limits": {"sign_in": "all"}}},
            [
                (
                    "supertokens.rate_limits.sign_in[0]",
                    (
                        "all counts all clients together: one of them can lock out all"
                        " others"
                    ),
                )
            ],
            id="all clients together",
        ),
        pytest.param(
            {
                "supertokens": {
                    "rate_limits": {
                        "sign_in": ["sign-in", "sign-in-account"],
                        "sign_up": "sign-up",
                        "reset": "reset",
                        "refresh": "refresh",
                    }
                }
            },
            [],
            id="the ready-made ones",
        ),
    ],
)
def test_probable_mistakes_are_warnings(
    sections: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """Each has its place; what is fine has none."""
    assert warned([*rate_warnings(parse(**sections))]) == expected


def test_unused_limits_are_warnings() -> None:
    """The ready-made ones aren't."""
    settings = parse(routes=[route(rate_limit="clients")])
    found = routes.warnings(settings, routes.compile(settings))
    unused = [one.path for one in found if one.message == "nothing has this limit"]
    assert unused == [f"rate_limits.{name}" for name in ("users", "accounts", "all")]


def test_the_nearest_list_counts() -> None:
    """That of the route, else of its group, else of its service; `[]` is none."""
    settings = parse(
        services={"app": {"targets": ["http://up"], "rate_limit": "clients"}},
        groups=[
            {
                "service": "app",
                "rate_limit": ["users"],
                "routes": [
                    {"path": "/group"},
                    {"path": "/own", "rate_limit": ["all", "clients"]},
                    {"path": "/none", "rate_limit": []},
                ],
            }
        ],
        routes=[{"path": "/service", "service": "app"}, route()],
    )
    limits = {
        one.path: one.limits
        and [use.policy.name for use in (*one.limits.before, *one.limits.after)]
        for one in routes.compile(settings).routes
    }
    assert limits == {
        "/service": ["clients"],
        "/a": None,
        "/group": ["users"],
        "/own": ["all", "clients"],
        "/none": None,
    }


STORE = {"shared": {"redis": "redis://r"}}


@pytest.mark.parametrize(
    ("limit", "sections", "place", "message"),
    [
        pytest.param(
            {"on_store_failure": "deny"},
            {},
            "rate_limits.a.on_store_failure",
            "without gateway.shared, each gateway counts by itself",
            id="no store",
        ),
        pytest.param(
            {"shared": True},
            {},
            "rate_limits.a.shared",
            "without gateway.shared, each gateway counts by itself",
            id="shared over nothing",
        ),
        pytest.param(
            {"shared": False, "on_store_failure": "allow"},
            {"gateway": STORE},
            "rate_limits.a.on_store_failure",
            "this limit isn't shared, so it needs no store",
            id="not shared",
        ),
        pytest.param(
            {"on_store_failure": "deny"},
            {"gateway": STORE, "supertokens": {"rate_limits": {"refresh": "a"}}},
            "rate_limits.a.on_store_failure",
            "no session can be refreshed while Redis is away",
            id="refresh",
        ),
    ],
)
def test_sharing_without_effect_or_with_a_bad_one_is_a_warning(
    limit: dict[str, Any], sections: dict[str, Any], place: str, message: str
) -> None:
    """Each with what to do about it."""
    limits = {"a": {"rate": "100/s", **limit}}
    found = [*rate_warnings(parse(limits, **sections))]
    assert (place, message) in warned(found)
    assert all(one.hint for one in found)


@pytest.mark.parametrize(
    ("limit", "gateway"),
    [({"shared": False}, {}), ({}, {}), ({}, STORE), ({"shared": False}, STORE)],
)
def test_sharing_by_default_is_no_mistake(
    limit: dict[str, Any], gateway: dict[str, Any]
) -> None:
    limits = {"a": {"rate": "100/s", **limit}}
    assert not warned([*rate_warnings(parse(limits, gateway=gateway))])
