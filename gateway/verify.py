"""edge. The verification engine: a request in, a verdict out.

It has a chain of authenticators, one for each kind of credential. They are asked in
order. The first one whose kind of credential the request shows decides, also when it
refuses: no other credential makes up for a bad one. Where none is shown, the route
decides: refused if a session is required, anonymous if it is optional.

Whatever goes wrong is `Undecided`, so nothing is let through unverified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from gateway.identity import (
    Absent,
    Allowed,
    Denied,
    Pending,
    Principal,
    Protection,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.session.failures import Failures, undecided

_PUBLIC = Allowed(principal=None, reason="public")
_ANONYMOUS = Allowed(principal=None, reason="anonymous")
# Looking a member up in its enumeration costs more than all the rest of the test.
_IS_PUBLIC = Protection.PUBLIC
_UNCONFIRMED = undecided("denials_unknown")

Judge = Callable[[SessionRequest, SessionPolicy], Verdict | Absent | Pending]
"""`Authenticator.judge`."""


class Authenticator(Protocol):
    """Judges one kind of credential."""

    def judge(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | Absent | Pending:
        """Return the verdict on the credential that *request* shows.

        May raise: the engine makes `Undecided` of it.
        """
        ...

    def has_ended(self, principal: Principal) -> bool:
        """Return whether *principal* is of this kind, and known to be over by now."""
        ...


def _doubting(judge: Judge) -> Judge:
    """Return *judge*, without its approval."""

    def doubt(
        request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | Absent | Pending:
        outcome = judge(request, policy)
        is_refused = isinstance(outcome, Absent | Denied | Undecided)
        return outcome if is_refused else _UNCONFIRMED

    return doubt


class Engine:
    """Implements `identity.Verifier` with a chain of authenticators."""

    def __init__(
        self, authenticators: Sequence[Authenticator], *, unauthorised: Denied
    ) -> None:
        """*authenticators* are asked in order; there is at least one.

        *unauthorised* refuses a request that shows no credential where one is required.
        """
        self._authenticators = tuple(authenticators)
        self._use(each.judge for each in self._authenticators)
        self._unauthorised = unauthorised
        self._failures = Failures()

    def _use(self, judges: Iterable[Judge]) -> None:
        # The first one is called without a loop: it decides nearly always.
        first, *others = judges
        self._judge_first = first
        self._judge_next = tuple(others)

    def refuse_sessions(self, *, is_on: bool) -> None:
        """Allow no credential from now on, or again: it isn't known which have ended.

        Those that are refused anyway still are, and requests without one are anonymous
        where the route allows that.
        """
        judges = (each.judge for each in self._authenticators)
        self._use(map(_doubting, judges) if is_on else judges)

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        """Return the verdict if nothing must be asked for it, None otherwise."""
        if policy.protection is _IS_PUBLIC:
            return _PUBLIC
        try:
            judge = self._judge_first
            outcome = judge(request, policy)
            if type(outcome) is Allowed:  # nearly always
                return outcome
            for judge in self._judge_next:
                if not isinstance(outcome, Absent):
                    break
                outcome = judge(request, policy)
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            return self._failures.undecided(exc)
        match outcome:
            case Pending():
                return None
            case Absent():
                return self._absent(policy)
            case verdict:
                return verdict

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        """Return whether *request* may go on under *policy*. Never raises.

        Cancellation excepted, which ends only this request's own wait.
        """
        if policy.protection is _IS_PUBLIC:
            return _PUBLIC
        try:
            for judge in (self._judge_first, *self._judge_next):
                outcome = judge(request, policy)
                if isinstance(outcome, Pending):
                    outcome = await outcome.resume()
                if not isinstance(outcome, Absent):
                    return outcome
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            return self._failures.undecided(exc)
        return self._absent(policy)

    def has_ended(self, principal: Principal) -> bool:
        """Return whether *principal*, verified before, is known to be over by now."""
        return any(each.has_ended(principal) for each in self._authenticators)

    def _absent(self, policy: SessionPolicy) -> Verdict:
        """Return the verdict on a request that shows no credential."""
        if policy.protection is Protection.REQUIRED:
            return self._unauthorised
        return _ANONYMOUS
