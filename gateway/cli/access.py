"""edge. `gateway access`: who may reach what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.explaining import explaining
from gateway.cli.loading import load
from gateway.cli.loop import run
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from gateway.explain.matrix import By, Matrix
    from gateway.explain.questions import Question
    from gateway.settings import Settings

_UNBOUNDED = 10_000
"""Width in columns, if the output isn't a terminal."""


@click.command()
@config_option
@click.option(
    "--by",
    type=click.Choice(["role", "permission", "tenant"]),
    default="role",
    show_default=True,
    help="What the columns are.",
)
@click.option(
    "--who",
    nargs=2,
    metavar="METHOD URL",
    help="Only the route that decides this request, as in `gateway explain`.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "html", "json"]),
    default="text",
    show_default=True,
    help="html: one page without scripts, to be printed.",
)
def access(
    config_paths: tuple[Path, ...], by: By, who: tuple[str, str] | None, form: str
) -> None:
    """Print who may reach what: each route, by the role of the session.

    A column is about sessions with this role alone (or permission, or tenant), of which
    nothing else is known. Nothing is sent to a service or to the core.
    """
    from gateway.explain import matrix_forms
    from gateway.explain.questions import NotAsked, asked

    question = None
    if who is not None:
        try:
            question = asked(*who, (), None, "127.0.0.1")
        except NotAsked as error:
            raise click.BadParameter(str(error), param_hint="--who") from None
    settings = load(config_paths)
    found = run(_found(settings, by, question))
    match form:
        case "csv":
            click.echo(matrix_forms.as_csv(found), nl=False)
        case "html":
            click.echo(matrix_forms.as_html(found, str(settings.path)), nl=False)
        case "json":
            shown = matrix_forms.as_json(found)
            click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        case _:
            _print(found)


async def _found(settings: Settings, by: By, question: Question | None) -> Matrix:
    from gateway.explain.matrix import matrix
    from gateway.explain.words import outcome_of
    from gateway.routes import Matched

    routes = settings.table.routes
    async with explaining(settings) as explainer:
        if question is None:
            return matrix(routes, explainer.rules, by)
        answer = await explainer.answer(question)
        table = answer.table
        if table is None or not isinstance(table.outcome, Matched):
            why = answer.record.reason or "the gateway answers it itself"
            fail(f"no route decides it: {outcome_of(answer)} ({why})")
        return matrix(routes, explainer.rules, by, [table.outcome.route])


def _print(found: Matrix) -> None:
    from rich.markup import escape
    from rich.table import Table

    from gateway.explain.matrix import MEANINGS
    from gateway.explain.matrix_forms import HEADINGS, heads

    output = Table()
    for title in (*HEADINGS, *(one.title for one in found.columns)):
        output.add_column(escape(title), overflow="fold")
    for row in found.rows:
        output.add_row(*map(escape, (*heads(row), *map(str, row.marks))))
    out = console()
    if not out.is_terminal:
        out.width = _UNBOUNDED  # no line breaks in cells
    out.print(output)
    for mark, text in MEANINGS.items():
        out.print(f"{mark:<4}{text}", markup=False)
