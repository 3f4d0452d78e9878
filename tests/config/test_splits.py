"""`split` in a file: what it takes, from where, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config
from gateway.config import Finding, InvalidConfig, SplitConfig

TO = {"to": "canary", "weight": 0.1}


def parsed(
    *, app: Any = None, canary: Any = None, routes: Any = (), groups: Any = ()
) -> list[config.EffectiveRoute]:
    """Return the routes of a file with the services `app` and `canary`."""
    services = {
        "app": {"targets": ["http://app"], **(app or {})},
        "canary": {"targets": ["http://canary"], **(canary or {})},
    }
    data = {
        "version": 1,
        "services": services,
        "routes": list(routes),
        "groups": list(groups),
    }
    return config.effective_routes(config.parse(data))


def finding(**sections: Any) -> Finding:
    """Return the one problem of a file."""
    with pytest.raises(InvalidConfig) as caught:
        parsed(**sections)
    (found,) = caught.value.findings
    return found


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/", "service": "app", **keys}


@pytest.mark.parametrize(
    ("split", "path", "message", "hint"),
    [
        ({"weight": 0.1}, "split", "the key 'to' is missing", "Add to: with a value"),
        ({"to": "canary"}, "split", "the key 'weight' is missing", ""),
        (TO | {"weight": 5}, "split.weight", "must be at most 1", ""),
        (TO | {"weight": -1}, "split.weight", "must be at least 0", ""),
        (TO | {"weight": True}, "split.weight", "expected a number", ""),
        (TO | {"to": "canry"}, "split.to", "no service of this name", "'canary'"),
        (TO | {"to": "x"}, "split.to", "no service of this name", "Add it to services"),
        (TO | {"to": "app"}, "split.to", "the route's own service", "Name another"),
        (TO | {"sticky": "usr"}, "split.sticky", "expected none, session", "'user'"),
        (TO | {"sticky": "header:a b"}, "split.sticky", "isn't a field name", ""),
        (TO | {"override": "user"}, "split.override", "expected cookie:NAME or", ""),
        (TO | {"override": "cookie"}, "split.override", "expected session", ""),
        (TO | {"stcky": "user"}, "split.stcky", "unknown key", "'sticky'"),
    ],
)
def test_a_mistake_has_its_place_and_a_remedy(
    split: Any, path: str, message: str, hint: str
) -> None:
    found = finding(routes=[route(split=split)])
    assert found.path == f"routes[0].{path}"
    assert message in found.message
    assert hint in found.hint


@pytest.mark.parametrize("sticky", ["user", "session", "tenant"])
def test_a_public_route_has_no_user_to_split_by(sticky: str) -> None:
    found = finding(routes=[route(protected=False, split=TO | {"sticky": sticky})])
    assert found.path == "routes[0].split.sticky"
    assert f"no {sticky}" in found.message
    assert "Set sticky: client" in found.hint


def test_the_default_is_a_users_too() -> None:
    """It is refused for a public route, at the place of the split."""
    found = finding(routes=[route(protected=False, split=TO)])
    assert found.path == "routes[0].split"


@pytest.mark.parametrize(
    "keys",
    [
        {"protected": False, "split": TO | {"sticky": "client"}},
        {"protected": False, "split": TO | {"sticky": "none"}},
        {"protected": False, "split": TO | {"sticky": "cookie:room"}},
        {"protected": "optional", "split": TO | {"sticky": "user"}},
        {"split": TO | {"sticky": "header:X-Shard", "override": "header:X-Canary"}},
        {"split": {"to": "canary", "weight": 0}},
        {"split": {"to": "canary", "weight": 1}},
    ],
    ids=str,
)
def test_good_splits(keys: Any) -> None:
    (one,) = parsed(routes=[route(**keys)])
    assert one.settings.split == SplitConfig(**keys["split"])


def test_a_group_splits_its_routes() -> None:
    """A route's own keys count before those of its group."""
    groups = [
        {
            "service": "app",
            "split": TO | {"sticky": "session"},
            "routes": [
                {"path": "/a"},
                {"path": "/b", "split": {"to": "canary", "weight": 0}},
                {"path": "/c", "respond": {"status": 204}},
            ],
        }
    ]
    a, b, c = (one.settings.split for one in parsed(groups=groups))
    assert a == SplitConfig(to="canary", weight=0.1, sticky="session")
    assert b is not None
    assert (b.weight, b.sticky) == (0, "session")
    assert c is None


