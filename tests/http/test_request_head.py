"""Request heads: one reading or a refusal, and never one that differs from llhttp's."""

from __future__ import annotations

import contextlib

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest, BadTarget, GatewayError
from gateway.http import request_head, target
from gateway.http.fields import Field, Fields, block
from gateway.http.lines import LINE_MAX_BYTES, Ruling
from gateway.http.methods import METHODS
from gateway.http.request_head import (
    ExpectationFailed,
    HeadLimits,
    HeadTooLarge,
    MethodNotImplemented,
    RequestHead,
    RequestReader,
    TargetTooLong,
    VersionNotSupported,
    check_begun,
)

BOUNDS = HeadLimits(target=200, field=300, head=1000, fields=10)
HOST: Field = (b"Host", b"gw")
READER = RequestReader(BOUNDS)
"""The reader of most tests, so that lines of one request are known to the next."""


def head(
    *fields: Field, method: str = "POST", version: tuple[int, int] = (1, 1)
) -> bytes:
    start = b"%b / HTTP/%d.%d\r\n" % (method.encode(), *version)
    return start + block(fields) + b"\r\n"


def read(data: bytes) -> RequestHead:
    return READER.read(data)


def check(
    *fields: Field, method: str = "POST", version: tuple[int, int] = (1, 1)
) -> bytes | None:
    return read(head(*fields, method=method, version=version)).host


# --- framing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ((HOST,), (1, 1)),
        ((HOST, (b"content-LENGTH", b"0")), (1, 1)),
        ((HOST, (b"Content-Length", b"5")), (1, 0)),
        ((HOST, (b"Transfer-Encoding", b"Chunked")), (1, 1)),
        ((HOST, (b"Expect", b"100-Continue")), (1, 1)),
        ((HOST, (b"Transfer_Encoding", b"x")), (1, 1)),
    ],
    ids=["bare", "length-0", "http10", "chunked", "expect", "alias-is-no-coding"],
)
def test_sound_requests_give_their_host(
    fields: Fields, version: tuple[int, int]
) -> None:
    """A head with a single meaning is accepted, and its Host is returned."""
    assert check(*fields, version=version) == b"gw"


def test_http10_needs_no_host() -> None:
    """RFC 9112 §3.2: only HTTP/1.1 requires Host; two are refused in both versions."""
    assert check(version=(1, 0)) is None
    assert check(HOST, version=(1, 0)) == b"gw"
    with pytest.raises(BadRequest):
        check(HOST, (b"Host", b"other"), version=(1, 0))


SILENT: dict[str, object] = {
    "host": b"gw",
    "content_length": None,
    "chunked": False,
    "has_body": False,
    "keep_alive": True,
    "expects_continue": False,
    "has_upgrade": False,
    "origins": (),
    "request_ids": (),
    "credential_lines": (),
}
"""The facts of a head without fields that have a meaning."""


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ((b"Accept", b"*/*"), {}),
        ((b"content-LENGTH", b"007"), {"content_length": 7, "has_body": True}),
        ((b"Content-Length", b"0"), {"content_length": 0}),
        ((b"transfer-ENCODING", b"Chunked"), {"chunked": True, "has_body": True}),
        ((b"Expect", b"100-Continue"), {"expects_continue": True}),
        ((b"Connection", b"x, Close"), {"keep_alive": False}),
        ((b"Connection", b"closed, keep-alive"), {}),
        ((b"Upgrade", b""), {"has_upgrade": True}),
        ((b"ORIGIN", b"null"), {"origins": (b"null",)}),
        ((b"Origin", b""), {"origins": (b"",)}),
        ((b"x-Request-ID", b"a"), {"request_ids": (b"a",)}),
        ((b"X_Request_Id", b"a"), {}),
        ((b"Authorization", b"a"), {}),
    ],
    ids=[
        *("nothing", "length", "length-0", "chunked", "expect", "close", "no-close"),
        *("upgrade", "origin", "empty-origin", "id", "alias", "not-asked-for"),
    ],
)
def test_what_a_request_says_is_told_once(
    field: Field, told: dict[str, object]
) -> None:
    """The head reports each fact once, in any spelling; absent ones have defaults."""
    found = read(head(HOST, field, method="GET"))
    assert (found.method, found.target, found.http10) == ("GET", b"/", False)
    assert found.fields == (HOST, field)
    assert [line.forwarded for line in found.lines] == [block((HOST,)), block((field,))]
    assert found.marks == 0
    assert {name: getattr(found, name) for name in SILENT} == SILENT | told


