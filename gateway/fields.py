"""PURE. Header fields as raw byte pairs, and how to look things up in them.

Fields stay what the wire brought: bytes, in order, repeats kept. Nothing here
decodes, joins or normalises a value, because a filter that reads other bytes
than the ones that are forwarded can be walked around.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]


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
