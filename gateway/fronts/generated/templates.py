"""PURE. Templates of configurations: text with `@places@` in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

_LINE = re.compile(r"^([ \t]*)@([a-z_]+)@\n", re.MULTILINE)
_PLACE = re.compile(r"@([a-z_]+)@")


def fill(template: str, **parts: str | Iterable[str]) -> str:
    """Return *template* with each `@name@` replaced by the part of that name.

    A part of several lines has a line of its own: each gets its indentation, and
    without any, the line is removed.

    Raises:
        KeyError: there is no such part.
    """
    return _PLACE.sub(
        partial(_text, parts), _LINE.sub(partial(_lines, parts), template)
    )


def _lines(parts: dict[str, str | Iterable[str]], place: re.Match[str]) -> str:
    part = parts[place[2]]
    lines = part.splitlines() if isinstance(part, str) else part
    return "".join(f"{place[1]}{line}".rstrip() + "\n" for line in lines)


def _text(parts: dict[str, str | Iterable[str]], place: re.Match[str]) -> str:
    part = parts[place[1]]
    return part if isinstance(part, str) else " ".join(part)
