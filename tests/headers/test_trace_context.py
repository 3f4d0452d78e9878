"""Trace context: what is read from clients, and what services get."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import headers
from gateway.headers import InboundPolicy, Sampler, Traces, trace_id
from gateway.headers.trace_context import MAX_STATE, InboundTrace, inbound, sampler
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
PROXY, CLIENT = "10.0.0.1", "192.0.2.1"
READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    headers.request_rules(headers.reserved(), lambda _: False, lambda _: False),
)
is_own = re.compile(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-00\r\n").fullmatch


def traces(
    policy: InboundPolicy = InboundPolicy.RESTART,
    seed: int = 1,
    sampler: Sampler | None = None,
) -> Traces:
    return Traces(random.Random(seed).randbytes, {PROXY}, policy, sampler)


def head(*fields: bytes) -> RequestHead:
    lines = b"".join(b"%b\r\n" % field for field in fields)
    return READER.read(b"GET / HTTP/1.1\r\nHost: gw\r\n%b\r\n" % lines)


@pytest.mark.parametrize(
    ("sent", "is_sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
        (f"cc-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_valid_parents(sent: str, is_sampled: bool) -> None:
    """Later versions may have more after the flags. Source: §3.2, §3.2.4."""
    expected = InboundTrace(TRACE.encode(), SPAN.encode(), is_sampled, b"")
    assert inbound([sent.encode()]) == expected


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01 ",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"FF-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
    ],
)
def test_invalid_parents(sent: str) -> None:
    """They say nothing, and neither does their tracestate. Source: §3.2.2, §4.3."""
    assert inbound([sent.encode()], [b"a=1"]) is None


def test_two_parents_say_nothing() -> None:
    """A reader couldn't know which one counts."""
    assert inbound([PARENT, PARENT]) is None
    assert inbound([]) is None


LONG = b",".join(b"k%02d=%b" % (n, b"x" * 60) for n in range(8))
"""Eight members of 64 characters, which are 519 with the commas."""


@pytest.mark.parametrize(
    ("sent", "state"),
    [
        ([], b""),
        ([b"a=1"], b"a=1"),
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b" a=1 , b=2\t"], b"a=1,b=2"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b"a=1,,b=2,"], b"a=1,b=2"),
        ([b"t61rcwkgmze@sys=x y"], b"t61rcwkgmze@sys=x y"),
        ([b"0a@b=1"], b"0a@b=1"),
        ([b"a=" + b"x" * 256], b"a=" + b"x" * 256),
        ([b",".join(b"k%d=1" % n for n in range(32))], None),
        ([b",".join(b"k%d=1" % n for n in range(33))], b""),
        ([b"a=1,a=2"], b""),
        ([b"A=1"], b""),
        ([b"0a=1"], b""),
        ([b"a"], b""),
        ([b"a="], b""),
        ([b"=1"], b""),
        ([b"a=1=2"], b""),
        ([b"a=\xe9"], b""),
        ([b"a=1\x7f"], b""),
        ([b"a=" + b"x" * 257], b""),
        ([b"a" * 257 + b"=1"], b""),
        ([b"a@b@c=1"], b""),
    ],
)
def test_states(sent: list[bytes], state: bytes | None) -> None:
    """A state that isn't valid as a whole is removed, and the parent counts.

    Source: §3.3.1.
    """
    found = inbound([PARENT], sent)
    assert found is not None
    assert found.trace_id == TRACE.encode()
    assert found.state == (b",".join(sent) if state is None else state)


@pytest.mark.parametrize(
    ("sent", "state"),
    [
        (LONG[: MAX_STATE - 1] + b"y", None),
        (LONG, LONG[: 7 * 65 - 1]),
        (b"big=%b,%b" % (b"x" * 125, LONG[: 7 * 65 - 1]), LONG[: 7 * 65 - 1]),
        (b"a=%b,b=%b,c=1" % (b"x" * 256, b"x" * 256), b"c=1"),
        (b"a=%b,b=%b" % (b"x" * 256, b"x" * 256), b""),
    ],
)
def test_a_long_state_loses_whole_members(sent: bytes, state: bytes | None) -> None:
    """Those of more than 128 characters first, then the last ones. Source: §3.3.1.5."""
    found = inbound([PARENT], [sent])
    assert found is not None
    assert found.state == (sent if state is None else state)
    assert len(found.state) <= MAX_STATE


@pytest.mark.parametrize("policy", InboundPolicy)
def test_the_trace_of_a_trusted_proxy_goes_on(policy: InboundPolicy) -> None:
    """With its flag and state, and with another parent id."""
    request = head(b"TraceParent: " + PARENT, b"tracestate: a=1", b"TRACESTATE: b=2")
    sent, _ = traces(policy).begin(request, PROXY)
    found = re.fullmatch(rb"traceparent: 00-(\w{32})-(\w{16})-01\r\n(.*\r\n)", sent)
    assert found is not None
    assert found[1] == TRACE.encode()
    assert found[2] != SPAN.encode()
    assert found[3] == b"tracestate: a=1,b=2\r\n"


@pytest.mark.parametrize("policy", InboundPolicy)
def test_a_client_can_t_have_its_trace_recorded(policy: InboundPolicy) -> None:
    """Neither its flag nor its state counts, whatever happens to its trace id."""
    request = head(b"traceparent: " + PARENT, b"tracestate: dd=s:2")
    sent, _ = traces(policy).begin(request, CLIENT)
    assert is_own(sent)
    assert (trace_id(sent) == TRACE) == (policy is InboundPolicy.CONTINUE)
    assert SPAN.encode() not in sent