def test_what_is_said_twice_is_told_twice() -> None:
    """Repeated values are all reported in order, so that a caller sees repetition."""
    found = read(
        head(
            HOST,
            (b"Origin", b"b"),
            (b"X-Request-Id", b"2"),
            (b"origin", b"a"),
            (b"x-request-id", b"1"),
            (b"ORIGIN", b"b"),
        )
    )
    assert found.origins == (b"b", b"a", b"b")
    assert found.request_ids == (b"2", b"1")


def test_fields_that_may_hold_credentials_are_shown() -> None:
    """Lines with a requested name are returned in order, with the caller's reading."""
    reader = RequestReader(BOUNDS, credentials={b"cookie": len, b"rid": bytes.upper})
    data = head(HOST, (b"RID", b"x"), (b"X_Rid", b"x"), (b"Cookie", b"abc"))
    found = reader.read(data)
    assert [(line.field, line.parsed) for line in found.credential_lines] == [
        ((b"RID", b"x"), b"X"),
        ((b"Cookie", b"abc"), 3),
    ]
    assert [*found.credential_lines] == [found.lines[1], found.lines[3]]


def test_the_rules_decide_what_goes_on() -> None:
    """Each line is judged once; a head has the marks of all its lines."""
    asked: list[bytes] = []
    marks = {b"Ask": 1, b"Host": 2, b"Change": 4, b"Never": 8}

    def rules(name: bytes, value: bytes, raw: bytes) -> Ruling:
        asked.append(raw)
        kept = {b"Keep": raw, b"Change": b"Changed: yes\r\n"}.get(name, b"")
        return Ruling(name, kept, marks.get(name, 0))

    reader = RequestReader(BOUNDS, rules)
    data = b"GET / HTTP/1.1\r\nKeep:1 \r\nAsk: 2\r\nHost: gw\r\nChange: 4\r\n\r\n"
    for _ in range(2):
        found = reader.read(data)
        kept = [line.forwarded for line in found.lines]
        assert kept == [b"Keep: 1\r\n", b"", b"", b"Changed: yes\r\n"]
        assert [line.rule for line in found.lines] == [
            *(b"Keep", b"Ask", b"Host", b"Change"),
        ]
        assert found.marks == 1 | 2 | 4
        assert (found.host, found.has_upgrade, found.expects_continue) == (
            *(b"gw", False, False),
        )
    assert [line.partition(b":")[0] for line in asked] == [
        *(b"Keep", b"Ask", b"Host", b"Change"),
    ]


