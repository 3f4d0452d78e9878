"""Chunked bodies: one end or a refusal, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import chunks
from gateway.chunks import ChunkDecoder
from gateway.errors import BadRequest

HEAD = b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"


def decoded(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """Return the body, whether it has ended, and what came behind it."""
    decoder = ChunkDecoder()
    body = b"".join(part for piece in pieces for part in decoder.feed(piece))
    return body, decoder.ended, decoder.rest


@pytest.mark.parametrize(
    ("data", "body", "rest"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\nGET", b"hello", b"GET"),
        (b"0005\r\nhello\r\n00\r\n\r\n\r\n", b"hello", b"\r\n"),
        (b"a\r\n0123456789\r\nA\r\n0\r\n\r\n56789\r\n0\r\n\r\n", None, b""),
        (b'1;a;b=c;d="e\\"; \t"\r\nx\r\n0;z\r\n\r\n', b"x", b""),
        (b"0\r\nA: b\r\nHost: evil\r\n\r\nrest", b"", b"rest"),
        (b"%016x\r\nx\r\n0\r\n\r\n" % 1, b"x", b""),
    ],
)
def test_sound_chunks(data: bytes, body: bytes | None, rest: bytes) -> None:
    """Extensions and trailers are dropped, and nothing behind the end is read."""
    if body is None:
        body = b"01234567890\r\n\r\n56789"
    assert decoded(data) == (body, True, rest)
    assert decoded(*(data[i : i + 1] for i in range(len(data)))) == (body, True, rest)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\r\n", b"x\r\n", b"0x5\r\n", b"+5\r\n", b"-5\r\n", b" 5\r\n", b"5 \r\n"),
        *(b"5_0\r\n", b"5\t\r\n", b"\xd9\xa5\r\n", b"%017x\r\n" % 5, b"5,5\r\n"),
        *(b"5\n", b"5\rh", b"5\r\r\n", b"\n", b"\r\r", b"5;a\n"),
        *(b"5;\r\n", b"5;a=\r\n", b"5;=b\r\n", b"5;a[\r\n", b"5; a\r\n", b"5;a =b\r\n"),
        *(b'5;a="\r\n', b'5;a="b\r\n', b'5;a="b"c\r\n', b'5;a="\x01"\r\n', b"5;;a\r\n"),
        *(b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na\rb", b"1\r\na0\r\n"),
        *(b"0\r\nA\r\n", b"0\r\n A: b\r\n", b"0\r\nA : b\r\n", b"0\r\nA: \x00\r\n"),
        *(b"0\r\nA: b\n", b"0\r\nA: b\rc", b"0\n", b"0\r\n\n", b"0\r\n\ra"),
        b"0\r\nContent-Length: 5\r\n",
        b"0\r\ntransfer-encoding: chunked\r\n",
        b"5;%b" % (b"a" * chunks.LINE_MAX_BYTES),
        b"5;%b\r\n" % (b"a" * chunks.LINE_MAX_BYTES),
        b"0\r\n" + b"A: b\r\n" * (chunks.TRAILERS_MAX + 1),
        b"0\r\nA: %b" % (b"b" * chunks.TRAILERS_MAX_BYTES),
        b"0\r\n" + (b"A: %b\r\n" % (b"b" * 6000)) * 3,
    ],
)
def test_broken_chunks(data: bytes) -> None:
    """Each is refused at once, and however it is cut."""
    with pytest.raises(BadRequest):
        decoded(data)
    with pytest.raises(BadRequest):
        decoded(*(data[i : i + 1] for i in range(len(data))))


@pytest.mark.parametrize(
    "data", [b"", b"5", b"5\r", b"5\r\n", b"5\r\nhello\r", b"0\r\n", b"0\r\n\r"]
)
def test_what_isnt_whole_is_waited_for(data: bytes) -> None:
    """The end is the empty line, and nothing else."""
    assert not decoded(data)[1]


def test_a_large_size_reserves_nothing() -> None:
    """Sixteen digits are the most; what comes is passed on as it comes."""
    assert decoded(b"F" * 16 + b"\r\nabc", b"def") == (b"abcdef", False, b"")


# --- properties -------------------------------------------------------------------

_TEXTS = st.sampled_from(
    [
        *(b"1\r\na\r\n", b"3\r\nabc\r\n", b"03\r\n\r\n0\r\n", b"0\r\n", b"\r\n", b"0"),
        *(b";a=b", b";a", b';a="b"', b"A: b\r\n", b"Content-Length: 5\r\n", b"1", b"F"),
        *(b"\n", b"\r", b" ", b";", b"x", b"-", b"+", b'"', b"\x00", b"\xff"),
    ]
)
_BODIES = st.builds(
    lambda texts, end: b"".join(texts) + end,
    st.lists(_TEXTS, max_size=8),
    st.sampled_from([b"", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n"]),
)


@given(_BODIES, st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=1000, deadline=None)
def test_cuts_make_no_difference(data: bytes, cuts: list[int]) -> None:
    """The same body, end and rest, or the same refusal."""
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places) if a <= b]
    try:
        whole = decoded(data)
    except BadRequest:
        with pytest.raises(BadRequest):
            decoded(*pieces)
    else:
        assert decoded(*pieces) == whole


class Told:
    """What llhttp tells of a body."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    def on_body(self, data: bytes) -> None:
        if not self.ended:
            self.body += data

    def on_message_complete(self) -> None:
        self.ended = True


@given(_BODIES)
@settings(max_examples=1000, deadline=None)
def test_llhttp_reads_what_is_accepted_in_the_same_way(data: bytes) -> None:
    """The same bytes of body, and the same end."""
    try:
        body, ended, rest = decoded(data)
    except BadRequest:
        return
    if not ended:  # what was accepted may still become something that isn't
        return
    told = Told()
    parser = httptools.HttpRequestParser(told)
    parser.feed_data(HEAD)
    parser.feed_data(data[: len(data) - len(rest)])
    assert told.ended
    assert body == told.body
