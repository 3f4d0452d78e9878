"""`gateway openapi`: its output, its exit codes, and the places of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.settings import source

DOCUMENT = """\
openapi: 3.1.1
info: {title: "Orders ${NOT_A_VARIABLE}", version: "1"}
paths:
  /orders:
    get: {operationId: list}
  /health:
    get: {security: []}
"""
OWN = """\
version: 1
supertokens: {connection_uri: http://127.0.0.1:9}
include: [orders.yaml]
"""


def run(*args: object, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["openapi", *map(str, args)], input=text)


@pytest.fixture(autouse=True)
def new_standard_input() -> None:
    """What one command has read isn't what the next one reads."""
    source._standard_input.cache_clear()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "openapi.yaml"
    file.write_text(DOCUMENT)
    return file


@pytest.fixture
def own(tmp_path: Path, document: Path) -> Path:
    """A file that includes the routes of the document."""
    done = run("import", document, "--service", "up", "--target", "http://up")
    assert done.exit_code == 0, done.output
    (tmp_path / "orders.yaml").write_text(done.stdout)
    file = tmp_path / "routes.yaml"
    file.write_text(OWN)
    return file


def test_imported_routes_agree_with_the_document(document: Path, own: Path) -> None:
    """What is printed can be included as it is."""
    done = run("diff", document, "-c", own)
    assert done.exit_code == 0
    assert done.output == "the document and the routes agree\n"


def test_diff_prints_places_and_exits_with_1(document: Path, own: Path) -> None:
    """The line is that of the operation in the document."""
    document.write_text(DOCUMENT.replace("{security: []}", "{}"))
    done = run("diff", document, "-c", own)
    assert done.exit_code == 1
    assert f"laxer     GET /health  ({document}:7)" in done.output.replace("\n ", " ")
    done = run("diff", "-", "-c", own, "--json", text=document.read_text())
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)
    assert (found["kind"], found["line"], found["path"]) == ("laxer", 7, "/health")


def test_export_can_be_imported(own: Path) -> None:
    """The document is JSON on standard output; what it lacks is on standard error."""
    done = run("export", "-c", own, "--title", "Orders")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["info"]["title"] == "Orders"
    made = run(
        *("import", "-", "--service", "up", "--target", "http://up"), text=done.stdout
    )
    assert made.exit_code == 0, made.output
    assert "path: {exact: /health}" in made.output


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "openapi: 3.1.1\npaths: {/a: {get: []}}\n",
            ":2:19: paths./a.get: expected keys",
        ),
        ("swagger: '2.0'\n", ":1:10: swagger: Swagger 2.0 isn't read"),
        ("paths: [\n", "this isn't YAML"),
        ("", "the file is empty"),
        (
            "openapi: 3.1.1\npaths: {/a*b: {get: {}}}\n",
            "a path has no wildcards",
        ),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, text: str, part: str) -> None:
    """A document that can't be read, or makes no routes, exits with 1."""
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    done = run("import", file, "--service", "up", "--target", "http://up")
    assert done.exit_code == 1
    assert part in done.output.replace("\n", "")
    assert done.stdout == ""


def test_an_unknown_service_is_refused(document: Path, own: Path) -> None:
    """The message names those that there are."""
    for args in (("diff", document), ("export",)):
        done = run(*args, "-c", own, "--service", "nope")
        assert done.exit_code == 1
        assert "There are: up" in done.output