LENGTH: Field = (b"Content-Length", b"5")
CHUNKED: Field = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ((), BadRequest),
        ((HOST, HOST), BadRequest),
        ((HOST, (b"hOST", b"other")), BadRequest),
        ((HOST, LENGTH, LENGTH), BadRequest),
        ((HOST, LENGTH, (b"content-length", b"6")), BadRequest),
        ((HOST, (b"Content-Length", b"")), BadRequest),
        ((HOST, (b"Content-Length", b"+5")), BadRequest),
        ((HOST, (b"Content-Length", b"-1")), BadRequest),
        ((HOST, (b"Content-Length", b"0x5")), BadRequest),
        ((HOST, (b"Content-Length", b"5, 5")), BadRequest),
        ((HOST, (b"Content-Length", b"1_0")), BadRequest),
        ((HOST, (b"Content-Length", b"9" * 19)), BadRequest),
        ((HOST, (b"Content-Length", "\u0665".encode())), BadRequest),
        ((HOST, CHUNKED, LENGTH), BadRequest),
        ((HOST, LENGTH, CHUNKED), BadRequest),
        ((HOST, CHUNKED, CHUNKED), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b""), LENGTH), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"xchunked")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"gzip, chunked")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"chunked, identity")), BadRequest),
        ((HOST, (b"Transfer-Encoding", b'"chunked"')), BadRequest),
        ((HOST, (b"Transfer-Encoding", b"\x0bchunked")), BadRequest),
        ((HOST, (b"Expect", b"100-continue, x")), ExpectationFailed),
        ((HOST, (b"Expect", b"")), ExpectationFailed),
        ((HOST, (b"X", b"x" * 1000)), HeadTooLarge),
    ],
)
def test_ambiguous_framing_is_refused(
    fields: Fields, error: type[GatewayError]
) -> None:
    """RFC 9112 §6.3, §11.2: framing that servers read differently is refused."""
    with pytest.raises(error) as refused:
        check(*fields)
    assert refused.value.close, "nothing more may be read from this connection"


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (1, 10), (2, 0), (3, 0)])
def test_other_versions_are_refused(version: tuple[int, int]) -> None:
    """RFC 9112 §2.3: the versions 1.0 and 1.1 only, in one digit each."""
    with pytest.raises(BadRequest if version == (1, 10) else VersionNotSupported):
        check(HOST, version=version)


def test_chunks_need_http11() -> None:
    """RFC 9112 §6.1: chunks need HTTP/1.1, as an older reader can't find the end."""
    with pytest.raises(BadRequest):
        check(HOST, CHUNKED, version=(1, 0))


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_echo_and_tunnel_are_not_offered(method: str) -> None:
    """TRACE returns cookies to scripts, CONNECT reaches any host: both are refused."""
    with pytest.raises(MethodNotImplemented) as refused:
        check(HOST, method=method)
    assert refused.value.close


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ((1, 1), None, True),
        ((1, 1), b"close, keep-alive", False),
        ((1, 0), None, False),
        ((1, 0), b"Keep-Alive", True),
        ((1, 0), b"close, keep-alive", False),
    ],
)
def test_whether_the_connection_stays(
    version: tuple[int, int], connection: bytes | None, *, kept: bool
) -> None:
    """RFC 9112 §9.3: close comes first, then the version, then keep-alive."""
    fields = () if connection is None else ((b"Connection", connection),)
    assert read(head(HOST, *fields, version=version)).keep_alive is kept


def test_a_client_that_may_switch_ends_its_connection() -> None:
    """A request with Upgrade is the last: later bytes may be of another protocol."""
    upgrade = (b"Upgrade", b"h2c")
    assert read(head(HOST, upgrade)).keep_alive
    assert read(head(HOST, (b"Connection", b"Upgrade"))).keep_alive
    assert not read(head(HOST, (b"Connection", b"Upgrade"), upgrade)).keep_alive


def test_http10_expects_no_100() -> None:
    """RFC 9110 §10.1.1: HTTP/1.0 gets no 100, which it would take for the answer."""
    expect = (b"Expect", b"100-continue")
    assert not read(head(HOST, expect, version=(1, 0))).expects_continue


