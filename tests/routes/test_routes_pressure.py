"""Warnings of settings against overload that have no effect."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes
from gateway.routes import lint

APP = {"targets": ["http://a", "http://b"], "max_connections": 10}


def warned(service: dict[str, Any], *rules: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the places and messages of the warnings about pressure."""
    open_rules = [{"service": "app", "protected": False, **rule} for rule in rules]
    settings = config.parse(
        {
            "version": 1,
            "supertokens": {"connection_uri": "http://core"},
            "services": {"app": {**APP, **service}},
            "routes": open_rules,
        }
    )
    found = lint.warnings(settings, routes.compile(settings))
    return [(one.path, one.message) for one in found]


@pytest.mark.parametrize(("in_flight", "is_doubtful"), [(20, False), (21, True)])
def test_more_requests_than_connections(in_flight: int, is_doubtful: bool) -> None:
    """They would wait for a connection to their target, and not for their turn."""
    limits = {"limits": {"in_flight": in_flight}}
    found = warned(limits, {"path": "/"})
    assert [path for path, _ in found] == (
        ["services.app.limits.in_flight"] if is_doubtful else []
    )


@pytest.mark.parametrize(
    ("critical", "message"),
    [
        ((True, False), ""),
        ((False, False), ""),
        ((True, True), "all routes are critical, so none comes before another"),
    ],
)
def test_all_routes_are_critical(critical: tuple[bool, bool], message: str) -> None:
    rules = [{"path": f"/{n}", "critical": one} for n, one in enumerate(critical)]
    found = warned({}, *rules)
    assert [text for _, text in found] == ([message] if message else [])


def test_a_single_route_may_be_critical() -> None:
    """There is the SDK's API beside it."""
    assert warned({}, {"path": "/", "critical": True}) == []


def test_a_route_that_the_gateway_answers_is_never_refused() -> None:
    answer = {"path": "/ok", "service": None, "respond": {"status": 204}}
    found = warned({}, {"path": "/"}, {**answer, "critical": True})
    assert found == [
        (
            "routes[1].critical",
            "this has no effect: the gateway answers the route itself",
        )
    ]
