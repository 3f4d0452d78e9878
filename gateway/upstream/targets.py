"""edge. The targets of a service: which gets a request, and which are left out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from random import Random
from time import monotonic

from gateway.errors import (
    ConnectFailed,
    OutOfDescriptors,
    UpstreamClosed,
    UpstreamError,
)
from gateway.events import RuntimeEvent, about
from gateway.http.methods import SAFE_METHODS
from gateway.upstream.balance import (
    Balancer,
    LeastRequests,
    RandomTarget,
    RoundRobin,
    rendezvous,
)
from gateway.upstream.ejection import EjectionRules, Ejections
from gateway.upstream.hold import Hold
from gateway.upstream.in_flight import InFlight
from gateway.upstream.knock import knock
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.retry import Budget

_log = logging.getLogger("gateway.upstream")


def is_targets_fault(error: UpstreamError) -> bool:
    """Return whether *error* says that its target is out of order.

    It took no connection, or broke one that was made for the request before it replied.
    Not a slow or bad reply, which may be due to the request; not a connection that the
    service closed because it was idle.
    """
    if isinstance(error, UpstreamClosed):
        return not error.reused
    return isinstance(error, ConnectFailed)


class ServiceTargets:
    """The targets of a service in this worker."""

    def __init__(
        self,
        name: str,
        pools: Sequence[UpstreamPool],
        *,
        weights: Sequence[float] = (),
        balance: str = "least_requests",
        rules: EjectionRules | None = None,
        hold: Hold | None = None,
        in_flight: InFlight | None = None,
        rng: Random | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """*balance* is `least_requests`, `round_robin` or `random`; with a key,
        `in_turn` hashes instead. *weights* are 1 by default. *rules* None: no target is
        ejected. *hold* None: no request waits for a target that takes connections.
        *in_flight* None: any number of requests may be in progress.
        """
        self.name = name
        self.pools = tuple(pools)
        self.hold = hold
        self.in_flight = in_flight
        self.retries = Budget()
        """The retries that the service may still get from this worker."""
        self.tell: Callable[[str, str, float | None], None] | None = None
        """Called with the service, a target that this worker has ejected, and until
        when (on the clock); None: it is back. Other workers get it as `heard`."""
        self._down: frozenset[int]
        """The targets that their checks have found down."""
        self._knocks: set[asyncio.Task[None]] = set()
        self._down_names: frozenset[str] = frozenset()
        """The same by their URLs; some may not be targets (yet)."""
        self._balance, self._rules = balance, rules
        self._rng = rng or Random()  # noqa: S311 - no secret
        self._ejections: Ejections | None = None
        self._number(tuple(weights) or (1.0,) * len(pools))
        self._clock = clock
        self.is_watched = False
        """Whether `answered` must be called: a target has failed, or is new again, or
        requests wait for one."""

    def _number(self, weights: Sequence[float]) -> None:
        """Prepare what depends on the number of targets, for `pools` as they are."""
        count = len(self.pools)
        self.weights = tuple(weights)
        """Of the `pools`."""
        self._names = [str(pool.target).encode() for pool in self.pools]
        self._all = tuple(range(count))
        self._balancer = self._made(count)
        self._down = frozenset(
            n for n in self._all if self.pools[n].name in self._down_names
        )
        if self._rules is None or count == 1:
            self._ejections = None
        elif self._ejections is None:
            self._ejections = Ejections(count, self._rules)

    def _made(self, count: int) -> Balancer:
        match self._balance:
            case "round_robin":
                return RoundRobin(count)
            case "random":
                return RandomTarget(self._rng)
            case _:
                return LeastRequests(self._requests, self._rng)

    def replace(self, pools: Sequence[UpstreamPool], weights: Sequence[float]) -> None:
        """Have these targets from now on, at least one, each with its weight.

        Those that stay keep their state. Requests that are in progress with one that
        leaves go on, and say nothing about a target any more.
        """
        before = {pool: number for number, pool in enumerate(self.pools)}
        self.pools = tuple(pools)
        if self._ejections is not None and len(pools) > 1:
            self._ejections = self._ejections.renumbered([*map(before.get, pools)])
        self._number(weights)
        self.is_watched |= bool(self._down)

    def _requests(self, number: int) -> int:
        pool = self.pools[number]
        return pool.in_use + pool.waiting

    def in_turn(
        self, key: bytes | None = None, method: str = ""
    ) -> Sequence[UpstreamPool]:
        """Return all pools in the order in which they are to be tried.

        Requests with the same *key* go to the same target while it is there. Ejected
        targets come last, but a request whose *method* is safe may be the one that
        tries a target again.
        """
        pools = self.pools
        if len(pools) == 1:
            return pools
        ejections = self._ejections
        usable: Sequence[int] = self._all
        weights: Sequence[float] = self.weights
        if self.is_watched and ejections is None:
            usable = self._well(usable)
            weights = [self.weights[number] for number in usable]
        elif ejections is not None and self.is_watched:
            now = self._clock()
            tried = ejections.trial(now, self._down)
            if tried is not None and method not in SAFE_METHODS:
                self._knock(tried)
                tried = None
            usable = self._well(ejections.usable())
            weights = tuple(
                self.weights[number] * ejections.share(number, now) for number in usable
            )
            if tried is not None:
                return self._after(tried, usable)
        if key is None:
            return self._after(self._balancer.first(usable, weights), usable)
        return self._after(rendezvous(key, usable, weights, self._names), usable)

    def _well(self, usable: Sequence[int]) -> Sequence[int]:
        """Return those of *usable* that aren't down; all targets if none is left."""
        if not self._down:
            return usable
        return [one for one in usable if one not in self._down] or self._all

    def set_down(self, down: Collection[str]) -> None:
        """Send no requests to these targets, which their checks have found down.

        They are known by their URLs. It replaces what was said before. Targets that are
        up again get less than their share for a while.
        """
        before = self._down
        self._down_names = frozenset(down)
        self._down = frozenset(n for n in self._all if self.pools[n].name in down)
        ejections = self._ejections
        if ejections is not None:
            for number in before - self._down:
                ejections.restart(number, self._clock())
        self.is_watched |= before != self._down

    def heard(self, target: str, until: float | None) -> None:
        """Note what another worker has told about a target, which has this URL."""
        ejections = self._ejections
        if ejections is None:
            return
        for number, pool in enumerate(self.pools):
            if pool.name == target:
                ejections.heard(number, until, self._clock())
                self.is_watched = True

    def _after(self, first: int, usable: Sequence[int]) -> Sequence[UpstreamPool]:
        """Return the pools: *first*, then the least used ones, then the ejected."""
        rest = [number for number in usable if number != first]
        if len(rest) > 1:
            rest.sort(key=self._requests)
        if len(usable) < len(self.pools):
            rest += [n for n in self._all if n != first and n not in usable]
        return [self.pools[number] for number in (first, *rest)]

    def _knock(self, number: int) -> None:
        """Try a target with a connection alone: the request at hand must not fail."""
        task = asyncio.create_task(self._knocked(self.pools[number]))
        self._knocks.add(task)
        task.add_done_callback(self._knocks.discard)

    async def _knocked(self, pool: UpstreamPool) -> None:
        try:
            await knock(pool.dialer)
        except UpstreamError as error:
            self.failed(pool, error)
        except OutOfDescriptors:
            pass  # it says nothing about the target, which is tried again later
        else:
            self.answered(pool)

    def failed(self, pool: UpstreamPool, error: UpstreamError) -> None:
        """Note that a request to one of the targets has failed."""
        if self._ejections is None or not is_targets_fault(error):
            return
        if pool not in self.pools:
            return  # its address has left the service
        number = self.pools.index(pool)
        out_s = self._ejections.failed(number, self._clock())
        self.is_watched = True
        if out_s is not None:
            if self.tell is not None:
                self.tell(self.name, pool.name, self._clock() + out_s)
            reason = error.detail or error.code
            _log.warning(
                "service %s: target %s is ejected for %g s, after failures in a row:"
                " %s. Other targets get its requests",
                *(self.name, pool.target, out_s, reason),
                extra=about(
                    RuntimeEvent.TARGET_EJECTED,
                    service=self.name,
                    target=str(pool.target),
                    reason=reason,
                    ejected_s=out_s,
                ),
            )

    def answered(self, pool: UpstreamPool, *, in_need: bool = False) -> None:
        """Note that one of the targets has replied.

        *in_need*: it was asked because another one had failed. So if it is ejected, it
        is back: else the others, which may be all that is out of order now, would keep
        delaying requests until its trial.
        """
        hold, ejections = self.hold, self._ejections
        self.is_watched = bool(self._down) or (hold is not None and len(hold) > 0)
        if hold is not None:
            hold.open()
        if ejections is None or pool not in self.pools:
            return
        is_back = ejections.answered(
            self.pools.index(pool), self._clock(), in_need=in_need
        )
        self.is_watched |= ejections.is_troubled
        if is_back:
            if self.tell is not None:
                self.tell(self.name, pool.name, None)
            _log.warning(
                "service %s: target %s is back",
                *(self.name, pool.target),
                extra=about(
                    RuntimeEvent.TARGET_BACK,
                    service=self.name,
                    target=str(pool.target),
                ),
            )

    def up(self) -> Sequence[tuple[UpstreamPool, bool]]:
        """Return each target's pool, and whether it gets requests."""
        ejections = self._ejections
        return [
            (
                pool,
                number not in self._down
                and (ejections is None or not ejections.is_ejected(number)),
            )
            for number, pool in enumerate(self.pools)
        ]
