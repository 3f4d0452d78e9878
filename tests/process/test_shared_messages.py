"""The messages about denials that gateways share."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import StoreAddress
from gateway.process.message_values import BadMessage
from gateway.process.messages import Decoder, Message, encode
from gateway.process.shared_messages import (
    RefuseSessions,
    ShareDenials,
    ShareWith,
    StoreState,
)
from gateway.session.deny_list import UserDenial, UserScope
from gateway.shared.entries import SharedDenials
from gateway.shared.place import StorePlace

texts = st.text(max_size=20)
times = st.floats(allow_nan=False, allow_infinity=False)
places = st.builds(
    StorePlace,
    address=st.builds(
        StoreAddress,
        host=texts,
        port=st.integers(),
        is_tls=st.booleans(),
        username=st.none() | texts,
        password=st.none() | texts,
        database=st.integers(),
    ),
    key=texts,
    ca_file=st.none() | texts,
    grace_s=st.none() | times,
)
users = st.builds(
    UserDenial, st.builds(UserScope, texts, st.none() | texts), times, times
)
denials = st.builds(
    SharedDenials,
    st.dictionaries(texts, times, max_size=3),
    st.lists(users, max_size=3).map(tuple),
)
some_messages = st.one_of(
    st.builds(ShareWith, st.none() | places),
    st.builds(ShareDenials, denials, st.booleans()),
    st.builds(StoreState, st.booleans()),
    st.builds(RefuseSessions, st.booleans()),
)


@given(st.lists(some_messages, max_size=5))
def test_messages_arrive_unchanged(sent: list[Message]) -> None:
    assert Decoder().feed(b"".join(map(encode, [*sent, ShareWith(None)]))) == [
        *sent,
        ShareWith(None),
    ]


def test_the_password_is_in_no_repr() -> None:
    """A message may be part of a traceback."""
    address = StoreAddress(host="r", port=1, password="hunter2")
    place = StorePlace(address=address, key="k", ca_file=None, grace_s=None)
    assert "hunter2" not in f"{place!r} {ShareWith(place)!r}"
    assert b"hunter2" in encode(ShareWith(place))


@pytest.mark.parametrize(
    "value",
    [
        {"share_with": []},
        {"share_with": ["r", 1, 0, None, None, 0, "k", None, None]},
        {"share_with": ["r" * 8193, 1, True, None, None, 0, "k", None, None]},
        {"share_with": None, "more": 1},
        {"shared": [True, {}]},
        {"shared": [1, {}, []]},
        {"shared": [True, {"h": "x"}, []]},
        {"shared": [True, {"h" * 1025: 1}, []]},
        {"shared": [True, {}, [["u"]]]},
        {"store_known": 1},
        {"store_known": True, "more": 1},
        {"refuse_sessions": None},
        {"child": 1, "slot": 0, "report": {"store_known": True}},
    ],
    ids=lambda value: str(value)[:60],
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(BadMessage):
        Decoder().feed(json.dumps(value).encode() + b"\n")
