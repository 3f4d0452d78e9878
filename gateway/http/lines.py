"""PURE. Lines of heads: each distinct line is judged once, and then looked up.

A `Line` holds all that follows from its bytes: its meaning for the message, and the
bytes that are forwarded in its place. Most lines of a client or a service are the same
from one message to the next.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.http.fields import BoundedCache, Field, has_control, is_token

LINE_MAX_BYTES: Final = 512
"""Longer lines aren't remembered, but for lines with secrets that are in use."""
LINES_MAX_BYTES: Final = 1024 * 1024
"""The estimated size of all remembered lines. A full cache is emptied."""
_ENTRY_BYTES = 500
"""The size of a remembered line besides its bytes, which are stored three times."""
HELD_MAX_BYTES: Final = 4096
"""Longer lines with secrets are judged each time, even while they are in use."""
_TAIL_BYTES = 32
"""Lines with secrets are looked up by their last bytes, and then compared."""

# The lines of fields with such names aren't remembered: their values are secrets.
_is_secret = re.compile(
    rb"^st-|auth|cookie|csrf|key|passw|secret|session|token", re.IGNORECASE
).search


class Line:
    """One line of a head. Nothing in it changes once it is made."""

    __slots__ = (
        "__weakref__",
        "forwarded",
        "marks",
        "meaning",
        "parsed",
        "raw",
        "rule",
    )

    raw: bytes
    """The unchanged field: `Name: value` and CRLF."""
    forwarded: bytes
    """The bytes that are forwarded, unless `marks` leave that to the route or the peer.
    Empty for a line that is dropped."""
    meaning: int
    """The field's meaning for its head, or MARKED; 0: neither."""
    parsed: Any
    """The parsed value; None for a field whose value isn't parsed."""
    rule: Any
    """The header rule of the field (`headers`)."""
    marks: int
    """Bits that the rule sets: a head with one of them needs a closer look."""

    @property
    def name(self) -> bytes:
        """The field's name, as received."""
        return self.raw.partition(b": ")[0]

    @property
    def value(self) -> bytes:
        """The field's value, without blanks at its ends."""
        return self.raw.partition(b": ")[2][:-2]

    @property
    def field(self) -> Field:
        """The field's name and value."""
        name, _, value = self.raw.partition(b": ")
        return name, value[:-2]


MARKED: Final = -1
"""The meaning of a line that has marks, and no meaning for the head."""


class Ruling(NamedTuple):
    """The result of a header rule for one field. See the attributes of `Line`."""

    rule: Any
    forwarded: bytes
    marks: int = 0


Rules = Callable[[bytes, bytes, bytes], Ruling]
"""The header rules of one direction: name, value and `Line.raw` → the ruling."""


def keep_all(_name: bytes, _value: bytes, raw: bytes) -> Ruling:
    """Return the ruling that forwards a field unchanged: the default."""
    return Ruling(None, raw)


Meaning = tuple[int, Callable[[bytes], Any] | None]
"""The meaning of a field's name, and the parser of its value, if it needs one."""
_MEANS_NOTHING: Meaning = (0, None)


class Lines(dict[bytes, Line]):
    """The lines of one direction, remembered by their bytes exactly.

    `lines[text]` is for lines of at most LINE_MAX_BYTES, `judge` for all. At most
    LINES_MAX_BYTES are remembered. Lines whose names suggest a secret aren't; but the
    `Line` of one with a meaning is found again while another object refers to it.
    """

    def __init__(
        self,
        meanings: Mapping[bytes, Meaning],
        rules: Rules,
        error: type[GatewayError],
    ) -> None:
        """*meanings* has field names in lower case. *error* is raised for a line that
        is no field."""
        super().__init__()
        self._error = error
        self._meanings = meanings
        self._rules = rules
        self._names = BoundedCache(self._name)
        self._held: dict[bytes, _Held] = {}
        self.size = 0
        """An estimate of the bytes that the remembered lines take."""

    def __missing__(self, text: bytes) -> Line:
        if self._held:
            ref = self._held.get(text[-_TAIL_BYTES:])
            if ref is not None and ref.text == text and (line := ref()) is not None:
                return line
        name, colon, value = text.partition(b":")
        meaning, read, is_secret = self._names[name]
        if not colon:
            raise self._error("a line of the head is no field")
        if has_control(value):
            raise self._error("control byte in the head")
        value = value.strip(b" \t")
        line = Line()
        line.raw = raw = b"%b: %b\r\n" % (name, value)
        line.parsed = None if read is None else read(value)
        line.rule, line.forwarded, line.marks = self._rules(name, value, raw)
        line.meaning = meaning or (MARKED if line.marks else 0)
        if not is_secret:
            if len(text) <= LINE_MAX_BYTES:
                self._remember(text, line)
        elif meaning and len(text) <= HELD_MAX_BYTES:
            ref = _Held(line, self._forget)
            ref.text = text
            ref.tail = tail = text[-_TAIL_BYTES:]
            self._held[tail] = ref
        return line

    judge = __missing__
    """Return the judgement of a line.

    Raises:
        GatewayError: it is no field (a folded line is none), or has a control byte.
    Source: RFC 9112 §5, §5.1, §5.2; RFC 9110 §5.5.
    """

    @property
    def held(self) -> int:
        """The number of lines with secrets that are in use."""
        return len(self._held)

    def _remember(self, text: bytes, line: Line) -> None:
        if text in self:
            return
        size = 3 * len(text) + _ENTRY_BYTES
        if self.size + size > LINES_MAX_BYTES:
            self.clear()
            self.size = 0
        self.size += size
        self[text] = line

    def _forget(self, ref: weakref.ref[Line]) -> None:
        assert isinstance(ref, _Held)
        if self._held.get(ref.tail) is ref:
            del self._held[ref.tail]

    def _name(self, name: bytes) -> tuple[int, Callable[[bytes], Any] | None, bool]:
        """Return the meaning of a name, and whether its values are secrets."""
        if not is_token(name):
            raise self._error("a line of the head is no field")
        meaning, read = self._meanings.get(name.lower(), _MEANS_NOTHING)
        return meaning, read, _is_secret(name) is not None


class _Held(weakref.ref[Line]):
    """A weak reference to a line with a secret: it is found while it is in use."""

    __slots__ = ("tail", "text")

    tail: bytes
    text: bytes