# --- the grammar ----------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"",
            b" ",
            b"GET",
            b"GET /",
            b"GET / ",
            b" GET / HTTP/1.1",
            *(b"GET / HTTP/1.1 ", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1"),
        ),
        *(b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET /a b HTTP/1.1"),
        *(b"GET / http/1.1", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/+1.1"),
        *(b"GET / RTSP/1.0", b"GET / ICE/1.0", b"GET /\x00 HTTP/1.1"),
        *(b"GET /\x7f HTTP/1.1", b"GET /\r HTTP/1.1", b"GET /\n HTTP/1.1"),
        *(b"G[T / HTTP/1.1", b"G\xcbT / HTTP/1.1", b"A" * 25 + b" / HTTP/1.1"),
    ],
)
def test_malformed_request_lines_are_refused(line: bytes) -> None:
    """RFC 9112 §3: exactly three parts, separated by single spaces."""
    with pytest.raises(BadRequest):
        read(line + b"\r\nHost: gw\r\n\r\n")


@pytest.mark.parametrize("method", ["get", "FOO", "PRI", "TRACK", "GETT", "A-B"])
def test_unknown_methods_are_not_implemented(method: str) -> None:
    """RFC 9110 §9.1: methods are case-sensitive; unknown ones get 501."""
    with pytest.raises(MethodNotImplemented):
        check(HOST, method=method)


def test_llhttps_methods_are_known() -> None:
    """llhttp's methods are known, except CONNECT and TRACE."""
    for method in METHODS:
        assert read(head(HOST, method=method)).method == method
        assert llhttp(head(HOST, method=method)).method == method.encode()


@pytest.mark.parametrize(
    "line",
    [
        *(b"A", b":", b": b", b" A: b", b"\tA: b", b"A : b", b"A\t: b", b"A b: c"),
        *(b"A[: b", b"A\x00: b", b"A\xe9: b", b"A: \x00", b"A: b\x0bc", b"A: \x7f"),
        *(b"A: b\rc", b"A: b\nc", b"A: b\r", b"\rA: b", b"\nA: b", b"A\r: b"),
        *(b" ", b" folded", b"\tfolded"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_malformed_fields_are_refused(line: bytes, *, first: bool) -> None:
    """RFC 9112 §5: a token, directly a colon, no control byte, no fold, CRLF only."""
    lines = [line, b"Host: gw"] if first else [b"Host: gw", line]
    with pytest.raises(BadRequest):
        read(b"GET / HTTP/1.1\r\n%b\r\n\r\n" % b"\r\n".join(lines))


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A:", (b"A", b"")),
        (b"A: \t ", (b"A", b"")),
        (b"a:b:c", (b"a", b"b:c")),
        (b"A:\t b \t c\t ", (b"A", b"b \t c")),
        (b"!#$%&'*+-.^_`|~0: \xff\x80", (b"!#$%&'*+-.^_`|~0", b"\xff\x80")),
    ],
)
def test_fields_keep_their_bytes(line: bytes, field: Field) -> None:
    """RFC 9110 §5.5: values keep all bytes, except the blanks around them."""
    found = read(b"GET /\xff HTTP/1.1\r\nHost: gw\r\n%b\r\n\r\n" % line)
    assert found.fields == (HOST, field)
    assert [line.forwarded for line in found.lines] == [block((HOST,)), block((field,))]
    assert found.target == b"/\xff"


# --- sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: gw\r\n\r\n" % (b"a" * 199), None),
        (b"GET /%b HTTP/1.1\r\nHost: gw\r\n\r\n" % (b"a" * 200), TargetTooLong),
        (b"GET /%b HTTP/1.1\r\nHost: gw\r\n\r\n" % (b"a" * 2000), TargetTooLong),
        (head(HOST, (b"A", b"b" * 297)), None),
        (head(HOST, (b"A", b"b" * 298)), HeadTooLarge),
        (head(HOST, (b"A" * 298, b"b")), HeadTooLarge),
        (head(HOST, *[(b"A", b"b")] * 9), None),
        (head(HOST, *[(b"A", b"b")] * 10), HeadTooLarge),
        (head(HOST, *[(b"A", b"b" * 200)] * 5), HeadTooLarge),
    ],
)
def test_sizes_are_bounded(data: bytes, error: type[GatewayError] | None) -> None:
    """Heads are refused above each bound, also when their lines are already known."""
    reader = RequestReader(BOUNDS)
    for _ in range(2):
        if error is None:
            reader.read(data)
        else:
            with pytest.raises(error):
                reader.read(data)


