"""PURE. Header templates: text with `{user_id}` or `{claims.plan.level}` in it."""

from __future__ import annotations

import re
from typing import Final

from gateway.http.fields import is_printable

Place = tuple[str, ...]
"""The name in a pair of braces: `("user_id",)`, or `("claims", "plan", "level")`."""

FACTS: Final = ("user_id", "recipe_user_id", "session_handle", "tenant_id")
"""The places besides the claims: attributes of an `Identity`."""
PLACES: Final = ", ".join(f"{{{name}}}" for name in FACTS) + " and {claims.name}"
"""The list of all places, for messages."""

_BRACES = re.compile(r"\{([^{}]*)\}")


def parse(template: str) -> tuple[str | Place, ...]:
    """Return the pieces of *template* in order: text, and places between them.

    Raises:
        ValueError: an unpaired brace, an unknown place, or text that isn't printable
            ASCII or begins or ends with a blank.
    """
    parts: list[str | Place] = []
    for index, piece in enumerate(_BRACES.split(template)):
        if index % 2:
            parts.append(_place(piece))
        elif "{" in piece or "}" in piece:
            raise ValueError("a brace is unpaired")
        elif not is_printable(piece):
            raise ValueError("the text outside braces must be printable ASCII")
        elif piece:
            parts.append(piece)
    if template != template.strip():
        raise ValueError("a value neither begins nor ends with a blank")
    return tuple(parts)


def _place(name: str) -> Place:
    if name in FACTS:
        return (name,)
    first, *path = name.split(".")
    if first == "claims" and path and all(path) and not _has_blank(name):
        return (first, *path)
    raise ValueError(f"a place in braces is unknown; there are {PLACES}")


def _has_blank(name: str) -> bool:
    return any(char.isspace() for char in name)
