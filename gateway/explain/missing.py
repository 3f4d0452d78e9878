"""edge. Writes the tests that a file doesn't have, as its table decides today."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Final

from gateway.config import RouteTestsConfig
from gateway.explain.answering import Explainer
from gateway.explain.questions import Explained, asked
from gateway.explain.testing import given_as
from gateway.explain.words import outcome_of
from gateway.identity import Protection
from gateway.routes import Kind, RouteTable, remarks
from gateway.routes.remarks import examples

_LAXER: Final = (Kind.ASKS_LESS, Kind.OPEN_BELOW_GUARD, Kind.PUBLIC_BY_DEFAULT)
_PLAIN: Final = re.compile(r"[A-Za-z0-9/_.][A-Za-z0-9/_.@~%+=&?;:-]*").fullmatch


async def missing_cases(
    explainer: Explainer,
    table: RouteTable,
    tests: RouteTestsConfig,
    names: Collection[str],
    now: float,
) -> list[str]:
    """Return the lines of `tests.cases` for the routes in *names*; *now* in seconds.

    Each says what everybody gets today. A case by a route that is public, or laxer than
    the one that encloses it, asks whether this is meant.
    """
    laxer = {one.route for one in remarks(table) if one.kind in _LAXER}
    lines: list[str] = []
    for route in table.routes:
        if route.name not in names:
            continue
        host, path = next(examples(route), ("", None))
        if path is None:
            lines.append(f"    # {json.dumps(route.name)}: no path of it was found")
            continue
        is_doubtful = (
            route in laxer or route.session.protection is not Protection.REQUIRED
        )
        for method in route.methods or ("GET",):
            url = f"http://{host}{path}" if host else path
            found: dict[str, str] = {}
            for who in ("none", "expired", *tests.people):
                given = given_as(tests, who, now)
                question = asked(method, url, (), given, "127.0.0.1")
                found[who] = _expected(await explainer.answer(question))
            lines += _case(f"{method} {url}", found, is_doubtful=is_doubtful)
    return lines


def _expected(answer: Explained) -> str:
    unmet = dict.fromkeys(
        one.id for one in answer.session.judged if one.reason is not None
    )
    text = outcome_of(answer)
    if text == "403" and unmet:
        return _written(f"{text} {next(iter(unmet))}")
    return text if answer.status is not None else _written(text)


def _case(request: str, found: dict[str, str], *, is_doubtful: bool) -> Iterator[str]:
    pairs = ", ".join(f"{_written(who)}: {what}" for who, what in found.items())
    doubt = "  # is this meant?" if is_doubtful else ""
    yield f"    - {_written(request)}: {{{pairs}}}{doubt}"


def _written(text: str) -> str:
    """Return *text* as YAML reads it as just this text."""
    is_plain = all(map(_PLAIN, text.split(" "))) and not text.endswith(":")
    has_letter = any(char.isalpha() for char in text)
    is_word = text.lower() in ("null", "true", "false", "yes", "no", "on", "off")
    if is_plain and has_letter and not is_word:
        return text
    return json.dumps(text, ensure_ascii=False)
