"""PURE. References in values: `${NAME}`, `${NAME:-default}`, `${file:PATH}`, `$${`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from gateway.settings.scalars import resolve


class BadVariable(Exception):
    """A variable that can't be replaced; *message* is the reason, *hint* the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}. {hint}")


_VARIABLE = re.compile(
    r"(?P<plain>\$\$\{)"
    r"|\$\{file:(?P<file>[^}]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|\$\{"
)


def expand(
    text: str, environ: Mapping[str, str], read_file: Callable[[str], str]
) -> object:
    """Return *text* with each variable replaced by its value in *environ*.

    *read_file* returns the text of a file. It is never read as a number or a boolean:
    a password may have digits alone.

    If *text* is a single variable, such as `${PORT}`, the result is read like a plain
    scalar of the file: it may be a number, a boolean or null.

    Raises:
        BadVariable: a variable isn't set and has no default, or isn't closed; or, from
            *read_file*, a file can't be used.
    """
    whole = _VARIABLE.fullmatch(text)
    expanded = _VARIABLE.sub(
        lambda reference: _value(reference, environ, read_file), text
    )
    if whole is not None and whole["name"] is not None:
        return resolve(expanded)
    return expanded


def _value(
    reference: re.Match[str],
    environ: Mapping[str, str],
    read_file: Callable[[str], str],
) -> str:
    """Return the text that replaces one `${…}`."""
    if reference["plain"]:
        return "${"
    if reference["file"]:
        return read_file(reference["file"])
    name, default = reference["name"], reference["default"]
    if name is None:
        raise BadVariable(
            "this ${ doesn't begin a variable",
            "Write ${NAME}, ${NAME:-default} or ${file:PATH}, and $${ for a literal ${",
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
