"""edge. The tests of a file that fail, as problems of the file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.cli.explaining import explaining
from gateway.cli.loop import run
from gateway.config import Finding

if TYPE_CHECKING:
    from gateway.explain.testing import TestResult
    from gateway.settings import Problem, Settings


def failed_tests(settings: Settings) -> tuple[Problem, ...]:
    """Run the tests in a file; return a problem for each failure, with its place."""
    results = run(_results(settings))
    return settings.problems(
        Finding(loc=one.loc, message=f"{one.title}: {reason}")
        for one in results
        for reason in one.failures
    )


async def _results(settings: Settings) -> list[TestResult]:
    from gateway.explain import testing

    config, table, tests = settings.config, settings.table, settings.config.tests
    if tests is None:
        return []
    async with explaining(settings) as explainer:
        return [
            *await testing.results(explainer, tests, time.time()),
            *testing.public_routes(config, table),
            *testing.properties(config, table),
        ]
