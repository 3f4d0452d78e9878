"""The corpus as a table for people: docs/security-cases.md."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from corpus.cases import Case, one_line

_INTRO = """\
# Security cases

What {count} hostile, odd or merely strict requests do to the gateway. Each is sent
over a real socket in up to four ways: whole, cut in two at its weak places, byte by
byte, and pipelined between a good request and another one. After each the upstream's
requests are counted, so that nothing can be smuggled, and five parsers (httptools, h11,
http.server and aiohttp's two) read what was forwarded: all must read the same.

The cases stand in `tests/corpus/*.yaml` with what the upstream must and must not have
seen; `pytest tests/test_corpus.py` plays them. This file is generated from them by
`PYTHONPATH=tests python -m corpus`, and a test holds it up to date.

⏎ stands for CRLF, `\\r \\n \\t \\0 \\xNN` for single bytes, `{{text*80}}` for 80 times
the text. "from" names a peer that is no stranger: 127.0.0.2 is the one trusted proxy,
::ffff:127.0.0.2 the same to an IPv6 socket. "not forwarded": the upstream saw no byte
of it. "in part": when its head came alone, the upstream may have got a beginning, cut
off, and never a whole request.
"""


def render(cases: Iterable[Case]) -> str:
    """Return the whole file."""
    cases = list(cases)
    parts = [_INTRO.format(count=len(cases))]
    for table, group in groupby(cases, key=lambda case: case.table):
        rows = list(group)
        parts.append(f"\n## {table} ({len(rows)})\n\n")
        parts.append(
            "| case | what is sent | what happens | why |\n|---|---|---|---|\n"
        )
        parts += [
            f"| {_cell(case.id)} | `{_cell(_sent(case))}`{_from(case)}"
            f" | {_cell(_happens(case))} | {_cell(case.why)} |\n"
            for case in rows
        ]
    return "".join(parts)


def _sent(case: Case) -> str:
    lines = case.shown.rstrip("\n").split("\n")
    kept = [line for line in lines if line.strip() not in ("Host: gw", "")]
    return one_line("\n".join(kept)).replace("`", "'")


def _from(case: Case) -> str:
    return "" if case.peer == Case.peer else f" from {case.peer}"


def _happens(case: Case) -> str:
    if not case.replies:
        said = "no reply"
    else:
        said = ", ".join(
            " or ".join(map(str, sorted(allowed))) for allowed in case.replies[:3]
        )
        if len(case.replies) > 3:
            said += f" … ({len(case.replies)} replies)"
    if case.closes:
        said += ", closed"
    if case.broad == "forwarded":
        said += " (forwarded by a route for all paths)"
    elif case.broad != "same":
        said += " (`near_miss` beside a laxer route)"
    count = max(case.upstream)
    if case.begun:
        return f"{said}; in part"
    if not count:
        return f"{said}; not forwarded"
    if case.target is not None:
        return f"{said}; forwarded as `{case.target.decode('latin-1')}`"
    return f"{said}; forwarded"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
