"""What a worker has drawn in advance, and what it may still do with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rate_limits import Draw, Gcra
from gateway.rate_limits.buckets import Buckets
from gateway.rate_limits.leases import LEASE_NS, Leases, in_advance

S = 1_000_000_000
LIMIT = Gcra(S // 100, 100)
ONE = Draw("k", LIMIT, 1)


@pytest.mark.parametrize(
    ("gcra", "units"),
    [
        pytest.param(Gcra(6 * S, 5), 0, id="10/m, burst 5"),
        pytest.param(Gcra(6 * S, 1000), 0, id="slow, however large the burst"),
        pytest.param(Gcra(S // 100, 5), 0, id="small, however fast"),
        pytest.param(Gcra(S // 100, 100), 10, id="100/s"),
        pytest.param(Gcra(S // 10, 1000), 10, id="what comes back in a second"),
    ],
)
def test_only_large_and_fast_limits_are_drawn_in_advance(
    gcra: Gcra, units: int
) -> None:
    """So small limits, such as those of sign-ins, are exact."""
    assert in_advance(gcra) == units


def test_units_are_spent_until_they_are_void() -> None:
    """Then the hub has to be asked."""
    now = 0
    leases = Leases(lambda: now)
    assert leases.spend(ONE) is None
    leases.add(ONE, 3, 0)
    assert leases.spend(ONE) == 0
    now = LEASE_NS - 1
    assert leases.spend(ONE) == 0
    now = LEASE_NS
    assert leases.spend(ONE) is None
    leases.add(ONE, 1, 0)
    assert leases.spend(ONE) == 0
    assert leases.spend(ONE) is None


def test_a_refusal_holds_until_its_time() -> None:
    """Requests of that cost or more are refused without asking; cheaper ones ask."""
    now = 0
    leases = Leases(lambda: now)
    leases.add(ONE._replace(cost=2), 0, 5 * S)
    now = S
    assert leases.spend(ONE._replace(cost=2)) == 4 * S
    assert leases.spend(ONE._replace(cost=3)) == 4 * S
    assert leases.spend(ONE) is None
    now = 5 * S
    assert leases.spend(ONE._replace(cost=2)) is None


def test_only_keys_in_use_are_drawn_in_advance() -> None:
    """A client that comes once takes one unit."""
    now = 0
    leases = Leases(lambda: now)
    assert leases.in_advance(ONE) == 0
    leases.add(ONE, 1, 0)
    assert leases.in_advance(ONE) == 10
    now = LEASE_NS
    assert leases.in_advance(ONE) == 0


def test_memory_is_bounded() -> None:
    """The oldest key goes."""
    leases = Leases(lambda: 0, max_leases=10)
    for number in range(100):
        leases.add(Draw(str(number), LIMIT, 1), 2, 0)
    assert len(leases) == 10
    assert leases.spend(Draw("99", LIMIT, 1)) == 0
    assert leases.spend(Draw("89", LIMIT, 1)) is None


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, S // 4)), max_size=300),
    st.sampled_from([Gcra(S // 20, 20), Gcra(S // 5, 40), Gcra(S, 3)]),
)
def test_workers_together_keep_to_the_stated_bound(
    requests: list[tuple[int, int]], gcra: Gcra
) -> None:
    """In any window: burst, rate, and what each worker had drawn in advance."""
    now = 0
    buckets = Buckets()
    workers = [Leases(lambda: now) for _ in range(3)]
    draw = Draw("k", gcra, 1)
    admitted: list[int] = []
    for number, gap in requests:
        now += gap
        leases = workers[number]
        result = leases.spend(draw)
        if result is None:
            taken = buckets.take("k", gcra, now, 1, leases.in_advance(draw))
            leases.add(draw, taken.granted, taken.wait_ns)
            result = leases.spend(draw)
        if result == 0:
            admitted.append(now)
    allowed = gcra.burst + len(workers) * in_advance(gcra)
    for number, start in enumerate(admitted):
        for count, end in enumerate(admitted[number:], 1):
            assert count * gcra.interval_ns <= allowed * gcra.interval_ns + end - start
