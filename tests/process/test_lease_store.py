"""A worker's limits: leases, waiting for the hub, and going on without it."""

from __future__ import annotations

import asyncio

import pytest
from faults import until

from gateway.process.hub_leases import LeaseBook
from gateway.process.lease_messages import DrawLeases
from gateway.process.lease_store import LeaseStore
from gateway.rate_limits import Draw, Gcra

S = 1_000_000_000
KEYS = [f"{number:032x}" for number in range(5000)]
SMALL = Gcra(3600 * S, 5)
LARGE = Gcra(S // 100, 100)


class Rig:
    """A store with a hub, which answers unless it is silent."""

    def __init__(self, *, workers: int = 2, answer_s: float = 30.0) -> None:
        self.now = 0
        self.is_silent = False
        self.sent: list[DrawLeases] = []
        self.book = LeaseBook()
        self.store = LeaseStore(
            self._send, workers=workers, answer_s=answer_s, clock=lambda: self.now
        )

    def _send(self, message: DrawLeases) -> None:
        self.sent.append(message)
        if not self.is_silent:
            answer = self.book.draw(message, self.now)
            asyncio.get_running_loop().call_soon(self.store.receive, answer)

    async def take(self, gcra: Gcra, key: str = KEYS[0], cost: int = 1) -> int:
        draw = Draw(key, gcra, cost)
        result = self.store.take(draw)
        return await self.store.ask(draw) if result is None else result

    async def admitted(self, gcra: Gcra, count: int, key: str = KEYS[0]) -> int:
        """Return how many of *count* requests at once are admitted."""
        waits = await asyncio.gather(*(self.take(gcra, key) for _ in range(count)))
        return waits.count(0)


async def test_a_small_limit_is_exact() -> None:
    """Each request draws one unit; a refusal is remembered."""
    rig = Rig()
    waits = [await rig.take(SMALL) for _ in range(8)]
    assert waits == [*[0] * 5, *[3600 * S] * 3]
    assert len(rig.sent) == 6


async def test_requests_at_once_are_answered_in_order_by_one_message() -> None:
    """All that wait for a key draw together, and get as much as there is."""
    rig = Rig()
    assert await rig.admitted(SMALL, 3) == 3
    assert len(rig.sent) == 1
    assert await rig.admitted(SMALL, 5) == 2
    assert await rig.admitted(SMALL, 5) == 0


async def test_a_large_limit_needs_few_messages() -> None:
    """A client in use has units in advance, which it spends without the hub."""
    rig = Rig()
    assert [await rig.take(LARGE) for _ in range(60)] == [0] * 60
    assert len(rig.sent) < 10


async def test_two_workers_share_a_limit() -> None:
    """Together they admit what one would."""
    one, other = Rig(), Rig()
    other.book = one.book
    waits = [await rig.take(SMALL) for _ in range(5) for rig in (one, other)]
    assert waits.count(0) == 5


@pytest.mark.parametrize(
    ("gcra", "workers", "share"), [(SMALL, 2, 2), (SMALL, 9, 1), (LARGE, 4, 25)]
)
async def test_without_the_hub_a_worker_keeps_to_its_part(
    gcra: Gcra, workers: int, share: int
) -> None:
    """It waits for a short time once, and then no more for a while."""
    rig = Rig(workers=workers, answer_s=0.01)
    rig.is_silent = True
    assert await rig.admitted(gcra, 200) == share
    assert len(rig.sent) == 1
    assert await rig.admitted(gcra, 10) == 0
    assert len(rig.sent) == 1, "it doesn't ask for a while"
    assert rig.store.take(Draw(KEYS[1], gcra, 1)) == 0
    rig.now = S
    assert rig.store.take(Draw(KEYS[2], gcra, 1)) is None, "it asks again"
    assert rig.store.take(Draw(KEYS[3], gcra, 1)) == 0, "with one request"


async def test_what_was_admitted_with_the_hub_counts_without_it() -> None:
    """A worker that has had its part admits nothing more when the hub is gone."""
    rig = Rig(answer_s=0.01)
    assert await rig.admitted(SMALL, 4) == 4
    rig.is_silent = True
    assert await rig.admitted(SMALL, 4) == 0


async def test_the_hub_counts_again_when_it_answers() -> None:
    """One answer, even a late one, ends the time alone."""
    rig = Rig(answer_s=0.01)
    rig.is_silent = True
    assert await rig.admitted(SMALL, 5) == 2
    late = rig.book.draw(rig.sent[0], rig.now)
    rig.store.receive(late)
    rig.is_silent = False
    assert await rig.admitted(SMALL, 5, KEYS[1]) == 5


async def test_a_client_that_leaves_costs_the_others_nothing() -> None:
    """The requests behind it are answered."""
    rig = Rig()
    first = asyncio.create_task(rig.take(SMALL))
    second = asyncio.create_task(rig.take(SMALL))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 0
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_flood_of_keys_doesnt_flood_the_hub() -> None:
    """Beyond a number of keys at once, the worker goes on by itself."""
    rig = Rig()
    rig.is_silent = True
    tasks = [asyncio.create_task(rig.take(SMALL, key)) for key in KEYS]
    await until(lambda: rig.sent)
    assert sum(len(message.draws) for message in rig.sent) == 1000
    assert sum(task.done() for task in tasks) == 4000
    for task in tasks:
        task.cancel()
