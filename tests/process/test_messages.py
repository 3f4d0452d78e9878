"""The messages between the supervisor, its workers and the hub."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.bodies import LOG_LEVELS, LOG_REQUESTS, LogChange
from gateway.events import RuntimeEvent, Severity
from gateway.observe.meters import (
    CHECKS,
    MAX_LABEL,
    MAX_ROWS,
    REQUESTS,
    SHAPES,
    UPSTREAMS,
    Sample,
)
from gateway.process import messages
from gateway.process.admin_messages import (
    Describe,
    DrainWanted,
    FilesChanged,
    LogAs,
    LogChangeWanted,
    Reloaded,
    ReloadWanted,
    WatchFiles,
)
from gateway.process.message_values import BadMessage
from gateway.process.messages import (
    MAX_KEY_SET,
    RESTART_CAUSES,
    WORKER_STATES,
    Accept,
    AskCore,
    Decoder,
    Deny,
    DenyDone,
    Drain,
    Failed,
    FetchKeys,
    Keys,
    KeySource,
    KeysUntil,
    Message,
    Notice,
    Ping,
    Ready,
    Report,
    Snapshot,
    Status,
    batches,
    encode,
)
from gateway.session.deny_list import UserDenial, UserScope

NOW = 1_700_000_000.0

times = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def sample(draw: st.DrawFn) -> Sample:
    kind, (labels, numbers) = draw(st.sampled_from([*SHAPES.items()]))
    label = st.text(max_size=MAX_LABEL)
    amount = st.floats(0, allow_infinity=False)
    return Sample(
        kind,
        tuple(draw(st.lists(label, min_size=labels, max_size=labels))),
        tuple(draw(st.lists(amount, min_size=numbers, max_size=numbers))),
    )


samples = sample()
reported = st.one_of(
    st.builds(Deny, st.dictionaries(st.text(max_size=100), times)),
    st.builds(Failed, st.text()),
    st.builds(Snapshot, st.lists(samples, max_size=3).map(tuple)),
    st.just(Ready()),
)
sources = st.builds(
    KeySource,
    st.lists(st.text(max_size=20), max_size=5).map(tuple),
    st.text(max_size=20),
)
states = st.sampled_from(WORKER_STATES)
statuses = st.builds(
    Status,
    generation=st.integers(),
    children=st.lists(st.integers()).map(tuple),
    slots=st.lists(states).map(tuple),
    others=st.dictionaries(states, st.integers()),
    is_started=st.booleans(),
    is_draining=st.booleans(),
    keys_until=st.none() | times,
    is_loaded=st.booleans(),
    loaded_at=times,
    restarts=st.dictionaries(st.sampled_from(RESTART_CAUSES), st.integers()),
    hub_restarts=st.integers(),
)
some_messages = st.one_of(
    statuses,
    reported,
    sources,
    st.builds(
        AskCore,
        st.lists(st.text(max_size=20), max_size=5).map(tuple),
        st.none() | st.text(max_size=20),
        times,
    ),
    st.builds(KeysUntil, times),
    st.builds(
        Notice,
        st.just(RuntimeEvent.PROXY_NOT_TRUSTED),
        st.text(),
        st.dictionaries(st.just("peer"), st.text()),
    ),
    st.builds(Deny, st.dictionaries(st.text(max_size=100), times), st.integers()),
    st.builds(
        Deny,
        st.just({}),
        st.integers(0),
        st.lists(
            st.builds(
                UserDenial,
                st.builds(
                    UserScope, st.text(max_size=20), st.none() | st.text(max_size=20)
                ),
                times,
                times,
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
    st.builds(DenyDone, st.integers()),
    st.builds(Describe, st.integers(), st.dictionaries(st.text(max_size=9), st.text())),
    st.builds(ReloadWanted, st.integers()),
    st.builds(
        Reloaded,
        st.integers(),
        st.integers(),
        st.lists(st.text(max_size=20), max_size=3).map(tuple),
    ),
    st.just(DrainWanted()),
    st.builds(
        WatchFiles,
        st.lists(st.text(max_size=20), max_size=3).map(tuple),
        st.text(max_size=20),
        times,
    ),
    st.just(FilesChanged()),
    st.builds(
        LogChangeWanted,
        st.integers(),
        st.builds(
            LogChange,
            st.none() | st.sampled_from(LOG_LEVELS),
            st.none() | st.sampled_from(LOG_REQUESTS),
        ),
    ),
    st.builds(
        LogAs,
        st.sampled_from(Severity),
        st.booleans(),
        st.booleans(),
        st.integers(),
    ),
    st.builds(FetchKeys, sources, times, times),
    st.builds(Keys, sources, times, st.text()),
    st.builds(Accept, st.lists(st.integers()).map(tuple)),
    st.sampled_from([Drain(), Drain(600.0), Ping()]),
    st.builds(Report, st.integers(), st.integers(), reported),
)

# --- messages -------------------------------------------------------------------


@given(st.lists(some_messages), st.data())
def test_messages_arrive_as_they_were_sent(
    sent: list[Message], data: st.DataObject
) -> None:
    """All messages are decoded, in order, wherever the stream is cut."""
    stream = b"".join(map(encode, sent))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=5))
    places = [0, *sorted(cuts), len(stream)]
    decoder = Decoder()
    received = []
    for begin, end in pairwise(places):
        received += decoder.feed(stream[begin:end])
    assert received == sent


def test_an_api_key_is_not_shown() -> None:
    """A message in a traceback or an assertion shows no secret."""
    assert "secret" not in repr(AskCore(("http://core",), "secret", 5.0))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'"drain"',
        b'{"drain":false}',
        b'{"drain":true}',
        b'{"drain":"1"}',
        b'{"drain":Infinity}',
        b'{"drain":1,"more":1}',
        b'{"drain":1,"ping":true}',
        b'{"stop":true}',
        b'{"deny":["a"]}',
        b'{"deny":{"a":"1"}}',
        b'{"deny":{"a":true}}',
        b'{"deny":{"a":null}}',
        b'{"deny":{"a":NaN}}',
        b'{"deny":{"a":Infinity}}',
        b'{"deny":{"a":1e999}}',
        b'{"deny":{"a":1' + b"0" * 400 + b"}}",
        b'{"deny":{"' + b"a" * 1025 + b'":1}}',
        b'{"deny":{"a":1},"number":true}',
        b'{"deny":{"a":1},"number":"1"}',
        b'{"deny":{"a":1},"number":1,"more":1}',
        b'{"snapshot":{}}',
        b'{"snapshot":[1]}',
        b'{"snapshot":[["gauge",["a"],[1],1]]}',
        b'{"snapshot":[["gauge",["a"]]]}',
        b'{"snapshot":[["gauge",["a"],[1,2]]]}',
        b'{"snapshot":[["gauge",["a","b"],[1]]]}',
        b'{"snapshot":[["gauge",[1],[1]]]}',
        b'{"snapshot":[["gauge",["a"],[-1]]]}',
        b'{"snapshot":[["gauge",["a"],[NaN]]]}',
        b'{"snapshot":[["gauge",["a"],["1"]]]}',
        b'{"snapshot":[["other",["a"],[1]]]}',
        b'{"snapshot":[["gauge",["' + b"a" * (MAX_LABEL + 1) + b'"],[1]]]}',
        b'{"snapshot":[' + b'["gauge",["a"],[1]],' * 4000 + b'["gauge",["a"],[1]]]}',
        b'{"status":{}}',
        b'{"status":[]}',
        b'{"status":[1,[],["accepting"],{},true,false,null,true,1,{}]}',
        b'{"status":[1,[],["well"],{},true,false,null,true,1,{},0]}',
        b'{"status":[1,[],[["well"]],{},true,false,null,true,1,{},0]}',
        b'{"status":[1,[],[],{"well":1},true,false,null,true,1,{},0]}',
        b'{"status":[1,[],[],{"lost":"1"},true,false,null,true,1,{},0]}',
        b'{"status":[1,[],[],{},1,false,null,true,1,{},0]}',
        b'{"status":[1,[],[],{},true,false,NaN,true,1,{},0]}',
        b'{"status":[1,[],[],{},true,false,null,true,1,{"signal":0.5},0]}',
        b'{"notice":["ready","a",{}]}',
        b'{"notice":["core_unlicensed","a",{"peer":"b"}]}',
        b'{"notice":["core_unlicensed",1,{}]}',
        b'{"notice":["core_unlicensed","a",[]]}',
        b'{"notice":["core_unlicensed","' + b"a" * 2001 + b'",{}]}',
        b'{"notice":["proxy_not_trusted","a",{"peer":1}]}',
        b'{"notice":["proxy_not_trusted","a",{"peer":"' + b"a" * 2001 + b'"}]}',
        b'{"log_change":[1,"debug",null]}',
        b'{"log_change":[1,"INFO",null]}',
        b'{"log_change":[1,["info"],null]}',
        b'{"log_change":[1,null,"none"]}',
        b'{"log_change":[1,null,true]}',
        b'{"log_change":[true,null,null]}',
        b'{"log_change":[1,null]}',
        b'{"log_change":[1,null,null,1]}',
        b'{"log_change":[1,null,null],"more":1}',
        b'{"log_as":["configured",true,true,0]}',
        b'{"log_as":[null,true,true,0]}',
        b'{"log_as":["info",1,true,0]}',
        b'{"log_as":["info",true,"all",0]}',
        b'{"log_as":["info",true,true,true]}',
        b'{"log_as":["info",true,true]}',
        b'{"log_as":["info",true,true,0],"more":1}',
        b'{"denied":true}',
        b'{"denied":1.0}',
        b'{"accept":1}',
        b'{"accept":["0"]}',
        b'{"accept":[0.0]}',
        b'{"accept":[true]}',
        b'{"failed":1}',
        b'{"key_source":"a"}',
        b'{"key_source":[]}',
        b'{"key_source":[1]}',
        b'{"key_source":["a",1]}',
        b'{"key_source":["a"' + b',"b"' * 65 + b"]}",
        b'{"key_source":["a","' + b"b" * 4097 + b'"]}',
        b'{"ask_core":[1]}',
        b'{"ask_core":["1",null,"a"]}',
        b'{"ask_core":[1,2,"a"]}',
        b'{"ask_core":[1,"' + b"k" * 4097 + b'","a"]}',
        b'{"ask_core":[1,null,1]}',
        b'{"ask_core":[1,null' + b',"b"' * 65 + b"]}",
        b'{"keys_until":"1"}',
        b'{"keys_until":Infinity}',
        b'{"fetch_keys":[["a","b"],1]}',
        b'{"fetch_keys":[["a","b"],1,true]}',
        b'{"keys":["a",1,"{}"]}',
        b'{"keys":[["a","b"],null,"{}"]}',
        b'{"keys":[["a","b"],1,{}]}',
        b'{"keys":[["a","b"],1,"' + b"x" * (MAX_KEY_SET + 1) + b'"]}',
        b'{"child":1,"slot":0,"report":{"keys_until":1}}',
        b'{"child":1,"slot":0}',
        b'{"child":1,"slot":0,"report":{"drain":true}}',
        b'{"child":1,"slot":0,"report":{"failed":1}}',
        b'{"child":true,"slot":0,"report":{"ready":true}}',
        b'{"child":1,"slot":"0","report":{"ready":true}}',
        b'{"child":1,"slot":0,"report":{"ready":true},"more":1}',
        b'{"child":1,"slot":0,"report":' * 300 + b"1" + b"}" * 300,
        b'{"deny":{},"users":[["u",null,1]]}',
        b'{"deny":{},"users":[["u",1,1,1]]}',
        b'{"deny":{},"users":[["u",null,1,Infinity]]}',
        b'{"deny":{},"users":[["' + b"u" * 1025 + b'",null,1,1]]}',
        b'{"deny":{},"users":[],"number":true}',
        b'{"deny":{},"users":[],"more":1}',
        b'{"describe":[1,{"config":1}]}',
        b'{"reload":true}',
        b'{"reloaded":[1]}',
        b'{"reloaded":[1,2,3]}',
        b'{"leave":1}',
        b'{"failed":"\xe9"}',
        b"[" * 100_000,
        b"1" * 5000,
    ],
    ids=lambda line: repr(line[:24]),
)
def test_an_invalid_message_is_refused(line: bytes) -> None:
    """An invalid message raises `BadMessage`, whose text is one line of ASCII.

    A worker may be compromised, because it parses what clients send.
    """
    with pytest.raises(BadMessage) as refused:
        Decoder().feed(line + b"\n")
    assert str(refused.value).isascii()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["unfinished", "finished"])
def test_a_message_has_a_maximum_length(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    """A line above the limit is refused, also before its end: memory is bounded."""
    monkeypatch.setattr(messages, "_MAX_LINE_BYTES", 100)
    message = encode(Failed("x" * 80))
    decoder = Decoder()
    for _ in range(3):
        assert decoder.feed(message) == [Failed("x" * 80)]
    with pytest.raises(BadMessage):
        decoder.feed(b'{"failed":"' + b"x" * 100 + end)


def test_an_infinite_time_isnt_sent() -> None:
    """An infinite time can't be encoded, because the decoder refuses it."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Deny({"a": math.inf}))


