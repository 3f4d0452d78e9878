"""Counters of several workers: they never fall while the hub lives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.meters import (
    CERTIFICATE,
    CHECKS,
    OTHER,
    POOL,
    REQUESTS,
    SHAPES,
    Sample,
)
from gateway.process import totals
from gateway.process.totals import Totals


def check(source: str, count: float) -> Sample:
    """Return a sample of *count* checks."""
    return Sample(CHECKS, (source,), (count, *(0.0,) * (SHAPES[CHECKS][1] - 1)))


def counts(of: Totals) -> dict[str, float]:
    return {labels[0]: numbers[0] for labels, numbers in of.of(CHECKS).items()}


def test_the_last_samples_of_each_worker_are_added_up() -> None:
    """A worker's new samples replace its old ones."""
    here = Totals()
    here.update(1, 0, [check("cached", 1), check("core", 2)])
    here.update(2, 1, [check("cached", 10)])
    here.update(1, 0, [check("cached", 3), check("core", 2)])
    assert counts(here) == {"cached": 13, "core": 2}
    assert here.of(REQUESTS) == {}


def test_a_worker_that_ended_still_counts() -> None:
    """Its counters do, its gauges don't."""
    here = Totals()
    gauge = Sample("gauge", ("connections",), (7.0,))
    pool = Sample(POOL, ("http://a",), (1.0, 2.0, 3.0))
    here.update(1, 0, [check("cached", 3), gauge, pool])
    here.update(2, 1, [check("cached", 4), gauge, pool])
    here.keep([2])
    here.update(3, 0, [check("cached", 1)])
    here.keep([2, 3])
    assert counts(here) == {"cached": 8}
    assert [*here.gauges("connections")] == [(1, 7.0)]
    assert here.of(POOL) == {("http://a",): (1.0, 2.0, 3.0)}


def test_the_certificate_that_expires_first_counts() -> None:
    """Of the workers that are there: one may not have read new files yet."""
    here = Totals()
    for child, end in ((1, 50.0), (2, 30.0), (3, 40.0)):
        sample = Sample(CERTIFICATE, ("0.0.0.0:443", "a.test"), (end,))
        here.update(child, child, [sample])
    assert here.least(CERTIFICATE) == {("0.0.0.0:443", "a.test"): 30.0}
    here.keep([1, 3])
    assert here.least(CERTIFICATE) == {("0.0.0.0:443", "a.test"): 40.0}


def test_two_samples_of_one_name_are_added_up() -> None:
    """Labels may have become equal when they were cut."""
    here = Totals()
    here.update(1, 0, [check("cached", 3), check("cached", 4)])
    assert counts(here) == {"cached": 7}


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.integers(0, 9)),
        max_size=30,
    ),
    st.data(),
)
def test_no_counter_falls(
    events: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    """Whatever workers count, and whenever they end."""
    here, live = Totals(), dict[int, dict[str, float]]()
    before: dict[str, float] = {}
    ended: set[int] = set()
    for child, source, more in events:
        if child in ended:
            continue
        mine = live.setdefault(child, {})
        mine[source] = mine.get(source, 0) + more
        here.update(child, 0, [check(name, n) for name, n in mine.items()])
        if data.draw(st.booleans()):
            ended.add(child)
            here.keep([number for number in live if number not in ended])
        after = counts(here)
        assert all(after[name] >= count for name, count in before.items())
        assert sum(after.values()) == sum(map(sum, (m.values() for m in live.values())))
        before = after


def test_what_ended_workers_leave_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the greatest number of names, they share one."""
    monkeypatch.setattr(totals, "MAX_SERIES", 3)
    here = Totals()
    for child in range(9):
        here.update(child, 0, [check(f"made-up-{child}", 1)])
        here.keep([])
    assert sum(counts(here).values()) == 9
    assert counts(here)[OTHER] == 6
