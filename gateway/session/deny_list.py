"""PURE. The sessions that ended, until their last access token has expired.

A denial names one session by its handle, or all sessions of a user that began before a
time. The second kind also covers sessions whose handles nobody knows here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.identity import SessionIdentity

MAX_SESSIONS = 100_000
"""About 200 bytes each."""
MAX_DENY_S: Final = 7 * 86_400.0
"""The longest that a session is remembered, whatever the life of its tokens."""
MAX_HANDLE: Final = 1024
"""Of a session handle or an id from another process, in characters. SuperTokens' have
less than 100."""


@dataclass(frozen=True, slots=True)
class UserScope:
    """All sessions of a user, or those in one tenant."""

    user_id: str
    tenant_id: str | None = None
    """None: in every tenant."""


@dataclass(frozen=True, slots=True)
class UserDenial:
    """A user whose access tokens from before a time are refused."""

    scope: UserScope
    before: float
    """Tokens issued at this time or earlier are refused, in seconds since the epoch."""
    until: float
    """When the denial ends, in seconds since the epoch."""


class DenyList:
    """Sessions to refuse. A worker has one, and so has the supervisor."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._max_sessions = max_sessions
        self._ends: OrderedDict[str | UserScope, float] = OrderedDict()
        self._users: dict[UserScope, UserDenial] = {}
        """Those of `_ends` that are about users."""
        self.ends: Mapping[str | UserScope, float] = self._ends
        """Session handle, or user → when the denial ends, in seconds since the epoch.
        Denials that are over may still be in it. It is empty nearly always, and can be
        tested for that without a call."""
        self.overflows = 0
        """Denials that were forgotten before their end, for want of room."""

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, ends: Mapping[str, float], now: float) -> dict[str, float]:
        """Deny the sessions in *ends*; return those for which this is new.

        An end that isn't later than the known one is no news: no denial is shortened.
        For each new denial, up to two of the oldest go if they are over. Beyond the
        greatest number, the oldest goes.
        """
        known = self._ends
        news = {
            handle: until
            for handle, until in ends.items()
            if until > max(now, known.get(handle, now))
        }
        for handle, until in news.items():
            self._put(handle, until, now)
        return news

    def add_user(self, denial: UserDenial, now: float) -> None:
        """Deny a user's sessions. No denial is shortened, and no older one lifted."""
        scope = denial.scope
        before = self._users.get(scope)
        if before is not None:
            denial = UserDenial(
                scope,
                max(denial.before, before.before),
                max(denial.until, before.until),
            )
        if denial.until > now:
            self._users[scope] = denial
            self._put(scope, denial.until, now)

    def _put(self, key: str | UserScope, until: float, now: float) -> None:
        known = self._ends
        known[key] = until
        known.move_to_end(key)
        # Ends are nearly in order: two looks for each new one keep pace.
        for _ in range(2):
            oldest = next(iter(known))
            if known[oldest] <= now:
                self._forget(oldest)
        if len(known) > self._max_sessions:
            self._forget(next(iter(known)))
            self.overflows += 1

    def _forget(self, key: str | UserScope) -> None:
        del self._ends[key]
        if isinstance(key, UserScope):
            del self._users[key]

    def denies(self, handle: str, now: float) -> bool:
        """Return whether the session is denied; forget it if its denial is over."""
        until = self._ends.get(handle)
        if until is None:
            return False
        if until > now:
            return True
        del self._ends[handle]
        return False

    def denies_token(self, identity: SessionIdentity, now: float) -> bool:
        """Return whether a token is denied: by its session, or by its user.

        A user is named by either of the ids in a token, which differ if accounts are
        linked. A token without the time of its issue is older than any time.
        """
        if self.denies(identity.session_handle, now):
            return True
        if not self._users:
            return False
        issued_at = identity.claims.get("iat")
        return any(
            denial.until > now
            and (not isinstance(issued_at, int | float) or issued_at <= denial.before)
            for user_id in {identity.user_id, identity.recipe_user_id}
            for tenant_id in (None, identity.tenant_id)
            if (denial := self._users.get(UserScope(user_id, tenant_id))) is not None
        )

    def covers(self, handle: str, until: float) -> bool:
        """Return whether the session is denied until then, or longer."""
        return self._ends.get(handle, -math.inf) >= until

    def covers_user(self, denial: UserDenial) -> bool:
        """Return whether the user is denied so, or more."""
        known = self._users.get(denial.scope)
        return (
            known is not None
            and known.before >= denial.before
            and known.until >= denial.until
        )

    def live(self, now: float) -> Iterator[tuple[str, float]]:
        """Yield the denied sessions whose denials aren't over, with their ends.

        The oldest first.
        """
        return (
            (key, until)
            for key, until in self._ends.items()
            if isinstance(key, str) and until > now
        )

    def live_users(self, now: float) -> Iterator[UserDenial]:
        """Yield the denials of users that aren't over."""
        return (denial for denial in self._users.values() if denial.until > now)
