"""Lines: each judged once by its exact bytes; bounded, and without secrets."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import headers
from gateway.errors import BadReply, BadRequest, GatewayError
from gateway.http import lines as module
from gateway.http.fields import Field, block, field_of
from gateway.http.lines import (
    HELD_MAX_BYTES,
    LINE_MAX_BYTES,
    LINES_MAX_BYTES,
    MARKED,
    Line,
    Lines,
    Ruling,
    keep_all,
)
from gateway.http.request_head import HeadLimits, RequestReader
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.tokens import holds_token, is_session_text

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine

BOUNDS = HeadLimits(target=8192, field=16384, head=65536, fields=100)
MEANINGS: dict[bytes, module.Meaning] = {
    b"cookie": (1, bytes.upper),
    b"authorization": (2, None),
    b"number": (3, int),
}


def made(
    judged: list[bytes] | None = None, error: type[GatewayError] = BadRequest
) -> Lines:
    """Return an empty store of lines; *judged* collects each line that is judged."""

    def rules(name: bytes, value: bytes, raw: bytes) -> Ruling:
        if judged is not None:
            judged.append(raw)
        return keep_all(name, value, raw)

    return Lines(MEANINGS, rules, error)


def reader() -> RequestReader:
    """Return a reader configured like the gateway's."""
    rules = headers.request_rules(
        headers.reserved(["X-User-Plan"]), holds_token, is_session_text
    )
    return RequestReader(BOUNDS, rules, CREDENTIAL_FIELDS)


def head(*fields: Field) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: gw\r\n" + block(fields) + b"\r\n"


# --- what a line is -----------------------------------------------------------------


def of_memory(lines: Lines, text: bytes) -> Line:
    return lines[text]


def of_judge(lines: Lines, text: bytes) -> Line:
    return lines.judge(text)


both_ways = pytest.mark.parametrize("find", [of_memory, of_judge])
Find = Callable[[Lines, bytes], Line]


@both_ways
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        (b"A: b", b"A", b"b"),
        (b"A:b", b"A", b"b"),
        (b"A:", b"A", b""),
        (b"A: \t ", b"A", b""),
        (b"a:\tb:\t: c\t ", b"a", b"b:\t: c"),
        (b"A:: ", b"A", b":"),
        (b"!#$%&'*+-.^_`|~0: \x80\xff", b"!#$%&'*+-.^_`|~0", b"\x80\xff"),
        (b"Cookie:x", b"Cookie", b"x"),
        (b"A: " + b"b" * 20000, b"A", b"b" * 20000),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_line_is_its_field(
    text: bytes, name: bytes, value: bytes, find: Find
) -> None:
    """RFC 9112 §5: a value has no blanks around it; a line is forwarded in one form."""
    line = find(made(), text)
    assert line.field == (name, value)
    assert line.raw == line.forwarded == b"%b: %b\r\n" % (name, value)


@both_ways
@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"A",
            b":",
            b": b",
            b" A: b",
            b"\tA: b",
            b"A : b",
            b"A b: c",
            b" folded",
        ),
        *(b"A\x00: b", b"A\xe9: b", b"A[: b", b"A\r: b", b"A: b\rc", b"A: b\nc"),
        *(b"A: b\r", b"A:\n", b"A: \x00", b"A: b\x0bc", b"A: \x7f", b"Cookie: \x1b"),
        b"Authorization : b",
    ],
)
def test_what_is_no_field_is_refused(text: bytes, find: Find) -> None:
    """A malformed line raises its side's error each time and is never stored."""
    for error in (BadRequest, BadReply):
        lines = made(error=error)
        for _ in range(2):
            with pytest.raises(error):
                find(lines, text)
        assert not lines
        assert (lines.size, lines.held) == (0, 0)


@both_ways
@pytest.mark.parametrize(
    ("text", "meaning", "parsed"),
    [
        (b"NUMBER: 7", 3, 7),
        (b"cookie: a=b", 1, b"A=B"),
        (b"Authorization: x", 2, None),
        (b"numbers: 7", 0, None),
        (b"_number: 7", 0, None),
    ],
)
def test_a_name_has_its_meaning_in_any_case(
    text: bytes, meaning: int, parsed: object, find: Find
) -> None:
    """RFC 9110 §5.1: names are case-insensitive; other spellings are other names."""
    line = find(made(), text)
    assert (line.meaning, line.parsed) == (meaning, parsed)


