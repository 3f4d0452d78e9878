"""Requests in progress of one service, and those that wait for one of them to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from faults import until

from gateway.errors import ServiceOverloaded
from gateway.timeouts import Timeouts
from gateway.upstream.in_flight import InFlight, InFlightPlace

LONG = Timeouts(connect=60.0, response=60.0, idle=60.0, total=None)


def full(
    in_flight: int = 1, pending: int = 4, **options: float
) -> tuple[InFlight, list[InFlightPlace]]:
    """Return requests in progress of which none more may begin."""
    service = InFlight("up", in_flight, pending, **options)  # type: ignore[arg-type]
    places = [place for _ in range(in_flight) if (place := service.take())]
    assert len(places) == in_flight
    assert service.take() is None
    return service, places


def waiting(
    service: InFlight, client: str = "192.0.2.1", *, is_critical: bool = False
) -> asyncio.Task[InFlightPlace]:
    return asyncio.create_task(service.wait(client, LONG, is_critical=is_critical))


async def test_a_place_that_is_left_goes_to_the_next_request() -> None:
    """Nobody who comes later gets it, and leaving twice is harmless."""
    service, (place,) = full()
    first, second = waiting(service), waiting(service)
    await until(lambda: service.pending == 2)
    place.leave()
    assert service.take() is None
    place.leave()
    (await first).leave()
    (await second).leave()
    assert (service.count, service.pending) == (0, 0)


async def test_critical_requests_are_first() -> None:
    service, (place,) = full()
    other, critical = waiting(service), waiting(service, is_critical=True)
    await until(lambda: service.pending == 2)
    place.leave()
    (await critical).leave()
    (await other).leave()


async def test_more_than_pending_are_refused_at_once() -> None:
    service, (place,) = full(pending=1)
    first = waiting(service)
    await until(lambda: service.pending == 1)
    with pytest.raises(ServiceOverloaded, match="others wait already"):
        await service.wait("192.0.2.1", LONG)
    place.leave()
    (await first).leave()


async def test_a_request_that_is_displaced_is_refused() -> None:
    """By a critical one, when the queue is full."""
    service, (place,) = full(pending=1)
    other = waiting(service)
    await until(lambda: service.pending == 1)
    critical = waiting(service, is_critical=True)
    with pytest.raises(ServiceOverloaded):
        await other
    place.leave()
    (await critical).leave()


@pytest.mark.parametrize(
    ("timeouts", "hold_s"),
    [
        (Timeouts(connect=0.05, response=1, idle=1, total=None), 0.0),
        (Timeouts(connect=0.01, response=1, idle=1, total=None), 0.05),
        (Timeouts(connect=60, response=1, idle=1, total=0.05), 60.0),
    ],
    ids=["connect", "hold", "total"],
)
async def test_a_wait_has_an_end(timeouts: Timeouts, hold_s: float) -> None:
    """`connect`, or `hold` if that is longer, and never more than `total`."""
    service, (place,) = full(hold_s=hold_s)
    with pytest.raises(ServiceOverloaded, match=r"in 0\.05 s"):
        await service.wait("192.0.2.1", timeouts)
    assert service.pending == 0
    place.leave()
    assert service.count == 0


async def test_a_request_that_is_cancelled_waits_no_longer() -> None:
    service, (place,) = full()
    gone, stays = waiting(service), waiting(service)
    await until(lambda: service.pending == 2)
    gone.cancel()
    await until(lambda: service.pending == 1)
    place.leave()
    (await stays).leave()
    assert service.count == 0


async def test_a_place_that_comes_too_late_goes_to_the_next() -> None:
    """The request is cancelled in the instant in which it gets its place."""
    service, (place,) = full()
    gone, stays = waiting(service), waiting(service)
    await until(lambda: service.pending == 2)
    place.leave()
    gone.cancel()
    (await stays).leave()
    assert gone.cancelled()
    assert (service.count, service.pending) == (0, 0)


async def test_waiting_for_a_client_takes_no_place() -> None:
    """Afterwards the request counts again, even above the limit."""
    service, (place,) = full()
    place.begin_wait()
    place.begin_wait()
    other = service.take()
    assert other is not None
    place.end_wait()
    place.end_wait()
    assert service.count == 2
    waits = waiting(service)
    await until(lambda: service.pending == 1)
    other.leave()
    await asyncio.sleep(0)
    assert not waits.done()
    place.leave()
    (await waits).leave()
    assert service.count == 0


async def test_others_get_the_place_of_one_that_waits_for_its_client() -> None:
    """In the next turn of the loop: a client that is fast keeps its place."""
    service, (place,) = full()
    waits = waiting(service)
    await until(lambda: service.pending == 1)
    place.begin_wait()
    place.end_wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waits.done()
    place.begin_wait()
    taken = await waits
    place.leave()
    place.end_wait()
    taken.leave()
    assert service.count == 0


async def test_a_body_that_arrives_in_pieces() -> None:
    """The request counts while its service takes a piece, and not between pieces."""
    service, (place,) = full()
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while piece := await arrived.get():
            yield piece

    pieces = place.while_sent(body())
    assert not isinstance(pieces, bytes | None)
    counts: list[int] = []

    async def read() -> None:
        counts.extend([service.count async for _ in pieces])

    task = asyncio.create_task(read())
    for piece in (b"a", b"b", b""):
        await until(lambda: service.count == 0)
        arrived.put_nowait(piece)
        await until(arrived.empty)
    await task
    assert counts == [1, 1]
    place.leave()
    assert service.count == 0
    assert place.while_sent(b"whole") == b"whole"
    assert place.while_sent(None) is None
