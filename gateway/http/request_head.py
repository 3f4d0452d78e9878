"""PURE. A request's head: its facts, how its body is framed, and what is refused.

A head is read line by line, in one way only: what two readers could take for different
requests is refused here, before a route is matched or a session is read. Most lines of
a client's requests are the same from one to the next, so each distinct line is judged
once and then looked up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from gateway.errors import BadRequest, GatewayError, Side
from gateway.http import framing
from gateway.http.fields import TOKEN
from gateway.http.framing import CLOSE, KEEP, SWITCH, Head
from gateway.http.lines import (
    LINE_MAX_BYTES,
    MARKED,
    Line,
    Lines,
    Meaning,
    Rules,
    keep_all,
)
from gateway.http.methods import METHODS

_METHOD_MAX_BYTES = 24
_METHOD = rb"%b{1,%d}" % (TOKEN, _METHOD_MAX_BYTES)
_request_line = re.compile(
    rb"(%b) ([^\x00-\x20\x7f]+) HTTP/([0-9]\.[0-9])" % _METHOD
).fullmatch
_has_method = re.compile(rb"%b " % _METHOD).match
_may_begin = re.compile(rb"(?:%b(?: |\r?\Z)|\r?\Z)" % _METHOD).match


class HeadTooLarge(GatewayError):
    """The request's fields are too many, or too large."""

    side = Side.CLIENT
    status = 431
    code = "head_too_large"
    title = "The request's header fields are too large"
    close = True


class TargetTooLong(GatewayError):
    """The request target is longer than `gateway.limits.max_target_size`."""

    side = Side.CLIENT
    status = 414
    code = "target_too_long"
    title = "The request target is too long"
    close = True


class VersionNotSupported(GatewayError):
    """The request isn't HTTP/1.0 or HTTP/1.1."""

    side = Side.CLIENT
    status = 505
    code = "http_version"
    title = "This HTTP version isn't supported"
    close = True


class MethodNotImplemented(GatewayError):
    """The method is TRACE, which echoes credentials, CONNECT, or an unknown one."""

    side = Side.CLIENT
    status = 501
    code = "method_not_implemented"
    title = "This method isn't supported"
    close = True


class ExpectationFailed(GatewayError):
    """`Expect` asks for something other than 100-continue."""

    side = Side.CLIENT
    status = 417
    code = "expectation_failed"
    title = "This expectation isn't supported"
    close = True


class HeadLimits(NamedTuple):
    """How large a head may be, in bytes, and how many fields it may have."""

    target: int
    field: int
    """The line of one field: name, colon and value."""
    head: int
    """The request line and all fields."""
    fields: int