@both_ways
def test_what_a_reader_refuses_is_refused_again(find: Find) -> None:
    """A reader's error is raised unchanged each time, and the line isn't stored."""
    lines = made()
    for _ in range(2):
        with pytest.raises(ValueError, match="x7"):
            find(lines, b"Number: x7")
    assert not lines
    assert lines.size == 0


@both_ways
def test_the_rules_are_asked_about_the_field(find: Find) -> None:
    """A line carries the result of the rules for its field."""
    asked = []

    def rules(*field: bytes) -> Ruling:
        asked.append(field)
        return Ruling("rule", b"C: d\r\n", 8)

    line = find(Lines({}, rules, BadRequest), b"A:b ")
    assert asked == [(b"A", b"b", b"A: b\r\n")]
    assert (line.rule, line.forwarded, line.marks) == ("rule", b"C: d\r\n", 8)
    assert (line.name, line.value) == (b"A", b"b")
    assert line.meaning == MARKED


# --- what is stored -----------------------------------------------------------------


def test_lines_are_judged_once() -> None:
    """A line is judged once and then looked up, for every caller."""
    judged: list[bytes] = []
    lines = made(judged)
    first = lines[b"A: b"]
    assert lines[b"A: b"] is first
    assert judged == [b"A: b\r\n"]


ALIKE = [b"A: b", b"a: b", b"A:b", b"A: b ", b"A:\tb", b"A: B", b"A: b\t", b"A: bb"]


def test_lines_are_known_by_their_bytes_exactly() -> None:
    """Lines are stored by exact bytes: an equivalent line is not the same one."""
    lines = made()
    found = [lines[text] for text in ALIKE]
    assert len({id(line) for line in found}) == len(ALIKE)
    assert [lines[text] for text in ALIKE] == found
    assert [line.field for line in found] == [field_of(text) for text in ALIKE]


def test_a_long_line_is_judged_each_time() -> None:
    """A long line is judged each time, unless it is a secret that a caller holds."""
    judged: list[bytes] = []
    lines = made(judged)
    text = b"A: " + b"b" * LINE_MAX_BYTES
    first, second = lines.judge(text), lines.judge(text)
    assert first is not second
    assert first.raw == second.raw
    assert len(judged) == 2
    assert not lines
    assert (lines.size, lines.held) == (0, 0)