def test_lines_that_are_known_are_still_bounded() -> None:
    """Known lines that fit one by one may still exceed the bounds of a head."""
    reader = RequestReader(BOUNDS)
    field = (b"A", b"b" * 200)
    assert len(reader.read(head(HOST, *[field] * 4)).lines) == 5
    with pytest.raises(HeadTooLarge):
        reader.read(head(HOST, *[field] * 5))
    small = (b"A", b"b")
    assert len(reader.read(head(HOST, *[small] * 9)).lines) == 10
    with pytest.raises(HeadTooLarge):
        reader.read(head(HOST, *[small] * 10))


# --- incomplete heads -------------------------------------------------------------


def begun(data: bytes) -> None:
    """Check the beginnings of *data*, byte by byte and all at once."""
    for size in range(1, len(data) + 1):
        check_begun(data[:size], size - 1, BOUNDS)
    check_begun(data, 0, BOUNDS)


@pytest.mark.parametrize(
    "data",
    [
        b"\r",
        b"GET /%b HTTP/1.1\r" % (b"a" * 199),
        b"GET / HTTP/1.1\r\nHost: gw\r\nA:%b\r" % (b"b" * 298),
    ],
)
def test_a_sound_beginning_is_waited_for(data: bytes) -> None:
    """A valid beginning is waited for, up to the bounds and within line ends."""
    begun(data)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x16\x03\x01", BadRequest),
        (b" GET", BadRequest),
        (b"\n", BadRequest),
        (b"\rG", BadRequest),
        (b"A" * 25, BadRequest),
        (b"GET / HTTP/1.1\n", BadRequest),
        (b"GET / HTTP/1.1\rH", BadRequest),
        (b"GET / HTTP/1.1\r\nA: b\n", BadRequest),
        (b"GET / HTTP/1.1\r\nA: b\rc", BadRequest),
        (b"GET / HTTP/1.1\r\nA: b\r\r", BadRequest),
        (b"GET /%b" % (b"a" * 201), TargetTooLong),
        (b"GET / HTTP/1.1\r\nA:%b" % (b"b" * 300), HeadTooLarge),
        (b"GET / HTTP/1.1" + b"\r\nA: bbbbb" * 100, HeadTooLarge),
    ],
)
def test_a_beginning_of_nothing_is_refused(
    data: bytes, error: type[GatewayError]
) -> None:
    """A malformed beginning is refused at once, as its sender awaits an answer."""
    with pytest.raises(error):
        begun(data)
    with pytest.raises(error):
        check_begun(data, 0, BOUNDS)


# --- what is stored: the rest is in `test_lines` ------------------------------------


def test_lines_are_judged_once() -> None:
    """The second head has the same line objects, except for secrets and long lines."""
    reader = RequestReader(BOUNDS._replace(field=1000))
    data = head(HOST, (b"A", b"b"), (b"Cookie", b"c"), (b"B", b"b" * LINE_MAX_BYTES))
    first, second = (reader.read(data) for _ in range(2))
    assert first.fields == second.fields
    same = [a is b for a, b in zip(first.lines, second.lines, strict=True)]
    assert same == [True, True, False, False]


def test_request_lines_with_a_query_are_not_remembered() -> None:
    """Request lines with a query aren't stored: it may hold a code or a token."""
    reader = RequestReader(BOUNDS)
    reader.read(b"GET /?s3cret HTTP/1.1\r\nHost: gw\r\n\r\n")
    assert [*reader._lines] == [b"Host: gw"]
    assert not [line for line in request_head._request_lines if b"?s3cret" in line]


# --- llhttp ---------------------------------------------------------------------