def test_a_split_of_a_group_is_judged_for_each_route() -> None:
    """The finding is at the group, and names the route."""
    groups = [
        {
            "service": "app",
            "split": TO,
            "routes": [{"path": "/a"}, {"path": "/b", "protected": False}],
        }
    ]
    found = finding(groups=groups)
    assert found.path == "groups[0].split"
    assert found.message.endswith(": groups.0.routes.1")


@pytest.mark.parametrize("answer", ["respond", "redirect"])
def test_a_route_that_answers_itself_has_nothing_to_split(answer: str) -> None:
    value = {"status": 204} if answer == "respond" else {"to": "/x"}
    found = finding(routes=[{"path": "/", answer: value, "split": TO}])
    assert found.path == "routes[0].split"
    assert "nothing to split" in found.message


@pytest.mark.parametrize(
    ("app", "canary"),
    [
        ({}, {"timeouts": {"response": 5}}),
        ({"timeouts": {"response": 4}}, {"timeouts": {"response": 5}}),
        ({}, {"require": {"tenants": ["a"]}}),
        ({}, {"identity": {"headers": {"X-Plan": "{claims.plan}"}}}),
        ({}, {"host_header": "preserve"}),
        ({}, {"retry": {"attempts": 0}}),
        ({}, {"clients": {"allow": ["10.0.0.0/8"]}}),
    ],
    ids=str,
)
def test_a_key_of_the_other_service_that_would_be_ignored(
    app: Any, canary: Any
) -> None:
    """The keys of the route's own service hold for both, a guard above all."""
    found = finding(app=app, canary=canary, routes=[route(split=TO)])
    (key,) = canary
    assert found.path == "routes[0].split.to"
    assert f"canary has {key}" in found.message
    assert found.see == ("services", "canary", key)
    parsed(app=canary, canary=canary, routes=[route(split=TO)])
    parsed(app=canary, routes=[route(split=TO)])


@pytest.mark.parametrize(
    ("app", "canary"),
    [("exact", None), (None, "exact"), ("exact", {"case": "insensitive"})],
)
def test_both_services_read_paths_in_the_same_way(app: Any, canary: Any) -> None:
    """Else a guard that holds for one of them could be passed at the other."""
    keys = [{"paths": paths} if paths else {} for paths in (app, canary)]
    found = finding(app=keys[0], canary=keys[1], routes=[route(split=TO)])
    assert found.path == "routes[0].split.to"
    assert "may read paths in another way" in found.message


def test_a_route_with_an_upstream_can_be_split() -> None:
    """It has no service whose keys could agree."""
    bare = {"path": "/", "upstream": "http://app", "split": TO}
    parsed(routes=[bare])
    found = finding(canary={"retry": {"attempts": 0}}, routes=[bare])
    assert "write it on the route" in found.hint
    found = finding(canary={"paths": "exact"}, routes=[bare])
    assert "may read paths" in found.message


def test_a_mistake_in_a_route_is_no_mistake_of_its_groups_split() -> None:
    """What stands in for a route with a mistake isn't split: it has no service."""
    data = {
        "version": 1,
        "services": {
            name: {"targets": [f"http://{name}"], "timeouts": {"response": 5}}
            for name in ("app", "canary")
        },
        "groups": [
            {
                "service": "app",
                "split": TO,
                "routes": [{"path": "/a"}, {"path": "/b", "methods": ["NO"]}],
            }
        ],
    }
    with pytest.raises(InvalidConfig) as caught:
        config.parse(data)
    rest = config.rest_of(data, caught.value.findings)
    assert rest is not None
    assert rest[1].found == ()
