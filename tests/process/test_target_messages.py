"""The messages about checks of targets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.process.message_values import BadMessage
from gateway.process.messages import Decoder, Message, encode
from gateway.process.target_messages import CheckTargets, TargetEjected, TargetsDown
from gateway.upstream.checked import ServiceCheck

texts = st.text(max_size=20)
times = st.floats(allow_nan=False, allow_infinity=False)
lists = st.lists(texts, max_size=3).map(tuple)
checks = st.builds(
    ServiceCheck,
    service=texts,
    targets=lists,
    resolve_s=st.none() | times,
    path=texts,
    interval_s=times,
    timeout_s=times,
    up=st.integers(),
    down=st.integers(),
    host=st.none() | texts,
    ca_file=st.none() | texts,
    server_name=st.none() | texts,
    verify=st.booleans(),
)
some_messages = st.one_of(
    st.builds(CheckTargets, st.none() | checks),
    st.builds(TargetsDown, texts, lists),
    st.builds(TargetEjected, texts, texts, st.none() | times),
)


@given(st.lists(some_messages, max_size=5))
def test_messages_arrive_unchanged(sent: list[Message]) -> None:
    assert Decoder().feed(b"".join(map(encode, [*sent, CheckTargets(None)]))) == [
        *sent,
        CheckTargets(None),
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"check_targets": []},
        {"check_targets": [1] * 12},
        {"check_targets": None, "more": 1},
        {"targets_down": []},
        {"targets_down": ["up", 1]},
        {"targets_down": ["x" * 8193]},
        {"targets_down": "up"},
        {"target_ejected": ["up", "http://a:80"]},
        {"target_ejected": ["up", "http://a:80", "soon"]},
        {"target_ejected": ["up", "x" * 8193, 1.0]},
        {"target_ejected": ["up", "http://a:80", 1.0], "more": 1},
        {"child": 1, "slot": 0, "report": {"targets_down": ["up"]}},
    ],
    ids=str,
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(BadMessage):
        Decoder().feed(json.dumps(value).encode() + b"\n")
