"""The format of the shared stream: what is written is read, all else is skipped."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.session.deny_list import MAX_DENY_S, MAX_HANDLE, UserDenial, UserScope
from gateway.shared import entries
from gateway.shared.entries import (
    MAX_AHEAD_S,
    MAX_ENTRY_BYTES,
    NotAnEntry,
    SharedDenials,
    SharedEntry,
)

NOW = 1_700_000_000.0
ids = st.text(min_size=1, max_size=30)
times = st.floats(NOW - 1e6, NOW)
users = st.builds(
    UserDenial,
    st.builds(UserScope, ids, st.none() | ids),
    before=times,
    until=times,
)
denials = st.builds(
    SharedDenials,
    st.dictionaries(ids, times, max_size=5),
    st.lists(users, max_size=3).map(tuple),
)


def raw(entry: SharedEntry) -> dict[bytes, bytes]:
    """Return *entry* as it is read."""
    return {k.encode(): v.encode() for k, v in entries.fields(entry).items()}


def document(value: Any, **fields: bytes) -> dict[bytes, bytes]:
    """Return an entry with this document, and with other *fields*."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    given = {"v": b"1", "g": b"abc", "d": text, **fields}
    return {name.encode(): field for name, field in given.items()}


@given(denials)
def test_what_is_written_is_read(sent: SharedDenials) -> None:
    """Any ids arrive, as do times up to now."""
    entry = SharedEntry("a1", sent)
    assert entries.read(raw(entry), NOW) == entry


@given(st.lists(st.text(min_size=MAX_HANDLE, max_size=MAX_HANDLE), max_size=40))
def test_parts_fit_an_entry(handles: list[str]) -> None:
    """However long ids are, no part is too long to be read, and none is lost."""
    some = SharedDenials(
        dict.fromkeys(handles, NOW),
        tuple(UserDenial(UserScope(one, one), NOW, NOW) for one in handles),
    )
    found: dict[str, float] = {}
    read: list[UserDenial] = []
    for part in entries.batches(some):
        entry = entries.read(raw(SharedEntry("a", part)), NOW)
        found |= entry.denials.ends
        read += entry.denials.users
    assert (found, tuple(read)) == (some.ends, some.users)


def test_nothing_has_no_parts() -> None:
    assert not [*entries.batches(SharedDenials())]
    assert not SharedDenials()
    assert entries.end_of(SharedDenials()) == 0.0


def test_an_entry_does_no_more_than_a_gateway_could() -> None:
    """No denial outlasts the longest of a gateway; none is about later sessions."""
    value = {"s": {"h": NOW * 2}, "u": [["u", None, NOW * 2, NOW * 2]]}
    read = entries.read(document(value), NOW).denials
    assert read.ends == {"h": NOW + MAX_DENY_S}
    assert read.users == (
        UserDenial(UserScope("u"), NOW + MAX_AHEAD_S, NOW + MAX_DENY_S),
    )


GOOD: dict[str, Any] = {"s": {}, "u": []}
BAD: dict[str, dict[bytes, bytes]] = {
    "nothing": {},
    "another version": document(GOOD, v=b"2"),
    "no gateway": document(GOOD, g=b""),
    "a long gateway": document(GOOD, g=b"a" * 65),
    "a gateway that isn't a word": document(GOOD, g=b"a b"),
    "not JSON": document(b"{"),
    "not ASCII": document('{"s": {"é": 1}, "u": []}'.encode()),
    "deep": document(b"[" * 100_000),
    "too long": document(b" " * (MAX_ENTRY_BYTES + 1)),
    "a list": document([]),
    "no users": document({"s": {}}),
    "a time that is text": document({**GOOD, "s": {"h": "1"}}),
    "a time that is true": document({**GOOD, "s": {"h": True}}),
    "a time that isn't finite": document(b'{"s": {"h": NaN}, "u": []}'),
    "a time that is huge": document(b'{"s": {"h": 1' + b"0" * 400 + b'}, "u": []}'),
    "an empty handle": document({**GOOD, "s": {"": 1}}),
    "a long handle": document({**GOOD, "s": {"h" * (MAX_HANDLE + 1): 1}}),
    "a user without times": document({**GOOD, "u": [["u", None]]}),
    "a user that is a number": document({**GOOD, "u": [[1, None, 1, 1]]}),
    "a long user": document({**GOOD, "u": [["u" * 1025, None, 1, 1]]}),
    "an empty tenant": document({**GOOD, "u": [["u", "", 1, 1]]}),
}


@pytest.mark.parametrize("entry", BAD.values(), ids=BAD)
def test_anything_else_is_no_entry(entry: dict[bytes, bytes]) -> None:
    """It is refused as a whole, with a text that quotes nothing of it."""
    with pytest.raises(NotAnEntry):
        entries.read(entry, NOW)
    assert entries.read(document(GOOD), NOW) == SharedEntry("abc", SharedDenials())


@given(st.dictionaries(st.sampled_from([b"v", b"g", b"d"]), st.binary(max_size=60)))
def test_any_bytes_are_read_or_refused(fields: dict[bytes, bytes]) -> None:
    """Nothing else is raised."""
    for version in (fields.get(b"v", b""), b"1"):
        with contextlib.suppress(NotAnEntry):
            entries.read({**fields, b"v": version, b"g": b"a"}, NOW)
