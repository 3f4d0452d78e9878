"""What a reply's head may be: each rule alone, without a socket."""

import tracemalloc

import pytest

from gateway.errors import BadReply
from gateway.fields import Fields
from gateway.upstream.framing import (
    CHUNKED,
    UNTIL_CLOSE,
    Framing,
    check_begun,
    head_of,
    keep_alive_hint,
    status_line,
)

CL2 = (b"Content-Length", b"2")
TE = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", (b"1.1", 200, b"OK")),
        (b"HTTP/1.0 404 Not Found", (b"1.0", 404, b"Not Found")),
        (b"HTTP/1.1 200", (b"1.1", 200, b"")),
        (b"HTTP/1.1 200 ", (b"1.1", 200, b"")),
        (b"HTTP/1.1 599 \xe9\ta", (b"1.1", 599, b"\xe9\ta")),
    ],
)
def test_status_lines(line: bytes, expected: tuple[bytes, int, bytes]) -> None:
    assert status_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"ICE/1.0 200 OK",
        b"HTTP/1.1 099 Low",
        b"HTTP/1.1 600 High",
        b"HTTP/1.1 200 \x00",
        b"HTTP/1.1 200 \x7f",
        b"HTTP/1.1 200 a\rb",
    ],
)
def test_refused_status_lines(line: bytes) -> None:
    with pytest.raises(BadReply):
        status_line(line)


LINE = b"HTTP/1.1 200 OK\r\n"


def framing(
    fields: Fields, *, version: bytes = b"1.1", status: int = 200, head: bool = False
) -> Framing:
    """Return the framing of a reply with these fields."""
    line = b"HTTP/%b %d X\r\n" % (version, status)
    text = b"".join(b"%b:%b\r\n" % field for field in fields)
    return head_of(line + text + b"\r\n", head_request=head).framing


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", ()),
        (b"A: b\r\n", ((b"A", b"b"),)),
        (b"A:b\r\na:\r\nA: \r\n", ((b"A", b"b"), (b"a", b""), (b"A", b""))),
        (b"A: \t b \t c\t \r\n", ((b"A", b"b \t c"),)),
        (
            b"!#$%&'*+-.^_`|~0z: :\xff,\xe9\r\n",
            ((b"!#$%&'*+-.^_`|~0z", b":\xff,\xe9"),),
        ),
    ],
)
def test_fields(lines: bytes, expected: Fields) -> None:
    """Names and values as they came, without the white space round the values."""
    assert head_of(LINE + lines + b"\r\n", head_request=False).fields == expected


@pytest.mark.parametrize(
    "lines",
    [
        b"A b\r\n",
        b": b\r\n",
        b"A : b\r\n",
        b" A: b\r\n",
        b"A: b\r\n c\r\n",
        b"A: b\r\n\tc: d\r\n",
        b"A(: b\r\n",
        b"\xc3: b\r\n",
        b"A: b\nC: d\r\n",
        b"A: b\rC: d\r\n",
        b"A: b\r\r\n",
        b"A: b\0\r\n",
        b"A: \x7f\r\n",
        b"A: b\x0bc\r\n",
    ],
)
def test_refused_fields(lines: bytes) -> None:
    """One line that isn't a field, or one control, and nothing of the head counts."""
    with pytest.raises(BadReply):
        head_of(LINE + b"X: y\r\n" + lines + b"\r\n", head_request=False)


@pytest.mark.parametrize(
    ("head", "known"),
    [
        (b"", 0),
        (b"HT", 0),
        (b"HTTP/1.1 200 OK\r\nA: b", 0),
        (b"HTTP/1.1 200 OK\r\n", 16),
        (b"HTTP/1.1 200 OK\r\nA", 17),
    ],
)
def test_a_head_that_may_come(head: bytes, known: int) -> None:
    """Wherever it is cut, between CR and LF too."""
    check_begun(head, known)


