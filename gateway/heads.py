"""PURE. A request's head: what it says, how its body is framed, and what is refused.

A head is read line by line, in one way only: what two readers could take for different
requests is refused here, before a route is matched or a session is read. Most lines of
a client's requests are the same from one to the next, so each distinct line is judged
once and then looked up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from gateway.errors import BadRequest, GatewayError, Side, Stage
from gateway.fields import Field, Fields, Memo, has_control, is_token

METHODS: Final = frozenset(
    (
        *("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"),
        *("QUERY", "SOURCE", "PURGE", "LINK", "UNLINK"),
        # WebDAV and its family
        *("COPY", "LOCK", "UNLOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH"),
        *("BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT"),
        *("MERGE", "MKCALENDAR"),
        # UPnP
        *("M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
    )
)
"""The methods that are passed on: llhttp's, but for CONNECT and TRACE."""

LINE_MAX_BYTES: Final = 512
"""Longer lines aren't remembered."""
LINES_MAX_BYTES: Final = 1024 * 1024
"""What all remembered lines may take, by estimate; then the memory is emptied."""
_ENTRY_BYTES = 400
"""What one remembered line takes besides its bytes, which are there twice."""

# The lines of fields with such names are judged each time: what they hold is a secret.
_is_secret = re.compile(
    rb"^st-|auth|cookie|csrf|key|passw|secret|session|token", re.IGNORECASE
).search

_METHOD_MAX_BYTES = 24
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD = rb"%b{1,%d}" % (_TOKEN, _METHOD_MAX_BYTES)
_request_line = re.compile(
    rb"(%b) [^\x00-\x20\x7f]+ (HTTP/[0-9]\.[0-9])" % _METHOD
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
    """TRACE would echo credentials, CONNECT would open a tunnel; others are unknown."""

    side = Side.CLIENT
    stage = Stage.MATCH
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


class Bounds(NamedTuple):
    """How large a head may be, in bytes, and how many fields it may have."""

    target: int
    field: int
    """One field, name and value, as its line holds them."""
    head: int
    """The request line and all fields."""
    fields: int


class RequestHead(NamedTuple):
    """What a sound head says.

    A NamedTuple and not a frozen dataclass: one is made per request.
    """

    method: str
    target: bytes
    version: tuple[int, int]
    """(1, 1) or (1, 0)."""
    fields: Fields
    """All of them, in order, with their bytes as they came."""
    host: bytes | None
    """The value of Host; None: HTTP/1.0 without one."""
    content_length: int | None
    """The declared size of the body; None when it is chunked or there is none."""
    chunked: bool
    keep_alive: bool
    """The connection may be used for another request. Not if the client asks for
    another protocol: it may speak that one next, whatever the answer is."""
    expects_continue: bool
    """The body may not be sent before a 100 (RFC 9110 §10.1.1)."""
    has_upgrade: bool
    has_origin: bool
    has_request_id: bool

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)

    @property
    def http10(self) -> bool:
        return self.version == (1, 0)


_Line = tuple[Field, int, Any]
"""One line of a head: its field, what that means for the request, and what it says."""

# No enumeration: its attributes cost more than all the rest of a line.
_NOTHING, _HOST, _CODING, _LENGTH, _EXPECT, _CONNECTION = range(6)
_UPGRADE, _ORIGIN, _REQUEST_ID = range(6, 9)
_MEANINGS = {
    b"host": _HOST,
    b"transfer-encoding": _CODING,
    b"content-length": _LENGTH,
    b"expect": _EXPECT,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"origin": _ORIGIN,
    b"x-request-id": _REQUEST_ID,
}
# What Connection asks for; all may stand in it.
_CLOSE, _KEEP, _SWITCH = 1, 2, 4

_T = TypeVar("_T")


