"""Heads: one reading or a refusal, and never another reading than llhttp's."""

from __future__ import annotations

import contextlib
from typing import Any

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import heads, target
from gateway.errors import BadRequest, BadTarget, GatewayError
from gateway.fields import Field, Fields
from gateway.heads import Bounds, HeadTooLarge, RequestHead, TargetTooLong

BOUNDS = Bounds(target=200, field=300, head=1000, fields=10)
HOST: Field = (b"Host", b"gw")


def head(
    *fields: Field, method: str = "POST", version: tuple[int, int] = (1, 1)
) -> bytes:
    start = b"%b / HTTP/%d.%d\r\n" % (method.encode(), *version)
    return start + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


def read(data: bytes) -> RequestHead:
    return heads.read(data, BOUNDS)


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
    """What means one thing only passes."""
    assert check(*fields, version=version) == b"gw"


def test_http10_needs_no_host() -> None:
    """RFC 9112 §3.2 demands Host of HTTP/1.1 only; two are too many for both."""
    assert check(version=(1, 0)) is None
    assert check(HOST, version=(1, 0)) == b"gw"
    with pytest.raises(BadRequest):
        check(HOST, (b"Host", b"other"), version=(1, 0))


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ((b"Accept", b"*/*"), {}),
        ((b"content-LENGTH", b"007"), {"content_length": 7}),
        ((b"transfer-ENCODING", b"Chunked"), {"chunked": True}),
        ((b"Expect", b"100-Continue"), {"expects_continue": True}),
        ((b"Connection", b"x, Close"), {"keep_alive": False}),
        ((b"Connection", b"closed, keep-alive"), {}),
        ((b"Upgrade", b""), {"has_upgrade": True}),
        ((b"ORIGIN", b"null"), {"has_origin": True}),
        ((b"x-Request-ID", b"a"), {"has_request_id": True}),
        ((b"X_Request_Id", b"a"), {}),
    ],
    ids=[
        *("nothing", "length", "chunked", "expect", "close", "no-close", "upgrade"),
        *("origin", "id", "alias"),
    ],
)
def test_what_a_request_says_is_told_once(
    field: Field, told: dict[str, object]
) -> None:
    """However a name is written; what isn't told is taken for absent later on."""
    silent = {
        "host": b"gw",
        "content_length": None,
        "chunked": False,
        "keep_alive": True,
        "expects_continue": False,
        "has_upgrade": False,
        "has_origin": False,
        "has_request_id": False,
    }
    found = read(head(HOST, field, method="GET"))._asdict()
    start = {
        "method": "GET",
        "target": b"/",
        "version": (1, 1),
        "fields": (HOST, field),
    }
    assert found == start | silent | told


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
        ((HOST, (b"Expect", b"100-continue, x")), heads.ExpectationFailed),
        ((HOST, (b"Expect", b"")), heads.ExpectationFailed),
        ((HOST, (b"X", b"x" * 1000)), HeadTooLarge),
    ],
)
def test_ambiguous_framing_is_refused(
    fields: Fields, error: type[GatewayError]
) -> None:
    """Each of these is read differently by some server (RFC 9112 §6.3, §11.2)."""
    with pytest.raises(error) as refused:
        check(*fields)
    assert refused.value.close, "nothing more may be read from this connection"


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (1, 10), (2, 0), (3, 0)])
def test_other_versions_are_refused(version: tuple[int, int]) -> None:
    """One digit each, and no others than 1.0 and 1.1 (RFC 9112 §2.3)."""
    with pytest.raises(BadRequest if version == (1, 10) else heads.VersionNotSupported):
        check(HOST, version=version)


def test_chunks_need_http11() -> None:
    """An HTTP/1.0 reader wouldn't see where the body ends (RFC 9112 §6.1)."""
    with pytest.raises(BadRequest):
        check(HOST, CHUNKED, version=(1, 0))


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_echo_and_tunnel_are_not_offered(method: str) -> None:
    """TRACE gives cookies back to scripts; CONNECT reaches any host."""
    with pytest.raises(heads.MethodNotImplemented) as refused:
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
    """RFC 9112 §9.3: close counts, then the version, then keep-alive."""
    fields = () if connection is None else ((b"Connection", connection),)
    assert read(head(HOST, *fields, version=version)).keep_alive is kept


def test_a_client_that_may_switch_ends_its_connection() -> None:
    """Whatever the answer is, its next bytes may be another protocol's."""
    upgrade = (b"Upgrade", b"h2c")
    assert read(head(HOST, upgrade)).keep_alive
    assert read(head(HOST, (b"Connection", b"Upgrade"))).keep_alive
    assert not read(head(HOST, (b"Connection", b"Upgrade"), upgrade)).keep_alive


def test_http10_expects_no_100() -> None:
    """RFC 9110 §10.1.1: an HTTP/1.0 client would take it for the answer."""
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
    """RFC 9112 §3: three parts, one space between each two, and nothing else."""
    with pytest.raises(BadRequest):
        read(line + b"\r\nHost: gw\r\n\r\n")