SECRET_NAMES = [
    *(b"Cookie", b"cookie", b"Cookie2", b"Set-Cookie", b"authorization"),
    *(b"Proxy-Authorization", b"WWW-Authenticate", b"X-Auth", b"X-OAuth-Code"),
    *(b"st-access-token", b"ST-Refresh-Token", b"st-auth-mode", b"Front-Token"),
    *(b"anti-csrf", b"X-CSRFToken", b"X-XSRF-TOKEN", b"id-refresh-token"),
    *(b"X-Api-Key", b"Apikey", b"X-Password", b"passwd", b"X-Corpus-Session"),
    *(b"X-Amz-Security-Token", b"X-Client-Secret", b"X_Session_Id", b"sessionid"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secrets_are_not_remembered(name: bytes) -> None:
    """A line whose name promises a secret isn't stored; the lines beside it are."""
    lines = made()
    for end in (b"", b" "):
        text = name + b": s3cret" + end
        assert lines[text].field == (name, b"s3cret")
        assert lines.judge(text).field == (name, b"s3cret")
    assert lines[b"A: b"].field == (b"A", b"b")
    assert [*lines] == [b"A: b"]
    assert lines.size == 3 * 4 + module._ENTRY_BYTES
    assert lines.held == 0


def bytes_within(thing: object) -> Iterator[bytes]:
    """Yield all bytes that *thing* refers to at any depth, but for modules'."""
    seen: set[int] = set()
    todo = [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, BuiltinFunctionType)):
            continue
        seen.add(id(one))
        if isinstance(one, bytes):
            yield one
        elif isinstance(one, FunctionType):
            todo += [*(one.__closure__ or ()), *(one.__defaults__ or ())]
        else:
            todo += gc.get_referents(one)


def test_nothing_of_a_head_with_secrets_stays_in_its_reader() -> None:
    """Without the head, its reader holds no secret of it: in no line, rule or cache."""
    reads = reader()
    secrets = [
        *((name, b"s3cret-%d" % i) for i, name in enumerate(SECRET_NAMES)),
        (b"Cookie", b"sAccessToken=s3cret; a=s3cret"),
        (b"Authorization", b"Bearer s3cret"),
        (b"rid", b"session"),
        (b"A", b"plain"),
    ]
    found = reads.read(head(*secrets))
    assert any(b"s3cret" in held for held in bytes_within(reads))
    assert reads._lines.held > 0
    del found
    left = [*bytes_within(reads)]
    assert b"A: plain" in left
    assert not [held for held in left if b"s3cret" in held]
    assert reads._lines.held == 0


# --- lines held by a caller ---------------------------------------------------------


def test_a_held_secret_is_found_again() -> None:
    """A secret line is found again while a caller holds it, and not afterwards."""
    judged: list[bytes] = []
    lines = made(judged)
    text = b"Cookie: sAccessToken=" + b"x" * 40
    line = lines[text]
    assert lines[text] is line
    assert lines.judge(text) is line
    assert (lines.held, len(judged)) == (1, 1)
    assert not lines
    del line
    assert lines.held == 0
    assert lines.judge(text).parsed == text.partition(b": ")[2].upper()
    assert len(judged) == 2
    assert lines.held == 0


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        pytest.param(b"Cookie: x", True, id="a cookie"),
        pytest.param(b"Cookie:", True, id="an empty one"),
        pytest.param(b"Cookie: " + b"x" * (LINE_MAX_BYTES + 1), True, id="a long one"),
        pytest.param(b"Authorization: x", True, id="a token"),
        pytest.param(b"X-Api-Key: x", False, id="no meaning"),
        pytest.param(b"Number: 7", False, id="no secret"),
        pytest.param(b"A: " + b"x" * LINE_MAX_BYTES, False, id="neither"),
    ],
)
def test_only_secrets_with_a_meaning_are_found_again(
    text: bytes, *, is_found: bool
) -> None:
    """Only secret lines with a meaning are found by being held.

    Others are stored as usual or judged each time.
    """
    lines = made()
    line = lines.judge(text)
    assert (lines.judge(text) is line) is is_found
    assert lines.held == is_found


def test_a_held_line_may_have_a_size() -> None:
    """A held line is found up to the size bound; blanks around the value count."""
    lines = made()
    room = HELD_MAX_BYTES - len(b"Cookie: ")
    fits = b"Cookie: " + b"x" * room
    held = lines.judge(fits)
    assert lines.judge(fits) is held
    for text in (fits + b"x", b"Cookie: " + b" " * room + b"x"):
        line = lines.judge(text)
        assert lines.judge(text) is not line
    assert lines.held == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(b"Cookie: y" + b"x" * 40, id="same end"),
        pytest.param(b"Cookie:y" + b"x" * 40, id="same value"),
        pytest.param(b"cookie: y" + b"x" * 40, id="same field"),
        pytest.param(b"Authorization: y" + b"x" * 40, id="another name"),
    ],
)
def test_a_held_line_is_known_by_all_its_bytes(other: bytes) -> None:
    """A held line is looked up by its last bytes and compared whole.

    Of two with the same last bytes, the later is found.
    """
    lines = made()
    text = b"Cookie: z" + b"x" * 40
    first, second = lines.judge(text), lines.judge(other)
    assert second is not first
    assert second.field == field_of(other)
    assert lines.judge(other) is second
    again = lines.judge(text)
    assert again.field == first.field == field_of(text)
    assert lines.held == 1
    del first, second
    assert lines.judge(text) is again  # the line that went doesn't remove the later one
    del again
    assert lines.held == 0


parts = st.sampled_from(
    [b"Cookie: ", b"cookie:", b"Authorization: ", b"A: ", b"a", b"b", b" ", b"x" * 31]
)
texts = st.tuples(parts, st.lists(parts, max_size=4).map(b"".join)).map(b"".join)


