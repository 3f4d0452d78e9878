"""Where the values of a route stand."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config
from gateway.config import effective_routes, origins

FILE: dict[str, Any] = {
    "version": 1,
    "gateway": {"limits": {"max_body_size": "1MiB"}},
    "cors": {"max_age": 60},
    "defaults": {"timeouts": {"connect": 1, "idle": 9}, "host_header": "preserve"},
    "services": {
        "app": {
            "targets": ["http://app"],
            "timeouts": {"connect": 2, "response": 5},
            "require": {"mfa": True},
            "assertion": False,
        }
    },
    "groups": [
        {
            "service": "app",
            "require": {"tenants": ["red"]},
            "timeouts": {"response": 6},
            "request": {"max_body_size": "2MiB"},
            "routes": [
                {
                    "name": "inner",
                    "path": "/inner",
                    "timeouts": {"connect": 3},
                    "require": {"email_verified": True},
                },
                {"name": "open", "path": "/open", "protected": False},
            ],
        }
    ],
    "routes": [{"name": "plain", "path": "/plain", "upstream": "http://other"}],
    "supertokens": {
        "recipes": {"multifactorauth": {}, "emailverification": {"mode": "OPTIONAL"}}
    },
}
INNER = ("groups", 0, "routes", 0)
GROUP = ("groups", 0)
SERVICE = ("services", "app")
CASES: dict[str, dict[str, list[tuple[str | int, ...]]]] = {
    "inner": {
        "timeouts.connect": [(*INNER, "timeouts", "connect")],
        "timeouts.response": [(*GROUP, "timeouts", "response")],
        "timeouts.idle": [("defaults", "timeouts", "idle")],
        "require": [(*INNER, "require"), (*GROUP, "require"), (*SERVICE, "require")],
        "request.max_body_size": [(*GROUP, "request", "max_body_size")],
        "service": [(*GROUP, "service")],
        "host_header": [("defaults", "host_header")],
        "cors.max_age": [("cors", "max_age")],
    },
    "open": {
        "timeouts.connect": [(*SERVICE, "timeouts", "connect")],
        "timeouts.response": [(*GROUP, "timeouts", "response")],
        "timeouts.idle": [("defaults", "timeouts", "idle")],
        "protected": [("groups", 0, "routes", 1, "protected")],
        "request.max_body_size": [(*GROUP, "request", "max_body_size")],
        "service": [(*GROUP, "service")],
        "host_header": [("defaults", "host_header")],
        "cors.max_age": [("cors", "max_age")],
    },
    "plain": {
        "timeouts.connect": [("defaults", "timeouts", "connect")],
        "timeouts.idle": [("defaults", "timeouts", "idle")],
        "upstream": [("routes", 0, "upstream")],
        "request.max_body_size": [("gateway", "limits", "max_body_size")],
        "host_header": [("defaults", "host_header")],
        "cors.max_age": [("cors", "max_age")],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_nearest_place_counts(name: str) -> None:
    """Route, group, service, `defaults`; what each of them requires is listed."""
    parsed = config.parse(FILE)
    (route,) = (one for one in effective_routes(parsed) if one.name == name)
    assert origins(parsed, route) == CASES[name]