class _Memory(dict[bytes, _T], Generic[_T]):
    """What *judge* says of a line, remembered by its bytes exactly.

    It holds no more than LINES_MAX_BYTES, and no line that *may_keep* refuses. When it
    is full, it starts again. What *judge* raises isn't remembered.
    """

    def __init__(
        self,
        judge: Callable[[bytes], _T],
        may_keep: Callable[[_T], bool],
    ) -> None:
        super().__init__()
        self._judge = judge
        self._may_keep = may_keep
        self.size = 0
        """An estimate of the bytes that it takes."""

    def __missing__(self, line: bytes) -> _T:
        found = self._judge(line)
        if self._may_keep(found):
            size = 2 * len(line) + _ENTRY_BYTES
            if self.size + size > LINES_MAX_BYTES:
                self.clear()
                self.size = 0
            self.size += size
            self[line] = found
        return found


_VERSIONS = {b"HTTP/1.1": (1, 1), b"HTTP/1.0": (1, 0)}
_METHOD_OF = {name.encode(): name for name in METHODS}
_NEVER_IN_TARGET = bytes(range(0x21)) + b"\x7f"


def _request_parts(line: bytes) -> tuple[str, bytes, tuple[int, int]]:
    """Return method, target and version of a request line, given without its CRLF.

    Raises:
        BadRequest: it isn't of three parts with one space between each two.
        VersionNotSupported: not HTTP/1.0 or 1.1.
        MethodNotImplemented: none of METHODS.
    Source: RFC 9112 §2.3, §3; RFC 9110 §9.1, §9.3.6, §9.3.8, §15.6.2.
    """
    parts = line.split(b" ")
    if len(parts) == 3:
        name, target, protocol = parts
        method = _METHOD_OF.get(name)
        version = _VERSIONS.get(protocol)
        if (
            method is not None
            and version is not None
            and target
            and len(target.translate(None, _NEVER_IN_TARGET)) == len(target)
        ):
            return method, target, version
    found = _request_line(line)
    if found is None:
        raise BadRequest("malformed request line")
    if found[2] not in _VERSIONS:
        raise VersionNotSupported
    raise MethodNotImplemented


def _meaning_of(name: bytes) -> int:
    """Return what a field's name means here; below zero: it's no name."""
    if not is_token(name):
        return -1
    return _MEANINGS.get(name.lower(), _NOTHING)


_meanings = Memo(_meaning_of)


def _judge_line(text: bytes) -> _Line:
    """Return what a line of fields says, given without its CRLF.

    Raises:
        BadRequest: it is no field; a Content-Length that is no plain number; a
            Transfer-Encoding that isn't exactly `chunked`.
        ExpectationFailed: an Expect other than 100-continue.
    Source: RFC 9112 §5, §6.1, §6.3, §9.3; RFC 9110 §8.6, §10.1.1.
    """
    name, colon, value = text.partition(b":")
    meaning = _meanings[name]
    # A folded line has no name; a value has no control byte but HTAB.
    if meaning < 0 or not colon or has_control(value):
        raise BadRequest("a line of the head is no field")
    value = value.strip(b" \t")
    says: Any = None
    if not meaning:
        pass
    elif meaning == _HOST:
        says = value
    elif meaning == _LENGTH:
        # Digits of ASCII; int() would take `+5`, `1_0` and digits of other scripts.
        if not (value.isdigit() and len(value) <= 18):
            raise BadRequest("Content-Length is no plain number")
        says = int(value)
    elif meaning == _CODING:
        if value.lower() != b"chunked":
            raise BadRequest("unsupported Transfer-Encoding")
    elif meaning == _EXPECT:
        if value.lower() != b"100-continue":
            raise ExpectationFailed
    elif meaning == _CONNECTION:
        options = {option.strip(b" \t") for option in value.lower().split(b",")}
        says = (
            _CLOSE * (b"close" in options)
            + _KEEP * (b"keep-alive" in options)
            + _SWITCH * (b"upgrade" in options)
        )
    return (name, value), meaning, says


