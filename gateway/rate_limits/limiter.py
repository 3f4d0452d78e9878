"""PURE. Judges a request by its limits, and counts the refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.http.fields import Fields
from gateway.rate_limits.policy import Caller, RatePolicy, RateUse
from gateway.rate_limits.store import Draw, RateStore

_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limited:
    """A request that comes too soon."""

    policy: RatePolicy
    wait_ns: int
    """How long until it can be admitted."""

    @property
    def fields(self) -> Fields:
        """The fields of the refusal: Retry-After, and by option those of RateLimit.

        Source: RFC 9110 §10.2.3; draft-ietf-httpapi-ratelimit-headers-10 §3 and §4.
        """
        wait_s = -(-self.wait_ns // _SECOND_NS)
        fields: Fields = ((b"Retry-After", b"%d" % wait_s),)
        if not self.policy.says_fields:
            return fields
        gcra, name = self.policy.gcra, self.policy.name.encode()
        window_s = max(1, -(-gcra.burst * gcra.interval_ns // _SECOND_NS))
        return (
            *fields,
            (b"RateLimit-Policy", b'"%b";q=%d;w=%d' % (name, gcra.burst, window_s)),
            (b"RateLimit", b'"%b";r=0;t=%d' % (name, wait_s)),
        )


class Asking:
    """A judgment that has to wait for the store. `answer` ends it."""

    __slots__ = ("_draws", "_limiter")

    def __init__(
        self, limiter: Limiter, draws: Sequence[tuple[RatePolicy, Draw]]
    ) -> None:
        self._limiter = limiter
        self._draws = draws

    async def answer(self) -> Limited | None:
        """Return the refusal, or None if the request is admitted."""
        store = self._limiter.store
        for number, (policy, draw) in enumerate(self._draws):
            # The first one was tried before.
            wait_ns = store.take(draw) if number else None
            if wait_ns is None:
                wait_ns = await store.ask(draw)
            if wait_ns:
                return self._limiter.refuse(policy, wait_ns)
        return None


class Limiter:
    """Judges requests. All limits of a request must admit it."""

    def __init__(self, store: RateStore) -> None:
        self.store = store
        self.refused: dict[str, int] = {}
        """Policy → the requests that it has refused."""

    def judge(self, uses: Sequence[RateUse], caller: Caller) -> Limited | Asking | None:
        """Return the refusal of a request, or None if it is admitted.

        `Asking`: the store has to be asked for it. What a limit admits is taken from
        its bucket, even if a later one refuses the request.
        """
        draws = [
            (use.policy, Draw(key, use.policy.gcra, use.cost, use.policy.sharing))
            for use in uses
            for key in use.policy.keys(caller)
        ]
        for number, (policy, draw) in enumerate(draws):
            wait_ns = self.store.take(draw)
            if wait_ns is None:
                return Asking(self, draws[number:])
            if wait_ns:
                return self.refuse(policy, wait_ns)
        return None

    def refuse(self, policy: RatePolicy, wait_ns: int) -> Limited:
        """Return the refusal, and count it."""
        self.refused[policy.name] = self.refused.get(policy.name, 0) + 1
        return Limited(policy, wait_ns)
