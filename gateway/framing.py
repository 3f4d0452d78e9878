"""PURE. Requests that two readers could take for different ones are refused here.

aiohttp's parser refuses most of them; what it lets through is listed with each
check. All of it happens before a route is matched or a session is read.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.errors import BadRequest, GatewayError, Side, Stage
from gateway.fields import Fields, Memo

# What a name means here; 0: nothing. (No enumeration: its attributes cost more than
# all the rest of a field.)
_HOST, _CODING, _LENGTH, _EXPECT, _UPGRADE, _ORIGIN, _REQUEST_ID = range(1, 8)
_MEANINGS = {
    b"host": _HOST,
    b"transfer-encoding": _CODING,
    b"content-length": _LENGTH,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
    b"origin": _ORIGIN,
    b"x-request-id": _REQUEST_ID,
}
_meaning = Memo(lambda name: _MEANINGS.get(name.lower(), 0))


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
    """TRACE would echo credentials, CONNECT would open a tunnel: neither is done."""

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


class Sound(NamedTuple):
    """What the fields of a sound request say of it, and which of them there are.

    A NamedTuple and not a frozen dataclass: one is made per request.
    """

    host: bytes | None
    """The value of Host; None: HTTP/1.0 without one."""
    content_length: int | None
    """The declared size of the body; None when it is chunked or there is none."""
    has_upgrade: bool
    has_origin: bool
    has_request_id: bool


def check(
    method: str, version: tuple[int, int], fields: Fields, *, max_head_size: int
) -> Sound:
    """Return what a sound request says of itself.

    Raises:
        VersionNotSupported: not HTTP/1.0 or 1.1 (aiohttp takes 0.9 and 2.0).
        MethodNotImplemented: CONNECT or TRACE (aiohttp passes them on).
        HeadTooLarge: all fields together exceed *max_head_size* bytes.
        BadRequest: no Host or several; a Transfer-Encoding that is empty, isn't
            exactly `chunked`, comes twice, with Content-Length or over HTTP/1.0;
            a Content-Length that is no plain number, or comes twice.
        ExpectationFailed: an Expect other than 100-continue.
    Source: RFC 9112 §2.3, §3.2, §6.1, §6.3; RFC 9110 §9.3.6, §9.3.8, §10.1.1.
    """
    if version not in ((1, 1), (1, 0)):
        raise VersionNotSupported
    if method in ("CONNECT", "TRACE"):
        raise MethodNotImplemented
    host: bytes | None = None
    coding: bytes | None = None
    length: bytes | None = None
    upgrade = origin = request_id = False
    head_size = 4 * len(fields)
    for name, value in fields:
        head_size += len(name) + len(value)
        meaning = _meaning[name]
        if not meaning:
            continue
        if meaning == _HOST:
            if host is not None:
                raise BadRequest("several Host fields")
            host = value
        elif meaning == _CODING:
            if coding is not None:
                raise BadRequest("several Transfer-Encoding fields")
            coding = value
        elif meaning == _LENGTH:
            if length is not None:
                raise BadRequest("several Content-Length fields")
            length = value
        elif meaning == _UPGRADE:
            upgrade = True
        elif meaning == _ORIGIN:
            origin = True
        elif meaning == _REQUEST_ID:
            request_id = True
        elif value.lower() != b"100-continue":
            raise ExpectationFailed
    if head_size > max_head_size:
        raise HeadTooLarge
    if host is None and version == (1, 1):
        raise BadRequest("no Host field")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise BadRequest("unsupported Transfer-Encoding")
        if length is not None:
            raise BadRequest("Transfer-Encoding with Content-Length")
        if version == (1, 0):
            raise BadRequest("Transfer-Encoding over HTTP/1.0")
    size = None
    if length is not None:
        if not (length.isdigit() and len(length) <= 18):
            raise BadRequest("Content-Length is no plain number")
        size = int(length)
    # Not by the class's own constructor, which takes twice the time.
    return tuple.__new__(Sound, (host, size, upgrade, origin, request_id))
