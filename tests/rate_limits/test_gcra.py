"""The rule for one key: a rate and a burst, on whole nanoseconds."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rate_limits.gcra import Gcra

S = 1_000_000_000


@pytest.mark.parametrize(
    ("gcra", "at", "admitted"),
    [
        pytest.param(Gcra(S, 1), [0, 0, 0], [1, 0, 0], id="burst of one"),
        pytest.param(Gcra(S, 3), [0, 0, 0, 0], [1, 1, 1, 0], id="burst of three"),
        pytest.param(
            Gcra(S, 1), [0, S - 1, S, S + 1], [1, 0, 1, 0], id="to the nanosecond"
        ),
        pytest.param(
            Gcra(6 * S, 5),
            [0, 0, 0, 0, 0, 0, 6 * S, 6 * S],
            [1, 1, 1, 1, 1, 0, 1, 0],
            id="10/m with a burst of 5",
        ),
        pytest.param(
            Gcra(S, 2), [0, 0, 100 * S, 100 * S, 100 * S], [1, 1, 1, 1, 0], id="idle"
        ),
    ],
)
def test_requests_are_admitted_in_order(
    gcra: Gcra, at: list[int], admitted: list[int]
) -> None:
    """Requests at these times are admitted or refused."""
    full_at, result = 0, []
    for now in at:
        full_at, granted, _ = gcra.take(full_at, now)
        result.append(granted)
    assert result == admitted


def test_a_refusal_says_how_long_to_wait() -> None:
    """After exactly that long, the request is admitted, and not a nanosecond before."""
    gcra = Gcra(6 * S, 2)
    full_at, granted, wait_ns = gcra.take(0, 0, 2)
    assert (granted, wait_ns) == (2, 0)
    _, granted, wait_ns = gcra.take(full_at, S)
    assert (granted, wait_ns) == (0, 5 * S)
    assert gcra.take(full_at, S + wait_ns - 1).granted == 0
    assert gcra.take(full_at, S + wait_ns).granted == 1


def test_extra_units_come_only_if_the_bucket_has_them() -> None:
    """The cost is all or nothing; extra units are as many as there are."""
    gcra = Gcra(S, 5)
    full_at, granted, _ = gcra.take(0, 0, 1, 2)
    assert granted == 3
    full_at, granted, _ = gcra.take(full_at, 0, 1, 9)
    assert granted == 2
    assert gcra.take(full_at, 0, 1, 9).granted == 0


def test_a_cost_above_the_burst_counts_as_the_burst() -> None:
    """A mistake refuses requests no more than the burst does."""
    assert Gcra(S, 2).take(0, 0, 99).granted == 2


@pytest.mark.parametrize(
    ("gcra", "parts", "share"),
    [
        (Gcra(S, 10), 2, Gcra(2 * S, 5)),
        (Gcra(S, 5), 2, Gcra(2 * S, 2)),
        (Gcra(S, 1), 4, Gcra(4 * S, 1)),
        (Gcra(S, 7), 1, Gcra(S, 7)),
    ],
)
def test_a_share_is_a_part_of_the_rate_and_the_burst(
    gcra: Gcra, parts: int, share: Gcra
) -> None:
    """All shares together have the rate of the limit."""
    assert gcra.share(parts) == share


gcras = st.builds(Gcra, st.integers(1, 10**11), st.integers(1, 50))
steps = st.lists(
    st.tuples(st.integers(0, 10**11), st.integers(1, 5), st.integers(0, 5)),
    max_size=60,
)


@given(gcras, steps)
def test_no_window_has_more_than_burst_and_rate(
    gcra: Gcra, steps: list[tuple[int, int, int]]
) -> None:
    """In any window of t, at most `burst + t / interval` units are admitted."""
    now = full_at = 0
    units: list[tuple[int, int]] = []
    for gap, cost, extra in steps:
        now += gap
        full_at, granted, wait_ns = gcra.take(full_at, now, cost, extra)
        assert (granted == 0) == (wait_ns > 0)
        units.append((now, granted))
    for first in range(len(units)):
        total = 0
        for at, granted in units[first:]:
            total += granted
            window_ns = at - units[first][0]
            assert total * gcra.interval_ns <= gcra.burst * gcra.interval_ns + window_ns


@given(gcras, st.lists(st.integers(0, 10**12), max_size=60))
def test_nothing_is_refused_that_the_rule_admits(gcra: Gcra, times: list[int]) -> None:
    """A request is refused only if one more would break the rule of some window."""
    full_at = 0
    admitted: list[int] = []
    for now in sorted(times):
        full_at, granted, _ = gcra.take(full_at, now)
        if granted:
            admitted.append(now)
            continue
        fits = True
        for number, start in enumerate(admitted):
            total = bisect_right(admitted, now) - number + 1
            limit = gcra.burst * gcra.interval_ns + now - start
            fits = fits and total * gcra.interval_ns <= limit
        assert not fits
