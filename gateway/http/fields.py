"""PURE. Header fields as raw byte pairs, and look-ups in them.

Fields stay as they were received: bytes, in order, with repeats. Nothing here decodes,
joins or normalises a value, because a filter that reads other bytes than the forwarded
ones can be bypassed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
"""The pattern of one byte of a token (RFC 9110 §5.6.2)."""
is_token = re.compile(rb"%b+" % TOKEN).fullmatch

CONTROLS = bytes(i for i in range(32) if i != 9) + b"\x7f"
"""Bytes that no field value may hold; HTAB is allowed (RFC 9110 §5.5)."""

is_printable = re.compile(r"[\x20-\x7e]*").fullmatch
"""Whether a text is printable ASCII: all that a configured field value may hold."""

_T = TypeVar("_T")


class BoundedCache(dict[bytes, _T]):
    """The results of *judge*, remembered by its argument's exact bytes.

    It holds at most 1024 results, each of an argument of at most *max_size* bytes. A
    full cache is emptied, as clients can invent arguments. Exceptions that *judge*
    raises aren't remembered.
    """

    def __init__(self, judge: Callable[[bytes], _T], *, max_size: int = 64) -> None:
        super().__init__()
        self._judge = judge
        self._max_size = max_size

    def __missing__(self, text: bytes) -> _T:
        result = self._judge(text)
        if len(text) <= self._max_size:
            if len(self) >= 1024:
                self.clear()
            self[text] = result
        return result


def field_of(line: bytes) -> Field | None:
    """Return the field in *line*, given without its CRLF; None if it isn't a field.

    The name is a token and the colon follows at once, so a folded line isn't a field.
    The value has no control byte but HTAB; blanks at its ends aren't part of it.

    Source: RFC 9112 §5, §5.1, §5.2; RFC 9110 §5.5.
    """
    name, colon, value = line.partition(b":")
    if not colon or not is_token(name) or has_control(value):
        return None
    return name, value.strip(b" \t")


def is_plain_value(text: str) -> bool:
    """Return whether *text* is read everywhere as the same field value.

    It is printable ASCII, and no blank at its ends is lost on the way.

    Source: RFC 9110 §5.5.
    """
    return is_printable(text) is not None and text == text.strip(" ")


def has_control(value: bytes) -> bool:
    """Return whether *value* holds a control byte other than HTAB (RFC 9110 §5.5)."""
    return len(value.translate(None, CONTROLS)) != len(value)


def block(fields: Iterable[Field]) -> bytes:
    """Return *fields* as the lines of a head, each with its CRLF (RFC 9112 §5)."""
    lines: list[bytes] = []
    for name, value in fields:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def values(fields: Iterable[Field], name: bytes) -> Iterator[bytes]:
    """Yield the value of every field called *name* (given in lower case), in order.

    Source: RFC 9110 §5.3 (field names are case-insensitive, order counts).
    """
    for field_name, value in fields:
        if field_name.lower() == name:
            yield value


def first(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return the first value of the field called *name*, or None."""
    return next(values(fields, name), None)
