"""PURE. One record for each request, and the protocol of what takes it.

A record holds no token, cookie, body or query string, so no log format can leak one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError, Side, Stage
from gateway.headers import trace_id
from gateway.observe.recording import Recording


@dataclass(kw_only=True)
class Record:
    """What happened to one request. Filled in while the request is served.

    Without slots: a field that isn't set is read from the class, which costs a request
    nothing.
    """

    started: float
    """`time.perf_counter()` when the head was read."""
    client: str = "-"
    method: str = "-"
    path: str = "-"
    """Canonical, without query; `-` if the target wasn't valid."""
    host: str = ""
    """`host[:port]` that the client asked for; empty: it isn't known."""
    is_secure: bool = False
    """The client's side is https, directly or according to a trusted proxy."""
    protocol: str = "HTTP/1.1"
    request_id: str = "-"
    trace: bytes = b""
    """The trace fields that the service was sent last, or would have been, each with
    CRLF; empty: the head couldn't be read."""
    recording: Recording | None = None
    """What else is noted; None: its spans aren't exported."""
    user_agent: str | None = None
    """The beginning of the field's value, if `log.user_agent` is set."""
    stage: Stage = Stage.ACCEPT
    side: Side | None = None
    """The side that failed; None: no failure."""
    status: int = 0
    route: str | None = None
    decision: str = "-"
    """`allowed`, `anonymous`, `denied`, `undecided`, `auth`, `preflight`, or `-`."""
    reason: str = ""
    user_id: str | None = None
    tenant_id: str | None = None
    upstream: str | None = None
    target: str | None = None
    """The target that the request was sent to last; None: to none."""
    retries: int = 0
    """How often the request was sent again."""
    upstream_status: int | None = None
    """The status of the service's reply; None: there was none."""
    duration_ms: float = 0.0
    verify_at: float = 0.0
    """When the check of the session began, as `started`; 0: there was none. This and
    the next two are plain timestamps, because a context for each stage costs three
    times as much as all of them. Durations are computed when the record is written."""
    verified_at: float = 0.0
    """When the check of the session ended."""
    replied_at: float = 0.0
    """When the head of the upstream's reply had arrived."""
    connect_ms: float | None = None
    """How long the new connection to the upstream took; None: one was reused."""
    bytes_in: int = 0
    bytes_out: int = 0
    note: str = ""
    """Details for the operator: dropped cookies, the cause of a failure."""

    def note_failure(self, error: GatewayError) -> None:
        """Note that the request failed with *error*, and with its status."""
        self.side = error.side
        self.status = error.status
        self.reason = error.code
        self.note = error.detail

    @property
    def trace_id(self) -> str | None:
        """The id of the trace; None: there is none."""
        return trace_id(self.trace) if self.trace else None

    @property
    def verify_ms(self) -> float | None:
        """How long the check of the session took; None: there was none."""
        if not self.verified_at:
            return None
        return (self.verified_at - self.verify_at) * 1000

    @property
    def upstream_ms(self) -> float | None:
        """How long the upstream took for the head of its reply; None: no reply.

        Includes the time in which the client sent its body, but not `connect_ms`.
        """
        if not self.replied_at:
            return None
        return (self.replied_at - self.verified_at) * 1000 - (self.connect_ms or 0.0)

    @classmethod
    def begin(cls, started: float, client: str, method: str) -> Record:
        """Return the record of a new request."""
        record = cls.__new__(cls)  # the generated __init__ sets every field
        record.started = started
        record.client = client
        record.method = method
        return record


class Observer(Protocol):
    """Takes each record once, when its request has ended."""

    def observe(self, record: Record) -> None: ...
