"""What a function returns for a reply."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lambda_events import KINDS

from gateway.aws.answers import (
    EventReply,
    ReplyNotStreamed,
    ReplyTooLarge,
    answer_of,
    check_streaming,
    largest_body,
)
from gateway.aws.events import EventKind

TEXT = (b"Content-Type", b"text/plain; charset=utf-8")
SINGLE = (EventKind.HTTP_2, EventKind.URL)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_cookies(kind: EventKind) -> None:
    """Each kind has its own form; AWS frames the body itself."""
    fields = (
        *(TEXT, (b"Set-Cookie", b"a=1; Expires=Mon, 01 Jan 2035"), (b"Vary", b"A")),
        *((b"set-cookie", b"b=2"), (b"vary", b"B"), (b"X-Odd", b"\xe9")),
        *((b"Content-Length", b"9"), (b"Connection", b"close")),
        (b"Transfer-Encoding", b"chunked"),
    )
    answer = answer_of(kind, EventReply(404, fields, "é".encode()))
    assert answer["statusCode"] == 404
    assert (answer["body"], answer["isBase64Encoded"]) == ("é", False)
    cookies = ["a=1; Expires=Mon, 01 Jan 2035", "b=2"]
    if kind in SINGLE:
        assert answer["cookies"] == cookies
        assert answer["headers"] == {
            "Content-Type": "text/plain; charset=utf-8",
            "Vary": "A, B",
            "X-Odd": "é",
        }
        assert "multiValueHeaders" not in answer
    else:
        assert answer["multiValueHeaders"]["Set-Cookie"] == cookies
        assert answer["multiValueHeaders"]["Vary"] == ["A", "B"]
        assert len(answer["multiValueHeaders"]) == 4
    described = "404 Not Found" if kind is EventKind.ALB else None
    assert answer.get("statusDescription") == described


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary(max_size=200), is_text=st.booleans())
def test_every_body_arrives(kind: EventKind, body: bytes, is_text: bool) -> None:
    """As text or in base64, the client gets the same bytes."""
    fields = (TEXT,) if is_text else ()
    answer = json.loads(json.dumps(answer_of(kind, EventReply(200, fields, body))))
    sent = answer["body"]
    if answer["isBase64Encoded"]:
        assert base64.b64decode(sent) == body
    else:
        assert sent.encode() == body


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_bodies(kind: EventKind) -> None:
    """What is returned fits into what AWS takes, however it is escaped."""
    limit = (1 if kind is EventKind.ALB else 6) * 1024**2
    for is_text, byte in ((True, b"x"), (False, b"x"), (True, b"\x01"), (True, b'"')):
        fields = (TEXT,) if is_text else ()
        for size in (
            largest_body(kind, is_text=is_text and byte == b"x"),
            limit // 3,
            limit // 2,
        ):
            reply = EventReply(200, fields, byte * size)
            assert len(json.dumps(answer_of(kind, reply))) <= limit
        with pytest.raises(ReplyTooLarge):
            answer_of(kind, EventReply(200, fields, byte * limit))


@pytest.mark.parametrize(
    "media_type", [b"text/event-stream", b"Text/Event-Stream ; charset=utf-8"]
)
def test_a_stream_is_known_by_its_type(media_type: bytes) -> None:
    """Before its body is read, which may never end."""
    with pytest.raises(ReplyNotStreamed):
        check_streaming(((b"content-type", media_type),))
    check_streaming((TEXT,))
