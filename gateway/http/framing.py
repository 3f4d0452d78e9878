"""PURE. What heads of requests and replies share: lines, and the framing fields."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.http.fields import Fields
from gateway.http.lines import Line

# The options of Connection, as bits: a field may list several.
CLOSE, KEEP, SWITCH = 1, 2, 4

BODILESS = (204, 304)
"""The final statuses that no body follows (RFC 9112 §6.3)."""


class Head:
    """The lines of a valid head."""

    __slots__ = ("_fields", "lines", "marks")

    lines: list[Line]
    """All lines of fields, in order."""
    marks: int
    """The marks of all lines (`Line.marks`)."""

    @property
    def fields(self) -> Fields:
        """All fields, in order, with their bytes as received."""
        try:
            return self._fields
        except AttributeError:
            self._fields: Fields = tuple([line.field for line in self.lines])
            return self._fields


def length(value: bytes, error: GatewayError) -> int:
    """Return the value of Content-Length, in bytes; raise *error* if it is malformed.

    Only 1 to 18 ASCII digits: int() would take `+5`, `1_0` and digits of other scripts.

    Source: RFC 9110 §8.6.
    """
    if not (value.isdigit() and len(value) <= 18):
        raise error
    return int(value)


def coding(value: bytes, error: GatewayError) -> None:
    """Raise *error* for a Transfer-Encoding other than `chunked` (RFC 9112 §6.1)."""
    if value.lower() != b"chunked":
        raise error


def connection(value: bytes) -> int:
    """Return the options in Connection: bits of CLOSE, KEEP, SWITCH (RFC 9112 §9.3)."""
    options = {option.strip(b" \t") for option in value.lower().split(b",")}
    return (
        CLOSE * (b"close" in options)
        + KEEP * (b"keep-alive" in options)
        + SWITCH * (b"upgrade" in options)
    )
