"""edge. `gateway routes`: prints the route table in the order of matching."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.config import Loc
    from gateway.routes import Row
    from gateway.settings import Settings


@click.command()
@config_option
@click.option(
    "--json",
    "is_json",
    is_flag=True,
    help="Print JSON: everything in effect for each route, and where it is set.",
)
def routes(config_paths: tuple[Path, ...], *, is_json: bool) -> None:
    """Print the routes in the order in which they are tried.

    A note marks a route that may be a mistake: it requires less than the route that
    encloses it, or another spelling of its path could pass its guard.
    """
    from gateway.routes import rows

    settings = load(config_paths)
    out = console()
    if is_json:
        click.echo(json.dumps(described(settings), indent=2, ensure_ascii=False))
    elif out.is_terminal:
        _print_table(rows(settings.table))
    else:
        _print_columns(rows(settings.table))


def described(settings: Settings) -> list[dict[str, Any]]:
    """Return everything in effect for each route, with the places in the file."""
    from gateway.config import effective_routes, origins
    from gateway.routes.overview import overview

    effective = effective_routes(settings.config)
    shown = overview(settings.config, settings.table)
    return [
        {
            **_place(settings, route.loc),
            **one,
            "set_at": {
                key: [_place(settings, loc) for loc in places]
                for key, places in origins(
                    settings.config, effective[route.index]
                ).items()
            },
        }
        for route, one in zip(settings.table.routes, shown, strict=True)
    ]


def _place(settings: Settings, loc: Loc) -> dict[str, Any]:
    from gateway.config import Finding

    (problem,) = settings.problems([Finding(loc=loc, message="")])
    return {"key": problem.path, "file": problem.file, "line": problem.line}


def _print_table(found: Sequence[Row]) -> None:
    from rich.markup import escape
    from rich.table import Table

    output = Table()
    for title in _titles():
        output.add_column(title, overflow="fold")
    for row in found:
        output.add_row(*map(escape, map(str, row)))
    console().print(output)


def _print_columns(found: Sequence[Row]) -> None:
    """Print columns with two blanks between, for other programs."""
    lines = [_titles(), *(tuple(map(str, row)) for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _titles() -> tuple[str, ...]:
    from gateway.routes import Row

    return ("#", *Row._fields[1:])
