"""edge. `gateway check`: validates the route table."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.loading import load, refuse
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail


@click.command()
@config_option
def check(config_paths: tuple[Path, ...]) -> None:
    """Validate the route table: print every problem with its place and remedy.

    Exits with 0 if the table can be served, and with 1 if it can't.
    """
    from gateway import supertokens
    from gateway.seams import aiohttp as aiohttp_seams
    from gateway.seams.library import LibraryChanged

    settings = load(config_paths)
    try:
        aiohttp_seams.check()
        supertokens.check_library()
    except LibraryChanged as error:
        fail(str(error))
    findings = supertokens.check_domains(settings.config.supertokens)
    if problems := settings.problems(findings):
        refuse(config_paths, problems)
    err = console(stderr=True)
    for warning in settings.warnings:
        err.print(f"warning: {warning}", markup=False, style="yellow")
    count = len(settings.table.routes)
    routes = "1 route" if count == 1 else f"{count} routes"
    console().print(f"{settings.path}: {routes}, no problem")