# --- long deny-lists ------------------------------------------------------------


def test_a_long_list_is_sent_in_parts() -> None:
    """A long deny-list is sent in messages under 128 KiB, and arrives complete."""
    ends = {f"{number:036}": NOW + 1 + number for number in range(10_000)}
    decoder = Decoder()
    received: dict[str, float] = {}
    parts = [encode(message) for message in batches(ends.items())]
    for part in parts:
        (message,) = decoder.feed(part)
        assert isinstance(message, Deny)
        received |= message.ends
    assert received == ends
    assert len(parts) > 1
    assert max(map(len, parts)) < 128 * 1024
    assert [*batches(())] == []


@pytest.mark.parametrize("letter", ["a", "\N{GRINNING FACE}"], ids=["plain", "escaped"])
def test_a_message_that_is_accepted_can_be_relayed(letter: str) -> None:
    """The longest message that is accepted can be relayed in messages of valid length.

    Otherwise a worker could end others with a message that is nearly too long.
    """
    names = (f"{number:04}".ljust(1024, letter) for number in range(10_000))
    line = b'{"deny":{'
    while len(line) < 1024 * 1024 - 13_000:
        line += json.dumps(next(names)).encode() + b":9,"
    line = line[:-1] + b"}}\n"
    (filled,) = Decoder().feed(line)
    assert isinstance(filled, Deny)
    received: dict[str, float] = {}
    for part in batches(filled.ends.items()):
        assert Decoder().feed(encode(Report(1, 0, part))) == [Report(1, 0, part)]
        received |= part.ends
    assert received == filled.ends


def test_the_largest_snapshot_can_be_sent() -> None:
    """Also inside a report, with large numbers, and labels that are escaped."""
    long = '"' * MAX_LABEL
    labels = (long, "OPTIONS", "200", "undecided", long, long)
    numbers = {kind: (123456789,) * shape[1] for kind, shape in SHAPES.items()}
    samples = [
        Sample(REQUESTS, labels, numbers[REQUESTS]),
        Sample(CHECKS, (long,), numbers[CHECKS]),
        Sample(UPSTREAMS, (long,), numbers[UPSTREAMS]),
    ]
    message = Report(1, 0, Snapshot((*samples * (MAX_ROWS + 1),)))
    assert Decoder().feed(encode(message)) == [message]
