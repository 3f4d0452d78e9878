"""`gateway front`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.front import PROGRAMS
from gateway.fronts.generated import FRONTS

ROUTES = """\
version: 1
gateway:
  decision: {listen: "127.0.0.1:9000", endpoints: [auth-request]}
services: {up: {targets: ["http://127.0.0.1:8080"]}}
routes: [{path: /, service: up}]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    return str(path)


def test_the_programs() -> None:
    """The command knows those for which there is a configuration."""
    assert (*FRONTS,) == PROGRAMS


def test_it_prints_a_configuration(file: str) -> None:
    """With the addresses of the options."""
    options = ("--listen", "127.0.0.1:81", "--decision", "unix:/run/decision.sock")
    done = CliRunner().invoke(main, ["front", "nginx", "-c", file, *options])
    assert done.exit_code == 0, done.output
    assert "  listen 127.0.0.1:81;" in done.output
    assert "server unix:/run/decision.sock;" in done.output


def test_a_front_whose_endpoint_is_off(file: str) -> None:
    """The message says what to write."""
    done = CliRunner().invoke(main, ["front", "envoy", "-c", file])
    assert done.exit_code == 1
    assert "endpoints: [auth-request, ext-authz]" in done.output.replace("\n", " ")


def test_an_address_that_is_none(file: str) -> None:
    """A wrong command line exits with 2."""
    done = CliRunner().invoke(main, ["front", "nginx", "-c", file, "--listen", ":80"])
    assert done.exit_code == 2
    assert "the host is missing" in done.output
