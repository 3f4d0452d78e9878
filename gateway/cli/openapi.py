"""edge. `gateway openapi`: route tables of OpenAPI documents, and beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.loading import load, refuse
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from gateway.openapi import Deviation, Document
    from gateway.settings.foreign import ForeignFile

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
_service_option = click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME",
    help="Only routes to this service. Repeatable.",
)


@click.group()
def openapi() -> None:
    """Make routes of an OpenAPI document, compare the two, or make a document."""


@openapi.command("import")
@click.argument("document", type=_FILE)
@click.option(
    "--service", required=True, metavar="NAME", help="The service that gets requests."
)
@click.option(
    "--target", required=True, metavar="URL", help="Where it is: http://orders:8080."
)
def import_(document: Path, service: str, target: str) -> None:
    """Print the routes of an OpenAPI document (3.0 to 3.2, JSON or YAML).

    The output is a file for `include`. What the document says nothing about is
    protected; only `security: []` is public. Scopes become permissions. DOCUMENT may
    be -, standard input. No file is written.
    """
    from gateway.config import InvalidConfig, parse
    from gateway.openapi import imported
    from gateway.openapi.importing import routes_of
    from gateway.routes import compile as compiled

    _, found = _read(document)
    data = {
        "version": 1,
        "services": {service: {"targets": [target]}},
        "supertokens": {"recipes": {"userroles": {}}},
        "routes": routes_of(found, service),
    }
    try:
        if found.operations:
            compiled(parse(data))
    except InvalidConfig as error:
        fail(f"no routes can be made of {document}:\n{error}")
    click.echo(imported(found, service, target, str(document)), nl=False)


@openapi.command()
@click.argument("document", type=_FILE)
@config_option
@_service_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def diff(
    document: Path,
    config_paths: tuple[Path, ...],
    services: tuple[str, ...],
    *,
    is_json: bool,
) -> None:
    """Compare an OpenAPI document with the routes.

    Exits with 1 if they disagree: laxer, the routes let more pass; shadow, the document
    lacks what a route takes; missing, the routes lack an operation; stricter, the
    routes ask for more.
    """
    from gateway.openapi import deviations

    file, found = _read(document)
    table = load(config_paths).table
    _check_services(services, {one.name for one in table.services()})
    result = deviations(found, table, services)
    if is_json:
        click.echo(json.dumps([_json(one, file) for one in result], indent=2))
    else:
        _print(result, document, file)
    if result:
        sys.exit(1)


def _print(result: list[Deviation], document: Path, file: ForeignFile) -> None:
    from gateway.openapi import DeviationKind

    out = console()
    for one in result:
        style = "red" if one.kind is DeviationKind.LAXER else None
        where = f"{one.method} {one.host}{one.path}"
        place = "" if one.loc is None else f"  ({document}:{file.line(one.loc)})"
        route = "" if one.route is None else f"route {one.route}: "
        out.print(f"{one.kind:<10}{where}{place}", markup=False, style=style)
        out.print(f"          {route}{one.why}", markup=False)
    if not result:
        out.print("the document and the routes agree")


def _json(one: Deviation, file: ForeignFile) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "method": one.method,
        "host": one.host or None,
        "path": one.path,
        "route": one.route,
        "why": one.why,
        "line": None if one.loc is None else file.line(one.loc),
    }


@openapi.command()
@config_option
@_service_option
@click.option("--title", default="Gateway", show_default=True, help="Of the API.")
def export(
    config_paths: tuple[Path, ...], services: tuple[str, ...], title: str
) -> None:
    """Print the routes as an OpenAPI 3.1 document, in JSON.

    What a document can't say is left out, and named on standard error: patterns, and
    conditions on fields. A prefix becomes its own path.
    """
    from gateway.openapi import exported

    table = load(config_paths).table
    _check_services(services, {one.name for one in table.services()})
    made = exported(table, title, services)
    err = console(stderr=True)
    for reason in made.left_out:
        err.print(f"left out: {reason}", markup=False)
    click.echo(json.dumps(made.document, indent=2, ensure_ascii=False))


def _read(path: Path) -> tuple[ForeignFile, Document]:
    """Return a document, or print all problems and exit with 1."""
    from gateway.openapi import BadDocument, document_of
    from gateway.settings import ConfigError
    from gateway.settings.foreign import ForeignFile

    try:
        file = ForeignFile(str(path))
    except ConfigError as error:
        refuse([path], error.problems)
    try:
        return file, document_of(file.data)
    except BadDocument as error:
        refuse([path], file.problems(error.findings))


def _check_services(asked: tuple[str, ...], known: set[str]) -> None:
    for name in asked:
        if name not in known:
            fail(f"no route goes to a service {name}. There are: {', '.join(known)}")
