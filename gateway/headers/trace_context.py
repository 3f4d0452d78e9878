"""PURE. The trace that a request belongs to: read from it, and sent to the service.

The gateway always sends a `traceparent` of its own making. No byte of a client's field
reaches a service unparsed.

Source: https://www.w3.org/TR/trace-context/ (level 1).
"""

from __future__ import annotations

import contextlib
import re
import struct
from binascii import hexlify
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain
from typing import Final, NamedTuple

from gateway.headers.names import HAS_TRACE, TRACEPARENT, TRACESTATE
from gateway.http.request_head import RequestHead

_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
).fullmatch
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_SAMPLED: Final = 1
"""The flag of a trace that is recorded. Source: §3.2.2.5.1."""

MAX_STATE: Final = 512
"""Characters of a tracestate that are sent on. Source: §3.3.1.5."""
_LARGE_MEMBER: Final = 128
"""Members with more characters are the first to be removed. Source: §3.3.1.5."""
_MAX_MEMBERS: Final = 32
_KEY = rb"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_MEMBER = re.compile(
    rb"(%b)=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])" % _KEY
).fullmatch

_BATCH: Final = 256
"""Traces that are made at once, in 9 KB."""

_ID = slice(len("traceparent: 00-"), len("traceparent: 00-") + 32)
_RANDOM = slice(_ID.stop - 16, _ID.stop)
_SPAN_ID = slice(_ID.stop + 1, _ID.stop + 17)


def trace_id(trace: bytes) -> str:
    """Return the id of the trace whose fields these are, as `Traces` returns them."""
    return trace[_ID].decode()


def span_id(trace: bytes) -> str:
    """Return the span id in these fields."""
    return trace[_SPAN_ID].decode()


class InboundTrace(NamedTuple):
    """The trace that a request says it belongs to."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool
    state: bytes
    """The value of tracestate; empty: none, or an invalid one."""


def inbound(
    parents: Sequence[bytes], states: Sequence[bytes] = ()
) -> InboundTrace | None:
    """Return what the values of traceparent and tracestate say; None: nothing valid.

    An invalid tracestate is as good as none.

    Source: §3.2, §3.3, §4.3.
    """
    if len(parents) != 1:
        return None
    found = _TRACEPARENT(parents[0])
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if more is not None and version == b"00":
        return None
    is_sampled = bool(int(flags, 16) & _SAMPLED)
    return InboundTrace(trace_id, span_id, is_sampled, _state(states))


def _state(values: Sequence[bytes]) -> bytes:
    """Return the list in the values of tracestate; empty if it isn't valid.

    A list that is too long loses whole members: large ones first, then the last ones.

    Source: §3.3.1.
    """
    members = [member.strip(b" \t") for member in b",".join(values).split(b",")]
    members = [member for member in members if member]
    if len(members) > _MAX_MEMBERS:
        return b""
    found = [_MEMBER(member) for member in members]
    keys = {one[1] for one in found if one is not None}
    if None in found or len(keys) < len(found):
        return b""
    state = b",".join(members)
    if len(state) > MAX_STATE:
        members = [member for member in members if len(member) <= _LARGE_MEMBER]
        while len(state := b",".join(members)) > MAX_STATE:
            del members[-1]
    return state


class InboundPolicy(StrEnum):
    """What happens to the trace of a client that isn't a trusted proxy."""

    RESTART = "restart"
    """A new trace begins."""
    CONTINUE = "continue"
    """The client's trace goes on, without its flag and its state."""


class Sampler(NamedTuple):
    """Which traces are recorded."""

    share: float
    """Of the traces that begin here."""
    follows_parent: bool
    """A trace that goes on here is recorded if it was before."""

    def samples(self, low_bits: int, parent: bool | None) -> bool:
        """Return whether to record a trace; *low_bits* are 64 random ones.

        *parent*: whether it is recorded where it comes from; None: that doesn't count.
        """
        if self.follows_parent and parent is not None:
            return parent
        return low_bits < self.share * 2**64


DEFAULT_SHARE: Final = 0.01
"""Of the traces that begin here, if no variable names a sampler."""

_SAMPLERS: Mapping[str, tuple[float | None, bool]] = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}


