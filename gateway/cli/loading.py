"""edge. The settings for commands, or the problems in their file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.settings import Problem, Settings


def read(paths: Sequence[Path], environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in the files at *paths*.

    Raises:
        ConfigError: the file can't be used; the error has every problem.
    """
    from gateway import supertokens
    from gateway.settings import load

    return load(
        paths,
        environ,
        # Problems that only the adapter of the SDK can find, before the SDK starts.
        also=lambda config: supertokens.check(config.supertokens.recipes),
    )


def load(paths: Sequence[Path], environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in the files, or print all its problems and exit with 1."""
    from gateway.settings import ConfigError

    try:
        return read(paths, environ)
    except ConfigError as error:
        refuse(paths, error.problems)


def refuse(paths: Sequence[Path], problems: Sequence[Problem]) -> NoReturn:
    """Print the problems in the files at *paths*, and exit with 1."""
    err = console(stderr=True)
    for problem in problems:
        err.print(str(problem), markup=False, style="red")
    count = len(problems)
    err.print(
        f"{count} problem{'s' if count != 1 else ''} in {' '.join(map(str, paths))}"
    )
    sys.exit(1)
