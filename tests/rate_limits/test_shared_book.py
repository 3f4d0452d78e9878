"""What a gateway keeps of shared limits, and how many requests all gateways admit."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rate_limits import Draw, Gcra, Sharing
from gateway.rate_limits.gcra import Taken
from gateway.rate_limits.leases import DrawAsked, Leases, in_advance
from gateway.rate_limits.shared_book import DENIED_NS, SharedBook

S = 1_000_000_000
KEY = "0123456789abcdef" * 2


def asked(sharing: str, key: str = KEY, cost: int = 1) -> DrawAsked:
    return DrawAsked(1, key, S, 5, cost, 0, cast("Sharing", sharing))


@pytest.mark.parametrize(
    ("sharing", "results"),
    [
        ("local", [Taken(5 * S, 2, 0), Taken(5 * S, 0, 2 * S)]),
        ("allow", [Taken(0, 2, 0), Taken(0, 2, 0)]),
        ("deny", [Taken(0, 0, DENIED_NS), Taken(0, 0, DENIED_NS)]),
    ],
)
def test_without_the_store_the_setting_decides(
    sharing: str, results: list[Taken]
) -> None:
    """`local` counts what the store has said before: 3 of 5 were used up."""
    book = SharedBook()
    book.note(asked(sharing), 3 * S, 0)
    assert [book.without_store(asked(sharing, cost=2), 0) for _ in results] == results


def test_no_more_keys_are_made_than_can_be_noted() -> None:
    """Others are limited here alone, and the first ones can still be asked for."""
    book = SharedBook(max_keys=2)
    for key, full_ns in ("a", 3 * S), ("b", 2 * S):
        assert book.has_room(key, 0)
        book.note(asked("local", key), full_ns, 0)
    assert not book.has_room("c", 0)
    assert book.has_room("a", 0)
    book.note(asked("local", "a"), 4 * S, 0)
    for _ in range(5):
        assert book.take_alone(asked("local", "c"), 0).granted == 1
    assert book.take_alone(asked("local", "c"), 0).granted == 0
    assert not book.has_room("d", 2 * S - 1)
    assert book.has_room("d", 2 * S), "b is full again"
    book.note(asked("local", "d"), S, 2 * S)
    assert book.has_room("e", 3 * S), "d is full again"
    assert book.has_room("a", 3 * S)


GATEWAYS, WORKERS = 3, 2
STEP = st.tuples(
    st.integers(0, GATEWAYS * WORKERS - 1),
    st.integers(0, 300_000_000),
    st.booleans(),
)


class _Worker:
    """One that draws as a gateway's worker does, from a store that may be away."""

    def __init__(self, fleet: _Fleet, book: SharedBook) -> None:
        self._fleet = fleet
        self._book = book
        self._leases = Leases(lambda: fleet.now)

    def admits(self, gcra: Gcra, *, is_away: bool) -> bool:
        draw = Draw(KEY, gcra, 1, "local")
        wait_ns = self._leases.spend(draw)
        if wait_ns is not None:
            return wait_ns == 0
        extra = self._leases.in_advance(draw)
        wish = DrawAsked(1, KEY, gcra.interval_ns, gcra.burst, 1, extra, "local")
        now = self._fleet.now
        if is_away:
            taken = self._book.without_store(wish, now)
        else:
            taken = gcra.take(self._fleet.full_at, now, 1, extra)
            self._fleet.full_at = max(now, taken.full_at)
            self._book.note(wish, self._fleet.full_at - now, now)
        self._leases.add(draw, taken.granted, taken.wait_ns)
        return self._leases.spend(draw) == 0


class _Fleet:
    def __init__(self) -> None:
        self.now = self.full_at = 0
        books = [SharedBook() for _ in range(GATEWAYS)]
        self.workers = [_Worker(self, book) for book in books for _ in range(WORKERS)]


@settings(max_examples=200, deadline=None)
@given(
    gcra=st.builds(Gcra, st.integers(1_000_000, S), st.integers(1, 60)),
    steps=st.lists(STEP, max_size=150),
    has_outages=st.booleans(),
)
def test_gateways_together_keep_to_the_bound(
    gcra: Gcra, steps: list[tuple[int, int, bool]], *, has_outages: bool
) -> None:
    """In any window: the limit, and what each worker has drawn in advance.

    With a store that comes and goes: the limit once for the store, and once for each
    gateway.
    """
    fleet = _Fleet()
    times = []
    for worker, pause, is_away in steps:
        fleet.now += pause
        while fleet.workers[worker].admits(gcra, is_away=is_away and has_outages):
            times.append(fleet.now)
    parts = GATEWAYS + 1 if has_outages else 1
    advance = GATEWAYS * WORKERS * in_advance(gcra)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            window = times[last] - start
            most = parts * (gcra.burst + window // gcra.interval_ns)
            assert last - first + 1 <= most + advance
