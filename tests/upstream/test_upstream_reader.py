"""The reply reader: the outcome is the same wherever a reply is cut into segments."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from faults import BAD_REPLIES, CHUNKED_HEAD, OK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import BadReply
from gateway.http.reply_head import ReplyHeadReader
from gateway.upstream.reader import MAX_INTERIM_REPLIES, ReplyReader

HEADS = ReplyHeadReader()


@dataclass
class Outcome:
    """What a reader has parsed from a reply."""

    status: int = 0
    fields: object = ()
    body: bytes = b""
    ended: bool = False
    surplus: bool = False
    refused: bool = False


def begin(*, head_request: bool = False, upgrade: bool = False) -> ReplyReader:
    reader = ReplyReader(HEADS)
    reader.begin(head_request=head_request, upgrade=upgrade)
    return reader


def read(*segments: bytes, head_request: bool = False) -> Outcome:
    reader = begin(head_request=head_request)
    refused = False
    try:
        for segment in segments:
            reader.feed(segment)
            while reader.is_behind:
                reader.feed(b"")
    except BadReply:
        refused = True
    return Outcome(
        status=reader.head.status if reader.head else 0,
        fields=reader.head.fields if reader.head else (),
        body=b"".join(reader.pieces),
        ended=reader.ended,
        surplus=reader.surplus,
        refused=refused,
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return CHUNKED_HEAD + body + b"0\r\n" + trailer + b"\r\n"


places = st.lists(st.integers(0, 2000), max_size=30)
pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
interim = st.sampled_from([b"", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"])


@given(pieces, interim, places)
def test_chunked_bodies(body: list[bytes], first: bytes, where: list[int]) -> None:
    """A chunked body is read whole, with extensions, a trailer or an interim reply."""
    data = first + chunked(body, b"Set-Cookie: trailer=1\r\n")
    outcome = read(*cut(data, where))
    assert outcome == Outcome(
        status=200,
        fields=((b"Transfer-Encoding", b"chunked"),),
        body=b"".join(body),
        ended=True,
    )


@given(st.binary(max_size=200), interim, places)
def test_bodies_with_a_length(body: bytes, first: bytes, where: list[int]) -> None:
    """A body has exactly its Content-Length, whatever its bytes are."""
    size = b"%d" % len(body)
    data = first + b"HTTP/1.1 200 OK\r\nContent-Length: " + size + b"\r\n\r\n" + body
    outcome = read(*cut(data, where))
    assert (outcome.body, outcome.ended, outcome.surplus) == (body, True, False)


@given(st.binary(min_size=1, max_size=50), places)
@example(b"\0", [])
def test_surplus_is_always_detected(more: bytes, where: list[int]) -> None:
    """A single byte after the end is surplus, in the same segment or a later one."""
    outcome = read(*cut(OK + more, where))
    assert (outcome.body, outcome.ended, outcome.surplus) == (b"ok", True, True)


@given(places)
def test_head_replies_end_with_their_head(where: list[int]) -> None:
    """Bytes after the head of a reply to HEAD are surplus, not the announced body."""
    for head in (OK[:-2], CHUNKED_HEAD):
        alone = read(*cut(head, where), head_request=True)
        assert (alone.ended, alone.surplus, alone.body) == (True, False, b"")
        more = read(*cut(head + b"2\r\nok", where), head_request=True)
        assert (more.ended, more.surplus, more.body) == (True, True, b"")


@pytest.mark.parametrize("name", BAD_REPLIES)
@settings(max_examples=20)  # for each of them
@given(where=places)
def test_bad_replies_are_refused_however_they_are_cut(
    name: str, where: list[int]
) -> None:
    """A bad reply is refused, and never ended, wherever it is cut."""
    outcome = read(*cut(BAD_REPLIES[name], where))
    assert outcome.refused
    assert not outcome.ended


@pytest.mark.parametrize("name", [n for n, d in BAD_REPLIES.items() if len(d) < 150])
def test_bad_replies_are_refused_byte_by_byte(name: str) -> None:
    """A bad reply is refused if each byte is a segment."""
    data = BAD_REPLIES[name]
    assert read(*(data[i : i + 1] for i in range(len(data)))).refused


def test_eof_ends_only_what_has_no_other_end() -> None:
    """The end of the connection ends a body without a length, and nothing else."""
    reader = begin()
    assert not reader.eof()
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    assert not reader.eof()
    reader.feed(b"\r\nso far")
    assert not reader.ended
    assert reader.eof()
    reader.begin(head_request=False, upgrade=False)
    reader.feed(OK[:-1])
    assert not reader.eof()


def test_bytes_after_a_101_are_not_parsed() -> None:
    """Bytes after the head of a 101 are kept unparsed, and the reply hasn't ended."""
    head = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    reader = begin(upgrade=True)
    reader.feed(head + b"\0\xffHTTP")
    assert reader.head is not None
    assert (reader.head.status, reader.pieces) == (101, [b"\0\xffHTTP"])
    assert reader.head.fields == ((b"Upgrade", b"x"), (b"Connection", b"upgrade"))
    assert (reader.ended, reader.surplus) == (True, False)


