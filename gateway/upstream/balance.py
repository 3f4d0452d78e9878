"""PURE. Which of a service's targets gets a request.

Targets are known by their numbers. Randomness comes from the caller.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, Protocol

_HASH_BYTES: Final = 8


class Draws(Protocol):
    """A source of random numbers, such as `random.Random`."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        ...


class Balancer(Protocol):
    """A way to choose the first target."""

    def first(self, usable: Sequence[int], weights: Sequence[float]) -> int:
        """Return the target among *usable*, each of which has its weight.

        *usable* isn't empty, and weights are above 0.
        """
        ...


class LeastRequests:
    """Of two targets drawn at random, the one with fewer requests for its weight.

    Unlike the least of all, it doesn't send every new request of every worker to the
    same target. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load
    Balancing" (2001).
    """

    def __init__(self, requests: Callable[[int], int], rng: Draws) -> None:
        """*requests* returns how many requests a target has in progress."""
        self._requests = requests
        self._rng = rng

    def first(self, usable: Sequence[int], weights: Sequence[float]) -> int:
        """Return one of two targets, drawn by weight."""
        one = _draw(weights, self._rng)
        if len(usable) == 1:
            return usable[one]
        others = [*weights[:one], *weights[one + 1 :]]
        other = _draw(others, self._rng)
        other += other >= one
        # One more for the request itself: of two idle targets, the heavier is better.
        ours = (self._requests(usable[one]) + 1) / weights[one]
        theirs = (self._requests(usable[other]) + 1) / weights[other]
        return usable[one if ours <= theirs else other]


class RandomTarget:
    """Any target, by weight."""

    def __init__(self, rng: Draws) -> None:
        self._rng = rng

    def first(self, usable: Sequence[int], weights: Sequence[float]) -> int:
        """Return a target drawn by weight."""
        return usable[_draw(weights, self._rng)]


class RoundRobin:
    """One target after the other, the heavier ones more often.

    With weights 2 and 1 the order is a, b, a and again; never a, a, b.
    """

    def __init__(self, targets: int) -> None:
        self._credit = [0.0] * targets

    def first(self, usable: Sequence[int], weights: Sequence[float]) -> int:
        """Return the target that has waited longest for its weight."""
        credit = self._credit
        for number, weight in zip(usable, weights, strict=True):
            credit[number] += weight
        chosen = max(usable, key=credit.__getitem__)
        credit[chosen] -= sum(weights)
        return chosen


def rendezvous(
    key: bytes, usable: Sequence[int], weights: Sequence[float], names: Sequence[bytes]
) -> int:
    """Return the target of *key*: the same one while it is usable.

    If a target leaves, only its own keys move, to all others by weight. If it returns,
    they come back. *names* are those of all targets: their order in the file and their
    number don't matter.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates"
    (1998); weights as in draft-ietf-bess-weighted-hrw.
    """

    def score(index: int) -> float:
        name = names[usable[index]]
        digest = blake2b(key, key=name[:64], digest_size=_HASH_BYTES).digest()
        # Between 0 and 1, and never one of them.
        drawn = (int.from_bytes(digest) + 0.5) / 256.0**_HASH_BYTES
        return -weights[index] / math.log(drawn)

    return usable[max(range(len(usable)), key=score)]


def _draw(weights: Sequence[float], rng: Draws) -> int:
    """Return the index of a weight, drawn in proportion to it."""
    sums = [*accumulate(weights)]
    return min(bisect(sums, rng.random() * sums[-1]), len(sums) - 1)
