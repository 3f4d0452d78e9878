"""Chunked bodies: one end or a refusal, wherever the bytes are split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadReply, BadRequest
from gateway.http import chunks
from gateway.http.chunks import ChunkDecoder

REQUEST = b"POST / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Decoded = tuple[bytes, bool, bytes]


def decoded(*pieces: bytes, blanks: bool = False) -> Decoded:
    """Return the body, whether it has ended, and the bytes after it."""
    decoder = ChunkDecoder(BadReply if blanks else BadRequest, blanks=blanks)
    body = b"".join(part for piece in pieces for part in all_of(decoder, piece))
    return body, decoder.ended, decoder.rest


def all_of(decoder: ChunkDecoder, piece: bytes) -> Iterator[bytes]:
    """Feed *piece*, and go on until nothing is unread."""
    yield from decoder.feed(piece)
    while decoder.unread:
        yield from decoder.feed(b"")


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


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
    """Extensions and trailers are dropped, and no byte after the end is read."""
    if body is None:
        body = b"01234567890\r\n\r\n56789"
    assert decoded(data) == (body, True, rest)
    assert decoded(*bytewise(data)) == (body, True, rest)


@pytest.mark.parametrize("line", [b"5 ", b"5   ", b"5\t", b"5 ;a", b"5;a "])
@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0  \r\n\r\n", b"0 ; a\r\n\r\n"])
def test_blanks_of_services(line: bytes, end: bytes) -> None:
    """Blanks that services add to chunk sizes are accepted; clients' are not."""
    data = line + b"\r\nhello\r\n" + end
    for pieces in ([data], bytewise(data)):
        assert decoded(*pieces, blanks=True) == (b"hello", True, b"")
        with pytest.raises(BadRequest):
            decoded(*pieces)


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
    """A malformed body is refused at once, wherever its bytes are split."""
    with pytest.raises(BadRequest):
        decoded(data)
    with pytest.raises(BadRequest):
        decoded(*bytewise(data))


@pytest.mark.parametrize(
    "line",
    [
        *(b" 5", b"\t5", b"5 0", b"5\t0", b" ", b"", b"0x5", b"+5", b"5_0", b"5 x"),
        *(
            b"5\x0b",
            b"5\xa0",
            b"5;",
            b"5; ",
            b"5;a=",
            b"5;a b",
            b"5;a[",
            b"5\r",
            b"5\n",
        ),
        b"5;a" + b" " * chunks.LINE_MAX_BYTES,
    ],
)
def test_blanks_change_nothing_else(line: bytes) -> None:
    """No blank is accepted before or within a size, as parsers differ on it."""
    with pytest.raises(BadReply):
        decoded(line + b"\r\nhello\r\n", blanks=True)


@pytest.mark.parametrize(
    "data", [b"", b"5", b"5\r", b"5\r\n", b"5\r\nhello\r", b"0\r\n", b"0\r\n\r"]
)
def test_what_isnt_whole_is_waited_for(data: bytes) -> None:
    """An incomplete body isn't ended: only the empty line ends it."""
    assert not decoded(data)[1]


def test_a_large_size_reserves_nothing() -> None:
    """A size has 16 digits at most; the body is passed on as it arrives, unbuffered."""
    assert decoded(b"F" * 16 + b"\r\nabc", b"def") == (b"abcdef", False, b"")


