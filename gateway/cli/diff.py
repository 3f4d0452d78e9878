"""edge. `gateway diff`: what a changed route table does otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from gateway.cli.loading import load
from gateway.cli.terminal import console

_FILE = click.Path(dir_okay=False, allow_dash=True, path_type=Path)


@click.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@click.option(
    "--fail-on",
    type=click.Choice(["laxer", "any"]),
    help="Exit with 1 for a difference: laxer, if a request may pass that didn't"
    " before; any, for all of them.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def diff(old: Path, new: Path, fail_on: str | None, *, is_json: bool) -> None:
    """Say which requests the file NEW lets through or refuses that OLD didn't.

    Examples of each route of both files are looked up in both. Either file may be -,
    standard input. Limits, timeouts and header policies aren't compared.
    """
    from gateway.routes.difference import LAXER, differences

    found = differences(load([old]).table, load([new]).table)
    if is_json:
        click.echo(
            json.dumps(
                [
                    {
                        "kind": one.kind,
                        "is_laxer": one.kind in LAXER,
                        "method": one.method,
                        "host": one.host or None,
                        "path": one.path,
                        "was": one.was,
                        "now": one.now,
                    }
                    for one in found
                ],
                indent=2,
            )
        )
    else:
        out = console()
        for one in found:
            style = "red" if one.kind in LAXER else None
            where = f"{one.method} {one.host}{one.path}"
            out.print(f"{one.kind:<24}{where}", markup=False, style=style)
            out.print(f"  was  {one.was}", markup=False)
            out.print(f"  now  {one.now}", markup=False)
        if not found:
            out.print("no difference in what requests need, or where they go")
    if any(fail_on == "any" or (fail_on and one.kind in LAXER) for one in found):
        sys.exit(1)
