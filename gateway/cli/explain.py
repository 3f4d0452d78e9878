"""edge. `gateway explain`: what the gateway would do with a request, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.explaining import explaining
from gateway.cli.loading import load
from gateway.cli.loop import run
from gateway.cli.options import config_option
from gateway.cli.terminal import console, fail

if TYPE_CHECKING:
    from gateway.explain.given import Given
    from gateway.explain.questions import Explained, Question
    from gateway.settings import Settings


@click.command()
@click.argument("method")
@click.argument("url")
@config_option
@click.option(
    "-H",
    "--header",
    "fields",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header field of the request. Repeatable.",
)
@click.option(
    "--as",
    "who",
    default="none",
    show_default=True,
    metavar="WHO",
    help="Whose session the request has: none; expired; a person as JSON, such as"
    ' {"roles": ["admin"]}; or @FILE with one. A person has id, roles, permissions,'
    " email_verified, mfa, tenant, age and claims.",
)
@click.option(
    "--client",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address that the request comes from.",
)
@click.option("--all", "has_all", is_flag=True, help="List all routes.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option(
    "--expect",
    metavar="WHAT",
    help="Exit with 1 unless the outcome is this status, or this route's name.",
)
def explain(
    method: str,
    url: str,
    config_paths: tuple[Path, ...],
    fields: tuple[str, ...],
    who: str,
    client: str,
    *,
    has_all: bool,
    is_json: bool,
    expect: str | None,
) -> None:
    """Explain what the gateway would do with a request, and why.

    URL is a path, or begins with http:// or https:// and a host; quote it. It is taken
    as it is: nothing is decoded or tidied. Nothing is sent to a service or to the core.
    A session is taken as given: signature, anti-CSRF and sign-outs aren't judged.
    """
    from gateway.explain import words
    from gateway.explain.questions import NotAsked, asked

    try:
        question = asked(method, url, _fields(fields), _given(who), client)
    except NotAsked as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    answer = run(_answered(load(config_paths), question))
    if is_json:
        click.echo(json.dumps(words.as_json(answer), indent=2, ensure_ascii=False))
    else:
        out = console()
        out.print(f"{method} {url}", markup=False, style="bold")
        for line in words.lines(answer, has_all=has_all):
            out.print(line, markup=False)
    if expect is not None and expect != (found := words.outcome_of(answer)):
        fail(f"expected {expect}, got {found}")


def _given(who: str) -> Given:
    from gateway.explain import people
    from gateway.explain.given import Expired

    if who == "none":
        return None
    if who == "expired":
        return Expired()
    try:
        text = Path(who[1:]).read_text("utf-8") if who.startswith("@") else who
        return people.payload(people.person(text), time.time())
    except (OSError, UnicodeDecodeError, people.BadPerson) as error:
        raise click.BadParameter(str(error), param_hint="--as") from None


async def _answered(settings: Settings, question: Question) -> Explained:
    async with explaining(settings) as explainer:
        return await explainer.answer(question)


def _fields(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the fields of `NAME:VALUE` options."""
    pairs = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise click.BadParameter("expected NAME:VALUE", param_hint="-H")
        pairs.append((name, value.strip()))
    return pairs