def test_extensions_are_bounded_by_the_body() -> None:
    """Extensions may take 4,000 bytes per body, or as many as their chunks' data."""
    long = b"1;%b\r\nx\r\n" % (b"a" * (chunks.LINE_MAX_BYTES - 2))
    decoder = ChunkDecoder(BadReply)
    for _ in range(chunks.EXTENSIONS_MAX_BYTES // chunks.LINE_MAX_BYTES):
        decoder.feed(long)
    with pytest.raises(BadReply):
        decoder.feed(long)
    signed = b"%x;chunk-signature=%064x\r\n%b\r\n" % (100, 7, b"x" * 100)
    decoder = ChunkDecoder(BadReply)
    for _ in range(chunks.EXTENSIONS_MAX_BYTES // 50):
        decoder.feed(signed)


@pytest.mark.parametrize(
    "data",
    [
        b"fff;%b\r\n%b\r\n0\r\n\r\n"
        % (b"a" * (chunks.LINE_MAX_BYTES - len(b"fff;")), b"x" * 0xFFF),
        b"0\r\nA: %b\r\n\r\n" % (b"b" * (chunks.TRAILERS_MAX_BYTES - len(b"A: "))),
    ],
    ids=["size", "trailer"],
)
def test_a_line_at_its_limit(data: bytes) -> None:
    """The longest line is accepted wherever its bytes are split, CR and LF too."""
    assert decoded(data)[1]
    assert decoded(*bytewise(data))[1]


def test_what_is_no_body_is_bounded() -> None:
    """A size line and the trailers are bounded."""
    barren = b"0;%b\r\n" % (b"a" * (chunks.LINE_MAX_BYTES - 2))
    trailer = b"A: %b\r\n" % (b"b" * (chunks.TRAILERS_MAX_BYTES // 100 - 3))
    decoder = ChunkDecoder(BadReply)
    assert decoder.feed(barren + trailer * 100) == []
    assert len(barren + trailer * 100) < 21 * 1024
    with pytest.raises(BadReply):
        decoder.feed(b"A: b\r\n")


def test_a_read_within_a_chunk_is_not_copied() -> None:
    """A read within one chunk, the usual case of large bodies, isn't copied."""
    decoder = ChunkDecoder(BadReply)
    decoder.feed(b"30000\r\n")
    for _ in range(3):
        data = bytes(65536)
        (piece,) = decoder.feed(data)
        assert piece is data
    assert decoder.feed(b"\r\n0\r\n\r\n") == []
    assert decoder.ended


@pytest.mark.parametrize("payload", [b"x", b"\r\n", b"y" * 100])
def test_one_call_decodes_a_bounded_number(payload: bytes) -> None:
    """The rest waits for further calls; nothing is lost, and nothing is read twice."""
    chunk = b"%x\r\n%b\r\n" % (len(payload), payload)
    data = chunk * 1500 + b"0\r\n\r\nGET"
    decoder = ChunkDecoder(BadRequest)
    counts = [len(b"".join(decoder.feed(data)))]
    while decoder.unread:
        assert not decoder.ended
        counts.append(len(b"".join(decoder.feed(b""))))
    assert sum(counts) == 1500 * len(payload)
    assert max(counts) <= chunks.CHUNKS_PER_FEED * len(payload)
    assert len(counts) == 3
    assert (decoder.ended, decoder.rest) == (True, b"GET")


def test_bytes_that_arrive_while_some_are_unread_follow_them() -> None:
    """A read that was on its way changes no order."""
    decoder = ChunkDecoder(BadRequest)
    body = b"".join(decoder.feed(b"1\r\na\r\n" * 1500))
    assert decoder.unread
    body += b"".join(all_of(decoder, b"1\r\nb\r\n0\r\n\r\n"))
    assert body == b"a" * 1500 + b"b"
    assert decoder.ended


def test_many_small_chunks_are_one_piece() -> None:
    """Bytes objects of one byte would take 40 times the memory of the body."""
    (piece,) = ChunkDecoder(BadRequest).feed(b"2\r\n\r\n\r\n" * 500)
    assert piece == b"\r\n" * 500


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
    """Wherever the bytes are split, the result or the refusal is the same."""
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places) if a <= b]
    try:
        whole = decoded(data)
    except BadRequest:
        with pytest.raises(BadRequest):
            decoded(*pieces)
    else:
        assert decoded(*pieces) == whole


_RUNS = st.builds(
    lambda parts, odd, at, end: b"".join((*parts[:at], odd, *parts[at:], end)),
    st.lists(
        st.builds(
            lambda text, times: (b"%x\r\n%b\r\n" % (len(text), text)) * times,
            st.sampled_from(
                [b"x", b"\r\n", b"ab", b"\r", b"0\r\n\r\n", b"1\r\na\r\n", b"z" * 99]
            ),
            st.sampled_from([1, 2, 15, 16, 17, 40]),
        ),
        max_size=6,
    ),
    st.one_of(st.just(b""), _TEXTS, st.sampled_from([b"7;a=b\r\nseventh\r\n"])),
    st.integers(0, 6),
    st.sampled_from([b"", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n"]),
)


@given(_RUNS, st.lists(st.integers(0, 2000), max_size=4))
@settings(max_examples=300, deadline=None)
def test_runs_of_small_chunks_are_read_like_single_ones(
    data: bytes, cuts: list[int]
) -> None:
    """Byte by byte, each chunk is decoded by itself; the result is the same."""
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places) if a <= b]
    try:
        single = decoded(*bytewise(data))
    except BadRequest:
        with pytest.raises(BadRequest):
            decoded(*pieces)
    else:
        assert decoded(*pieces) == single


@given(_BODIES)
@settings(max_examples=1000, deadline=None)
def test_blanks_are_all_the_difference(data: bytes) -> None:
    """What a client may send has the same meaning from a service."""
    try:
        strict = decoded(data)
    except BadRequest:
        return
    assert decoded(data, blanks=True) == strict


# --- llhttp -----------------------------------------------------------------------


class Told:
    """The body as llhttp reads it."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    def on_body(self, data: bytes) -> None:
        if not self.ended:
            self.body += data

    def on_message_complete(self) -> None:
        self.ended = True


def llhttp(data: bytes, head: bytes) -> tuple[bytes, bool]:
    """Return the body, and whether it has ended.

    Raises:
        HttpParserError: it is refused, before its end.
    """
    told = Told()
    kind = (
        httptools.HttpRequestParser if head is REQUEST else httptools.HttpResponseParser
    )
    parser = kind(told)
    parser.feed_data(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        if not told.ended:
            raise
    return told.body, told.ended


@given(_BODIES, st.sampled_from([REQUEST, REPLY]))
@settings(max_examples=1000, deadline=None)
def test_llhttp_reads_what_is_accepted_in_the_same_way(
    data: bytes, head: bytes
) -> None:
    """An accepted body has the same bytes and the same end in llhttp."""
    try:
        body, ended, rest = decoded(data)
    except BadRequest:
        return
    if ended:  # otherwise it may still become malformed
        assert llhttp(data[: len(data) - len(rest)], head) == (body, True)


END = b"\r\nhello\r\n0\r\n\r\n"
PADDED = "services do it: fasthttp #372, h11 #133, akka-http #1812"
BLANKS = "RFC 9112 §7.1.1 has blanks there, and recipients must read them"
NO_EXTENSION = "no extension of RFC 9112 §7.1.1, and nobody is known to send it"
LIMIT = "a limit"


@pytest.mark.parametrize(
    ("data", "llhttp_takes", "we_take", "why"),
    [
        (b"5" + END, True, True, ""),
        (b"%016x" % 5 + END, True, True, ""),
        (b'5;a="b c";d=e;f' + END, True, True, ""),
        (b"5\r\nhello\r\n0;a\r\nA: b\r\n\r\n", True, True, ""),
        # Refused by llhttp, accepted now.
        (b"5 " + END, False, True, PADDED),
        (b"5\t  " + END, False, True, PADDED),
        (b"5 ;a" + END, False, True, BLANKS),
        (b"5; a" + END, False, True, BLANKS),
        (b"5;a = b" + END, False, True, BLANKS),
        (b'5;a="b" ;c' + END, False, True, BLANKS),
        # Accepted by llhttp, refused now.
        (b"5;a=" + END, True, False, NO_EXTENSION),
        (b"5;=b" + END, True, False, NO_EXTENSION),
        (b"5;;a" + END, True, False, NO_EXTENSION),
        (b'5;a="\xe9"' + END, True, False, "obs-text, which nobody is known to send"),
        (b"%017x" % 5 + END, True, False, LIMIT),
        (b"5;%b" % (b"a" * chunks.LINE_MAX_BYTES) + END, True, False, LIMIT),
        (b"0\r\n%b\r\n" % (b"A: b\r\n" * 101), True, False, LIMIT),
        (b"0\r\nA: %b\r\n\r\n" % (b"b" * 16384), True, False, LIMIT),
        (b"0\r\nTransfer-Encoding: x\r\n\r\n", True, False, "a trailer that frames"),
        # Refused by both.
        *(
            (size + END, False, False, "")
            for size in (
                b" 5",
                b"5 0",
                b"0x5",
                b"+5",
                b"5;",
                b"5;a[",
                b'5;a="b',
                b"5\r",
            )
        ),
        (b"5\nhello\r\n0\r\n\r\n", False, False, "a bare LF"),
        (b"5\r\nhello\n0\r\n\r\n", False, False, "a bare LF"),
        (b"5\r\nhello\r\n0\n\n", False, False, "a bare LF"),
        (b"0\r\nA: b\n\r\n", False, False, "a bare LF"),
        (b"0\r\nA : b\r\n\r\n", False, False, "no field"),
        (b"0\r\nA: b\r\n c\r\n\r\n", False, False, "a fold"),
        (b"0\r\nContent-Length: 5\r\n\r\n", False, False, "a trailer that frames"),
    ],
)
def test_chunked_replies_beside_llhttp(
    data: bytes, *, llhttp_takes: bool, we_take: bool, why: str
) -> None:
    """The differences from llhttp (strict, as httptools 0.9 builds it) are these."""
    assert (llhttp_takes != we_take) <= bool(why)
    for takes, error, read in (
        (llhttp_takes, httptools.HttpParserError, lambda: llhttp(data, REPLY)),
        (we_take, BadReply, lambda: decoded(data, blanks=True)),
    ):
        if takes:
            body, ended, *_ = read()
            assert ended
            assert body == (b"hello" if b"hello" in data else b"")
        else:
            with pytest.raises(error):
                read()
