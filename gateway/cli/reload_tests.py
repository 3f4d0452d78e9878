"""edge. Runs the tests of a file before a reload takes it, in a process of their own.

The supervisor has no event loop, and the SDK is started once in a process. So it runs
this module as a program, which reads the file again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.failing import failed_tests
from gateway.cli.loading import load

if TYPE_CHECKING:
    from gateway.settings import Problem, Settings

LIMIT_S: Final = 15.0
"""For all tests of a file. The old configuration serves in the meantime, but a worker
that dies is replaced only after them: the supervisor doesn't fork beside a thread."""


def failures(
    settings: Settings, paths: Sequence[Path], limit_s: float = LIMIT_S
) -> tuple[Problem, ...]:
    """Return the failures of the tests in the files at *paths*; none with `off`.

    *settings* are what was read there. Tests that can't be run, or take longer than
    *limit_s* seconds, have failed.
    """
    tests = settings.config.tests
    if tests is None or tests.on_reload == "off":
        return ()
    try:
        # The supervisor may take the exit code for itself, so only the output counts.
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "gateway.cli.reload_tests", *map(str, paths)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
        return tuple(_problems(done.stdout))
    except subprocess.TimeoutExpired:
        return (_problem(settings, f"the tests take longer than {limit_s:g} s"),)
    except (OSError, ValueError, TypeError, KeyError):
        return (_problem(settings, "the tests can't be run"),)


def changed(settings: Settings) -> Problem:
    """Return the problem that the file isn't any more what was read."""
    return _problem(settings, "the files changed while their tests ran")


def _problem(settings: Settings, message: str) -> Problem:
    from gateway.config import Finding

    hint = "Run gateway test, and reload again"
    finding = Finding(loc=("tests",), message=message, hint=hint)
    (problem,) = settings.problems([finding])
    return problem


def _problems(output: bytes) -> list[Problem]:
    from gateway.settings import Problem

    return [Problem(**one) for one in json.loads(output)["problems"]]


def main(paths: Sequence[str]) -> None:
    """Print the failures as JSON, or end without output."""
    signal.alarm(int(LIMIT_S) + 5)  # the supervisor may have ended
    settings = load([*map(Path, paths)])
    problems = [asdict(one) for one in failed_tests(settings)]
    sys.stdout.write(json.dumps({"problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1:])
