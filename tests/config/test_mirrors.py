"""`mirror` in a file: what it takes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config, routes
from gateway.config import Config, InvalidConfig
from gateway.routes import NearMiss, warnings


def parsed(mirror: Any, *, app: Any = None, shadow: Any = None) -> Config:
    """Return a file with the services `app`, which has the *mirror*, and `shadow`."""
    services = {
        "app": {"targets": ["http://app"], "mirror": mirror, **(app or {})},
        "shadow": {"targets": ["http://shadow"], **(shadow or {})},
    }
    guard = {"path": "/admin", "service": "shadow", "name": "guard"}
    route = {"path": "/", "service": "app", "protected": False}
    data = {"version": 1, "services": services, "routes": [route, guard]}
    return config.parse(data)


def test_the_defaults() -> None:
    """All requests with safe methods, 32 at a time in each worker."""
    mirror = parsed({"service": "shadow"}).services["app"].mirror
    assert mirror is not None
    assert mirror.model_dump() == {
        "service": "shadow",
        "share": 1.0,
        "methods": ("GET", "HEAD", "OPTIONS"),
        "in_flight": 32,
    }


@pytest.mark.parametrize(
    ("mirror", "path", "message", "hint"),
    [
        ("shadow", "", "expected a mapping", "Its keys are service"),
        ({"share": 0.1}, "", "the key 'service' is missing", ""),
        ({"service": "shadows"}, ".service", "no service of this name", "'shadow'"),
        ({"service": "x"}, ".service", "no service of this name", "Add it to services"),
        ({"service": "app"}, ".service", "this is the service itself", "Name another"),
        ({"service": "shadow", "share": 0}, ".share", "must be more than 0", ""),
        ({"service": "shadow", "share": "5%"}, ".share", "expected a number", ""),
        ({"service": "shadow", "methods": ["X"]}, ".methods[0]", "never forwarded", ""),
        ({"service": "shadow", "methods": []}, ".methods", "at least one item", ""),
        ({"service": "shadow", "in_flight": 0}, ".in_flight", "at least 1", ""),
    ],
    ids=str,
)
def test_a_mistake_has_its_place_and_a_remedy(
    mirror: Any, path: str, message: str, hint: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parsed(mirror)
    (found,) = caught.value.findings
    assert found.path == f"services.app.mirror{path}"
    assert message in found.message
    assert hint in found.hint


@pytest.mark.parametrize("paths", [("exact", None), (None, "exact")])
def test_both_services_read_paths_in_the_same_way(paths: Any) -> None:
    app, shadow = ({"paths": one} if one else {} for one in paths)
    with pytest.raises(InvalidConfig) as caught:
        parsed({"service": "shadow"}, app=app, shadow=shadow)
    (found,) = caught.value.findings
    assert found.path == "services.app.mirror.service"
    assert "may read paths in another way" in found.message


def test_guards_of_the_other_service_hold_for_what_is_copied() -> None:
    """It may read `/Admin` as `/admin`, which another route guards."""
    table = routes.compile(parsed({"service": "shadow"}))
    miss = table.match("GET", "", "/Admin")
    assert isinstance(miss, NearMiss)
    assert miss.guard.name == "guard"


def test_a_service_that_gets_copies_only_is_used() -> None:
    """It has targets, and no warning says that nothing uses it."""
    services = {
        "app": {"targets": ["http://app"], "mirror": {"service": "shadow"}},
        "shadow": {"targets": ["http://shadow"]},
    }
    settings = config.parse(
        {
            "version": 1,
            "services": services,
            "routes": [{"path": "/", "service": "app", "protected": False}],
        }
    )
    table = routes.compile(settings)
    assert [one.name for one in table.services()] == ["app", "shadow"]
    assert not warnings(settings, table)
