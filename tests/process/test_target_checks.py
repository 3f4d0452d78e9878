"""From the services of a file to the checks of their targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.process.target_checks import service_checks
from gateway.settings import load
from gateway.upstream.checked import ServiceCheck

ACTIVE = {"health": {"active": {"path": "/healthz", "interval": "3s", "down": 4}}}


def checks(
    tmp_path: Path, service: dict[str, Any], **more: Any
) -> tuple[ServiceCheck, ...]:
    """Return the checks of a file with one more service, which no route uses."""
    facts = {
        "version": 1,
        "supertokens": {"connection_uri": "http://core:3567", "recipes": {}},
        "services": {
            "up": {"targets": ["http://up:80"], **service},
            "unused": {"targets": ["http://unused:80"], **ACTIVE},
        },
        "routes": [{"path": "/", "service": "up"}],
        **more,
    }
    path = tmp_path / "routes.yaml"
    path.write_text(yaml.safe_dump(facts), encoding="utf-8")
    settings = load(path, environ={})
    return service_checks(settings.config, settings.table)


def test_only_services_that_ask_for_it_are_checked(tmp_path: Path) -> None:
    """A service without `health.active`, and one without a route, isn't."""
    assert checks(tmp_path, {}) == ()
    (check,) = checks(tmp_path, ACTIVE)
    assert (check.service, check.path) == ("up", "/healthz")
    assert (check.interval_s, check.up, check.down) == (3, 2, 4)


@pytest.mark.parametrize(
    ("service", "more", "host"),
    [
        ({}, {}, None),
        ({"host_header": "app.test"}, {}, "app.test"),
        ({"host_header": "upstream"}, {}, None),
        ({"host_header": "preserve"}, {}, None),
        ({}, {"defaults": {"host_header": "all.test"}}, "all.test"),
        ({}, {"defaults": {"host_header": "preserve"}}, None),
        (
            {"host_header": "app.test"},
            {"defaults": {"host_header": "all.test"}},
            "app.test",
        ),
    ],
)
def test_the_host_of_a_check(
    tmp_path: Path, service: dict[str, Any], more: dict[str, Any], host: str | None
) -> None:
    """As for requests; without a client's Host, the target's authority (None)."""
    (check,) = checks(tmp_path, ACTIVE | service, **more)
    assert check.host == host


def test_tls_of_a_check(tmp_path: Path) -> None:
    """It is the service's: a check that trusts more would call a bad target well."""
    tls = {"ca_file": "/ca.pem", "server_name": "name.test", "verify": False}
    service = {"targets": ["https://up:443"], "tls": tls, **ACTIVE}
    (check,) = checks(tmp_path, service)
    assert check.targets == ("https://up:443",)
    assert (check.ca_file, check.server_name, check.verify) == tuple(tls.values())


@pytest.mark.parametrize(
    ("service", "resolve_s"),
    [
        ({}, None),
        ({"resolve": "each"}, 10),
        ({"resolve": "each", "resolve_interval": "3s"}, 3),
    ],
)
def test_names_are_looked_up_as_for_requests(
    tmp_path: Path, service: dict[str, Any], resolve_s: float | None
) -> None:
    """Each address is checked if each is a target."""
    (check,) = checks(tmp_path, ACTIVE | service)
    assert check.resolve_s == resolve_s
