"""PURE. The reloads that the hub has asked for, until each has been answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.config.diff import ConfigChange
from gateway.process.admin_messages import Reloaded

_MAX_ASKED: Final = 100
"""Waiting for one reload. The listener has fewer connections."""
_MAX_PROBLEMS: Final = 100
"""Of a refused file, in an answer. All of them are on standard error."""
_MAX_PROBLEM: Final = 2000
"""Of one problem, in characters."""
_MAX_CHANGES: Final = 200
"""In an answer."""
_MAX_CHANGE: Final = 500
"""Of one change, in characters."""


class AskedReloads:
    """Who waits for which reload: the next one, or the one that runs.

    A file that changes while it is read must be read again, so whoever asks then waits
    for the next reload.
    """

    def __init__(self) -> None:
        self._next: list[tuple[int, int]] = []
        """The hub that has asked, and its own number for it."""
        self._running: list[tuple[int, int]] = []

    def ask(self, hub: int, number: int) -> bool:
        """Note that a hub waits for the next reload; return whether to begin one."""
        if len(self._next) >= _MAX_ASKED:
            return False
        self._next.append((hub, number))
        return True

    def begin(self) -> None:
        """The next reload begins now."""
        self._running += self._next
        self._next.clear()

    def end(
        self,
        hub: int,
        generation: int,
        problems: Sequence[str],
        changes: Sequence[ConfigChange] = (),
    ) -> Iterator[Reloaded]:
        """Yield the answers to *hub*: the reload that ran has ended.

        A hub that has been replaced meanwhile gets none.
        """
        running, self._running = self._running, []
        told = tuple(problem[:_MAX_PROBLEM] for problem in problems[:_MAX_PROBLEMS])
        changed = tuple(str(change)[:_MAX_CHANGE] for change in changes[:_MAX_CHANGES])
        for asker, number in running:
            if asker == hub:
                yield Reloaded(number, generation, told, changed)
