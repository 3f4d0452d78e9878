"""edge. `gateway test`: runs the tests in the file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.explaining import explaining
from gateway.cli.loading import load
from gateway.cli.loop import run
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from gateway.explain.coverage import Coverage
    from gateway.explain.reports import Reported
    from gateway.explain.testing import TestResult
    from gateway.settings import Settings

_FORMATS: Final = ("text", "tap", "junit", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The tests of a file, and what came of them."""

    settings: Settings
    results: Sequence[TestResult]
    coverage: Coverage
    missing: Sequence[str]
    """Cases that the file lacks, if they were asked for."""

    @property
    def untested(self) -> list[str]:
        """The routes that decide no test."""
        reached = {one.route for one in self.results}
        routes = self.settings.table.routes
        return [one.name for one in routes if one.name not in reached]


@click.command()
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="How results are printed: as lines, as TAP, as JUnit's XML, or as JSON.",
)
@click.option("--json", "is_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--only",
    metavar="GLOB",
    help="Run only the tests whose title matches, such as 'POST /orders/* as *'.",
)
@click.option(
    "--complete",
    is_flag=True,
    help="Exit with 1, too, if a route decides no test.",
)
@click.option(
    "--coverage", "has_coverage", is_flag=True, help="Print what no test looks at."
)
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit with 1, too, if tests look at less of what they could.",
)
@click.option(
    "--write-missing",
    "is_missing",
    is_flag=True,
    help="Print cases for what no test looks at, in place of results. The file isn't"
    " changed.",
)
def test(
    config_paths: tuple[Path, ...],
    form: str,
    only: str | None,
    fail_under: float | None,
    *,
    is_json: bool,
    complete: bool,
    has_coverage: bool,
    is_missing: bool,
) -> None:
    """Run the tests in the file: what requests are expected to get.

    Each request of `tests.cases` is decided as a running gateway would decide it, and
    what `tests.always` says is decided for all requests. Nothing is sent to a service
    or to the core. Exits with 1 if a test fails.
    """
    settings = load(config_paths)
    if settings.config.tests is None:
        fail(f"{settings.path} has no tests. Add some: tests: {{cases: […]}}")
    done = run(_done(settings, only, is_missing=is_missing))
    if is_missing:
        click.echo("\n".join(done.missing or ("# nothing is missing",)))
        return
    if only is not None and not done.results:
        fail(f"no test has a title like {only}")
    _print(done, "json" if is_json else form, has_coverage or fail_under is not None)
    failed = any(one.failures for one in done.results)
    if fail_under is not None and done.coverage.percent < fail_under:
        click.echo(
            f"coverage {done.coverage.percent:.1f} % is below {fail_under:g} %",
            err=True,
        )
        failed = True
    if failed or (complete and done.untested):
        sys.exit(1)


async def _done(settings: Settings, only: str | None, *, is_missing: bool) -> _Run:
    from gateway.explain import missing, testing
    from gateway.explain.coverage import coverage

    config, table, now = settings.config, settings.table, time.time()
    tests = config.tests
    assert tests is not None, "the caller has looked"

    def is_chosen(title: str) -> bool:
        return only is None or fnmatchcase(title, only)

    async with explaining(settings) as explainer:
        results = await testing.results(explainer, tests, now, is_chosen)
        if not is_missing:
            whole = (
                *testing.public_routes(config, table),
                *testing.properties(config, table),
            )
            results += (one for one in whole if is_chosen(one.title))
        found = coverage(
            table.routes,
            explainer.rules,
            ((one.route, one.covered) for one in results),
        )
        lines: list[str] = []
        if is_missing:
            lines = await missing.missing_cases(
                explainer, table, tests, found.missing, now
            )
    return _Run(settings=settings, results=results, coverage=found, missing=lines)


def _print(done: _Run, form: str, has_coverage: bool) -> None:
    from gateway.explain import reports

    notes = [*_notes(done, has_coverage=has_coverage)]
    match form:
        case "json":
            click.echo(json.dumps(_json(done), indent=2))
        case "junit":
            click.echo(reports.junit(_reported(done), notes), nl=False)
        case "tap":
            click.echo("\n".join(reports.tap(_reported(done), notes)))
        case _:
            _print_text(done, notes)


def _reported(done: _Run) -> list[Reported]:
    from gateway.explain.reports import Reported

    return [
        Reported(
            title=one.title,
            file=str(done.settings.path),
            line=done.settings.line(one.loc),
            failures=one.failures,
        )
        for one in done.results
    ]


def _notes(done: _Run, *, has_coverage: bool) -> Iterator[str]:
    """Yield what the tests don't look at: names, and with *has_coverage* all of it."""
    if done.untested:
        yield f"no test for: {', '.join(done.untested)}"
    if has_coverage:
        found = done.coverage
        yield f"coverage: {found.covered} of {found.goals} ({found.percent:.1f} %)"
        for name, rest in found.missing.items():
            yield f"  {name}: no test for {', '.join(rest)}"


def _print_text(done: _Run, notes: Sequence[str]) -> None:
    out = console()
    failed = [one for one in done.results if one.failures]
    for one in failed:
        place = f"{done.settings.path}:{done.settings.line(one.loc)}"
        out.print(f"{place}: {one.title}", markup=False, style="red")
        for reason in one.failures:
            out.print(f"  {reason}", markup=False)
    for note in notes:
        out.print(note, markup=False)
    count = len(done.results)
    tests = "1 test" if count == 1 else f"{count} tests"
    out.print(f"{tests}, {len(failed)} failed", markup=False)


def _json(done: _Run) -> dict[str, Any]:
    return {
        "tests": [
            {
                "title": one.title,
                "line": done.settings.line(one.loc),
                "passed": not one.failures,
                "failures": [*one.failures],
                "route": one.route,
            }
            for one in done.results
        ],
        "untested": done.untested,
        "coverage": {
            "goals": done.coverage.goals,
            "covered": done.coverage.covered,
            "missing": {name: [*rest] for name, rest in done.coverage.missing.items()},
        },
    }