_secret_names = Memo(lambda name: _is_secret(name) is not None)
_lines = _Memory(_judge_line, lambda line: not _secret_names[line[0][0]])


def read(data: bytes, bounds: Bounds) -> RequestHead:
    """Return what a whole head says, its empty line included.

    Raises:
        TargetTooLong, HeadTooLarge: it is larger than *bounds*.
        VersionNotSupported: not HTTP/1.0 or 1.1.
        MethodNotImplemented: none of METHODS.
        ExpectationFailed: an Expect other than 100-continue.
        BadRequest: a malformed request line; a line that is no field (a folded one, one
            with a control byte, a bare CR or LF in it); no Host, or several; a
            Transfer-Encoding that isn't exactly `chunked`, comes twice, with
            Content-Length or over HTTP/1.0; a Content-Length that is no plain number,
            or comes twice.
    Source: RFC 9112 §2.2, §2.3, §3, §3.2, §5, §6.1, §6.3, §9.3; RFC 9110 §5.5, §10.1.1.
    """
    lines = data.split(b"\r\n")
    first = lines[0]
    if len(first) > bounds.target:
        _check_target_size(first, bounds.target)
    if len(data) > bounds.head:
        raise HeadTooLarge
    method, target, version = _request_parts(first)
    del lines[0], lines[-2:]
    if len(lines) > bounds.fields:
        raise HeadTooLarge("too many fields")
    if (
        len(data) > bounds.field
        and len(max(lines, key=len, default=b"")) > bounds.field
    ):
        raise HeadTooLarge("a field is too long")
    fields: list[Field] = []
    host: bytes | None = None
    length: int | None = None
    connection = 0
    chunked = expect = upgrade = origin = request_id = False
    for text in lines:
        if len(text) <= LINE_MAX_BYTES:
            field, meaning, says = _lines[text]
        else:
            field, meaning, says = _judge_line(text)
        fields.append(field)
        if not meaning:
            continue
        if meaning == _HOST:
            if host is not None:
                raise BadRequest("several Host fields")
            host = says
        elif meaning == _CONNECTION:
            connection |= says
        elif meaning == _LENGTH:
            if length is not None:
                raise BadRequest("several Content-Length fields")
            length = says
        elif meaning == _CODING:
            if chunked:
                raise BadRequest("several Transfer-Encoding fields")
            chunked = True
        elif meaning == _ORIGIN:
            origin = True
        elif meaning == _UPGRADE:
            upgrade = True
        elif meaning == _REQUEST_ID:
            request_id = True
        else:
            expect = True
    http10 = version == (1, 0)
    if host is None and not http10:
        raise BadRequest("no Host field")
    if chunked:
        if length is not None:
            raise BadRequest("Transfer-Encoding with Content-Length")
        if http10:
            raise BadRequest("Transfer-Encoding over HTTP/1.0")
    keep_alive = not (
        connection & _CLOSE
        or (http10 and not connection & _KEEP)
        or (upgrade and connection & _SWITCH)
    )
    # Not by the class's own constructor, which takes twice the time.
    return tuple.__new__(
        RequestHead,
        (
            method,
            target,
            version,
            tuple(fields),
            host,
            length,
            chunked,
            keep_alive,
            expect and not http10,
            upgrade,
            origin,
            request_id,
        ),
    )


def check_begun(data: bytes, known: int, bounds: Bounds) -> None:
    """Refuse at once what can't become a head.

    *data* is all that came of it; the first *known* bytes were checked before.

    Raises:
        TargetTooLong, HeadTooLarge: it is larger than *bounds* already.
        BadRequest: it doesn't begin with a method, or a line ends in a bare CR or LF.
    """
    if known <= _METHOD_MAX_BYTES and not _may_begin(data):
        raise BadRequest("the request doesn't begin with a method")
    # From where a CR may stand whose LF is new. The last byte may be such a CR.
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
