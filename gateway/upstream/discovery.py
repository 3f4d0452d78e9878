"""edge. The addresses of targets' names, looked up again and again (`resolve: each`).

Each process looks up by itself: workers for their requests, the hub for the checks. So
no process needs another one to find a service, and the number of look-ups is that of
the names times that of the workers in each interval.

Until the first look-up has succeeded, a name is one target, as without `resolve`.
Afterwards a look-up that fails, or finds nothing, changes nothing: an outage of the DNS
takes no target away. In Kubernetes, a name without ready pods isn't found, either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from ipaddress import ip_address
from random import Random
from typing import Any, Final

from gateway.events import RuntimeEvent, about
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.targets import ServiceTargets
from gateway.upstream.upstreams import Upstreams

MAX_ADDRESSES: Final = 100
"""Of one name. What is kept for each of them and told about it has a bound by that."""
_JITTER: Final = 0.1
"""The part of the interval by which a pause is longer or shorter, so that the workers
of many gateways don't all ask at the same time."""
_log = logging.getLogger("gateway.upstream")


class Name:
    """The name of one target, and the pools of its addresses."""

    def __init__(
        self,
        service: str,
        named: UpstreamPool,
        upstreams: Upstreams,
        interval_s: float,
        rng: Random,
    ) -> None:
        """*named* is the pool of the name itself."""
        self._service = service
        self._named = named
        self._upstreams = upstreams
        self._interval_s = interval_s
        self._rng = rng
        self.pools: tuple[UpstreamPool, ...] = (named,)
        """Of the addresses; before they are known, that of the name."""
        self._by_address: dict[str, UpstreamPool] = {}
        self._is_failing = False
        self._is_cut = False

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look the name up for ever, and call *changed* whenever `pools` has changed.

        Pools that have left it are given back after that.
        """
        while True:
            addresses = await self._look_up()
            if addresses and self._by_address.keys() != {*addresses}:
                before, by_address = self._by_address, {}
                for address in addresses:
                    by_address[address] = before.get(address) or (
                        self._upstreams.pool_at(self._named, address)
                    )
                self._by_address = by_address
                self.pools = tuple(by_address.values())
                changed()
                for address in before.keys() - by_address.keys():
                    self._upstreams.leave(before[address])
            part = 1 + _JITTER * (2 * self._rng.random() - 1)
            await asyncio.sleep(self._interval_s * part)

    async def _look_up(self) -> Sequence[str]:
        """Return the addresses of the name, in order; none if they can't be found."""
        target = self._named.target
        try:
            found = await self._upstreams.resolver.look_up(target.host, target.port)
        except OSError as error:
            self._note_failure(error.strerror or str(error) or type(error).__name__)
            return ()
        if not found:
            self._note_failure("no address")
            return ()
        self._note_success()
        addresses = sorted(found, key=_numeric)
        self._note_cut(len(addresses))
        return addresses[:MAX_ADDRESSES]

    def _note_failure(self, reason: str) -> None:
        if self._is_failing:
            return
        self._is_failing = True
        kept = len(self._by_address)
        _log.warning(
            "service %s: the addresses of %s can't be looked up: %s. %s",
            *(self._service, self._named.name, reason),
            f"The last {kept} stay" if kept else "It gets requests as one target",
            extra=about(
                RuntimeEvent.NAME_LOST,
                service=self._service,
                target=self._named.name,
                reason=reason,
                addresses=kept,
            ),
        )

    def _note_success(self) -> None:
        if not self._is_failing:
            return
        self._is_failing = False
        _log.warning(
            "service %s: the addresses of %s can be looked up again",
            *(self._service, self._named.name),
            extra=about(
                RuntimeEvent.NAME_BACK, service=self._service, target=self._named.name
            ),
        )

    def _note_cut(self, found: int) -> None:
        is_cut = found > MAX_ADDRESSES
        if is_cut and not self._is_cut:
            _log.warning(
                "service %s: %s has %d addresses, of which the first %d get requests",
                *(self._service, self._named.name, found, MAX_ADDRESSES),
                extra=about(
                    RuntimeEvent.ADDRESSES_LEFT_OUT,
                    service=self._service,
                    target=self._named.name,
                    addresses=found,
                ),
            )
        self._is_cut = is_cut


class Names:
    """The targets of one service, whose names may have several addresses."""

    def __init__(
        self,
        service: str,
        pools: Sequence[UpstreamPool],
        upstreams: Upstreams,
        interval_s: float | None,
        rng: Random,
    ) -> None:
        """*pools* are those of the targets. *interval_s* None: no name is looked up."""
        self._pools = pools
        self._names: dict[UpstreamPool, Name] = {}
        if interval_s is not None:
            self._names = {
                pool: Name(service, pool, upstreams, interval_s, rng)
                for pool in pools
                if pool.dialer.is_named
            }

    def current(self) -> Iterator[tuple[int, UpstreamPool]]:
        """Yield the number of each target, with each pool that it has now."""
        for number, pool in enumerate(self._pools):
            name = self._names.get(pool)
            for one in (pool,) if name is None else name.pools:
                yield number, one

    def watches(self, changed: Callable[[], None]) -> list[Coroutine[Any, Any, None]]:
        """Return what calls *changed* whenever `current` has changed, to be run."""
        return [name.watch(changed) for name in self._names.values()]


def _numeric(address: str) -> tuple[int, int, str]:
    """Return the place of *address* in an order that all processes agree on."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return 9, 0, address
    return parsed.version, int(parsed), address


class Discovery:
    """Keeps the targets of services up to date, in one worker."""

    def __init__(self, upstreams: Upstreams, *, rng: Random | None = None) -> None:
        self._upstreams = upstreams
        self._rng = rng or Random()  # noqa: S311 - no secret
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, service: ServiceTargets, interval_s: float) -> None:
        """Give *service* the addresses of its names as targets, from now on.

        It has its names as targets when this is called. Each address has the weight of
        its name.
        """
        weights = service.weights
        names = Names(
            *(service.name, service.pools, self._upstreams), interval_s, self._rng
        )

        def changed() -> None:
            weight_of: dict[UpstreamPool, float] = {}
            for number, pool in names.current():
                # Of a name that is listed twice, the greater weight counts.
                weight_of[pool] = max(weights[number], weight_of.get(pool, 0.0))
            service.replace(tuple(weight_of), tuple(weight_of.values()))

        self._tasks += map(asyncio.create_task, names.watches(changed))

    async def aclose(self) -> None:
        """End all look-ups. The targets stay as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
