"""edge. `gateway routes`: prints the route table in the order of matching."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.terminal import console

_UNBOUNDED = 10_000
"""Width in columns, if the output isn't a terminal."""


@click.command()
@config_option
def routes(config_paths: tuple[Path, ...]) -> None:
    """Print the routes in the order in which they are tried.

    A note marks a route that may be a mistake: it requires less than the route that
    encloses it, or another spelling of its path could pass its guard.
    """
    from rich.markup import escape
    from rich.table import Table

    from gateway.routes import Row, rows

    output = Table()
    for title in ("#", *Row._fields[1:]):
        output.add_column(title, overflow="fold")
    for row in rows(load(config_paths).table):
        output.add_row(*map(escape, map(str, row)))
    out = console()
    if not out.is_terminal:
        out.width = _UNBOUNDED  # no line breaks in cells
    out.print(output)
