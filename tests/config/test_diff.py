"""What differs between two configurations: which keys, and never their values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from gateway import config
from gateway.config.diff import ConfigChange, changes, fingerprints, in_words, parts

BASE: dict[str, Any] = {
    "version": 1,
    "supertokens": {"connection_uri": "http://core:3567", "api_key": "old-secret"},
    "services": {"shop": {"targets": ["http://shop:1"]}},
    "routes": [
        {"name": "orders", "path": "/orders", "service": "shop"},
        {"path": "/a", "service": "shop"},
        {"path": "/a", "service": "shop", "methods": ["POST"]},
    ],
}


def parsed(**sections: Any) -> config.Config:
    return config.parse(BASE | sections)


def route(number: int, **keys: Any) -> dict[str, Any]:
    """Return the routes of `BASE`, of which one has other keys."""
    routes = list(BASE["routes"])
    routes[number] = routes[number] | keys
    return {"routes": routes}


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "a route by its name": (
        route(0, protected=False),
        ["route orders changed (protected)"],
    ),
    "a route by its path": (
        route(1, protected=False),
        ["route /a changed (protected)"],
    ),
    "a route by its method": (
        route(2, protected=False),
        ["route POST /a changed (protected)"],
    ),
    "several keys of a route": (
        route(0, protected=False, timeouts={"connect": 1}),
        ["route orders changed (protected, timeouts)"],
    ),
    "a key that is set to its default": (
        route(0, protected=True),
        ["route orders changed (protected)"],
    ),
    "a route that is inserted": (
        {"routes": [{"path": "/new", "service": "shop"}, *BASE["routes"]]},
        ["route /new added"],
    ),
    "a route that is left out": (
        {"routes": BASE["routes"][1:]},
        ["route orders removed"],
    ),
    "a group": (
        {"groups": [{"path": "/g", "service": "shop", "routes": [{"path": "/x"}]}]},
        ["group /g added"],
    ),
    "a service": (
        {"services": {"shop": {"targets": ["http://shop:1", "http://shop:2"]}}},
        ["service shop changed (targets)"],
    ),
    "a setting": (
        {"gateway": {"limits": {"max_connections": 7}}},
        ["gateway.limits.max_connections changed"],
    ),
    "a key that was unset": (
        {"gateway": {"pidfile": "/run/gateway.pid"}},
        ["gateway.pidfile added"],
    ),
    "a section that was unset": (
        {"gateway": {"watch": {"interval": "7s"}}},
        ["gateway.watch.interval added"],
    ),
    "a secret": (
        {"supertokens": BASE["supertokens"] | {"api_key": "new-secret"}},
        ["supertokens.api_key changed"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_difference_is_named_once(name: str) -> None:
    """By what an operator knows it by, and without its value."""
    sections, expected = CASES[name]
    found = changes(parts(parsed()), parts(parsed(**sections)))
    words = in_words(found)
    assert words == (", ".join(expected) or "nothing has changed")
    assert "secret" not in words
    reverse = changes(parts(parsed(**sections)), parts(parsed()))
    opposite = {"added": "removed", "removed": "added", "changed": "changed"}
    assert {(each.what, opposite[each.how]) for each in reverse} == {
        (each.what, each.how) for each in found
    }
    assert {each.keys for each in reverse} == {each.keys for each in found}


@pytest.mark.parametrize("name", CASES)
def test_fingerprints_differ_where_values_do(name: str) -> None:
    """They show the same differences, and no value."""
    sections, _ = CASES[name]
    before, after = parsed(), parsed(**sections)
    hashed = changes(fingerprints(before, b"key"), fingerprints(after, b"key"))
    assert hashed == changes(parts(before), parts(after))
    assert "secret" not in json.dumps(fingerprints(after, b"key"))
    assert fingerprints(before, b"other") != fingerprints(before, b"key")


_PRINT = """
import json, sys
from gateway import config
from gateway.config.diff import fingerprints
print(json.dumps(fingerprints(config.parse(json.loads(sys.argv[1])), b"key")))
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_fingerprints_are_the_same_in_each_process(seed: str) -> None:
    """Whatever the order of its sets, and where its objects are in memory."""
    written = BASE | {
        "cors": {"allow_origins": [f"https://{name}.example" for name in "abcdef"]},
        "groups": [
            {
                "path": "/g",
                "service": "shop",
                "require": {"roles": {"any": ["admin", "editor", "viewer"]}},
                "routes": [
                    {
                        "path": "/x",
                        "methods": ["PUT", "GET", "POST", "DELETE"],
                        "clients": {"allow": ["::1"]},
                    }
                ],
            }
        ],
    }
    printed = subprocess.run(
        [sys.executable, "-c", _PRINT, json.dumps(written)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        text=True,
    )
    here = fingerprints(config.parse(written), b"key")
    assert json.loads(printed.stdout) == [*here]


def test_a_long_list_is_cut() -> None:
    """A line has six changes, and the number of the others."""
    found = [ConfigChange("added", f"route {number}") for number in range(9)]
    words = in_words(found)
    assert words.startswith("route 0 added, route 1 added")
    assert words.endswith("route 5 added, and 3 more changes")