def sampler(name: str | None, argument: str | None) -> Sampler:
    """Return the sampler that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name.

    None: the variable isn't set.

    Raises:
        ValueError: it names none, or its share isn't a number from 0 to 1.
    Source: OpenTelemetry, "Environment variable specification".
    """
    chosen = _SAMPLERS.get(name or "parentbased_traceidratio")
    if chosen is None:
        known = ", ".join(_SAMPLERS)
        raise ValueError(f"OTEL_TRACES_SAMPLER: expected one of {known}")
    share, follows_parent = chosen
    if share is None:
        share = 1.0 if name is not None else DEFAULT_SHARE
        if argument is not None:
            share = _share(argument)
    return Sampler(share, follows_parent)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        share = float(text)
        if 0 <= share <= 1:
            return share
    raise ValueError("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1")


class Traces:
    """Begins the traces of requests."""

    def __init__(
        self,
        randbytes: Callable[[int], bytes],
        trusted: Container[str] = (),
        policy: InboundPolicy = InboundPolicy.RESTART,
        sampler: Sampler | None = None,
    ) -> None:
        """*randbytes* returns so many random bytes. Ids name traces and protect
        nothing, but two processes must not make the same ones.

        *trusted* are the peers whose traces go on. *sampler* decides what is recorded;
        None: the gateway records nothing.
        """
        self._trusted = trusted
        self._continues_all = policy is InboundPolicy.CONTINUE
        self._sampler = sampler
        self.least_marks = HAS_TRACE if sampler is None else 0
        """`begin` is needed for heads with such marks, or larger ones (it does no harm
        for others). HAS_TRACE is the largest mark."""
        digits = chain.from_iterable(_batches(randbytes))
        line = b"traceparent: 00-%b%%b-00\r\n" % hexlify(randbytes(8))
        self.new: Iterator[bytes] = map(line.__mod__, digits)
        """The field of new traces, with CRLF; they aren't sampled. It has no end. Most
        requests only take the next one, without a call of Python code. The first half
        of the id is that of this process."""
        next(self.new)  # the first batch is made now

    @property
    def records(self) -> bool:
        """Whether some traces are recorded."""
        return self._sampler is not None

    def begin(self, head: RequestHead, peer: str) -> tuple[bytes, bytes | None]:
        """Return the trace fields, each with CRLF, for a request, and its parent.

        The parent is the span id before the gateway's, empty if there is none. It is
        None if the request isn't recorded.

        The trace of a trusted peer goes on with its flag and its state. No other client
        can have anything recorded: its flag doesn't count, and neither do the digits of
        its trace id.
        """
        fields = next(self.new)
        low_bits = int(fields[_RANDOM], 16) if self._sampler is not None else 0
        is_trusted = peer in self._trusted
        before = None
        if is_trusted or self._continues_all:
            before = _before(head)
        if before is None:
            if self._sampler is not None and self._sampler.samples(low_bits, None):
                return _with_flag(fields), b""
            return fields, None
        parent = before.is_sampled if is_trusted else None
        is_recorded = self._sampler is not None and self._sampler.samples(
            low_bits, parent
        )
        # A trace that isn't recorded here may be elsewhere, as long as nothing decides.
        is_sampled = is_recorded or (self._sampler is None and bool(parent))
        state = b""
        if is_trusted and before.state:
            state = b"tracestate: %b\r\n" % before.state
        fields = b"traceparent: 00-%b-%b-%b\r\n%b" % (
            before.trace_id,
            fields[_SPAN_ID],
            b"01" if is_sampled else b"00",
            state,
        )
        return fields, before.span_id if is_recorded else None

    def again(self, trace: bytes) -> bytes:
        """Return the fields *trace* with a new span id, for another try.

        Source: §4.3: each outgoing request has a parent id of its own.
        """
        start, end = _SPAN_ID.start, _SPAN_ID.stop
        return trace[:start] + next(self.new)[_SPAN_ID] + trace[end:]


def _before(head: RequestHead) -> InboundTrace | None:
    lines = head.lines
    return inbound(
        [line.value for line in lines if line.rule is TRACEPARENT],
        [line.value for line in lines if line.rule is TRACESTATE],
    )


def _with_flag(fields: bytes) -> bytes:
    return b"%b01\r\n" % fields[: _SPAN_ID.stop + 1]


def _batches(randbytes: Callable[[int], bytes]) -> Iterator[Iterator[tuple[bytes]]]:
    """Yield the second half of trace ids and span ids, many at a time.

    That an id is zero, and so invalid, has a probability of 2^-64.
    """
    while True:
        digits = hexlify(randbytes(16 * _BATCH), b"-", 8) + b"-"
        yield struct.iter_unpack("33sx", digits)
