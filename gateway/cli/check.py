"""edge. `gateway check`: validates the route table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import reporting
from gateway.cli.failing import failed_tests
from gateway.cli.loading import doubts, read
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.settings import Problem, Settings


@click.command()
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(reporting.FORMATS),
    default="text",
    show_default=True,
    help="How problems are printed: as lines; as JSON, an object a line; or as"
    " annotations of GitHub Actions. The last two go to standard output.",
)
@click.option("--tests", "runs_tests", is_flag=True, help="Run the tests in it, too.")
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning, too.")
def check(
    config_paths: tuple[Path, ...],
    form: reporting.Format,
    *,
    runs_tests: bool,
    strict: bool,
) -> None:
    """Validate the route table: print every problem with its place and remedy.

    Exits with 0 if the table can be served, and with 1 if it can't. Warnings are about
    settings that can be served, but are probably mistakes.
    """
    errors, warnings, settings = _checked(config_paths)
    if runs_tests and settings is not None:
        if settings.config.tests is None:
            fail(f"{settings.path} has no tests. Add some: tests: {{cases: […]}}")
        errors = failed_tests(settings)
    reporting.report(errors, warnings, form)
    name = " ".join(map(str, config_paths))
    if errors:
        count = len(errors)
        summary = f"{count} problem{'s' if count != 1 else ''} in {name}"
        if form == "text":
            console(stderr=True).print(summary)
        sys.exit(1)
    assert settings is not None, "nothing is wrong with it"
    if form == "text":
        count = len(settings.table.routes)
        routes = "1 route" if count == 1 else f"{count} routes"
        console().print(f"{name}: {routes}, no problem")
    if strict and warnings:
        sys.exit(1)


def _checked(
    paths: Sequence[Path],
) -> tuple[Sequence[Problem], Sequence[Problem], Settings | None]:
    """Return the errors and the warnings, and the settings unless they have errors."""
    from gateway import supertokens
    from gateway.seams import aiohttp as aiohttp_seams
    from gateway.seams.library import LibraryChanged
    from gateway.settings import ConfigError

    try:
        settings = read(paths, is_to_serve=True)
    except ConfigError as error:
        return error.problems, (), None
    try:
        aiohttp_seams.check()
        supertokens.check_library()
    except LibraryChanged as error:
        fail(str(error))
    findings = supertokens.check_domains(settings.config.supertokens)
    if errors := settings.problems(findings):
        return errors, (), None
    return (), doubts(settings), settings
