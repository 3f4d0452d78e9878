"""PURE. The sums of what all workers have counted, those that ended included.

So a counter never falls while the hub lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from gateway.observe.meters import GAUGES, OTHER, Numbers, Sample

MAX_SERIES: Final = 10_000
"""The samples kept of workers that ended. Workers could send other labels each time."""
_Name = tuple[str, tuple[str, ...]]


class Totals:
    """The last samples of each worker, and the sums of those that ended."""

    def __init__(self) -> None:
        self._live: dict[int, dict[_Name, Numbers]] = {}
        """By the worker's number."""
        self._ended: dict[_Name, Numbers] = {}
        self.slots: dict[int, int] = {}
        """The slot of each worker in `_live`."""

    def update(self, child: int, slot: int, samples: Collection[Sample]) -> None:
        """Take the *samples* of the worker *child* in place of its last ones."""
        self.slots[child] = slot
        live: dict[_Name, Numbers] = {}
        for kind, labels, numbers in samples:
            live[kind, labels] = _sum(live.get((kind, labels)), numbers)
        self._live[child] = live

    def keep(self, children: Collection[int]) -> None:
        """Add up the samples of workers that aren't among *children*: they ended."""
        for child in self._live.keys() - {*children}:
            del self.slots[child]
            for name, numbers in self._live.pop(child).items():
                if name[0] not in GAUGES:
                    self._add_ended(name, numbers)

    def _add_ended(self, name: _Name, numbers: Numbers) -> None:
        if name not in self._ended and len(self._ended) >= MAX_SERIES:
            name = name[0], (OTHER,) * len(name[1])
        self._ended[name] = _sum(self._ended.get(name), numbers)

    def of(self, kind: str) -> dict[tuple[str, ...], Numbers]:
        """Return the sums of all samples of *kind*, by labels."""
        sums = {
            labels: numbers for (k, labels), numbers in self._ended.items() if k == kind
        }
        for samples in self._live.values():
            for (k, labels), numbers in samples.items():
                if k == kind:
                    sums[labels] = _sum(sums.get(labels), numbers)
        return sums

    def least(self, kind: str) -> dict[tuple[str, ...], float]:
        """Return the least value that a live worker has for each labels of *kind*."""
        values: dict[tuple[str, ...], float] = {}
        for samples in self._live.values():
            for (k, labels), numbers in samples.items():
                if k == kind:
                    values[labels] = min(numbers[0], values.get(labels, numbers[0]))
        return values

    def gauges(self, name: str) -> Iterator[tuple[int, float]]:
        """Yield the slot and the value of each live worker that has the gauge."""
        for child, samples in self._live.items():
            numbers = samples.get(("gauge", (name,)))
            if numbers is not None:
                yield self.slots[child], numbers[0]


def _sum(one: Numbers | None, other: Numbers) -> Numbers:
    if one is None:
        return other
    return tuple(a + b for a, b in zip(one, other, strict=True))
