"""PURE. A reply → what the function returns for an event.

REST APIs and load balancers take several values of a field (`multiValueHeaders`), the
others one, and cookies apart. A body is text if it is text in UTF-8, else base64.

Source: the AWS documentation of each event's format; Lambda and Elastic Load Balancing
quotas for the sizes.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from gateway.aws.events import EventKind
from gateway.errors import UpstreamError
from gateway.http.fields import Field, Fields, first

_LAMBDA_MAX_BYTES: Final = 6 * 1024**2
"""What a function may return, in JSON (Lambda quotas: 6 MB)."""
_ALB_MAX_BYTES: Final = 1024**2
"""The same behind a load balancer (Elastic Load Balancing: 1 MB)."""
_HEAD_BYTES: Final = 64 * 1024
"""Kept free for the fields; API Gateway takes 10 KB of them, a load balancer 32 KB."""

_NOT_SENT: Final = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade"}
)
"""AWS frames the body and owns the connection."""
_TEXT: Final = re.compile(
    rb"(?:text/[^;]*|application/(?:json|xml|javascript|[^;]*\+(?:json|xml)))"
    rb"[ \t]*(?:;[ \t]*charset=\"?utf-8\"?[ \t]*)?",
    re.IGNORECASE,
).fullmatch
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class ReplyTooLarge(UpstreamError):
    """AWS wouldn't pass the reply on."""

    code = "reply_too_large"
    title = "The service's reply is too large for AWS Lambda"


class ReplyNotStreamed(UpstreamError):
    """The reply never ends, and a function's reply is whole."""

    code = "reply_not_streamed"
    title = "The service's reply is a stream, which AWS Lambda doesn't pass on"


class EventReply(NamedTuple):
    """A whole reply."""

    status: int
    fields: Fields
    body: bytes


def largest_body(kind: EventKind, *, is_text: bool) -> int:
    """Return how many bytes the body of a reply may have; three of four in base64."""
    room = (
        _ALB_MAX_BYTES if kind is EventKind.ALB else _LAMBDA_MAX_BYTES
    ) - _HEAD_BYTES
    return room if is_text else room // 4 * 3


def is_text(fields: Fields) -> bool:
    """Return whether a body with *fields* is text in UTF-8, according to them."""
    coding = first(fields, b"content-encoding")
    if coding is not None and coding.lower() != b"identity":
        return False
    return _TEXT(first(fields, b"content-type") or b"") is not None


def check_streaming(fields: Fields) -> None:
    """Refuse a reply whose type says that it is read while it is written.

    Raises:
        ReplyNotStreamed: its type is that of server-sent events.
    """
    media_type = (first(fields, b"content-type") or b"").partition(b";")[0]
    if media_type.strip().lower() == b"text/event-stream":
        raise ReplyNotStreamed(
            "text/event-stream: use the AWS Lambda Web Adapter (docs/aws.md)"
        )


def answer_of(kind: EventKind, reply: EventReply) -> dict[str, Any]:
    """Return what the function returns for *reply*.

    Raises:
        ReplyTooLarge: AWS wouldn't take it.
    """
    body, is_base64 = _body(kind, reply)
    fields = [
        (_decoded(name), _decoded(value))
        for name, value in reply.fields
        if name.lower() not in _NOT_SENT
    ]
    answer: dict[str, Any] = {"statusCode": reply.status}
    if kind in (EventKind.HTTP_2, EventKind.URL):
        answer["headers"], answer["cookies"] = _joined(fields)
    else:
        answer["multiValueHeaders"] = _grouped(fields)
    if kind is EventKind.ALB:
        reason = _REASONS.get(reply.status, "")
        answer["statusDescription"] = f"{reply.status} {reason}".strip()
    answer["body"] = body
    answer["isBase64Encoded"] = is_base64
    return answer


def _body(kind: EventKind, reply: EventReply) -> tuple[str, bool]:
    """Return the body as text, and whether that is base64."""
    body = reply.body
    room = largest_body(kind, is_text=True)
    if is_text(reply.fields) and len(body) <= room:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
        else:
            # A byte takes six in JSON at most, as `\u0001`; the quotes don't count.
            if len(body) * 6 <= room or len(json.dumps(text)) - 2 <= room:
                return text, False
    if len(body) > largest_body(kind, is_text=False):
        raise ReplyTooLarge(f"{len(body)} bytes")
    return binascii.b2a_base64(body, newline=False).decode(), True


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _grouped(fields: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """Return the values of each field; the name is spelled as it was first."""
    names: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for name, value in fields:
        spelled = names.setdefault(name.lower(), name)
        values.setdefault(spelled, []).append(value)
    return values


def _joined(fields: Iterable[tuple[str, str]]) -> tuple[Mapping[str, str], list[str]]:
    """Return one value of each field, and the cookies (RFC 9110 §5.3)."""
    grouped = dict(_grouped(fields))
    cookies = [
        value
        for name in [*grouped]
        if name.lower() == "set-cookie"
        for value in grouped.pop(name)
    ]
    return {name: ", ".join(values) for name, values in grouped.items()}, cookies


def size_limit(kind: EventKind, fields: Iterable[Field]) -> int:
    """Return how many bytes a body with *fields* may have, before it is read."""
    return largest_body(kind, is_text=is_text(tuple(fields)))
