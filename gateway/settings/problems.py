"""PURE. Problems in a file, each with its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A mistake or a doubtful setting, and its place. It shows no value of the file."""

    file: str
    line: int
    column: int
    path: str
    """Such as `routes[2].match.path`; empty for the whole file."""
    message: str
    hint: str = ""
    see: str = ""
    """The other place, if two contradict each other."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}:"
        path = f" {self.path}:" if self.path else ""
        see = f" (see {self.see})" if self.see else ""
        hint = f". {self.hint}" if self.hint else ""
        return f"{place}{path} {self.message}{see}{hint}"


class ConfigError(Exception):
    """The file can't be used; `problems` has every reason, in the file's order.

    It isn't a `GatewayError`: it doesn't occur while a request is answered.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = tuple(problems)
        files = list(dict.fromkeys(at.file for at in found))
        self.problems = tuple(
            sorted(found, key=lambda at: (files.index(at.file), at.line, at.column))
        )
        super().__init__("\n".join(map(str, self.problems)))