@given(st.lists(st.binary(max_size=80)), st.lists(st.binary(max_size=80)))
def test_no_field_of_a_client_breaks_ours(
    parents: list[bytes], states: list[bytes]
) -> None:
    """Whatever arrives, services get one valid traceparent, and at most one state."""
    plain = bytes.maketrans(b"\r\n\0", b"   ")
    request = head()
    for name, sent in ((b"traceparent", parents), (b"tracestate", states)):
        for one in sent:
            cleaned = bytes(c for c in one.translate(plain) if c >= 32 and c != 127)
            request.lines = [*request.lines, *head(name + b": " + cleaned).lines]
    for policy in InboundPolicy:
        for peer in (PROXY, CLIENT):
            assert re.fullmatch(
                rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\r\n"
                rb"(tracestate: [ -~]+\r\n)?",
                traces(policy).begin(request, peer)[0],
            )


@pytest.mark.parametrize(
    "fields",
    [
        (b"traceparent: ff-%b-%b-01" % (TRACE.encode(), SPAN.encode()),),
        (b"traceparent: " + PARENT, b"traceparent: " + PARENT),
        (b"tracestate: a=1",),
    ],
)
@pytest.mark.parametrize("policy", InboundPolicy)
def test_what_isn_t_valid_begins_a_trace(
    fields: tuple[bytes, ...], policy: InboundPolicy
) -> None:
    """Even from a trusted proxy; a state without a parent says nothing."""
    sent, _ = traces(policy).begin(head(*fields), PROXY)
    assert is_own(sent)
    assert trace_id(sent) != TRACE


def test_new_traces() -> None:
    """Ids are new for each request, over several batches and in every process."""
    own, other = traces(seed=1), traces(seed=2)
    made = [*islice(own.new, 1000), *islice(other.new, 1000)]
    assert all(is_own(trace) for trace in made)
    ids = [trace.decode().split("-")[1:3] for trace in made]
    assert [trace_id(trace) for trace in made] == [one for one, _ in ids]
    assert len({one for one, _ in ids}) == len({span for _, span in ids}) == 2000
    # That a process shares a half is for speed; the other decides what is recorded.
    assert len({one[:16] for one, _ in ids}) == 2
    assert len({one[16:] for one, _ in ids}) == 2000


def test_each_try_has_its_own_span() -> None:
    """The trace, its flag and its state stay. Source: §4.3."""
    own = traces()
    fields = head(b"traceparent: " + PARENT, b"tracestate: a=1")
    first, _ = own.begin(fields, PROXY)
    second = own.again(first)
    assert (first[:49], first[65:]) == (second[:49], second[65:])
    assert first[49:65] != second[49:65]


# --- what is recorded ---


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        (None, None, Sampler(0.01, True)),
        (None, "0.5", Sampler(0.5, True)),
        ("always_on", None, Sampler(1.0, False)),
        ("always_off", "1", Sampler(0.0, False)),
        ("traceidratio", "0.25", Sampler(0.25, False)),
        ("traceidratio", None, Sampler(1.0, False)),
        ("parentbased_always_on", None, Sampler(1.0, True)),
        ("parentbased_always_off", None, Sampler(0.0, True)),
        ("parentbased_traceidratio", "0", Sampler(0.0, True)),
    ],
)
def test_samplers(name: str | None, argument: str | None, expected: Sampler) -> None:
    """They are OpenTelemetry's; the default is 1 % of the traces that begin here."""
    assert sampler(name, argument) == expected


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("jaeger_remote", None),
        ("traceidratio", "2"),
        ("traceidratio", "-0.1"),
        ("traceidratio", "nan"),
        ("parentbased_traceidratio", "half"),
    ],
)
def test_bad_samplers(name: str, argument: str | None) -> None:
    """The error names the variable and what is expected."""
    with pytest.raises(ValueError, match=r"^OTEL_TRACES_SAMPLER(_ARG)?: expected "):
        sampler(name, argument)


def test_a_share_of_the_traces_is_recorded() -> None:
    """About that share, by the digits of the id. The flag says so."""
    own = traces(sampler=Sampler(0.1, follows_parent=True))
    found = [own.begin(head(), CLIENT) for _ in range(5000)]
    recorded = [sent for sent, before in found if before is not None]
    assert 400 < len(recorded) < 600
    assert all((b"-01\r\n" in sent) == (before == b"") for sent, before in found)
    assert all(int(trace_id(sent)[16:], 16) < 2**64 / 10 for sent in recorded)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_a_trusted_parent_decides(is_sampled: bool) -> None:
    """With a parent-based sampler; others decide for themselves."""
    request = head(f"traceparent: 00-{TRACE}-{SPAN}-0{int(is_sampled)}".encode())
    for share in (0.0, 1.0):
        for follows, expected in ((True, is_sampled), (False, share == 1.0)):
            own = traces(sampler=Sampler(share, follows_parent=follows))
            sent, before = own.begin(request, PROXY)
            assert before == (SPAN.encode() if expected else None)
            assert sent.endswith(b"-0%d\r\n" % expected)


def test_a_client_s_digits_don_t_decide() -> None:
    """An id that a sampler by digits would always record."""
    low = f"00-{'0' * 31}1-{SPAN}-01"
    own = traces(InboundPolicy.CONTINUE, sampler=Sampler(0.1, follows_parent=True))
    request = head(f"traceparent: {low}".encode())
    found = [own.begin(request, CLIENT)[1] for _ in range(1000)]
    assert 50 < sum(before is not None for before in found) < 200
