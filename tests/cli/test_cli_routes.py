"""`gateway routes`: plain columns in a pipe, and everything in effect as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main

TABLE = """\
version: 1
supertokens: {connection_uri: http://core:3567}
defaults: {timeouts: {idle: 9s}}
rate_limits: {few: {rate: 5/m, key: client}}
services:
  app:
    targets: ["http://app-1", "http://app-2"]
    paths: exact
    timeouts: {connect: 2s}
    limits: {in_flight: 7}
    require: {roles: {any: [staff]}, max_age: 60s}
  new: {targets: ["http://new"], paths: exact}
routes:
  - {path: /a, service: app, rate_limit: few, rewrite: strip}
  - name: b
    match: {path: {exact: /a/b}, methods: [PUT], headers: {X-Key: s3cret}}
    service: app
    split: {to: new, weight: 0.25}
    request: {max_body_size: 1KiB, headers: {set: {X-Token: s3cret}, remove: [X-A]}}
    require: {claims: [{path: plan, equals: s3cret}]}
  - {name: gone, path: /gone, protected: false, respond: {status: 410}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "routes.yaml"
    file.write_text(TABLE)
    return file


@pytest.fixture
def shown(file: Path) -> dict[str, dict[str, Any]]:
    """Return what is shown of each route, by its label."""
    done = CliRunner().invoke(main, ["routes", "-c", str(file), "--json"])
    assert done.exit_code == 0, done.output
    assert "s3cret" not in done.stdout
    return {one["label"]: one for one in json.loads(done.stdout)}


def test_plain_columns(file: Path) -> None:
    """A line for each route in the order of matching, without frames and colours."""
    done = CliRunner().invoke(main, ["routes", "-c", str(file)])
    head, *lines = done.stdout.splitlines()
    assert head.split() == [
        *("#", "name", "hosts", "path", "methods", "session", "upstream", "note"),
    ]
    assert [line.split()[1] for line in lines] == ["b", "0:/a", "gone"]
    start = head.index("session")
    assert [line[start:].split(",")[0].split()[0] for line in lines] == [
        *("required", "required", "public"),
    ]
    assert done.stdout.isascii()


def test_places(file: Path, shown: dict[str, dict[str, Any]]) -> None:
    """File and line of the route, and of each value that the file sets for it."""
    one = shown["/a"]
    assert (one["file"], one["line"], one["key"]) == (str(file), 14, "routes[0]")
    lines = {
        key: [at["line"] for at in places] for key, places in one["set_at"].items()
    }
    assert lines == {
        "service": [14],
        "rate_limit": [14],
        "rewrite.strip": [14],
        "timeouts.connect": [9],
        "timeouts.idle": [3],
        "require": [11],
    }


def test_what_is_in_effect(shown: dict[str, dict[str, Any]]) -> None:
    """Defaults included, and nothing of what may be secret but names."""
    one, other, answer = shown["/a"], shown["b"], shown["gone"]
    assert one["timeouts"] == {
        "connect": 2.0,
        "response": 60.0,
        "idle": 9.0,
        "total": None,
    }
    assert one["limits"]["rate_limits"] == [{"policy": "few", "cost": 1}]
    assert (one["limits"]["in_flight"], one["limits"]["buffer"]) == (7, 65536)
    assert one["upstream"]["rewrite"] == {"strip_segments": 1, "replacement": ""}
    assert one["session"]["require"] == {"roles": {"any": ["staff"]}, "max_age": 60.0}
    assert other["rank"] == 1
    assert other["match"]["methods"] == ["PUT"]
    assert other["match"]["headers"] == ["x-key"]
    assert other["limits"]["max_body_size"] == 1024
    assert other["session"]["require"]["claims"] == ["plan"]
    assert other["headers"]["request_added"] == ["X-Token"]
    assert other["headers"]["request_removed"] == ["x-a", "x-token"]
    assert other["upstream"]["split"]["weight"] == 0.25
    assert other["upstream"]["targets"] == ["http://app-1:80", "http://app-2:80"]
    assert answer["upstream"] == {"status": 410}
    assert answer["session"]["protection"] == "public"
