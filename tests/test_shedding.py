"""The share of the requests that a worker refuses while it can't keep up."""

from __future__ import annotations

import pytest

from gateway.shedding import Shedding

BOUND_S = 0.2


def after(*delays_s: float, most: float = 0.9) -> Shedding:
    """Return the state after seconds with these shortest delays."""
    shedding = Shedding(BOUND_S, most)
    for delay_s in delays_s:
        shedding.judge(delay_s)
    return shedding


@pytest.mark.parametrize(
    ("delays_s", "share"),
    [
        ((), 0.0),
        ((0.0, 0.1, 0.2), 0.0),
        ((0.21,), 0.105),
        ((0.4,), 0.2),
        ((0.4, 0.4), 0.4),
        ((9.0,), 0.4),  # at most four steps in a second
        ((9.0, 9.0, 9.0, 9.0), 0.9),
        ((0.4, 0.15, 0.1), 0.2),  # it stays while the delay is neither long nor short
        ((0.4, 0.05), 0.15),
        ((0.4, 0.0, 0.0, 0.0, 0.0), 0.0),
    ],
)
def test_the_share_grows_while_requests_wait(
    delays_s: tuple[float, ...], share: float
) -> None:
    """The faster, the longer they wait; it shrinks more slowly."""
    assert after(*delays_s).share == pytest.approx(share, abs=1e-9)


def test_the_share_has_a_bound() -> None:
    assert after(*(9.0,) * 100, most=0.5).share == 0.5


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_so_many_requests_are_refused(share: float) -> None:
    """Exactly the share, and evenly: no client meets a row of refusals by chance."""
    shedding = after(*(9.0,) * 10, most=share)
    refused = [shedding.refuses() for _ in range(1000)]
    assert sum(refused) == pytest.approx(1000 * share, abs=1)
    for start in range(0, 1000, 50):
        assert sum(refused[start : start + 50]) == pytest.approx(50 * share, abs=1)


def test_none_is_refused_when_it_is_calm() -> None:
    shedding = after(0.1)
    assert not any(shedding.refuses() for _ in range(1000))