class Told:
    """One head as llhttp reads it."""

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.version = ""
        self.fields: list[Field] = []
        self.keep_alive = False
        self.whole = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.whole = True
        self.keep_alive = self.parser.should_keep_alive()


def llhttp(data: bytes) -> Told:
    """Return llhttp's reading of a head that it accepts."""
    told = Told()
    parser = told.parser
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser.feed_data(data)
    told.method = parser.get_method()
    told.version = parser.get_http_version()
    return told


_NAMES = st.sampled_from(
    [
        *(b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Connection"),
        *(b"Upgrade", b"Expect", b"Origin", b"A", b"Content_Length", b"X-Request-Id"),
        *(b"Content-Length ", b"Transfer-Encoding\t", b"", b"A B", b" Host"),
    ]
)
_VALUES = st.one_of(
    st.sampled_from(
        b"gw|5|05|+5|5, 5|chunked|CHUNKED|gzip, chunked|chunked, x|close|keep-alive"
        b"|Upgrade|upgrade, close|websocket|h2c|100-continue|\x0b5|5 |\t5".split(b"|")
    ),
    st.binary(max_size=8),
)
_LINES = st.builds(
    lambda name, gap, value: name + b":" + gap + value,
    _NAMES,
    st.sampled_from([b" ", b" ", b"", b"\t", b"  "]),
    _VALUES,
)
_STARTS = st.builds(
    lambda parts, gap: gap.join(parts),
    st.tuples(
        st.sampled_from([b"GET", b"POST", b"HEAD", b"M-SEARCH", b"get", b"GE", b"PRI"]),
        st.one_of(
            st.sampled_from([b"/", b"*", b"/a?b", b"http://gw/", b"gw:80", b"/\xff"]),
            st.binary(max_size=4).map(lambda b: b"/" + b),
        ),
        st.sampled_from(
            [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"RTSP/1.0", b"HTTP/1"]
        ),
    ),
    st.sampled_from([b" ", b" ", b" ", b"  ", b"\t"]),
)
_HEADS = st.builds(
    lambda start, lines, end: end.join([start, b"Host: gw", *lines, b"", b""]),
    _STARTS,
    st.lists(_LINES, max_size=4),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]),
)


@given(_HEADS)
@example(head(HOST, (b"Content-Length", b"5")))
@example(head(HOST, (b"Connection", b"close, keep-alive")))
@settings(max_examples=1000, deadline=None)
def test_llhttp_reads_what_is_accepted_in_the_same_way(data: bytes) -> None:
    """An accepted head has the same meaning in llhttp.

    Compared are method, target, version, fields and whether the connection is kept.
    """
    end = data.find(b"\r\n\r\n") + 4
    data = data[:end]
    if end < 4:
        return
    try:
        ours = read(data)
    except GatewayError:
        return
    try:
        told = llhttp(data)
    except httptools.HttpParserInvalidURLError:
        if not ours.target.isascii():  # `target` decides whether such bytes pass
            return
        with pytest.raises(BadTarget):
            target.parse(ours.target, method=ours.method, authority=ours.host)
        return
    assert told.whole
    assert ours.method.encode() == told.method
    assert ours.target == told.target
    assert ours.http10 == (told.version == "1.0")
    assert told.version in ("1.0", "1.1")
    assert [*ours.fields] == told.fields
    assert b"".join(line.forwarded for line in ours.lines) == block(told.fields)
    if ours.keep_alive:  # llhttp keeps more of them: `close, keep-alive`
        assert told.keep_alive
    lengths = [v for n, v in told.fields if n.lower() == b"content-length"]
    assert ours.content_length == (int(lengths[0]) if lengths else None)
    assert len(lengths) < 2
    assert ours.chunked == any(
        n.lower() == b"transfer-encoding" for n, _ in told.fields
    )
    assert ours.has_body == (ours.chunked or any(map(int, lengths)))
