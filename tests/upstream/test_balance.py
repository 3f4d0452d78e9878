"""Which target gets a request: by requests in progress, weight, turn or key."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balance import (
    Balancer,
    LeastRequests,
    RandomTarget,
    RoundRobin,
    rendezvous,
)

TIMES = 30_000


def shares(balancer: Balancer, weights: dict[int, float]) -> dict[int, float]:
    """Return the part of many requests that each target gets."""
    usable, values = [*weights], [*weights.values()]
    counts = Counter(balancer.first(usable, values) for _ in range(TIMES))
    return {number: counts[number] / TIMES for number in usable}


@pytest.mark.parametrize(
    "balancer",
    [
        LeastRequests(lambda _: 0, Random(1)),
        RandomTarget(Random(1)),
        RoundRobin(6),
    ],
    ids=["least_requests", "random", "round_robin"],
)
def test_weights_are_shares(balancer: Balancer) -> None:
    """Among targets with the same requests in progress; others aren't chosen."""
    found = shares(balancer, {1: 1.0, 3: 1.0, 5: 1.0})
    assert found == pytest.approx(dict.fromkeys((1, 3, 5), 1 / 3), abs=0.02)


@pytest.mark.parametrize(
    "balancer", [RandomTarget(Random(1)), RoundRobin(3)], ids=["random", "round_robin"]
)
def test_heavier_targets_get_more(balancer: Balancer) -> None:
    found = shares(balancer, {0: 3.0, 1: 1.0, 2: 0.5})
    assert found == pytest.approx({0: 3 / 4.5, 1: 1 / 4.5, 2: 0.5 / 4.5}, abs=0.02)


def test_least_requests_levels_what_is_in_progress() -> None:
    """By weight: 300 requests that don't end are spread 2 : 1."""
    running = [0, 0]
    balancer = LeastRequests(running.__getitem__, Random(1))
    for _ in range(300):
        running[balancer.first((0, 1), (2.0, 1.0))] += 1
    assert running == pytest.approx([200, 100], abs=1)


def test_least_requests_avoids_a_target_that_hangs() -> None:
    """Whichever is drawn beside it has fewer requests in progress."""
    balancer = LeastRequests([50, 0, 1].__getitem__, Random(1))
    found = shares(balancer, {0: 1.0, 1: 1.0, 2: 1.0})
    assert found[0] == 0
    assert found[1] > found[2] > 0


def test_round_robin_mixes_weights() -> None:
    balancer = RoundRobin(2)
    turns = [balancer.first((0, 1), (2.0, 1.0)) for _ in range(6)]
    assert turns == [0, 1, 0, 0, 1, 0]


NAMES = [b"http://%c:1" % name for name in b"abcdef"]


@given(st.binary(max_size=40), st.sets(st.integers(0, 5), min_size=2))
def test_only_the_keys_of_a_lost_target_move(key: bytes, here: set[int]) -> None:
    """The others stay where they are, in whichever order the targets are listed."""
    usable = sorted(here)
    weights = [1.0] * len(usable)
    chosen = rendezvous(key, usable, weights, NAMES)
    assert rendezvous(key, usable[::-1], weights, NAMES) == chosen
    for lost in usable:
        left = [number for number in usable if number != lost]
        moved = rendezvous(key, left, weights[1:], NAMES)
        assert lost == chosen or moved == chosen


def test_keys_are_spread_by_weight() -> None:
    counts = Counter(
        rendezvous(b"%d" % number, (0, 1, 2), (1.0, 2.0, 1.0), NAMES)
        for number in range(8000)
    )
    found = [counts[number] / 8000 for number in range(3)]
    assert found == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
