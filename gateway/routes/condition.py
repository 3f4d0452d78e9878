"""PURE. What a route asks of a request's fields and query, besides path and method.

A condition selects a route; it protects nothing, because clients choose their fields
and their query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gateway.http.fields import Fields

Values = frozenset[bytes] | None
"""The values of which one must be there; None: any value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Fields and query parameters that a request must have, each with its values."""

    fields: tuple[tuple[bytes, Values], ...]
    """By name in lower case."""
    query: tuple[tuple[str, Values], ...]

    def holds(self, fields: Fields, query: bytes) -> bool:
        """Return whether a request with *fields* and the raw *query* meets all of it.

        A field that is there twice meets nothing, since services may read either. Of a
        parameter, every value must be one of the condition's.
        """
        for name, values in self.fields:
            found = [value for key, value in fields if key.lower() == name]
            if len(found) != 1 or (values is not None and found[0] not in values):
                return False
        if not self.query:
            return True
        given: dict[str, list[str]] = {}
        text = query.removeprefix(b"?").decode("latin-1")
        for name_given, value in parse_qsl(text, keep_blank_values=True):
            given.setdefault(name_given, []).append(value)
        return all(
            name in given
            and (values is None or all(one.encode() in values for one in given[name]))
            for name, values in self.query
        )


def condition(
    fields: Mapping[str, tuple[str, ...] | None],
    query: Mapping[str, tuple[str, ...] | None],
) -> Condition | None:
    """Return the condition of a route, None if it has none."""
    if not fields and not query:
        return None
    return Condition(
        tuple(
            (name.lower().encode(), _values(given)) for name, given in fields.items()
        ),
        tuple((name, _values(given)) for name, given in query.items()),
    )


def _values(given: tuple[str, ...] | None) -> Values:
    return None if given is None else frozenset(value.encode() for value in given)
