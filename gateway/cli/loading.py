"""edge. The settings for commands, or the problems in their file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gateway.cli.terminal import console
from gateway.events import RuntimeEvent

if TYPE_CHECKING:
    from gateway.config import Config, Finding
    from gateway.observe import RuntimeLog
    from gateway.settings import Problem, Settings


def read(
    paths: Sequence[Path],
    environ: Mapping[str, str] = os.environ,
    *,
    is_to_serve: bool = False,
) -> Settings:
    """Return the settings in the files at *paths*.

    With *is_to_serve*, certificates and the keys of assertions must be such that they
    can be used now.

    Raises:
        ConfigError: the file can't be used; the error has every problem.
    """
    from gateway import assertions, supertokens, tls
    from gateway.admin import tokens
    from gateway.fronts import grpc_extra
    from gateway.settings import load
    from gateway.shared import store

    def more(config: Config) -> Iterator[Finding]:
        # Problems that only the adapter of the SDK can find, before the SDK starts.
        yield from supertokens.check(config.supertokens.recipes)
        yield from tokens.check(config.gateway.admin)
        yield from store.check(config.gateway.shared)
        yield from grpc_extra.check(config.gateway.decision)
        if is_to_serve:
            yield from tls.findings(config.gateway.listen)
            yield from assertions.check(config.gateway.assertion)

    return load(paths, environ, also=more)


def load(
    paths: Sequence[Path],
    environ: Mapping[str, str] = os.environ,
    *,
    is_to_serve: bool = False,
    log: RuntimeLog | None = None,
) -> Settings:
    """Return what `read` does, or print all problems and exit with 1.

    They are printed for people, or, if *log* is given, as lines of it.
    """
    from gateway.settings import ConfigError

    try:
        return read(paths, environ, is_to_serve=is_to_serve)
    except ConfigError as error:
        if log is None:
            refuse(paths, error.problems)
        for problem in error.problems:
            say_problem(log, RuntimeEvent.CONFIG_PROBLEM, problem)
        count = len(error.problems)
        log.say(RuntimeEvent.START_REFUSED, _summary(count, paths), problems=count)
        sys.exit(1)


def say_problem(log: RuntimeLog, event: RuntimeEvent, problem: Problem) -> None:
    """Write a problem of a file as a line of *log*."""
    log.say(
        event,
        str(problem),
        file=problem.file,
        line=problem.line,
        column=problem.column,
        key=problem.path,
        hint=problem.hint,
    )


def _summary(count: int, paths: Sequence[Path]) -> str:
    name = " ".join(map(str, paths))
    return f"{count} problem{'s' if count != 1 else ''} in {name}"


def doubts(settings: Settings) -> tuple[Problem, ...]:
    """Return valid settings that are probably mistakes, with their places."""
    from gateway import supertokens, tls
    from gateway.observe import spans

    config = settings.config
    doubtful = supertokens.doubtful_domains(config.supertokens)
    return (
        *settings.warnings,
        *settings.problems(
            (
                *doubtful,
                *tls.warnings(config.gateway.listen),
                *spans.doubts(os.environ),
            )
        ),
    )


def refuse(paths: Sequence[Path], problems: Sequence[Problem]) -> NoReturn:
    """Print the problems in the files at *paths*, and exit with 1."""
    err = console(stderr=True)
    for problem in problems:
        err.print(str(problem), markup=False, style="red")
    err.print(_summary(len(problems), paths))
    sys.exit(1)
