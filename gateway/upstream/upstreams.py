"""edge. The owner of all pools of connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Final

from gateway.clients import Clients
from gateway.http.reply_head import ReplyHeadReader
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.dial import DNS_TTL_S, Dialer, Lookup, Resolver
from gateway.upstream.events import Events, NoEvents
from gateway.upstream.places import WAITING_PER_CONNECTION, PlaceLimits
from gateway.upstream.pool import UpstreamPool

KEEPALIVE_S: Final = 4.0
"""How long an idle connection is kept by default. The gateway should close first, or a
request can cross the service's FIN. uvicorn and Node.js close after 5 s, and uvicorn
doesn't announce it; nginx, Gunicorn's workers, Go and Tomcat keep connections longer or
announce it."""


class Upstreams:
    """All pools of a worker, one per target; `app` makes it and closes it."""

    def __init__(
        self,
        heads: ReplyHeadReader | None = None,
        *,
        events: Events | None = None,
        keepalive_s: float = KEEPALIVE_S,
        dns_ttl_s: float = DNS_TTL_S,
        lookup: Lookup | None = None,
        clients: Clients | None = None,
        share: float = 1.0,
    ) -> None:
        """*heads* reads the replies' heads; by default, it keeps all fields.

        *lookup* replaces the system's resolver. *share* is the part of a target's
        connections, up to 1, that each of *clients* is sure of.
        """
        self._clients = clients or Clients()
        self._share = share
        self._heads = heads or ReplyHeadReader()
        self._events = events or NoEvents()
        self._keepalive_s = keepalive_s
        self.resolver = Resolver(ttl_s=dns_ttl_s, lookup=lookup)
        """Looks names up."""
        self._pools: dict[UpstreamTarget, UpstreamPool] = {}
        self._users: Counter[UpstreamPool] = Counter()
        """Of pools that `pool_at` has returned: how often, less those returned."""
        self._retired: set[UpstreamPool] = set()
        """Pools without users that may still have exchanges."""

    def pool(
        self,
        target: UpstreamTarget,
        *,
        max_connections: int = 256,
        max_waiting: int | None = None,
        keepalive_s: float | None = None,
    ) -> UpstreamPool:
        """Return the pool of *target*, the same one each time, with the given limits.

        *max_waiting* is `WAITING_PER_CONNECTION` times *max_connections* by default.
        *keepalive_s* is how long an idle connection is kept.
        Call it at load only: it may read a CA bundle, which blocks.

        Raises:
            ValueError: the target's `ca_file` can't be read.
        """
        if max_waiting is None:
            max_waiting = WAITING_PER_CONNECTION * max_connections
        limits = PlaceLimits(max_connections, max_waiting, self._share)
        pool = self._pools.get(target)
        if pool is None:
            pool = self._made(target, Dialer(target, self.resolver), limits)
        pool.set_limits(limits)
        if keepalive_s is not None:
            pool.keepalive_s = keepalive_s
        return pool

    def pool_at(self, named: UpstreamPool, address: str) -> UpstreamPool:
        """Return the pool of one *address* of the name that *named* is the pool of.

        It has the same limits, Host and TLS settings. It lasts until `leave` was called
        as often as this.
        """
        target = replace(named.target, at=address)
        pool = self._pools.get(target)
        if pool is None:
            pool = self._made(target, named.dialer.at(target), named.limits)
            pool.keepalive_s = named.keepalive_s
        self._users[pool] += 1
        return pool

    def leave(self, pool: UpstreamPool) -> None:
        """Give back a pool of `pool_at`. Exchanges in progress go on to their end."""
        self._users[pool] -= 1
        if self._users[pool]:
            return
        del self._users[pool], self._pools[pool.target]
        pool.retire()
        self._retired = {one for one in (*self._retired, pool) if one.open}

    def _made(
        self, target: UpstreamTarget, dialer: Dialer, limits: PlaceLimits
    ) -> UpstreamPool:
        pool = self._pools[target] = UpstreamPool(
            target,
            heads=self._heads,
            events=self._events,
            dialer=dialer,
            limits=limits,
            clients=self._clients,
            keepalive_s=self._keepalive_s,
        )
        return pool

    @property
    def pools(self) -> tuple[UpstreamPool, ...]:
        """Every pool that gets requests, for metrics."""
        return tuple(self._pools.values())

    async def close(self) -> None:
        """Close every connection of every pool, and cancel all look-ups."""
        await self.resolver.close()
        pools = (*self._pools.values(), *self._retired)
        await asyncio.gather(*(pool.close() for pool in pools))
