"""PURE. A reply's head: what it says, where its body ends, and whether to trust it.

Strict where parsers differ: what two of them could read as two things is refused.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from gateway.errors import BadReply
from gateway.fields import Field, Fields, Memo, is_token

CHUNKED: Final = -1
"""The body is chunked."""
UNTIL_CLOSE: Final = -2
"""The body ends where the connection does."""

MAX_HEAD_BYTES: Final = 65536
"""A reply's head, each interim one counted alone; nginx takes 4 to 8 KiB, Go 1 MiB."""
MAX_FIELDS: Final = 256

_LINE = re.compile(
    rb"HTTP/(1\.[01]) ([1-5][0-9]{2})(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?"
).fullmatch
_BEGIN = b"HTTP/1."
_CONTROLS = bytes(i for i in range(32) if i != 9) + b"\x7f"


class _Line(NamedTuple):
    """One line of a head: its field, and what that means for the message."""

    field: Field
    meaning: int
    says: Any = None


# No enumeration: its attributes cost more than all the rest of a line.
_NOTHING, _LENGTH, _CODING, _CLOSE, _KEEP, _KEEP_FOR = range(6)


def _line(text: bytes) -> _Line:
    """Return what a line of a head says, given without its CRLF.

    Raises:
        BadReply: it is no field, holds a control, or is a malformed Content-Length.
    """
    name, colon, value = text.partition(b":")
    if not colon or not is_token(name):
        raise BadReply("a line of the head is no field")
    if len(text.translate(None, _CONTROLS)) != len(text):
        raise BadReply("control byte in the head")
    value = value.strip(b" \t")
    field = (name, value)
    match name.lower():
        case b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise BadReply("malformed Content-Length")
            return _Line(field, _LENGTH, int(value))
        case b"transfer-encoding":
            return _Line(field, _CODING, value.lower())
        case b"keep-alive":
            return _Line(field, _KEEP_FOR, keep_alive_hint(value))
        case b"connection":
            options = [option.strip(b" \t") for option in value.lower().split(b",")]
            if b"close" in options:
                return _Line(field, _CLOSE)
            return _Line(field, _KEEP if b"keep-alive" in options else _NOTHING)
        case _:
            return _Line(field, _NOTHING)


_lines = Memo(_line, max_size=128)
"""Most lines of a service's replies are the same from one to the next."""


class StatusLine(NamedTuple):
    version: bytes
    """`1.1` or `1.0`."""
    status: int
    reason: bytes


class Framing(NamedTuple):
    length: int
    """How many bytes follow the head, or CHUNKED, or UNTIL_CLOSE."""
    content_length: int | None
    """What Content-Length says; for HEAD and 304 that is not what follows."""
    keep_alive: bool
    """The connection is good for another request after this reply."""
    keep_alive_s: float | None
    """How long the upstream keeps an idle connection, if it told."""


def status_line(line: bytes) -> StatusLine:
    """Return the parts of a first line, given without its CRLF.

    Raises:
        BadReply: not HTTP/1.1 or 1.0, a status that isn't 100 to 599, or a control
            byte in the reason phrase.
    Source: RFC 9112 §4, RFC 9110 §15.
    """
    found = _LINE(line)
    if found is None:
        raise BadReply("malformed status line")
    return StatusLine(found[1], int(found[2]), found[3] or b"")


_status_lines = Memo(status_line)
"""A service has few."""


class Head(NamedTuple):
    line: StatusLine
    fields: Fields
    framing: Framing


def head_of(data: bytes, *, head_request: bool) -> Head:
    """Return what a whole head says, its empty line included.

    Raises:
        BadReply: a status line that `status_line` refuses; a line that is no field
            (folded ones are none) or doesn't end in CRLF; a control byte; too many
            fields; more than one Content-Length, or one beside Transfer-Encoding; a
            Transfer-Encoding that isn't exactly `chunked`, or in an HTTP/1.0 reply.
    Source: RFC 9112 §2.2, §5, §6.1, §6.3, §9.3; RFC 9110 §5.1, §5.5.
    """
    lines = data.split(b"\r\n")
    version, status, _ = line = _status_lines[lines[0]]
    if len(lines) > MAX_FIELDS + 3:  # the status line, and what follows the last CRLFs
        raise BadReply(f"more than {MAX_FIELDS} fields in the reply")
    fields: list[Field] = []
    declared: int | None = None
    coding: bytes | None = None
    keep_alive = version == b"1.1"
    closes = False
    keep_alive_s: float | None = None
    for text in lines[1:-2]:
        field, meaning, says = _lines[text]
        fields.append(field)
        if meaning == _NOTHING:
            continue
        if meaning == _LENGTH:
            if declared is not None:
                raise BadReply("more than one Content-Length")
            declared = says
        elif meaning == _KEEP:
            keep_alive = True
        elif meaning == _CLOSE:
            closes = True
        elif meaning == _KEEP_FOR:
            keep_alive_s = says
        elif coding is not None:
            raise BadReply("more than one Transfer-Encoding")
        else:
            coding = says
    if coding is not None:
        if declared is not None:
            raise BadReply("Content-Length and Transfer-Encoding in one reply")
        if coding != b"chunked":
            raise BadReply("the transfer coding is not chunked")
        if version != b"1.1":
            raise BadReply("Transfer-Encoding in an HTTP/1.0 reply")
    if head_request or status in (204, 304):
        length = 0
    elif coding is not None:
        length = CHUNKED
    else:
        length = UNTIL_CLOSE if declared is None else declared
    keep_alive = keep_alive and not closes and length != UNTIL_CLOSE
    return Head(
        line, tuple(fields), Framing(length, declared, keep_alive, keep_alive_s)
    )


def check_begun(head: bytes, known: int) -> None:
    """Refuse at once what can't become a head; *known* bytes of it were checked.

    Raises:
        BadReply: it doesn't begin as HTTP/1 does, or a line ends in a bare LF.
    """
    if not head.startswith(_BEGIN[: len(head)]):
        raise BadReply("the reply is not HTTP/1.1 or HTTP/1.0")
    # From where a CR may stand whose LF is new.
    if head.count(b"\n", known) != head.count(b"\r\n", max(0, known - 1)):
        raise BadReply("a line of the head ends in a bare LF")


def keep_alive_hint(value: bytes) -> float | None:
    """Return for how many seconds an idle connection is safe to use, None if unsaid.

    A second less than the upstream says (half, when it says one or none), because
    its clock starts before ours.

    Source: RFC 2068 §19.7.1.1 (`Keep-Alive: timeout=5, max=100`).
    """
    for part in value.split(b","):
        name, _, number = part.partition(b"=")
        number = number.strip()
        if name.strip().lower() == b"timeout" and number.isdigit():
            seconds = float(number[:9])
            return max(seconds - 1, seconds / 2)
    return None