class RequestHead(Head):
    """The facts of a valid head. Nothing in it changes once it is made.

    It is neither a frozen dataclass nor a NamedTuple: one is made per request, and
    reading an attribute of a NamedTuple takes five times as long.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "credential_lines",
        "expects_continue",
        "has_body",
        "has_upgrade",
        "host",
        "http10",
        "keep_alive",
        "method",
        "origins",
        "request_ids",
        "target",
    )

    method: str
    target: bytes
    http10: bool
    """The version is HTTP/1.0, not HTTP/1.1."""
    host: bytes | None
    """The value of Host; None: HTTP/1.0 without one."""
    content_length: int | None
    """The declared size of the body; None when it is chunked or there is none."""
    chunked: bool
    has_body: bool
    keep_alive: bool
    """The connection may be used for another request. False if the client asks for
    another protocol: it may use that protocol next, whatever the answer is."""
    expects_continue: bool
    """The body may not be sent before a 100 (RFC 9110 §10.1.1)."""
    has_upgrade: bool
    origins: tuple[bytes, ...]
    """The values of Origin."""
    request_ids: tuple[bytes, ...]
    """The values of X-Request-Id."""
    credential_lines: tuple[Line, ...]
    """The lines that may hold credentials."""


# The meanings of fields. No enumeration: its attributes cost more than all the rest of
# a line.
_NOTHING, _HOST, _CODING, _LENGTH, _EXPECT, _CONNECTION = range(6)
_UPGRADE, _ORIGIN, _REQUEST_ID, _CREDENTIAL = range(6, 10)


_IS_HTTP10 = {b"1.1": False, b"1.0": True}
_METHOD_OF = {name.encode(): name for name in METHODS}


def _request_parts(line: bytes) -> tuple[str, bytes, bool]:
    """Return method, target and whether the version is HTTP/1.0.

    *line* is the request line without its CRLF.

    Raises:
        BadRequest: it isn't three parts with single spaces between them.
        VersionNotSupported: not HTTP/1.0 or 1.1.
        MethodNotImplemented: none of METHODS.
    Source: RFC 9112 §2.3, §3; RFC 9110 §9.1, §9.3.6, §9.3.8, §15.6.2.
    """
    parts = _request_line(line)
    if parts is None:
        raise BadRequest("malformed request line")
    name, target, version = parts.groups()
    http10 = _IS_HTTP10.get(version)
    if http10 is None:
        raise VersionNotSupported
    method = _METHOD_OF.get(name)
    if method is None:
        raise MethodNotImplemented
    return method, target, http10


class _RequestLines(dict[bytes, tuple[str, bytes, bool]]):
    """The parts of request lines, remembered by the line's exact bytes.

    It holds at most 1024 lines of at most LINE_MAX_BYTES, none of them with a query,
    which may hold a secret.
    """

    def __missing__(self, line: bytes) -> tuple[str, bytes, bool]:
        parts = _request_parts(line)
        if len(line) <= LINE_MAX_BYTES and b"?" not in line:
            if len(self) >= 1024:
                self.clear()
            self[line] = parts
        return parts


_request_lines = _RequestLines()


def _length(value: bytes) -> int:
    return framing.length(value, BadRequest("Content-Length is no plain number"))


def _coding(value: bytes) -> None:
    framing.coding(value, BadRequest("unsupported Transfer-Encoding"))


def _expectation(value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise ExpectationFailed


def _unchanged(value: bytes) -> bytes:
    return value


_MEANINGS: dict[bytes, Meaning] = {
    b"host": (_HOST, _unchanged),
    b"transfer-encoding": (_CODING, _coding),
    b"content-length": (_LENGTH, _length),
    b"expect": (_EXPECT, _expectation),
    b"connection": (_CONNECTION, framing.connection),
    b"upgrade": (_UPGRADE, None),
    b"origin": (_ORIGIN, _unchanged),
    b"x-request-id": (_REQUEST_ID, _unchanged),
}

_new = object.__new__


class RequestReader:
    """Reads the heads of requests, for one set of header rules."""

    def __init__(
        self,
        bounds: HeadLimits,
        rules: Rules = keep_all,
        credentials: Mapping[bytes, Callable[[bytes], Any]] = MappingProxyType({}),
    ) -> None:
        """*credentials*: name in lower case of a field that may hold credentials → the
        parser of its value, which returns `Line.parsed`."""
        self.bounds = bounds
        credential_lines = {
            name: (_CREDENTIAL, read) for name, read in credentials.items()
        }
        self._lines = Lines(_MEANINGS | credential_lines, rules, BadRequest)
        self._small = min(bounds.target, bounds.field, bounds.head)
        """A head of this size can exceed no bound but the number of fields."""
        self._max_texts = bounds.fields + 3  # the request line, and two empty texts

    def read(self, data: bytes) -> RequestHead:
        """Return the facts of a whole head, its empty line included.

        Raises:
            TargetTooLong, HeadTooLarge: it is larger than the bounds.
            VersionNotSupported: not HTTP/1.0 or 1.1.
            MethodNotImplemented: none of METHODS.
            ExpectationFailed: an Expect other than 100-continue.
            BadRequest: a malformed request line; a line that is no field (a folded
                one, one with a control byte, a bare CR or LF in it); no Host, or
                several; a Transfer-Encoding that isn't exactly `chunked`, comes twice,
                with Content-Length or over HTTP/1.0; a Content-Length that is no plain
                number, or comes twice.
        Source: RFC 9112 §2.2, §2.3, §3, §3.2, §5, §6.1, §6.3, §9.3; RFC 9110 §5.5,
        §10.1.1.
        """
        texts = data.split(b"\r\n")
        if len(data) > self._small:
            self._check_sizes(data, texts)
        head: RequestHead = _new(RequestHead)
        head.method, head.target, http10 = _request_lines[texts[0]]
        if len(texts) > self._max_texts:
            raise HeadTooLarge("too many fields")
        known = self._lines
        lines: list[Line] = []
        host: bytes | None = None
        length: int | None = None
        connection = marks = 0
        origins: tuple[bytes, ...] = ()
        request_ids: tuple[bytes, ...] = ()
        credential_lines: tuple[Line, ...] = ()
        rare_lines: tuple[Line, ...] = ()
        for text in texts[1:-2]:
            line = known[text] if len(text) <= LINE_MAX_BYTES else known.judge(text)
            lines.append(line)
            meaning = line.meaning
            if not meaning:
                continue
            marks |= line.marks
            if meaning == _HOST:
                if host is not None:
                    raise BadRequest("several Host fields")
                host = line.parsed
            elif meaning == _CREDENTIAL:
                credential_lines += (line,)
            elif meaning == MARKED:
                continue
            elif meaning == _CONNECTION:
                connection |= line.parsed
            elif meaning == _LENGTH:
                if length is not None:
                    raise BadRequest("several Content-Length fields")
                length = line.parsed
            elif meaning == _ORIGIN:
                origins += (line.parsed,)
            elif meaning == _REQUEST_ID:
                request_ids += (line.parsed,)
            else:
                rare_lines += (line,)
        if host is None and not http10:
            raise BadRequest("no Host field")
        head.lines = lines
        head.marks = marks
        head.host = host
        head.http10 = http10
        head.content_length = length
        head.chunked = head.expects_continue = head.has_upgrade = False
        head.has_body = length is not None and length > 0
        head.origins = origins
        head.request_ids = request_ids
        head.credential_lines = credential_lines
        if rare_lines:
            _read_rare(head, rare_lines)
        head.keep_alive = not http10
        if connection:
            head.keep_alive = not (
                connection & CLOSE
                or (http10 and not connection & KEEP)
                or (head.has_upgrade and connection & SWITCH)
            )
        return head

    def _check_sizes(self, data: bytes, texts: Sequence[bytes]) -> None:
        """Refuse a head that is larger than the bounds."""
        bounds = self.bounds
        if len(texts[0]) > bounds.target:
            _check_target_size(texts[0], bounds.target)
        if len(data) > bounds.head:
            raise HeadTooLarge
        if len(data) > bounds.field and max(map(len, texts[1:])) > bounds.field:
            raise HeadTooLarge("a field is too long")


def _read_rare(head: RequestHead, lines: Iterable[Line]) -> None:
    """Set what Transfer-Encoding, Upgrade and Expect, among *lines*, mean for *head*.

    Raises:
        BadRequest: Transfer-Encoding comes twice, with Content-Length or over HTTP/1.0.
    Source: RFC 9112 §6.1, §6.3; RFC 9110 §7.8, §10.1.1.
    """
    for line in lines:
        if line.meaning == _UPGRADE:
            head.has_upgrade = True
        elif line.meaning == _EXPECT:
            head.expects_continue = not head.http10
        elif head.chunked:
            raise BadRequest("several Transfer-Encoding fields")
        else:
            head.chunked = head.has_body = True
    if not head.chunked:
        return
    if head.content_length is not None:
        raise BadRequest("Transfer-Encoding with Content-Length")
    if head.http10:
        raise BadRequest("Transfer-Encoding over HTTP/1.0")


def check_begun(data: bytes, known: int, bounds: HeadLimits) -> None:
    """Refuse an incomplete head at once if it can't become a valid one.

    *data* is all that has arrived of it; the first *known* bytes were checked before.

    Raises:
        TargetTooLong, HeadTooLarge: it is larger than *bounds* already.
        BadRequest: it doesn't begin with a method, or a line ends in a bare CR or LF.
    """
    if known <= _METHOD_MAX_BYTES and not _may_begin(data):
        raise BadRequest("the request doesn't begin with a method")
    # One byte earlier: the last CR of the known bytes may have its LF only now. The
    # last byte of all may be a CR whose LF hasn't arrived.
    start = max(0, known - 1)
    ends = data.count(b"\r\n", start)
    if data.count(b"\n", known) != ends or (
        data.count(b"\r", start) - data.endswith(b"\r") != ends
    ):
        raise BadRequest("a line of the head ends in a bare CR or LF")
    line = data.rfind(b"\n") + 1
    if not line:
        _check_target_size(data, bounds.target + len("\r"))
    elif len(data) - line > bounds.field + len("\r"):
        raise HeadTooLarge("a field is too long")
    if len(data) > bounds.head:
        raise HeadTooLarge


def _check_target_size(line: bytes, limit: int) -> None:
    """Refuse a request line whose target has more than *limit* bytes."""
    if _has_method(line):
        target = line.split(b" ", 2)[1]
        if len(target) > limit:
            raise TargetTooLong
