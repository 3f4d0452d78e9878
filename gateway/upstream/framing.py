"""PURE. Where a reply's body ends, and whether its head may be passed on at all.

llhttp parses; what it lets through and a gateway mustn't is refused here.

Facts
    - llhttp refuses by itself: bare LF, folded lines, control bytes in values,
      Content-Length twice or beside Transfer-Encoding, chunk sizes that overflow.
    - It accepts: control bytes in the reason phrase, any Transfer-Encoding, chunked
      in HTTP/1.0, HTTP/2.0 and 0.9, RTSP and ICE, statuses 000 to 999.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from gateway.errors import BadReply
from gateway.fields import Fields

CHUNKED: Final = -1
"""The body is chunked."""
UNTIL_CLOSE: Final = -2
"""The body ends where the connection does."""

MAX_HEAD_BYTES: Final = 65536
"""A reply's head, each interim one counted alone; nginx takes 4 to 8 KiB, Go 1 MiB."""
MAX_FIELDS: Final = 256

_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_LENGTHS = frozenset(map(len, (b"content-length", b"transfer-encoding", b"keep-alive")))
_CONTROLS = bytes(i for i in range(32) if i != 9) + b"\x7f"


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
    keep_alive_s: float | None
    """How long the upstream keeps an idle connection, if it told."""


@lru_cache(maxsize=256)  # a service has few; it saves a microsecond for each reply
def status_line(line: bytes) -> StatusLine:
    """Return the parts of a first line (without its CRLF) that llhttp has accepted.

    Raises:
        BadReply: not HTTP/1.1 or 1.0, a status below 100 or above 599, or a
            control byte in the reason phrase.
    Source: RFC 9112 §4, RFC 9110 §15.
    """
    if not line.startswith(_VERSIONS):
        raise BadReply("the reply is not HTTP/1.1 or HTTP/1.0")
    status = int(line[9:12])
    if not 100 <= status <= 599:
        raise BadReply(f"the status {status} is out of range")
    reason = line[13:]
    if reason.translate(None, _CONTROLS) != reason:
        raise BadReply("control byte in the reason phrase")
    return StatusLine(line[5:8], status, reason)


def framing(
    *, version: bytes, status: int, fields: Fields, head_request: bool
) -> Framing:
    """Return where the body of a final reply ends.

    Raises:
        BadReply: too many fields, more than one Content-Length, Content-Length and
            Transfer-Encoding, a Transfer-Encoding that isn't exactly `chunked`, or
            any in an HTTP/1.0 reply.
    Source: RFC 9112 §6.1, §6.3.
    """
    if len(fields) > MAX_FIELDS:
        raise BadReply(f"more than {MAX_FIELDS} fields in the reply")
    declared: int | None = None
    coding: bytes | None = None
    keep_alive_s: float | None = None
    for name, value in fields:
        if len(name) not in _LENGTHS:  # most: cheaper than `lower` on each of them
            continue
        match name.lower():
            case b"content-length":
                if declared is not None:
                    raise BadReply("more than one Content-Length")
                declared = _number(value.strip(b" \t"))
            case b"transfer-encoding":
                if coding is not None:
                    raise BadReply("more than one Transfer-Encoding")
                coding = value.strip(b" \t").lower()
            case b"keep-alive":
                keep_alive_s = keep_alive_hint(value)
            case _:
                pass
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
    return Framing(length, declared, keep_alive_s)


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


def _number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadReply("malformed Content-Length")
    return int(value)
