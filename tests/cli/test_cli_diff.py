"""`gateway diff`: its text, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main

OLD = """\
version: 1
supertokens: {connection_uri: http://127.0.0.1:9}
services: {up: {targets: ["http://up"]}}
routes:
  - {name: web, path: /, service: up, protected: false}
  - {name: orders, path: /orders, service: up}
"""
LAXER = OLD.replace("path: /orders,", "path: /others,")
STRICTER = OLD.replace("protected: false", "protected: true")


@pytest.mark.parametrize(
    ("new", "fail_on", "code", "part"),
    [
        (LAXER, None, 0, "becomes public          GET /orders"),
        (LAXER, "laxer", 1, "now  public by web, to up as /orders"),
        (STRICTER, "laxer", 0, "asks for more           GET /"),
        (STRICTER, "any", 1, "was  public by web"),
        (OLD, "any", 0, "no difference"),
    ],
)
def test_exit_codes(
    tmp_path: Path, new: str, fail_on: str | None, code: int, part: str
) -> None:
    """`--fail-on laxer` lets what is stricter pass."""
    before, after = tmp_path / "old.yaml", tmp_path / "new.yaml"
    before.write_text(OLD)
    after.write_text(new)
    args = () if fail_on is None else ("--fail-on", fail_on)
    done = CliRunner().invoke(main, ["diff", str(before), str(after), *args])
    assert done.exit_code == code, done.output
    assert part in done.output


def test_json(tmp_path: Path) -> None:
    """Either file may come from standard input."""
    before = tmp_path / "old.yaml"
    before.write_text(OLD)
    args = ["diff", str(before), "-", "--json"]
    done = CliRunner().invoke(main, args, input=LAXER)
    found = json.loads(done.output)
    assert {(one["kind"], one["path"], one["is_laxer"]) for one in found} == {
        ("becomes public", "/orders", True),
        ("asks for more", "/others", False),
    }


def test_a_file_that_cannot_be_served(tmp_path: Path) -> None:
    """Its problems are printed as by `gateway check`, and the exit code is 1."""
    before, after = tmp_path / "old.yaml", tmp_path / "new.yaml"
    before.write_text(OLD)
    after.write_text("routes: 1\n")
    done = CliRunner().invoke(main, ["diff", str(before), str(after)])
    assert done.exit_code == 1
    assert f"{after}:1:9: routes: expected a list" in done.output