def test_interim_replies_are_dropped_up_to_a_limit() -> None:
    """Interim replies have no body, whatever their fields are; too many are refused."""
    early = b"HTTP/1.1 103 Early\r\nLink: x\r\nContent-Length: 2\r\n\r\n"
    whole = Outcome(200, ((b"Content-Length", b"2"),), b"ok", ended=True)
    assert read(early * MAX_INTERIM_REPLIES + OK) == whole
    assert read(*([early] * MAX_INTERIM_REPLIES), OK) == whole
    assert read(early * (MAX_INTERIM_REPLIES + 1) + OK).refused


def test_one_reader_reads_one_reply_after_another() -> None:
    """`begin` resets the reader: nothing of a reply is left for the next one."""
    reader = ReplyReader(HEADS)
    for _ in range(2):
        for reply in (chunked([b"a"], b"A: b\r\n"), OK, chunked([b"ok"])):
            reader.begin(head_request=False, upgrade=False)
            assert (reader.begun, reader.head, reader.ended) == (False, None, False)
            reader.feed(reply)
            assert (reader.begun, reader.ended, reader.surplus) == (True, True, False)
            assert reader.pieces.pop() in (b"a", b"ok")
            assert reader.pieces == []


def test_the_pieces_of_a_body_are_not_copied() -> None:
    """A segment that is nothing but body is kept as the same object."""
    for head in (b"Content-Length: 300000", b"Transfer-Encoding: chunked", b"A: b"):
        reader = begin()
        reader.feed(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        if head.endswith(b"chunked"):
            reader.feed(b"40000\r\n")
        data = bytes(65536)
        reader.feed(data)
        assert reader.pieces[-1] is data


def test_padded_chunk_sizes_are_accepted() -> None:
    """Spaces after a chunk size are accepted (`test_chunks` has the table)."""
    data = CHUNKED_HEAD + b"2   \r\nok\r\n0   \r\n\r\n"
    outcome = read(data)
    assert (outcome.body, outcome.ended, outcome.surplus) == (b"ok", True, False)


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\n\r\n\r\n"])
def test_chunks_beyond_a_number_are_parsed_later(chunk: bytes) -> None:
    """`feed` parses a bounded part of a read; the end is found in the last part."""
    reader = begin()
    reader.feed(CHUNKED_HEAD + chunk * 2000 + b"0\r\n\r\n")
    feeds = 1
    while reader.is_behind:
        assert not reader.ended
        reader.feed(b"")
        feeds += 1
    assert feeds == 4
    assert b"".join(reader.pieces) == chunk[3:-2] * 2000
    assert (reader.ended, reader.surplus) == (True, False)
