"""PURE. The trace that a request belongs to: read from it, and sent to the service.

The gateway always sends a `traceparent` of its own making. No byte of a client's field
reaches a service unparsed.

Source: https://www.w3.org/TR/trace-context/ (level 1).
"""

from __future__ import annotations

import re
import struct
from binascii import hexlify
from collections.abc import Callable, Container, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from typing import Final, NamedTuple

from gateway.headers.names import TRACEPARENT, TRACESTATE
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
_SPAN_ID = slice(_ID.stop + 1, _ID.stop + 17)


def trace_id(trace: bytes) -> str:
    """Return the id of the trace whose fields these are, as `Traces` returns them."""
    return trace[_ID].decode()


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


class Traces:
    """Begins the traces of requests."""

    def __init__(
        self,
        randbytes: Callable[[int], bytes],
        trusted: Container[str] = (),
        policy: InboundPolicy = InboundPolicy.RESTART,
    ) -> None:
        """*randbytes* returns so many random bytes. Ids name traces and protect
        nothing, but two processes must not make the same ones.

        *trusted* are the peers whose traces go on.
        """
        self._trusted = trusted
        self._continues_all = policy is InboundPolicy.CONTINUE
        digits = chain.from_iterable(_batches(randbytes))
        line = b"traceparent: 00-%b%%b-00\r\n" % hexlify(randbytes(8))
        self.new: Iterator[bytes] = map(line.__mod__, digits)
        """The field of new traces, with CRLF; they aren't sampled. It has no end. Most
        requests only take the next one, without a call of Python code. The first half
        of the id is that of this process."""
        next(self.new)  # the first batch is made now

    def begin(self, head: RequestHead, peer: str) -> bytes:
        """Return the trace fields, each with CRLF, for a request that has some itself.

        The trace of a trusted peer goes on with its flag and its state. No other client
        can have anything recorded.
        """
        new = next(self.new)
        is_trusted = peer in self._trusted
        if not is_trusted and not self._continues_all:
            return new
        lines = head.lines
        before = inbound(
            [line.value for line in lines if line.rule is TRACEPARENT],
            [line.value for line in lines if line.rule is TRACESTATE],
        )
        if before is None:
            return new
        flags = b"01" if is_trusted and before.is_sampled else b"00"
        state = b""
        if is_trusted and before.state:
            state = b"tracestate: %b\r\n" % before.state
        return b"traceparent: 00-%b-%b-%b\r\n%b" % (
            before.trace_id,
            new[_SPAN_ID],
            flags,
            state,
        )

    def again(self, trace: bytes) -> bytes:
        """Return the fields *trace* with a new span id, for another try.

        Source: §4.3: each outgoing request has a parent id of its own.
        """
        start, end = _SPAN_ID.start, _SPAN_ID.stop
        return trace[:start] + next(self.new)[_SPAN_ID] + trace[end:]


def _batches(randbytes: Callable[[int], bytes]) -> Iterator[Iterator[tuple[bytes]]]:
    """Yield the second half of trace ids and span ids, many at a time.

    That an id is zero, and so invalid, has a probability of 2^-64.
    """
    while True:
        digits = hexlify(randbytes(16 * _BATCH), b"-", 8) + b"-"
        yield struct.iter_unpack("33sx", digits)
