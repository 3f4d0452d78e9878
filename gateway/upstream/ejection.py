"""PURE. Which targets of a service take requests: a target that fails is left out.

A target is ejected after some failures in a row, for a time that grows with each
ejection. Then one request tries it: if it is answered, the target is back, with a
growing share of the requests at first. A part of the targets always stays, so a fault
that all of them share ejects few.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

SLOW_START_S: Final = 10.0
"""How long a target that is back has less than its share: its caches are cold."""
_FIRST_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionRules:
    """When a target is ejected, and for how long."""

    failures: int
    """In a row."""
    eject_s: float
    """The first time; twice as long the second time, and so on."""
    max_eject_s: float
    max_ejected: float
    """The greatest part of the targets; the last one always stays."""


@dataclass(slots=True)
class _TargetHealth:
    failures: int = 0
    """In a row."""
    ejections: int = 0
    """They are forgotten, one for each `eject_s` without another one."""
    out_until: float | None = None
    is_on_trial: bool = False
    is_heard: bool = False
    """Other workers have ejected it, and not this one."""
    back_at: float = -math.inf


class Ejections:
    """The state of a service's targets, which are known by their numbers."""

    __slots__ = ("_most", "_rules", "_targets", "is_troubled")

    def __init__(self, targets: int, rules: EjectionRules) -> None:
        self._rules = rules
        self._targets = tuple(_TargetHealth() for _ in range(targets))
        self._most = min(int(targets * rules.max_ejected), targets - 1)
        """The targets that may be ejected at a time."""
        self.is_troubled = False
        """False: no target has failed since it was answered last, and none is new."""

    def renumbered(self, before: Sequence[int | None]) -> Ejections:
        """Return the state of other targets, of which some were targets before.

        *before* has the former number of each, None for a new one. Targets that are
        ejected are taken back if they would be too great a part of all.
        """
        other = Ejections(len(before), self._rules)
        other._targets = tuple(
            _TargetHealth() if number is None else self._targets[number]
            for number in before
        )
        out = [one for one in other._targets if one.out_until is not None]
        for target in out[other._most :]:
            target.out_until, target.is_on_trial, target.is_heard = None, False, False
        other.is_troubled = self.is_troubled
        return other

    def usable(self) -> Sequence[int]:
        """Return the targets that requests may be sent to, at least one."""
        return tuple(
            number
            for number, target in enumerate(self._targets)
            if target.out_until is None
        )

    def trial(self, now: float, but: Collection[int] = ()) -> int | None:
        """Return an ejected target that the next request shall try; None: none.

        None of *but*: they are known to be out of order.
        Nobody else gets it until that request is answered or has failed, or until
        `eject_s` has passed, if neither is ever told.
        """
        for number, target in enumerate(self._targets):
            if number in but:
                continue
            if target.out_until is not None and now >= target.out_until:
                target.out_until = now + self._rules.eject_s
                target.is_on_trial = True
                return number
        return None

    def restart(self, number: int, now: float) -> None:
        """Give a target less than its share for a while: it is well again."""
        self._targets[number].back_at = now
        self.is_troubled = True

    def share(self, number: int, now: float) -> float:
        """Return the part of its usual requests that a target gets: 0.1 to 1."""
        since_s = now - self._targets[number].back_at
        return max(_FIRST_SHARE, min(1.0, since_s / SLOW_START_S))

    def failed(self, number: int, now: float) -> float | None:
        """Note that a target has failed; return for how many seconds it is ejected now.

        None: it isn't ejected by this failure.
        """
        self.is_troubled = True
        target, rules = self._targets[number], self._rules
        target.failures += 1
        if target.out_until is not None:
            if not target.is_on_trial:
                return None  # a request from before
        elif target.failures < rules.failures or self.ejected >= self._most:
            return None
        healthy_s = now - target.back_at
        forgotten = 0 if target.is_on_trial else healthy_s / rules.eject_s
        target.ejections += 1 - int(min(forgotten, target.ejections))
        target.is_on_trial = target.is_heard = False
        length_s = min(rules.max_eject_s, rules.eject_s * target.ejections)
        target.out_until = now + length_s
        return length_s

    def answered(self, number: int, now: float, *, in_need: bool = False) -> bool:
        """Note that a target has answered; return whether it is back by that.

        *in_need*: it was asked because others had failed, so it needs no trial.
        """
        target = self._targets[number]
        is_back = target.is_on_trial or (in_need and target.out_until is not None)
        if is_back:
            self._return(target, now)
        if target.out_until is None:
            target.failures = 0
            self.is_troubled = any(
                other.failures
                or other.out_until is not None
                or now - other.back_at < SLOW_START_S
                for other in self._targets
            )
        return is_back

    def heard(self, number: int, until: float | None, now: float) -> None:
        """Note that another worker has ejected a target *until* then; None: it is back.

        What this worker has found itself stays: a target that it has ejected isn't back
        by another's word, nor earlier, and the bounds of `failed` hold.
        """
        self.is_troubled = True
        target = self._targets[number]
        if until is None:
            if target.is_heard and target.out_until is not None:
                self._return(target, now)
            return
        until = min(until, now + self._rules.max_eject_s)
        if target.out_until is not None:
            target.out_until = max(target.out_until, until)
        elif until > now and self.ejected < self._most:
            target.out_until, target.is_heard = until, True

    def _return(self, target: _TargetHealth, now: float) -> None:
        target.out_until, target.is_on_trial, target.is_heard = None, False, False
        target.back_at = now

    def is_ejected(self, number: int) -> bool:
        """Return whether a target takes no requests."""
        return self._targets[number].out_until is not None

    @property
    def ejected(self) -> int:
        """The number of targets that take no requests."""
        return sum(target.out_until is not None for target in self._targets)