@many
@given(st.lists(st.tuples(texts, st.booleans()), max_size=20), st.booleans())
def test_property_whatever_is_held_a_line_is_its_own(
    asked: list[tuple[bytes, bool]], by_memory: bool
) -> None:
    """Held, stored or judged anew, a line has the content of its own bytes."""
    lines, held = made(), []
    for text, is_held in asked:
        fresh = field_of(text)
        if fresh is None:
            with pytest.raises(BadRequest):
                lines.judge(text)
            continue
        line = lines[text] if by_memory else lines.judge(text)
        assert line.field == fresh
        assert line.raw == block((fresh,))
        assert line.meaning == MEANINGS.get(fresh[0].lower(), (0,))[0]
        if is_held:
            held.append(line)
        del line
        assert lines.held <= len(held)
    held.clear()
    assert lines.held == 0
    assert all(text.startswith((b"A:", b"a", b"b", b"x")) for text in lines)


# --- bounds of the store ------------------------------------------------------------


def test_memory_is_bounded() -> None:
    """The store is emptied before it exceeds its bound, whatever clients send."""
    lines = made()
    emptied = 0
    for number in range(4000):
        before = len(lines)
        assert lines[b"A%d: " % number + b"b" * 400].meaning == 0
        emptied += len(lines) <= before
        assert lines.size <= LINES_MAX_BYTES
    assert lines.size == sum(3 * len(text) + module._ENTRY_BYTES for text in lines)
    assert emptied > 3
    assert len(lines._names) <= 1024


def test_a_reader_remembers_lines_of_a_size() -> None:
    """Lines above a size aren't stored, as they rarely come again."""
    reads = reader()
    fits = (b"B", b"b" * (LINE_MAX_BYTES - len(b"B: ")))
    reads.read(head(fits, (b"C", fits[1] + b"b")))
    assert [*reads._lines] == [b"Host: gw", b"B: " + fits[1]]


names = st.one_of(
    st.sampled_from([b"Origin", b"X-Request-Id", b"Connection", b"Cookie", b"A"]),
    st.from_regex(rb"A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,9}", fullmatch=True),
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(names, st.integers(1, 600)), max_size=60), max_size=20)
)
@example([[(b"A", 500)] * 99] * 20)
def test_property_a_reader_never_remembers_more_than_its_bound(
    heads: list[list[tuple[bytes, int]]],
) -> None:
    """By its own estimate, a reader stays within its bound after any heads."""
    reads = reader()
    lines = reads._lines
    for number, made_up in enumerate(heads):
        fields = [
            (name, b"%d-%d" % (number, index) + b"v" * size)
            for index, (name, size) in enumerate(made_up)
        ]
        assert reads.read(head(*fields)).fields[1:] == (*fields,)
        assert lines.size <= LINES_MAX_BYTES
        assert lines.size == sum(3 * len(text) + module._ENTRY_BYTES for text in lines)
    assert all(len(text) <= LINE_MAX_BYTES for text in lines)
    assert lines.held == 0


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda i: b"A: %d" % i, id="short"),
        pytest.param(lambda i: b"A: %d" % i + b"b" * 480, id="long"),
        pytest.param(lambda i: b"A%d: b" % i, id="names"),
        pytest.param(lambda i: b"Origin: %d" % i + b"b" * 480, id="with a meaning"),
        pytest.param(lambda i: b"X-Forwarded-For: %d" % i + b"b" * 480, id="ruled"),
        pytest.param(lambda i: b"X_%d: " % i + b"b" * 480, id="odd"),
        pytest.param(
            lambda i: b"Connection: %d" % i + b",".join(b"%x" % n for n in range(150)),
            id="a list of names",
        ),
    ],
)
def test_the_estimate_is_not_too_low(make: Callable[[int], bytes]) -> None:
    """A reader's memory is at most its own estimate."""
    reads = reader()
    reads.read(head())
    tracemalloc.start()
    try:
        for number in range(400):
            reads.read(b"GET / HTTP/1.1\r\nHost: gw\r\n%b\r\n\r\n" % make(number))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(reads._lines) == 401
    assert taken <= reads._lines.size
