"""Header fields as raw byte pairs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.fields import (
    CONTROLS,
    BoundedCache,
    Field,
    Fields,
    block,
    field_of,
    first,
    has_control,
    is_token,
    values,
)

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


FIELDS: Fields = (
    (b"Host", b"gw"),
    (b"Set-Cookie", b"a=1"),
    (b"X-Note", b"adm\xffin"),
    (b"set-cookie", b"b=2"),
    (b"SET-COOKIE", b""),
)


def test_values_come_in_order_whatever_the_case() -> None:
    """RFC 9110 §5.3: names are case-insensitive; values keep their order."""
    assert list(values(FIELDS, b"set-cookie")) == [b"a=1", b"b=2", b""]


def test_values_of_an_absent_name_are_none() -> None:
    """An absent field has no values."""
    assert list(values(FIELDS, b"cookie")) == []
    assert list(values((), b"cookie")) == []


def test_first_is_the_first_value() -> None:
    """A repeated field isn't joined: its first value is returned unchanged."""
    assert first(FIELDS, b"set-cookie") == b"a=1"
    assert first(FIELDS, b"x-note") == b"adm\xffin"
    assert first(FIELDS, b"cookie") is None


@many
@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6))))
def test_property_every_value_is_found_under_its_name(
    fields: list[tuple[bytes, bytes]],
) -> None:
    """Grouping by name loses, repeats, changes and reorders no value."""
    names = {name.lower() for name, _ in fields}
    for name in names:
        assert list(values(fields, name)) == [
            value for other, value in fields if other.lower() == name
        ]
    assert sum(len(list(values(fields, name))) for name in names) == len(fields)


# --- lines ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A: b", (b"A", b"b")),
        (b"A:b", (b"A", b"b")),
        (b"A:", (b"A", b"")),
        (b"a: \t b:\tc \t", (b"a", b"b:\tc")),
        (b"A: \xa0b\xff", (b"A", b"\xa0b\xff")),
        *((line, None) for line in (b"", b"A", b": b", b"A : b", b"A\t: b", b" A: b")),
        *((line, None) for line in (b"A b: c", b"\tA: b", b"A\xe9: b", b"A\n: b")),
        *((line, None) for line in (b"A: b\r", b"A: b\nC: d", b"A: \x00", b"A: \x7f")),
    ],
)
def test_a_line_holds_a_field_or_none(line: bytes, field: Field | None) -> None:
    """RFC 9112 §5: a token, directly a colon, and a value without control bytes."""
    assert field_of(line) == field


def test_controls_are_all_but_the_tab() -> None:
    """RFC 9110 §5.5, §5.6.2: of all control bytes, values may have the tab only."""
    inside = [b for b in range(256) if has_control(b"a%cb" % b)]
    assert inside == [b for b in range(256) if (b < 32 and b != 9) or b == 127]
    assert bytes(inside) == CONTROLS
    marks = b"!#$%&'*+-.^_`|~"
    in_names = [b for b in range(256) if is_token(b"a%c" % b)]
    assert in_names == [b for b in range(128) if chr(b).isalnum() or b in marks]
    assert not is_token(b"")


names = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,6}", fullmatch=True)
clean = st.binary(max_size=9).map(lambda text: text.translate(None, CONTROLS))


@many
@given(st.lists(st.tuples(names, clean.map(lambda text: text.strip(b" \t")))))
def test_property_a_block_is_read_as_what_was_written(
    fields: list[tuple[bytes, bytes]],
) -> None:
    """RFC 9112 §5: a written block is read back as the same fields, in order."""
    *lines, end = block(fields).split(b"\r\n")
    assert end == b""
    assert [field_of(line) for line in lines] == fields


# --- the memo ---------------------------------------------------------------


def test_a_memo_judges_once() -> None:
    """A result is stored by exact bytes.

    Longer inputs than the bound are judged anew.
    """
    judged: list[bytes] = []

    def judge(text: bytes) -> int:
        judged.append(text)
        return len(text)

    memo = BoundedCache(judge, max_size=3)
    assert [memo[text] for text in (b"abc", b"ABC", b"abc", b"abcd", b"abcd")] == [
        *(3, 3, 3, 4, 4),
    ]
    assert judged == [b"abc", b"ABC", b"abcd", b"abcd"]
    assert [*memo] == [b"abc", b"ABC"]


def test_a_memo_is_bounded() -> None:
    """A full memo is emptied, so that made-up inputs don't fill the memory."""
    memo = BoundedCache(int)
    for number in range(3000):
        assert memo[b"%d" % number] == number
        assert len(memo) == number % 1024 + 1


def test_a_memo_forgets_what_was_refused() -> None:
    """An error is raised each time and never stored."""
    memo = BoundedCache(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="x7"):
            memo[b"x7"]
    assert not memo
