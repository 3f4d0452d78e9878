"""edge. Problems of a configuration as lines, as JSON, or as annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Literal

import click

from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.settings import Problem

Format = Literal["text", "json", "github"]
FORMATS: Final[tuple[Format, ...]] = ("text", "json", "github")


def report(
    errors: Sequence[Problem], warnings: Sequence[Problem], form: Format
) -> None:
    """Print the problems: as text to standard error, otherwise to standard output."""
    for problem in errors:
        _print(problem, "error", form)
    for problem in warnings:
        _print(problem, "warning", form)


def _print(
    problem: Problem, severity: Literal["error", "warning"], form: Format
) -> None:
    match form:
        case "text":
            before = "warning: " if severity == "warning" else ""
            console(stderr=True).print(
                f"{before}{problem}",
                markup=False,
                style="yellow" if before else "red",
            )
        case "json":
            click.echo(
                json.dumps(
                    {"severity": severity, **asdict(problem)}, ensure_ascii=False
                )
            )
        case "github":
            click.echo(annotation(problem, severity))


def annotation(problem: Problem, severity: str) -> str:
    """Return a problem as a workflow command.

    Source: GitHub Actions, "Workflow commands for GitHub Actions".
    """
    text = f"{problem.path}: {problem.message}".removeprefix(": ")
    if problem.see:
        text += f" (see {problem.see})"
    if problem.hint:
        text += f". {problem.hint}"
    file = _escaped(problem.file).replace(":", "%3A").replace(",", "%2C")
    return (
        f"::{severity} file={file},line={problem.line},col={problem.column}"
        f"::{_escaped(text)}"
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
