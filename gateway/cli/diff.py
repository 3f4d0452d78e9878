"""edge. `gateway diff`: what a changed route table does otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.loading import load
from gateway.cli.reporting import annotation
from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.routes.difference import Difference
    from gateway.settings import Settings

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
@click.option(
    "--annotate",
    is_flag=True,
    help="Print annotations of GitHub Actions, at the routes of NEW.",
)
def diff(
    old: Path, new: Path, fail_on: str | None, *, is_json: bool, annotate: bool
) -> None:
    """Say which requests the file NEW lets through or refuses that OLD didn't.

    Examples of each route of both files are looked up in both. Either file may be -,
    standard input. Limits, timeouts and header policies aren't compared.
    """
    from gateway.routes.difference import LAXER, differences

    if is_json and annotate:
        raise click.UsageError("expected at most one of --json and --annotate")
    after = load([new])
    found = differences(load([old]).table, after.table)
    if annotate:
        for one in found:
            click.echo(_annotation(one, after))
    elif is_json:
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


def _annotation(one: Difference, after: Settings) -> str:
    """Return a difference at its route in the new file, or else at the file's top."""
    from gateway.config import Finding
    from gateway.routes.difference import LAXER

    about = Finding(
        loc=() if one.new is None else one.new.loc,
        message=f"{one.kind}: {one.method} {one.host}{one.path}",
        hint=f"Was {one.was}, now {one.now}",
    )
    (problem,) = after.problems([about])
    return annotation(problem, "warning" if one.kind in LAXER else "notice")
