"""PURE. The places of workers: their names, and the sockets of each."""

from __future__ import annotations

from collections.abc import Sequence


def shares(sockets: int, slots: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the numbers of the sockets that each of *slots* accepts from.

    *slots* are those with a ready worker. A slot's own socket comes first. The sockets
    of the other slots are distributed in turn. A single socket is shared by all.
    After an upgrade there may be fewer sockets than workers: these share them, too.
    """
    own_of = {slot: slot % (sockets or 1) for slot in slots}
    dealt = {slot: [number] for slot, number in own_of.items()}
    if slots:
        own = {*own_of.values()}
        orphans = (number for number in range(sockets) if number not in own)
        for turn, number in enumerate(orphans):
            dealt[slots[turn % len(slots)]].append(number)
    return {slot: tuple(numbers) for slot, numbers in dealt.items()}


def name_of(slot: int) -> str:
    """Return the name of a slot's worker in messages to operators."""
    return f"worker {slot + 1}"
