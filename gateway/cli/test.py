"""edge. `gateway test`: runs the tests in the file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.explaining import explaining
from gateway.cli.loading import load
from gateway.cli.loop import run
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from gateway.explain.testing import TestResult
    from gateway.settings import Settings


@click.command()
@config_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option(
    "--complete",
    is_flag=True,
    help="Exit with 1, too, if a route decides no test.",
)
def test(config_paths: tuple[Path, ...], *, is_json: bool, complete: bool) -> None:
    """Run the tests in the file: what requests are expected to get.

    Each request of `tests.cases` is decided as a running gateway would decide it.
    Nothing is sent to a service or to the core. Exits with 1 if a test fails.
    """
    settings = load(config_paths)
    if settings.config.tests is None:
        fail(f"{settings.path} has no tests. Add some: tests: {{cases: […]}}")
    results = run(_results(settings))
    reached = {one.route for one in results}
    untested = [one.name for one in settings.table.routes if one.name not in reached]
    failed = [one for one in results if one.failures]
    if is_json:
        click.echo(json.dumps(_json(settings, results, untested), indent=2))
    else:
        _print(settings, results, untested)
    if failed or (complete and untested):
        sys.exit(1)


async def _results(settings: Settings) -> list[TestResult]:
    from gateway.explain import testing

    tests = settings.config.tests
    assert tests is not None, "the caller has looked"
    async with explaining(settings) as explainer:
        return [
            *await testing.results(explainer, tests, time.time()),
            *testing.public_routes(settings.config, settings.table),
            *testing.properties(settings.config, settings.table),
        ]


def _print(
    settings: Settings, results: Sequence[TestResult], untested: Sequence[str]
) -> None:
    out = console()
    failed = [one for one in results if one.failures]
    for one in failed:
        place = f"{settings.path}:{settings.line(one.loc)}"
        out.print(f"{place}: {one.title}", markup=False, style="red")
        for reason in one.failures:
            out.print(f"  {reason}", markup=False)
    if untested:
        out.print(f"no test for: {', '.join(untested)}", markup=False)
    count = len(results)
    tests = "1 test" if count == 1 else f"{count} tests"
    out.print(f"{tests}, {len(failed)} failed", markup=False)


def _json(
    settings: Settings, results: Sequence[TestResult], untested: Sequence[str]
) -> dict[str, Any]:
    return {
        "tests": [
            {
                "title": one.title,
                "line": settings.line(one.loc),
                "passed": not one.failures,
                "failures": [*one.failures],
                "route": one.route,
            }
            for one in results
        ],
        "untested": [*untested],
    }
