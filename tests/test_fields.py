"""Header fields as raw byte pairs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fields import Fields, first, values

many = settings(max_examples=300, deadline=None)  # a busy machine is no failure


FIELDS: Fields = (
    (b"Host", b"gw"),
    (b"Set-Cookie", b"a=1"),
    (b"X-Note", b"adm\xffin"),
    (b"set-cookie", b"b=2"),
    (b"SET-COOKIE", b""),
)


def test_values_come_in_order_whatever_the_case() -> None:
    """RFC 9110 §5.3: names are case-insensitive, and the order of values counts."""
    assert list(values(FIELDS, b"set-cookie")) == [b"a=1", b"b=2", b""]


def test_values_of_an_absent_name_are_none() -> None:
    """Nothing is made up for a field that isn't there."""
    assert list(values(FIELDS, b"cookie")) == []
    assert list(values((), b"cookie")) == []


def test_first_is_the_first_value() -> None:
    """A repeated field is not joined: the first value is returned as it is."""
    assert first(FIELDS, b"set-cookie") == b"a=1"
    assert first(FIELDS, b"x-note") == b"adm\xffin"
    assert first(FIELDS, b"cookie") is None


@many
@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6))))
def test_property_every_value_is_found_under_its_name(
    fields: list[tuple[bytes, bytes]],
) -> None:
    """Grouped by name, nothing is lost, doubled, changed or reordered."""
    names = {name.lower() for name, _ in fields}
    for name in names:
        assert list(values(fields, name)) == [
            value for other, value in fields if other.lower() == name
        ]
    assert sum(len(list(values(fields, name))) for name in names) == len(fields)
