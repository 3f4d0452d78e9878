"""PURE. Variables in values: `${NAME}`, `${NAME:-default}`, and `$${` for `${`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.settings.scalars import resolve


class BadVariable(Exception):
    """A variable that can't be replaced; *message* is the reason, *hint* the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}. {hint}")


_VARIABLE = re.compile(
    r"(?P<plain>\$\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|\$\{"
)


def expand(text: str, environ: Mapping[str, str]) -> object:
    """Return *text* with each variable replaced by its value in *environ*.

    If *text* is a single variable, such as `${PORT}`, the result is read like a plain
    scalar of the file: it may be a number, a boolean or null.

    Raises:
        BadVariable: a variable isn't set and has no default, or isn't closed.
    """
    whole = _VARIABLE.fullmatch(text)
    expanded = _VARIABLE.sub(lambda reference: _value(reference, environ), text)
    if whole is not None and whole["name"] is not None:
        return resolve(expanded)
    return expanded


def _value(reference: re.Match[str], environ: Mapping[str, str]) -> str:
    """Return the text that replaces one `${…}`."""
    if reference["plain"]:
        return "${"
    name, default = reference["name"], reference["default"]
    if name is None:
        raise BadVariable(
            "this ${ doesn't begin a variable",
            "Write ${NAME} or ${NAME:-default}, and $${ for a literal ${",
        )
    value = environ.get(name)
    if value or (value is not None and default is None):
        return value
    if default is not None:
        return str(default)
    raise BadVariable(
        f"the environment variable {name} isn't set",
        f"Set it, or write ${{{name}:-default}}",
    )