@pytest.mark.parametrize("method", ["get", "FOO", "PRI", "TRACK", "GETT", "A-B"])
def test_unknown_methods_are_not_implemented(method: str) -> None:
    """RFC 9110 §9.1: methods have case, and 501 is for those that aren't known."""
    with pytest.raises(heads.MethodNotImplemented):
        check(HOST, method=method)


def test_llhttps_methods_are_known() -> None:
    """But for CONNECT and TRACE."""
    for method in heads.METHODS:
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
    """RFC 9112 §5: a token, a colon at once, no control byte, no fold, CRLF only."""
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
    """All but the blanks round a value, which are none of it (RFC 9110 §5.5)."""
    found = read(b"GET /\xff HTTP/1.1\r\nHost: gw\r\n%b\r\n\r\n" % line)
    assert found.fields == (HOST, field)
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
    """At the bound, and over it; the second time as well, when lines are known."""
    for _ in range(2):
        if error is None:
            read(data)
        else:
            with pytest.raises(error):
                read(data)


def test_a_line_that_is_known_is_still_bounded() -> None:
    """Two listeners may have other bounds."""
    data = head(HOST, (b"A", b"b" * 100))
    read(data)
    with pytest.raises(HeadTooLarge):
        heads.read(data, BOUNDS._replace(field=50))
    with pytest.raises(HeadTooLarge):
        heads.read(data, BOUNDS._replace(head=50))
    with pytest.raises(TargetTooLong):
        heads.read(data.replace(b"/", b"/abc", 1), BOUNDS._replace(target=3))


# --- what hasn't all come ---------------------------------------------------------


def begun(data: bytes) -> None:
    """Have the beginnings of *data* looked at, byte by byte and all at once."""
    for size in range(1, len(data) + 1):
        heads.check_begun(data[:size], size - 1, BOUNDS)
    heads.check_begun(data, 0, BOUNDS)


@pytest.mark.parametrize(
    "data",
    [
        b"\r",
        b"GET /%b HTTP/1.1\r" % (b"a" * 199),
        b"GET / HTTP/1.1\r\nHost: gw\r\nA:%b\r" % (b"b" * 298),
    ],
)
def test_a_sound_beginning_is_waited_for(data: bytes) -> None:
    """Up to the bounds, and with a line end that may still become one."""
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
    """At once: whoever sends it would wait for an answer."""
    with pytest.raises(error):
        begun(data)
    with pytest.raises(error):
        heads.check_begun(data, 0, BOUNDS)


# --- what is remembered ---------------------------------------------------------


@pytest.fixture
def memory() -> Any:
    """The lines that are remembered: none at first."""
    heads._lines.clear()
    heads._lines.size = 0
    return heads._lines


def test_lines_are_judged_once(memory: Any) -> None:
    """The second head holds the very same fields."""
    first, second = (read(head(HOST, (b"A", b"b"))) for _ in range(2))
    assert all(a is b for a, b in zip(first.fields, second.fields, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        *(b"Cookie", b"authorization", b"Proxy-Authorization", b"st-access-token"),
        *(b"ST-Refresh-Token", b"anti-csrf", b"Front-Token", b"X-Api-Key"),
        *(b"X-Corpus-Session", b"id-refresh-token", b"X-Amz-Security-Token"),
    ],
)
def test_credentials_are_not_remembered(name: bytes, memory: Any) -> None:
    """Nor is a request line: its query may hold a code or a token."""
    read(b"GET /?secret HTTP/1.1\r\nHost: gw\r\n%b: secret\r\n\r\n" % name)
    assert [*memory] == [b"Host: gw"]


def test_memory_is_bounded(memory: Any) -> None:
    """Whatever clients make up; long lines aren't kept at all."""
    lines = memory
    bounds = Bounds(target=8192, field=16384, head=65536, fields=100)
    for number in range(100):
        made_up = [(b"A%d" % i, b"%d" % number + b"b" * 400) for i in range(99)]
        heads.read(head(HOST, *made_up), bounds)
        assert lines.size <= heads.LINES_MAX_BYTES
        assert lines.size == sum(2 * len(x) + heads._ENTRY_BYTES for x in lines)
    heads.read(head(HOST, (b"B", b"b" * heads.LINE_MAX_BYTES)), bounds)
    assert not any(line.startswith(b"B") for line in lines)


# --- llhttp ---------------------------------------------------------------------


class Told:
    """What llhttp tells of one head."""

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
    """Return what llhttp reads in a head that it accepts."""
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
    """Method, target, version, fields, and whether the connection stays."""
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
    assert "{}.{}".format(*ours.version) == told.version
    assert [*ours.fields] == told.fields
    if ours.keep_alive:  # llhttp keeps more of them: `close, keep-alive`
        assert told.keep_alive
    lengths = [v for n, v in told.fields if n.lower() == b"content-length"]
    assert [ours.content_length] == ([int(v) for v in lengths] or [None])
    assert ours.chunked == any(
        n.lower() == b"transfer-encoding" for n, _ in told.fields
    )
