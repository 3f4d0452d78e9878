"""edge. Copies of requests to other services (`mirror`), which nobody waits for.

A copy has the same head as the request but for Host, the field `X-Shadow` and, if it is
another one, the path of the target. It is made only of requests whose whole body is
here when they are sent, so that no body is kept for it. Its reply is read and dropped.

Whatever happens to a copy, the request doesn't notice: it waits for none of it, and
copies have a number of their own that are in progress at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from random import random
from typing import Any, Final

from gateway.decisions import Forward
from gateway.downstream.client_side import Downstream
from gateway.errors import GatewayError, UpstreamError
from gateway.headers import SHADOW_NAME
from gateway.observe import Record
from gateway.routes import Mirror, RouteTable
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, ServiceTargets, UpstreamPool

MAX_BODY: Final = 64 * 1024
"""Of a request that is copied, in bytes."""
MAX_REPLY: Final = 1024 * 1024
"""Of the reply to a copy, in bytes; the connection of a longer one is closed."""
MAX_S: Final = 30.0
"""How long a copy may take, its reply included."""
_MARK: Final = f"{SHADOW_NAME}: 1\r\n".encode()
OUTCOMES: Final = ("answered", "failed", "dropped")

Exchange = Callable[
    [
        Forward,
        bytes,
        bytes | AsyncIterator[bytes] | None,
        UpstreamPool,
        Timeouts,
        Downstream | None,
        Record,
    ],
    Coroutine[Any, Any, Reply],
]
"""Sends a request with these fields and this body to a target, for a client."""


class _Copies:
    """The copies of one service's requests."""

    def __init__(self, rule: Mirror, shadow: ServiceTargets) -> None:
        self.rule = rule
        self._shadow = shadow
        self.tasks: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def offer(
        self,
        exchange: Exchange,
        forward: Forward,
        fields: bytes,
        body: bytes | AsyncIterator[bytes] | None,
        timeouts: Timeouts,
        record: Record,
    ) -> None:
        """Send a copy, or drop it, if its turn has come. Returns at once."""
        method = forward.request.method
        if (
            forward.upgrade
            or method not in self.rule.methods
            or random() >= self.rule.share  # noqa: S311 - no secret
        ):
            return
        is_here = body is None or (isinstance(body, bytes) and len(body) <= MAX_BODY)
        if not is_here or len(self.tasks) >= self.rule.in_flight:
            self.counts["dropped"] += 1
            return
        total_s = MAX_S if timeouts.total is None else min(MAX_S, timeouts.total)
        pool = self._shadow.in_turn(None, method)[0]
        timeouts = replace(timeouts, total=total_s)

        def send() -> Coroutine[Any, Any, Reply]:
            return exchange(forward, fields + _MARK, body, pool, timeouts, None, record)

        task = asyncio.create_task(self._send(send, pool))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send(
        self, send: Callable[[], Coroutine[Any, Any, Reply]], pool: UpstreamPool
    ) -> None:
        try:
            async with asyncio.timeout(MAX_S):
                await _drop(await send())
        except UpstreamError as error:
            self._shadow.failed(pool, error)
            self.counts["failed"] += 1
        except (GatewayError, TimeoutError):
            self.counts["failed"] += 1
        else:
            if self._shadow.is_watched:
                self._shadow.answered(pool)
            self.counts["answered"] += 1


async def _drop(reply: Reply) -> None:
    """Read a reply to its end or to `MAX_REPLY`, and keep nothing.

    Raises:
        UpstreamError: as `Reply.read`.
    """
    size = 0
    try:
        while size <= MAX_REPLY and (not reply.complete or reply.size):
            size += len(await reply.read())
    finally:
        if not reply.complete:
            reply.close()


class Mirroring:
    """All copies that a worker sends."""

    def __init__(
        self,
        table: RouteTable,
        services: Mapping[str, ServiceTargets],
    ) -> None:
        """*services* are those of *table*."""
        self._copies = {
            one.name: _Copies(one.mirror, services[one.mirror.service])
            for one in table.services()
            if one.mirror is not None
        }

    @classmethod
    def of(
        cls, table: RouteTable, services: Mapping[str, ServiceTargets]
    ) -> Mirroring | None:
        """Return what sends the copies that *table* asks for; None: it asks for none.

        Without it, a request costs nothing more.
        """
        mirroring = cls(table, services)
        return mirroring if mirroring._copies else None

    def around(self, exchange: Exchange, plain: Exchange) -> Exchange:
        """Return *exchange*, beside which copies are sent with *plain*."""
        copies_of = self._copies.get

        def mirrored(
            forward: Forward,
            fields: bytes,
            body: bytes | AsyncIterator[bytes] | None,
            pool: UpstreamPool,
            timeouts: Timeouts,
            client: Downstream | None,
            record: Record,
        ) -> Coroutine[Any, Any, Reply]:
            # First, since it may refuse the request.
            sent = exchange(forward, fields, body, pool, timeouts, client, record)
            copies = copies_of(forward.route.service.name)
            if copies is not None and not record.retries:
                copies.offer(plain, forward, fields, body, timeouts, record)
            return sent

        return mirrored

    def counts(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield how many copies there were: of a service, to another, by outcome."""
        for name, copies in self._copies.items():
            for outcome, count in copies.counts.items():
                yield name, copies.rule.service, outcome, count

    async def aclose(self) -> None:
        """End all copies that are in progress."""
        tasks = [task for one in self._copies.values() for task in one.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