@pytest.mark.parametrize(
    ("head", "known"),
    [
        (b"X", 0),
        (b"\r\n", 0),
        (b"HTTP/2", 0),
        (b"HTTP/1.1 200 OK\n", 0),
        (b"HTTP/1.1 200 OK\r\nA: b\n", 21),
    ],
)
def test_a_head_that_will_never_come(head: bytes, known: int) -> None:
    """It is refused at once, not when its time is over."""
    with pytest.raises(BadReply):
        check_begun(head, known)


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", (CL2,), True),
        (b"1.0", (CL2,), False),
        (b"1.1", (CL2, (b"Connection", b"close")), False),
        (b"1.1", (CL2, (b"connection", b"Upgrade, CLOSE")), False),
        (b"1.0", (CL2, (b"Connection", b"Keep-Alive")), True),
        (
            b"1.0",
            (CL2, (b"Connection", b"keep-alive"), (b"Connection", b"close")),
            False,
        ),
        (b"1.1", (CL2, (b"Connection", b"closed")), True),
        (b"1.1", (), False),
        (b"1.1", ((b"Connection", b"keep-alive"),), False),
    ],
)
def test_which_connections_are_kept(
    version: bytes, fields: Fields, keep_alive: bool
) -> None:
    """RFC 9112 §9.3; a body that ends with the connection leaves none."""
    assert framing(fields, version=version).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "head_request", "status", "length", "declared"),
    [
        ((CL2,), False, 200, 2, 2),
        (((b"content-LENGTH", b" 007\t"),), False, 200, 7, 7),
        ((TE,), False, 200, CHUNKED, None),
        (((b"transfer-encoding", b" CHUNKED "),), False, 200, CHUNKED, None),
        ((), False, 200, UNTIL_CLOSE, None),
        ((), False, 205, UNTIL_CLOSE, None),
        ((CL2,), True, 200, 0, 2),
        ((), True, 200, 0, None),
        ((TE,), True, 200, 0, None),
        ((CL2,), False, 204, 0, 2),
        ((CL2,), False, 304, 0, 2),
        # As long as the names that count, and none of them.
        (((b"Content-Lenght", b"9"), (b"X" * 17, b"9")), False, 200, -2, None),
    ],
)
def test_where_a_body_ends(
    fields: Fields, head_request: bool, status: int, length: int, declared: int | None
) -> None:
    """RFC 9112 §6.3, in its order."""
    found = framing(fields, status=status, head=head_request)
    assert found[:2] == (length, declared)


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (b"1.1", (CL2, CL2)),
        (b"1.1", (CL2, TE)),
        (b"1.1", (TE, TE)),
        (b"1.1", ((b"Transfer-Encoding", b"gzip, chunked"),)),
        (b"1.1", ((b"Transfer-Encoding", b""),)),
        (b"1.0", (TE,)),
        (b"1.1", ((b"Content-Length", b""),)),
        (b"1.1", ((b"Content-Length", b"-1"),)),
        (b"1.1", ((b"Content-Length", b"1" * 19),)),
        (b"1.1", ((b"A", b"b"),) * 257),
    ],
)
@pytest.mark.parametrize("head_request", [False, True])
def test_refused_framing(version: bytes, fields: Fields, head_request: bool) -> None:
    """Even where no body follows: another reader may think that one does."""
    with pytest.raises(BadReply):
        framing(fields, version=version, head=head_request)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 4),
        (b"max=100, Timeout = 60", 59),
        (b"timeout=1", 0.5),
        (b"timeout=0", 0),
        (b"timeout=" + b"9" * 30, 999999998),
        (b"timeout=x", None),
        (b"timeout", None),
        (b"", None),
    ],
)
def test_keep_alive_hints(value: bytes, seconds: float | None) -> None:
    """A second before the upstream closes; nonsense is no hint."""
    assert keep_alive_hint(value) == seconds
    assert framing(((b"keep-alive", value),)).keep_alive_s == seconds


def test_what_an_upstream_makes_up_is_not_remembered() -> None:
    """Lines are remembered because they come again; long ones are not."""
    tracemalloc.start()
    try:
        for number in range(300):
            made_up = b"%05d" % number + b"x" * 50_000
            lines = (b"HTTP/1.1 200 " + made_up, b"X-A: " + made_up, b"", b"")
            head_of(b"\r\n".join(lines), head_request=False)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
