"""What is accepted of sessions that have ended, and for whom.

A gateway's workers learn of a sign-out one after another. A worker that has refused a
session has the message, so it may never accept that session again. A connection is
always the same worker's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

_LIST_MAX = 20
"""Faults after this many are counted only."""


@dataclass(eq=False, slots=True)
class Session:
    """A session, and what is known of its end."""

    token: str
    user: str
    ended_at: float | None = None
    """When the answer to its sign-out had arrived."""
    ended_by: int | None = None
    """The gateway that it signs out at, as soon as it is asked."""
    here_s: float = 0.0
    """From that answer to the last request that this gateway has accepted."""
    elsewhere_s: float = 0.0
    """The same of the other gateways."""
    refused_at: dict[int, float] = field(default_factory=dict)
    """When each worker's first refusal had arrived, by process id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request with a session's token."""

    status: int
    """0: there was no whole one."""
    user: str
    """Whom the service has seen; empty: nobody, or it wasn't asked."""
    gateway: int
    worker: int
    sent_at: float
    got_at: float


@dataclass(eq=False, slots=True)
class Judge:
    """Judges answers."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_gateway: Counter[int] = field(default_factory=Counter)
    others: int = 0
    """Accepted requests that were served as another user's, or nobody's."""
    after_message: int = 0
    """Those that a worker has accepted although it had refused their session."""
    unexpected: int = 0
    """Answers that are no 200, and no refusal of a session that has ended."""
    faults: list[str] = field(default_factory=list)

    def judge(self, session: Session, answer: Answer) -> None:
        """Take the *answer* to a request of *session*."""
        self.statuses[answer.status] += 1
        self.by_gateway[answer.gateway] += 1
        if answer.status == 200:
            self._accepted(session, answer)
        elif answer.status == 401 and session.ended_by is not None:
            session.refused_at.setdefault(answer.worker, answer.got_at)
        else:
            self.unexpected += 1
            self._note(f"{answer.status} of gateway {answer.gateway}")

    def _accepted(self, session: Session, answer: Answer) -> None:
        if answer.user != session.user:
            self.others += 1
            self._note(f"user {answer.user} in place of {session.user}")
        refused_at = session.refused_at.get(answer.worker)
        if refused_at is not None and answer.sent_at > refused_at:
            self.after_message += 1
            self._note(f"worker {answer.worker} accepts what it has refused")
        if session.ended_at is None or answer.sent_at <= session.ended_at:
            return
        late_s = answer.sent_at - session.ended_at
        if answer.gateway == session.ended_by:
            session.here_s = max(session.here_s, late_s)
        else:
            session.elsewhere_s = max(session.elsewhere_s, late_s)

    def _note(self, fault: str) -> None:
        if len(self.faults) < _LIST_MAX:
            self.faults.append(fault)
