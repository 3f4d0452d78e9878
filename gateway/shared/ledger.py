"""PURE. Which denials the stream has, which it lacks, and which are news here.

The hub needs no queue of what is to be sent: it is what this gateway has and the stream
lacks. After each connection the stream is read from its start, so whatever was lost
meanwhile, on either side, is found.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gateway.session.deny_list import MAX_SESSIONS, DenyList, UserDenial
from gateway.shared.entries import SharedDenials, end_of

TRIM_MARGIN_S: Final = 300.0
"""How long an entry is kept after its denials have ended: clocks differ."""
_COARSE_S: Final = 60.0
"""Entries whose ends differ by less count as one. Far less than the margin."""


class DenialLedger:
    """Compares this gateway's denials with the stream's."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._known = DenyList(max_sessions)
        """All that are in force in this gateway."""
        self._own = DenyList(max_sessions)
        """Those that were made in this gateway, and not read from the stream."""
        self._stored = DenyList(max_sessions)
        """Those that the stream has, as far as it was read."""
        self._ends: dict[str, float] = {}
        self._users: tuple[UserDenial, ...] = ()

    def know(self, denials: SharedDenials, now: float) -> None:
        """Note denials that are in force in this gateway already."""
        _add(self._known, denials, now)

    def deny(self, denials: SharedDenials, now: float) -> None:
        """Note new denials of this gateway, to be sent at once."""
        _add(self._known, denials, now)
        _add(self._own, denials, now)
        for handle, until in denials.ends.items():
            # Beyond the bound, `missing` returns them after the next connection.
            if len(self._ends) < self._max_sessions:
                self._ends[handle] = until
        self._users = (*self._users, *denials.users)[: self._max_sessions]

    @property
    def waiting(self) -> int:
        """The number of new denials that are to be sent."""
        return len(self._ends) + len(self._users)

    def take(self) -> SharedDenials:
        """Return the new denials that are to be sent; the caller sends them.

        If that fails, `begin` and `missing` find them again.
        """
        taken = SharedDenials(self._ends, self._users)
        self._ends, self._users = {}, ()
        return taken

    def begin(self) -> None:
        """The stream is read from its start from now on; it may be another one."""
        self._stored = DenyList(self._max_sessions)

    def read(self, denials: SharedDenials, now: float) -> SharedDenials:
        """Note *denials* that the stream has; return those that are news here."""
        _add(self._stored, denials, now)
        news = _lacking(self._known, denials, now)
        _add(self._known, news, now)
        return news

    def sent(self, denials: SharedDenials, now: float) -> None:
        """Note *denials* that the stream has taken."""
        _add(self._stored, denials, now)

    def missing(self, now: float, *, own_only: bool = False) -> SharedDenials:
        """Return what this gateway has and the stream lacks.

        With *own_only*, only what was made in this gateway.
        """
        mine = self._own if own_only else self._known
        live = SharedDenials(dict(mine.live(now)), tuple(mine.live_users(now)))
        return _lacking(self._stored, live, now)


def _add(known: DenyList, denials: SharedDenials, now: float) -> None:
    known.add(denials.ends, now)
    for user in denials.users:
        known.add_user(user, now)


def _lacking(known: DenyList, denials: SharedDenials, now: float) -> SharedDenials:
    """Return those of *denials* that aren't over and that *known* doesn't cover."""
    return SharedDenials(
        {
            handle: until
            for handle, until in denials.ends.items()
            if until > now and not known.covers(handle, until)
        },
        tuple(
            user
            for user in denials.users
            if user.until > now and not known.covers_user(user)
        ),
    )


class EntryEnds:
    """From which entry on the stream still matters.

    An entry matters until its last denial has ended. One that ends before an older one
    never counts, so only ends in rising order are kept.
    """

    def __init__(self) -> None:
        self._rising: deque[tuple[str, float]] = deque()
        self._last: str | None = None

    def add(self, entry_id: str, denials: SharedDenials) -> None:
        """Note an entry that follows all others."""
        self._last = entry_id
        until = end_of(denials)
        if until and (not self._rising or until > self._rising[-1][1] + _COARSE_S):
            self._rising.append((entry_id, until))

    def needed_from(self, now: float) -> str | None:
        """Return the id of the oldest entry that matters; None: keep all.

        The last entry is kept in any case.
        """
        while self._rising and self._rising[0][1] + TRIM_MARGIN_S <= now:
            self._rising.popleft()
        return self._rising[0][0] if self._rising else self._last
